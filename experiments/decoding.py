"""Translations by beam search (a beam of 1 is greedy), in batches of sentences alike in length."""

from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.models.transformer import Cache, Seq2Seq, trimmed
from experiments.problems import UserError
from experiments.subwords import FIRST, LAST, PADDING
from methods.progress import track

BATCH = 64  # sentences at a time


@dataclass(frozen=True)
class Beam:
    """`size` hypotheses a sentence, of which the best by log-likelihood / ((5 + n) / 6)^penalty.

    A translation has at most `more` subwords more than its source (Vaswani et al., Sec. 6.1).
    """

    size: int = 1
    penalty: float = 0.6
    more: int = 20

    def __post_init__(self) -> None:
        if self.size < 1 or self.more < 1:
            raise UserError(f"a beam of {self.size} and {self.more} subwords more: give 1 or more")


@torch.no_grad()
def translate(module: Seq2Seq, source: Tensor, beam: Beam) -> list[list[int]]:
    """The words of each translation, without marks, in the order of `source` (n, S)."""
    order = (source != PADDING).sum(1).argsort(stable=True)
    out: list[list[int]] = [[] for _ in range(len(source))]
    for rows in track(list(order.split(BATCH)), "translating"):
        some = trimmed(source[rows].long().to(module.places.device))
        for row, words in zip(rows.tolist(), _search(module, some, beam), strict=True):
            out[row] = words
    return out


def _search(module: Seq2Seq, source: Tensor, beam: Beam) -> list[list[int]]:
    b, k = len(source), beam.size
    memory, padded = module.encode(source)
    padded = padded.repeat_interleave(k, 0)
    met = memory.repeat_interleave(k, 0)
    fixed = [layer.cross.keys(met) for layer in module.decoders]
    before: list[Cache] = [{} for _ in module.decoders]
    words = torch.full((b * k, 1), FIRST, device=source.device)
    score = torch.full((b, k), -torch.inf, device=source.device, dtype=memory.dtype)
    score[:, 0] = 0  # at first the hypotheses of a sentence are one
    length = torch.ones(b * k, device=source.device, dtype=memory.dtype)
    ended = torch.zeros(b * k, dtype=torch.bool, device=source.device)
    first = k * torch.arange(b, device=source.device)[:, None]
    for at in range(min(source.shape[1] + beam.more, module.longest - 1)):
        x = module.embed(words[:, -1:], at)
        for layer, cache, kept in zip(module.decoders, before, fixed, strict=True):
            x = layer.step(x, cache, kept, padded)
        gain = module.head(module.decoded(x))[:, 0].log_softmax(1)
        gain[:, [PADDING, FIRST]] = -torch.inf
        gain[ended] = -torch.inf
        gain[ended, PADDING] = 0  # a hypothesis that ended goes on as it is
        score, chosen = (score[:, :, None] + gain.view(b, k, -1)).flatten(1).topk(k)
        parent = (first + chosen // gain.shape[1]).flatten()
        new = (chosen % gain.shape[1]).flatten()
        words = torch.cat([words[parent], new[:, None]], 1)
        length = length[parent] + (~ended[parent]).to(length.dtype)
        ended = ended[parent] | (new == LAST)
        if k > 1:
            before = [{name: part[parent] for name, part in cache.items()} for cache in before]
        if ended.all():
            break
    worth = score / ((5 + length.view(b, k)) / 6) ** beam.penalty
    best = words.view(b, k, -1)[torch.arange(b), worth.argmax(1).cpu()]
    return [_inner(row) for row in best[:, 1:].tolist()]


def _inner(row: list[int]) -> list[int]:
    return row[: row.index(LAST)] if LAST in row else [word for word in row if word != PADDING]
