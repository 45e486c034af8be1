"""Time and memory of ways to multiply by a Hessian: `python -m experiments.timing.products`.

The table in methods/curvature/products.py comes from here; measure again with another release of
torch. Networks have random weights, data are random. Ways take turns in one process on one thread,
and the fastest of several rounds counts. `--seconds` lengthens the rounds of each case.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.laboratory.clock import now, peak_bytes
from experiments.laboratory.device import device, on_device
from experiments.models.bert import TinyBert
from experiments.models.mnist_cnn import LargeCNN, SmallCNN
from experiments.models.resnet import ResNet
from experiments.models.vit import ViT
from experiments.timing.work import CIFAR, MNIST, examples
from experiments.training.plans import cross_entropy
from methods.curvature.operators import Hessian
from methods.curvature.products import backward_products, forward_products
from methods.examples import Examples
from methods.task import Task

Product = Callable[[Tensor], Any]
TOKENS = 32


def bert_top(width: int) -> tuple[Task, Callable[[int], Examples]]:
    """The upper two layers of a BERT, and hidden states that enter them."""
    network = TinyBert(3, width, frozen=1, length=TOKENS).open().top(3, 0.0, seed=0).to(device())

    def loss(model: torch.nn.Module, batch: Examples) -> Tensor:
        logits = model(batch["hidden"], batch["length"])
        return F.cross_entropy(logits, batch["label"], reduction="none")

    def data(n: int) -> Examples:
        draw = torch.Generator().manual_seed(0)
        hidden = torch.randn(n, TOKENS, width, generator=draw)
        label = torch.randint(3, (n,), generator=draw)
        return on_device({"hidden": hidden, "length": torch.full((n,), TOKENS), "label": label})

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
        name: (
            Task.of(network.build(0).to(device()), cross_entropy),
            partial(examples, shape=shape),
        )
        for name, (network, shape) in images.items()
    } | {f"BERT top, width {width}": bert_top(width) for width in (32, 256)}


def ways(task: Task, batch: Examples) -> dict[str, Product]:
    """Products of a Hessian with vectors (k, p), each way exact."""

    def backward(vectors: Tensor, width: int) -> list[Any]:
        return list(backward_products(task, batch, vectors, width))

    return {
        "singly": partial(backward, width=1),
        "8 at once": partial(backward, width=8),
        "64 at once": partial(backward, width=64),
        "8 forward": partial(forward_products, task, batch, width=8),
        "64 forward": partial(forward_products, task, batch, width=64),
        "as chosen": Hessian(task, batch).apply,
    }


def fastest(products: dict[str, Product], vectors: Tensor, seconds: float) -> dict[str, float]:
    """Seconds of the device that each way takes at least, in rounds of all ways in turns."""
    best = dict.fromkeys(products, float("inf"))
    started = time.perf_counter()
    rounds = 0
    while rounds < 3 or time.perf_counter() - started < seconds:
        for name, product in products.items():
            began = now(vectors.device.type)
            product(vectors)
            best[name] = min(best[name], now(vectors.device.type) - began)
        rounds += 1
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="*", help="those whose name contains one of these")
    parser.add_argument("--examples", nargs="*", type=int, default=[1, 32, 64])
    parser.add_argument("--vectors", nargs="*", type=int, default=[1, 8, 64])
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
                vectors = torch.randn(k, task.size, generator=draw).to(task.device)
                times = fastest(products, vectors, asked.seconds)
                row = [f"{name} ({task.size:,}), b = {n}, k = {k}:"]
                for way, seconds in times.items():
                    size = peak_bytes(partial(products[way], vectors)) / 1e6
                    row.append(f"{way} {1e3 * seconds:.1f} ms {size:.0f} MB")
                print(", ".join(row).replace(":,", ":"), flush=True)


if __name__ == "__main__":
    main()
