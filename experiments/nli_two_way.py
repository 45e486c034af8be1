"""The two-label models of MultiNLI and the pairs of HANS they are asked about, by tier."""

from dataclasses import dataclass, replace

from experiments.hidden import Sample
from experiments.nli_curvature import Plan
from experiments.nli_models import PAPER as PAPER_THREE
from experiments.nli_models import SMOKE as SMOKE_THREE
from experiments.nli_models import small

SMOKE = replace(SMOKE_THREE, labels=2)
SMALL = small(2)
BY_RULE = Plan(sample=32)  # of so few parameters a step over 32 pairs costs little more than over 1
PAPER = replace(PAPER_THREE, labels=2)
RELEASED = Plan(k=1_000, depth=1_000, damping=50.0, scale=1e4, repeats=3)  # of the released code


@dataclass(frozen=True)
class Hans:
    """Pairs to learn from, and pairs that answers are judged on."""

    train: Sample
    evaluation: Sample


def generated(n_train: int, n_evaluation: int) -> Hans:
    """Traps in the generated language, in place of HANS."""
    return Hans(
        Sample("hans train", "generated", n_train),
        Sample("hans evaluation", "generated", n_evaluation),
    )


def subset(n_train: int, n_evaluation: int) -> Hans:
    """Some pairs of HANS, written as the subset of MultiNLI is."""
    return Hans(
        Sample("hans train", "subset", n_train), Sample("hans evaluation", "subset", n_evaluation)
    )


WHOLE = Hans(Sample("hans train", "whole"), Sample("hans evaluation", "whole"))
