"""Figure 5 of 001: proponents and opponents of a correctly classified cat by three methods."""

import sys

from analysis.ink import proponents
from analysis.numbers.proponents import CORRECT

ARTIFACT = proponents.figure(
    5,
    stratum=CORRECT,
    display=0,
    title="CIFAR-10 proponents and opponents of a correctly classified cat",
    claim=(
        "Proponents share the query's class and opponents are of a class it may be taken for, by"
        " each method; TracIn is the most consistent."
    ),
)

if __name__ == "__main__":
    sys.exit(ARTIFACT.main())
