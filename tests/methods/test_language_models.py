"""Language models of transformers, whole: every score is what plain autograd gives, one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from methods.checkpoints import Checkpoint
from methods.examples import Examples
from methods.ihvp.cg import CG
from methods.ihvp.exact import Exact
from methods.influence import Influence
from methods.random_projection import RandomProjection
from methods.rows.gradients import Gradients
from methods.rows.projections import Gaussian
from methods.task import Task
from methods.tracin import TracIn
from tests.methods import networks

N, LENGTH, WORDS, DAMPING = 5, 6, 11, 50.0
SMALL = {"vocab_size": WORDS, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
LIKE_BERT = {
    "hidden_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 6,
    "max_position_embeddings": 8,
}


def of_sequence(model: Any, batch: Examples) -> Tensor:
    """The mean over words that are no padding, each predicted from those before it."""
    logits = model(input_ids=batch["ids"], attention_mask=batch["mask"]).logits
    words = F.cross_entropy(logits[:, :-1].mT, batch["ids"][:, 1:], reduction="none")
    return (words * batch["mask"][:, 1:]).sum(1) / batch["mask"].sum(1)


def of_token(model: Any, batch: Examples) -> Tensor:
    """One word of each sequence."""
    logits = model(input_ids=batch["ids"], attention_mask=batch["mask"]).logits
    rows = torch.arange(len(logits))
    words = batch["ids"][rows, batch["at"] + 1]
    return F.cross_entropy(logits[rows, batch["at"]], words, reduction="none")


def of_class(model: Any, batch: Examples) -> Tensor:
    logits = model(input_ids=batch["ids"], attention_mask=batch["mask"]).logits
    return F.cross_entropy(logits, batch["ids"][:, 0] % 2, reduction="none")


def of_translation(model: Any, batch: Examples) -> Tensor:
    decoded = batch["ids"].flip(1)
    given = {"input_ids": batch["ids"], "attention_mask": batch["mask"]}
    logits = model(**given, decoder_input_ids=decoded).logits
    return F.cross_entropy(logits[:, :-1].mT, decoded[:, 1:], reduction="none").mean(1)


def gpt2(**settings: Any) -> nn.Module:
    shape = {"n_embd": 4, "n_layer": 2, "n_head": 2, "n_positions": 8}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**SMALL, **shape, **settings))


def bert(**settings: Any) -> nn.Module:
    config = transformers.BertConfig(**SMALL, **LIKE_BERT, **settings)
    return transformers.BertForSequenceClassification(config)


def llama(**settings: Any) -> nn.Module:
    config = transformers.LlamaConfig(**SMALL, **LIKE_BERT, num_key_value_heads=1, **settings)
    return transformers.LlamaForCausalLM(config)


def gemma(**settings: Any) -> nn.Module:
    shape = {"num_key_value_heads": 1, "head_dim": 2}
    config = transformers.GemmaConfig(**SMALL, **LIKE_BERT, **shape, **settings)
    return transformers.GemmaForCausalLM(config)


def t5(**settings: Any) -> nn.Module:
    shape = {"d_model": 4, "d_kv": 2, "d_ff": 6, "num_layers": 2, "num_heads": 2}
    config = transformers.T5Config(**SMALL, **shape, **settings, decoder_start_token_id=0)
    return transformers.T5ForConditionalGeneration(config)


KINDS: dict[str, tuple[Callable[..., nn.Module], Any, list[str]]] = {
    "decoder": (gpt2, of_sequence, ["*wte*", "*h.1.ln_1*", "*c_proj.bias"]),
    "decoder, by token": (gpt2, of_token, ["*wpe*", "*ln_f*"]),
    "encoder": (bert, of_class, ["*embeddings*", "*query*"]),
    "decoder with RMSNorm": (llama, of_sequence, ["*norm*", "*q_proj*", "*embed_tokens*"]),
    "scaled embeddings": (gemma, of_sequence, ["*norm*", "*embed_tokens*"]),
    "encoder and decoder": (t5, of_translation, ["*relative*", "*layer_norm*", "*enc*.q.*"]),
}


def texts() -> Examples:
    mask = torch.ones(N, LENGTH, dtype=torch.long)
    mask[1, 4:], mask[3, 3:] = 0, 0
    ids = 1 + networks.integers(WORDS - 1, N, LENGTH)
    return {"ids": ids, "mask": mask, "at": networks.integers(2, N, seed=2)}


def built(make: Callable[[], nn.Module], dtype: torch.dtype = networks.DOUBLE) -> Any:
    model = networks.built(make)
    return model.to(dtype).eval()


def rows(model: nn.Module, loss: Any, params: list[nn.Parameter], data: Examples) -> Tensor:
    """The gradients of single examples by plain autograd, (n, p)."""
    out = []
    for i in range(N):
        value = loss(model, {k: v[i : i + 1] for k, v in data.items()}).sum()
        grads = torch.autograd.grad(value, params, allow_unused=True, materialize_grads=True)
        out.append(torch.cat([g.flatten() for g in grads]))
    return torch.stack(out)


def of_curvature(model: nn.Module, loss: Any, params: list[nn.Parameter], data: Examples) -> Tensor:
    """Influences through the damped Hessian of the mean loss by double backward, (n, n)."""
    settings: Any = {"allow_unused": True, "materialize_grads": True}
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivatives
        grads = torch.autograd.grad(loss(model, data).mean(), params, create_graph=True, **settings)
        flat = torch.cat([g.flatten() for g in grads])
        lines = [torch.autograd.grad(v, params, retain_graph=True, **settings) for v in flat]
    matrix = torch.stack([torch.cat([g.flatten() for g in line]) for line in lines])
    g = rows(model, loss, params, data)
    return g @ torch.linalg.solve(matrix + DAMPING * torch.eye(len(matrix)).to(g), g.T)


@pytest.mark.parametrize("attention", ["eager", pytest.param("sdpa", marks=pytest.mark.long)])
@pytest.mark.parametrize("name", KINDS)
def test_scores_are_those_of_plain_autograd(name: str, attention: str) -> None:
    (make, loss, only), data = KINDS[name], texts()
    for dtype, close in ((torch.float64, 1e-8), (torch.float32, 1e-4)):
        model = built(lambda: make(attn_implementation=attention), dtype)
        task = Task.of(model, loss, checkpoints=[Checkpoint(model.state_dict(), 0.5)])
        g = rows(model, loss, list(model.parameters()), data)
        source = Gradients(task)
        torch.testing.assert_close(source.rows(data).dense(), g, rtol=close, atol=close)
        as_long = {name: torch.cat([column] * 2)[:LENGTH] for name, column in data.items()}
        repeated = torch.cat([g, g])[:LENGTH]  # as many examples as words
        torch.testing.assert_close(source.rows(as_long).dense(), repeated, rtol=close, atol=close)
        assert source.fallback == (), "every layer is factored"
        near = {"rtol": close, "atol": close * float(g.square().sum(1).max())}
        torch.testing.assert_close(TracIn().scores(task, data, data), 0.5 * g @ g.T, **near)
        projected = g @ Gaussian(8).draw(task).directions().T
        scores = RandomProjection(Gaussian(8)).scores(task, data, data)
        torch.testing.assert_close(scores, projected @ projected.T, **near)
    model = built(lambda: make(attn_implementation=attention))
    task = Task.of(model, loss, only=only)
    params = [p for name, p in model.named_parameters() if name in task.params]
    expected = of_curvature(model, loss, params, data)
    for inverse in (CG(1e-13), Exact()):
        found = Influence(inverse, DAMPING).scores(task, data, data)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


def test_a_model_is_called_a_few_times_however_many_examples_there_are() -> None:
    seen: list[int] = []

    def loss(model: Any, batch: Examples) -> Tensor:
        seen.append(len(batch["ids"]))
        return of_sequence(model, batch)

    many = {name: torch.cat([column] * 8) for name, column in texts().items()}
    TracIn(False).self_influence(Task.of(built(gpt2), loss), many)
    assert seen == [3, 1, 1, 1, 3, 2, 40, 20, 20, 1, 1, 1, 40, 1]


class LowRank(nn.Module):
    """A frozen layer plus a trained product of two thin matrices."""

    def __init__(self, layer: nn.Module, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.a, self.b = nn.Linear(inputs, 2, bias=False), nn.Linear(2, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + 2.0 * self.b(self.a(x))


class ByParameters(nn.Linear):
    """The same as a subclass of Linear, of two parameters."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.a, self.b = nn.Parameter(torch.ones(2, inputs)), nn.Parameter(torch.ones(outputs, 2))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ self.a.T @ self.b.T


def by_hand() -> nn.Module:
    model: Any = gpt2().requires_grad_(False)
    for block in model.transformer.h:
        block.attn.c_attn = LowRank(block.attn.c_attn, 4, 12)
    return model


def by_subclass() -> nn.Module:
    model: Any = llama().requires_grad_(False)
    layer = ByParameters(4, 4)
    layer.weight.requires_grad_(False)
    layer.bias.requires_grad_(False)
    model.model.layers[0].self_attn.q_proj = layer
    return model


def by_peft() -> nn.Module:
    peft = pytest.importorskip("peft", reason="peft is an extra of developers")
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    return peft.get_peft_model(gpt2(), config)


@pytest.mark.parametrize("make", [by_hand, by_subclass, by_peft])
def test_adapters_of_low_rank_alone_are_differentiated(make: Callable[[], nn.Module]) -> None:
    model, data = built(make), texts()
    task, params = Task.of(model, of_sequence), [p for p in model.parameters() if p.requires_grad]
    assert 0 < task.size == sum(p.numel() for p in params) < 100
    g, source = rows(model, of_sequence, params, data), Gradients(task)
    torch.testing.assert_close(source.rows(data).dense(), g, rtol=1e-8, atol=1e-9)
    assert source.fallback == ()
    expected = of_curvature(model, of_sequence, params, data)
    for inverse in (CG(1e-13), Exact()):
        found = Influence(inverse, DAMPING).scores(task, data, data)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)
