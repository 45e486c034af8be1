"""Networks of standard sizes with random weights and random examples: for what takes how long."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from experiments.losses import cross_entropy
from experiments.models.vit import ViT, from_the_top
from experiments.models.wmt_transformer import WmtTransformer, sentence_loss
from methods.task import Examples, Task, take

SIDE, CLASSES = 224, 1_000


@dataclass(frozen=True)
class ResNet50:
    """He et al. (2016), as torchvision defines it, its normalisation in evaluation mode."""

    @property
    def label(self) -> str:
        return "ResNet50"

    def task(self, device: str) -> Task:
        """The task of all parameters."""
        from torchvision.models import resnet50

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = resnet50(weights=None).eval()
        return Task.of(_still(module, device), cross_entropy)

    def examples(self, n: int) -> Examples:
        """Noise and random labels."""
        return _images(n, 3, SIDE, CLASSES)


@dataclass(frozen=True)
class Vision:
    """A vision Transformer of one thousand classes; `part` of its parameters, from the top."""

    network: ViT = ViT(num_classes=CLASSES)
    part: float = 1.0

    @property
    def label(self) -> str:
        size = {192: "Ti", 384: "S", 768: "B", 1024: "L"}.get(self.network.width)
        name = f"ViT-{size}/{self.network.patch}" if size else f"ViT {self.network.width}"
        return name if self.part == 1 else f"{name}, top {self.part:.0%}"

    def task(self, device: str) -> Task:
        """The task of the part."""
        module = self.network.build(0)
        whole = Task.of(_still(module, device), cross_entropy)
        return whole if self.part == 1 else whole.only(from_the_top(module, self.part)[0])

    def examples(self, n: int) -> Examples:
        """Noise and random labels."""
        return _images(n, self.network.channels, self.network.resolution, self.network.num_classes)


@dataclass(frozen=True)
class Translation:
    """A Transformer for translation, on sentences of `length` word pieces on both sides."""

    network: WmtTransformer = WmtTransformer()
    length: int = 32

    @property
    def label(self) -> str:
        return "Transformer base" if self.network.width == 512 else "Transformer small"

    def task(self, device: str) -> Task:
        """The task of all parameters."""
        return Task.of(_still(self.network.build(0), device), sentence_loss)

    def examples(self, n: int) -> Examples:
        """Random word pieces."""
        draw = torch.Generator().manual_seed(0)
        shape = n, self.length + 1
        source, target = (
            torch.randint(self.network.vocabulary, shape, generator=draw) for _ in range(2)
        )
        return {"source": source[:, 1:], "target": target}


Architecture = ResNet50 | Vision | Translation


def operations(task: Task, examples: Examples) -> int:
    """Multiplications and additions of a forward pass over one example."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        task.loss(task.all_params, task.move(take(examples, slice(0, 1))))
    return int(counter.get_total_flops())


def _still(module: nn.Module, device: str) -> nn.Module:
    return module.requires_grad_(False).to(device)


def _images(n: int, channels: int, side: int, classes: int) -> Examples:
    draw = torch.Generator().manual_seed(0)
    image: Tensor = torch.rand(n, channels, side, side, generator=draw)
    return {"image": image, "label": torch.randint(classes, (n,), generator=draw)}
