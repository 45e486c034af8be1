"""Figure 9 of FastIF: simulator loss after a step on influential pairs, every point."""

from functools import partial

from analysis.ink.simulator import draw
from analysis.ink.style import PAGE
from analysis.numbers import simulator
from analysis.page.artifact import Artifact

ARTIFACT = Artifact(
    id="fastif_fig9",
    experiment="mnli_simulator",
    tabulate=partial(simulator.tabulate, shown=None),
    draw=partial(draw, columns=5, width=PAGE, controls=()),
    claims=(*simulator.CLAIMS.values(), simulator.BEYOND_RANDOM, simulator.SIZE),
    notes=simulator.NOTES,
    title="Simulator loss after a step on influential pairs, every point",
    claim=simulator.CLAIM,
    paper="FastIF (arXiv:2012.15781), Figure 9, Sec. 6.1 and B.1",
    deviations=simulator.DEVIATIONS,
    findings=simulator.findings,
    tier_notes=simulator.TIER_NOTES,
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
