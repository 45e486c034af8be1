"""Passes, time and memory of rows of a language model: `python -m experiments.timing.language`.

A GPT-2 of transformers with random weights (124 million parameters, embedding and output tied) and
random words. Counted are calls of the model, the probe's apart from those of the batch; memory is
the most that the process took above what it took with the model and its task loaded. Four sequences
of 32 words, on one thread of a busy CPU (torch 2.14, float32), every parameter factored:

    probe (once)     calls of 3, 1, 1, 1, 3, 2 sequences  47 s   6.3 GB: six rows are materialised
    first batch      calls of 4, 2, 2, 4 and 1            8.6 s   104 MB kept, not 1,990 MB
    a later one      one call of 4 (and of 1, if held)    6.1 s   no more than the probe took
    inner products   4 x 4                                0.2 s
"""

import argparse
import resource
import time
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from methods.examples import Examples
from methods.rows.gradients import Gradients
from methods.task import Task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--words", type=int, default=32)
    parser.add_argument("--layers", type=int, default=12)
    asked = parser.parse_args()
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=asked.layers)).eval()
    seen: list[int] = []

    def loss(model: Any, batch: Examples) -> Tensor:
        seen.append(len(batch["ids"]))
        logits = model(input_ids=batch["ids"]).logits[:, :-1]
        return F.cross_entropy(logits.mT, batch["ids"][:, 1:], reduction="none").mean(1)

    ids = torch.randint(0, model.config.vocab_size, (asked.sequences, asked.words))
    task = Task.of(model, loss)
    source, before = Gradients(task), peak()
    began = time.perf_counter()
    source.chunk({"ids": ids})
    print(f"{task.size:,} parameters; probe: calls of {seen}, {time.perf_counter() - began:.1f} s")
    print(f"peak {(peak() - before) / 1e9:.2f} GB more, slower ways: {source.fallback}", flush=True)
    for name in ("first batch", "second"):
        seen.clear()
        began = time.perf_counter()
        rows = source.rows({"ids": ids})
        seconds = time.perf_counter() - began
        print(f"{name}: calls of {seen}, {seconds:.1f} s, {rows.elements * 4 / 1e6:.0f} MB of rows")
    began = time.perf_counter()
    inner = rows.inner(rows)
    print(f"inner products {tuple(inner.shape)}: {time.perf_counter() - began:.1f} s")
    whole = asked.sequences * task.size * 4
    print(f"peak {(peak() - before) / 1e9:.2f} GB more; rows materialised: {whole / 1e9:.2f} GB")


def peak() -> int:
    """Bytes that this process has taken at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


if __name__ == "__main__":
    main()
