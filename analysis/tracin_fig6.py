"""Figure 6 of 001: proponents and opponents of a misclassified automobile by three methods."""

import sys

from analysis.ink import proponents
from analysis.numbers.proponents import WRONG

ARTIFACT = proponents.figure(
    6,
    stratum=WRONG,
    display=1,
    title="CIFAR-10 proponents and opponents of a misclassified automobile",
    claim=(
        "Of misclassified queries, too, proponents share the query's class and opponents are of the"
        " class it is confused with; TracIn is the most consistent."
    ),
)

if __name__ == "__main__":
    sys.exit(ARTIFACT.main())
