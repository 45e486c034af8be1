"""What a quantity cannot leave, nor its interval: by its unit, or by the name of its metric."""

import math

Range = tuple[float, float]

UNITS: dict[str, Range] = {
    "%": (0.0, 100.0),
    "x100": (0.0, 100.0),
    "points": (-100.0, 100.0),
    "share": (0.0, 1.0),
    "correlation": (-1.0, 1.0),
    "correlation, %": (-100.0, 100.0),
}
METRICS: dict[str, Range] = {  # by a word of the name: `auc`, `auc_largest`, `loss_ap`
    **dict.fromkeys(("accuracy", "agreement", "ap", "auc", "chance", "opponents"), UNITS["share"]),
    **dict.fromkeys(("proponents", "recall", "same", "share", "twins"), UNITS["share"]),
    **dict.fromkeys(("lds", "pearson", "spearman"), UNITS["correlation"]),
    "bleu": (0.0, 100.0),
}


def of_metric(name: str) -> Range:
    """The range of a metric; everything, if no word of its name says more."""
    words = [word for word in name.split("_") if word in METRICS]
    return METRICS[words[0]] if words else (-math.inf, math.inf)


def within(mean: float, low: float, high: float, least: float, most: float) -> Range:
    """The ends of an interval; by Wilson's score between `least` and `most` if it would leave them.

    Wilson's variance is that of a share at each end of the interval instead of at the mean; here it
    is scaled so that near the mean it is the one that the half-widths say. Nothing is cut off; a
    mean at an end keeps that end.
    """
    if math.isnan(low) or (least <= low and high <= most):
        return low, high
    p = (mean - least) / (most - least)
    if not 0 < p < 1:
        return max(low, least), min(high, most)
    ends = []
    for sign, end in ((-1, low), (1, high)):
        scaled = ((end - mean) / (most - least)) ** 2 / (p * (1 - p))
        root = math.sqrt(scaled * (p * (1 - p) + scaled / 4))
        ends.append(least + (most - least) * (p + scaled / 2 + sign * root) / (1 + scaled))
    return ends[0], ends[1]
