"""The same network with its widest layer in two, so that some units have their own names."""

import copy

import torch
from torch import Tensor, nn

from experiments.problems import UserError
from experiments.seeds import Purpose, generator


class SplitLinear(nn.Module):
    """A Linear layer whose output units are divided between two, in the original order."""

    place: Tensor

    def __init__(self, layer: nn.Linear, kept: Tensor) -> None:
        super().__init__()
        chosen = torch.zeros(layer.out_features, dtype=torch.bool)
        chosen[kept] = True
        self.kept, self.rest = (_rows(layer, where) for where in (chosen, ~chosen))
        order = torch.cat([chosen.nonzero()[:, 0], (~chosen).nonzero()[:, 0]])
        self.register_buffer("place", order.argsort())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.kept(x), self.rest(x)], dim=-1)[..., self.place]


def _rows(layer: nn.Linear, where: Tensor) -> nn.Linear:
    part = nn.Linear(layer.in_features, int(where.sum()), bias=layer.bias is not None)
    part.weight.data = layer.weight.data[where].clone()
    if layer.bias is not None:
        part.bias.data = layer.bias.data[where].clone()
    return part


def keep_units(module: nn.Module, units: int, seed: int) -> tuple[nn.Module, tuple[str, ...]]:
    """An equal network and names of parameters: some units of its widest Linear layer.

    `units` of the Linear layer with most parameters are drawn at random; the parameters of every
    other Linear layer are named too, those of convolutions are not.
    """
    module = copy.deepcopy(module)
    linear = {n: m for n, m in module.named_modules() if isinstance(m, nn.Linear)}
    name = max(linear, key=lambda n: linear[n].weight.numel())
    layer = linear[name]
    if not 0 < units <= layer.out_features:
        raise UserError(
            f"{units} of the {layer.out_features} units of layer {name}: "
            f"choose units from 1 to {layer.out_features}"
        )
    drawn = generator(seed, Purpose.UNITS).choice(layer.out_features, units, replace=False)
    parent = module.get_submodule(name.rpartition(".")[0])
    with torch.random.fork_rng(devices=[]):
        setattr(parent, name.rpartition(".")[2], SplitLinear(layer, torch.from_numpy(drawn)))
    layers = [*(other for other in linear if other != name), f"{name}.kept"]
    return module.eval(), tuple(f"{layer}.*" for layer in layers)
