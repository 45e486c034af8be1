"""Figure 5 of FastIF: simulator loss after a step on influential pairs, four points."""

from functools import partial

from analysis.ink.simulator import draw
from analysis.ink.style import COLUMN
from analysis.numbers import simulator
from analysis.page.artifact import Artifact

SHOWN = 2  # points of either kind

ARTIFACT = Artifact(
    id="fastif_fig5",
    experiment="mnli_simulator",
    tabulate=partial(simulator.tabulate, shown=SHOWN),
    draw=partial(draw, columns=2, width=COLUMN, controls=simulator.CONTROLS),
    claims=(*simulator.CLAIMS.values(), simulator.BEYOND_RANDOM, simulator.SIZE),
    notes=simulator.NOTES,
    title="Simulator loss after a step on influential pairs, four points",
    claim=simulator.CLAIM,
    paper="FastIF (arXiv:2012.15781), Figure 5, Sec. 6.1 and B.1",
    deviations=(
        *simulator.DEVIATIONS,
        "The paper does not say how its four points were chosen; ours are the first two of each"
        " kind in the order of the development set. Claims are over all points, as in Figure 9.",
    ),
    findings=simulator.findings,
    tier_notes=simulator.TIER_NOTES,
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
