"""Intervals over seeds, differences and ratios of paired seeds, and tests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from experiments.laboratory.ranges import within

LEVEL = 0.95
NUM_SAMPLES = 9999  # drawn for a p-value


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval; `low` and `high` are nan for one value, all for none."""

    mean: float
    low: float
    high: float
    n: int


NONE = Interval(float("nan"), float("nan"), float("nan"), 0)


def exact(value: float) -> Interval:
    """A number that was calculated, not measured: both ends of its interval are the number."""
    return Interval(value, value, value, 1)


def single(value: float) -> Interval:
    """A number measured once: it has no interval."""
    return Interval(float(value), float("nan"), float("nan"), 1)


def over_seeds(values: ArrayLike, level: float = LEVEL) -> Interval:
    """The mean and Student's t interval of independent values, one per seed."""
    sample = np.asarray(values, dtype=float)
    if sample.size == 0:
        return NONE
    mean = float(sample.mean())
    if sample.size == 1:
        return single(mean)
    half = stats.t.ppf(0.5 + level / 2, sample.size - 1) * stats.sem(sample)
    return Interval(mean, mean - float(half), mean + float(half), int(sample.size))


def per_seed(values: ArrayLike, seeds: Sequence[int]) -> pd.Series:
    """The mean over draws within each seed, indexed by seed in order.

    Draws of one seed share its model and are not independent: an interval is over these means.
    """
    return pd.Series(np.asarray(values, dtype=float)).groupby(np.asarray(seeds)).mean()


def pair_values(pairs: ArrayLike) -> np.ndarray:
    """One value per seed, whose mean is the mean over all pairs of different seeds.

    `pairs` (n_seeds, n_seeds) is symmetric. Pairs share seeds and are not independent, so these are
    the pseudo-values of the jackknife over seeds, for `over_seeds`. Two seeds are one pair and give
    one value; one seed gives none.
    """
    matrix = np.asarray(pairs, dtype=float)
    k = len(matrix)
    sums = matrix.sum(1) - np.diag(matrix)
    if k < 3:
        return sums[: k - 1]
    mean = sums.sum() / (k * (k - 1))
    without = (sums.sum() - 2 * sums) / ((k - 1) * (k - 2))
    return k * mean - (k - 1) * without


def welch(one: ArrayLike, other: ArrayLike) -> Interval:
    """The difference of the means of two independent samples, with Welch's interval."""
    samples = [np.asarray(each, dtype=float) for each in (one, other)]
    n = min(each.size for each in samples)
    if n == 0:
        return NONE
    mean = float(samples[0].mean() - samples[1].mean())
    if n == 1:
        return single(mean)
    if not any(np.ptp(each) for each in samples):
        return Interval(mean, mean, mean, n)
    low, high = stats.ttest_ind(*samples, equal_var=False).confidence_interval(LEVEL)
    return Interval(mean, float(low), float(high), n)


def resampled(
    sample: np.ndarray, statistic: Callable[[np.ndarray], float], num_resamples: int = 200
) -> Interval:
    """A statistic of seeds (n_seeds, ...) with the normal interval of its bootstrap.

    The interval is centred at the statistic itself: resamples are biased where a statistic depends
    on the spread over seeds, as shares of examples do.
    """
    mean = float(statistic(sample))
    if len(sample) < 2:
        return Interval(mean, float("nan"), float("nan"), len(sample))
    generator = np.random.default_rng(np.random.SeedSequence([0, len(sample)]))
    picks = generator.integers(len(sample), size=(num_resamples, len(sample)))
    spread = float(np.std([statistic(sample[pick]) for pick in picks], ddof=1))
    half = float(stats.norm.ppf(0.5 + LEVEL / 2)) * spread
    return Interval(mean, mean - half, mean + half, len(sample))


def geometric(values: ArrayLike) -> Interval:
    """The geometric mean of positive values, one per seed, with its interval on logs."""
    logs = over_seeds(np.log(np.asarray(values, dtype=float)))
    mean, low, high = np.exp([logs.mean, logs.low, logs.high])
    return Interval(float(mean), float(low), float(high), logs.n)


def share(count: int, n: int) -> Interval:
    """A share of n independent cases with Wilson's interval, which stays between 0 and 1."""
    if n == 0:
        return NONE
    found = stats.binomtest(count, n).proportion_ci(LEVEL, method="wilson")
    return Interval(count / n, float(found.low), float(found.high), n)


def in_range(ours: Interval, least: float, most: float) -> Interval:
    """The interval; by Wilson's score between `least` and `most` if it would leave that range."""
    return Interval(ours.mean, *within(ours.mean, ours.low, ours.high, least, most), ours.n)


def average(parts: Sequence[Interval]) -> Interval:
    """The mean of several means; its half-widths are the means of theirs.

    The standard error of a mean is at most the mean of the errors, whatever the parts share
    (Minkowski): right for parts on the same seeds, too wide for independent ones. A part that was
    not measured leaves no mean.
    """
    if not parts or not all(one.n for one in parts):
        return NONE
    means = (np.mean([getattr(one, end) for one in parts]) for end in ("mean", "low", "high"))
    mean, low, high = map(float, means)
    return Interval(mean, low, high, min(one.n for one in parts))


def geometric_average(parts: Sequence[Interval]) -> Interval:
    """The same on logarithms, for ratios."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = average([_through(one, np.log) for one in parts])
    return _through(logs, np.exp)


def quotient(one: Interval, other: Interval) -> Interval:
    """The ratio of two positive, independent means, its interval by the delta method on logs."""
    if not one.n or not other.n:
        return NONE
    above, below = (
        np.hypot(one_end / one.mean, other_end / other.mean)
        for one_end, other_end in (
            (one.high - one.mean, other.mean - other.low),
            (one.mean - one.low, other.high - other.mean),
        )
    )
    mean = one.mean / other.mean
    low, high = (float(mean * np.exp(end)) for end in (-below, above))
    return Interval(mean, low, high, min(one.n, other.n))


def _through(ours: Interval, function: Callable[[float], float]) -> Interval:
    mean, low, high = (float(function(end)) for end in (ours.mean, ours.low, ours.high))
    return Interval(mean, low, high, ours.n)


def difference(one: pd.Series, other: pd.Series) -> pd.Series:
    """One minus other on the seeds that both have."""
    seeds = one.index.intersection(other.index)
    return one.loc[seeds] - other.loc[seeds]


def ratio(one: pd.Series, other: pd.Series) -> pd.Series:
    """One over other on the seeds that both have."""
    seeds = one.index.intersection(other.index)
    return one.loc[seeds] / other.loc[seeds]


def bootstrap(values: ArrayLike) -> Interval:
    """The mean of independent values with its percentile bootstrap interval."""
    sample = np.asarray(values, dtype=float)
    if sample.size == 0:
        return NONE
    generator = np.random.default_rng(np.random.SeedSequence([0, sample.size]))
    picks = generator.integers(sample.size, size=(2000, sample.size))
    low, high = np.quantile(sample[picks].mean(1), [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return Interval(float(np.mean(sample)), float(low), float(high), int(sample.size))


def wasserstein(one: ArrayLike, other: ArrayLike) -> float:
    """The optimal transport distance of two samples of numbers, uniformly weighted."""
    return float(stats.wasserstein_distance(np.asarray(one), np.asarray(other)))


def overlap(one: ArrayLike, other: ArrayLike) -> float:
    """Intersection over union of two boolean masks; nan where both are empty."""
    left, right = np.asarray(one, dtype=bool), np.asarray(other, dtype=bool)
    union = np.count_nonzero(left | right)
    return np.count_nonzero(left & right) / union if union else float("nan")


def homogeneity(one: ArrayLike, other: ArrayLike, *, seed: int = 0) -> float:
    """The p-value that two rows of counts were drawn from the same classes.

    The chi-square statistic against its distribution with both margins fixed, which is valid for
    classes with few examples too. A row without any count gives 1.
    """
    table = np.stack([np.asarray(one, dtype=int), np.asarray(other, dtype=int)])
    table = table[:, table.sum(0) > 0]
    total = table.sum(1)
    if (total == 0).any():
        return 1.0
    expected = total[0] * table.sum(0) / total.sum()

    def deviation(row: np.ndarray) -> np.ndarray:
        return ((row - expected) ** 2 / expected).sum(-1)

    generator = np.random.default_rng(np.random.SeedSequence([seed, int(total.sum())]))
    drawn = generator.multivariate_hypergeometric(table.sum(0), total[0], size=NUM_SAMPLES)
    extreme = np.count_nonzero(deviation(drawn) >= deviation(table[0]) * (1 - 1e-12))
    return (1 + extreme) / (1 + NUM_SAMPLES)


def combine(p_values: Sequence[float]) -> float:
    """Fisher's combination of independent p-values, one per seed."""
    return float(stats.combine_pvalues(list(p_values), method="fisher").pvalue)


def exchangeable(profiles: ArrayLike, num_samples: int = NUM_SAMPLES) -> float:
    """The p-value that conditions do not differ once seeds are allowed to.

    `profiles` is (n_seeds, conditions, features). The statistic is the spread of the conditions'
    means over seeds; conditions are permuted within each seed.
    """
    sample = np.asarray(profiles, dtype=float)

    def spread(values: np.ndarray) -> float:
        means = values.mean(0)
        return float(((means - means.mean(0)) ** 2).sum())

    generator = np.random.default_rng(np.random.SeedSequence([0, *sample.shape]))
    observed = spread(sample) * (1 - 1e-12)
    extreme = sum(
        spread(np.stack([generator.permutation(one) for one in sample])) >= observed
        for _ in range(num_samples)
    )
    return (1 + extreme) / (1 + num_samples)
