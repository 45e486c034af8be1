"""Time and memory of ways to multiply by a Hessian: `python -m experiments.timing.products`.

The table in methods/curvature/operators.py comes from here; measure again with another release of
torch. Networks have random weights, data are random. Ways take turns in one process on one thread,
and the fastest of several rounds counts. `--seconds` lengthens the rounds of each case.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, jvp, vmap

from experiments.laboratory.clock import cpu_seconds, peak_bytes
from experiments.models.bert import TinyBert
from experiments.models.mnist_cnn import LargeCNN, SmallCNN
from experiments.models.resnet import ResNet
from experiments.models.vit import ViT
from experiments.timing.work import CIFAR, MNIST, examples
from experiments.training.plans import cross_entropy
from methods.curvature import operators
from methods.curvature.operators import Hessian
from methods.task import Examples, Task

Product = Callable[[Tensor], Tensor]
TOKENS = 32


def bert_top(width: int) -> tuple[Task, Callable[[int], Examples]]:
    """The upper two layers of a BERT, and hidden states that enter them."""
    network = TinyBert(3, width, frozen=1, length=TOKENS).open().top(3, 0.0, seed=0)

    def loss(model: torch.nn.Module, batch: Examples) -> Tensor:
        logits = model(batch["hidden"], batch["length"])
        return F.cross_entropy(logits, batch["label"], reduction="none")

    def data(n: int) -> Examples:
        draw = torch.Generator().manual_seed(0)
        hidden = torch.randn(n, TOKENS, width, generator=draw)
        label = torch.randint(3, (n,), generator=draw)
        return {"hidden": hidden, "length": torch.full((n,), TOKENS), "label": label}

    return Task.of(network, loss), data


def cases() -> dict[str, tuple[Task, Callable[[int], Examples]]]:
    """A task and its examples for each network."""
    images: dict[str, tuple[Any, tuple[int, int, int]]] = {
        "small CNN": (SmallCNN(), MNIST),
        "CNN": (LargeCNN(), MNIST),
        "ResNet-14": (ResNet(depth=14), CIFAR),
        "ViT": (ViT(6, 64, 4, 8, 32), CIFAR),
    }
    return {
        name: (Task.of(network.build(0), cross_entropy), partial(examples, shape=shape))
        for name, (network, shape) in images.items()
    } | {f"BERT top, width {width}": bert_top(width) for width in (32, 256)}


def ways(task: Task, batch: Examples) -> dict[str, Product]:
    """Products (k, p) of a Hessian with vectors (k, p), each way exact."""
    hessian = Hessian(task, batch)
    gradient = grad(lambda params: task.loss(params, batch).mean())

    def double_backward(vectors: Tensor, at_once: int) -> Tensor:
        with patch.object(operators, "vectors_at_once", lambda n, size: at_once):
            return hessian.apply(vectors)

    def forward_over_reverse(vectors: Tensor) -> Tensor:
        along = vmap(lambda tangent: jvp(gradient, (task.params,), (tangent,))[1])
        return task.flatten(along(task.unflatten(vectors)), 1)

    return {
        "singly": partial(double_backward, at_once=1),
        "at once": lambda vectors: double_backward(vectors, len(vectors)),
        "jvp(grad)": forward_over_reverse,
        "as chosen": hessian.apply,
    }


def fastest(products: dict[str, Product], vectors: Tensor, seconds: float) -> dict[str, float]:
    """Seconds of CPU that each way takes at least, in rounds of all ways in turns."""
    best = dict.fromkeys(products, float("inf"))
    started = time.perf_counter()
    rounds = 0
    while rounds < 3 or time.perf_counter() - started < seconds:
        for name, product in products.items():
            best[name] = min(best[name], cpu_seconds(partial(product, vectors)))
        rounds += 1
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="*", help="those whose name contains one of these")
    parser.add_argument("--examples", nargs="*", type=int, default=[1, 32, 64])
    parser.add_argument("--vectors", nargs="*", type=int, default=[1, 8])
    parser.add_argument("--seconds", type=float, default=5.0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name, (task, data) in cases().items():
        if asked.networks and not any(part in name for part in asked.networks):
            continue
        for n in asked.examples:
            products = ways(task, data(n))
            for k in asked.vectors:
                draw = torch.Generator().manual_seed(0)
                vectors = torch.randn(k, task.size, generator=draw)
                times = fastest(products, vectors, asked.seconds)
                row = [f"{name} ({task.size:,}), b = {n}, k = {k}:"]
                for way, seconds in times.items():
                    size = peak_bytes(partial(products[way], vectors)) / 1e6
                    row.append(f"{way} {1e3 * seconds:.1f} ms {size:.0f} MB")
                print(", ".join(row).replace(":,", ":"), flush=True)


if __name__ == "__main__":
    main()
