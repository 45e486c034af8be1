"""The levels of tests.tiny's walks, as an artifact."""

import pandas as pd
from matplotlib.figure import Figure

from analysis.ink.style import new_axes
from analysis.numbers.claims import Claim, Ours
from analysis.numbers.statistics import over_seeds
from analysis.numbers.table import claim, tabulated
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

LEVEL = Claim("levels are high", Ours("A test."), "The level.", null=-2.0)


def tabulate(found: list[Run]) -> pd.DataFrame:
    levels = [run.metrics["level"] for run in found if run.metrics["method"] == "Power"]
    return tabulated([claim("Power", "level", "", over_seeds(levels), of=LEVEL, at_least=-1.0)])


def draw(table: pd.DataFrame) -> Figure:
    figure, axes = new_axes("Row", "Level")
    axes.plot(table["ours"], "o")
    return figure


ARTIFACT = Artifact(
    "walk_figure", "tiny", tabulate, draw, (LEVEL,),
    title="Levels", claim="Levels are above -1.", paper="none",
)  # fmt: skip

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
