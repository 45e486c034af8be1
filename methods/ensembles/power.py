"""How many models distinguish two probabilities of being right: exact binomial counts.

p is the probability that a model trained with an example is right about a query, q the probability
that one trained without it is (Subsets, Sec. 4.3); their difference is the example's influence. One
arm: all models are of one kind, p and q are known, and the question is which of them it is. Two
arms: models of both kinds are trained and their shares of right answers compared. An error of
either kind may have probability `delta`.

Shares of right answers come in steps, so that a number of models may suffice and the next may not:
every answer has the `first` number that suffices, and the number from which on all suffice,
`sustained`. Both are exact: beyond a number that Chernoff's bound gives, none can fail.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import gammaln, xlog1py, xlogy
from scipy.stats import binom, norm

from methods.errors import MethodError

MOST = 2_000_000  # models: above, counting takes minutes
Holds = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Count:
    """The first number of models that suffices, and the first from which on all do; may be inf."""

    first: float
    sustained: float


NEVER = Count(math.inf, math.inf)


def one_arm(p: float, q: float, delta: float = 0.05) -> Count:
    """Models that decide whether their probability of being right is p or q, both known.

    By the rule of Subsets: the lower one is believed if at most a share m of the models is right,
    where a share of m is equally likely under both.
    """
    p, q = _ordered(p, q, delta)
    if p == q:
        return NEVER
    share = equal_share(p, q)

    def holds(n: np.ndarray) -> np.ndarray:
        cut = np.floor(n * share + 1e-9) if q < 1 else n - 1  # all right: it must be q
        return (binom.cdf(cut, n, p) >= 1 - delta) & (binom.cdf(cut, n, q) <= delta)

    return search(holds, *_sure(p, q, delta))


def paper_count(p: float, q: float, delta: float = 0.05) -> float:
    """The count that the code of Subsets, Appendix F, returns once numpy is imported.

    It never distinguishes p or q = 1 from anything, and gives up at 999 models.
    """
    if p == q:
        return math.inf
    p, q = sorted((p, q))
    n = np.arange(1, 1000)
    with np.errstate(all="ignore"):  # q = 1 makes the cut nan
        p_, q_ = np.float64(p), np.float64(q)
        cut = n * np.log((1 - q_) / (1 - p_)) / np.log(p_ * (1 - q_) / (q_ * (1 - p_)))
        enough = (binom.cdf(cut, n, p) >= 1 - delta) & (binom.cdf(cut, n, q) <= delta)
    return float(n[enough][0]) if enough.any() else math.inf


def two_arms(p: float, q: float, delta: float = 0.05, inside: float = 0.5) -> Count:
    """Models, of both arms together, that distinguish an influence of |p - q| from none.

    A share `inside` of them is trained with the example. It is believed to be influential if the
    shares of right answers differ by half the influence or more. This must happen with probability
    1 - delta, and with at most delta if both arms have probability p, or both q. The paper has no
    such count; in a search for influence neither p nor q is known.
    """
    low, high = _ordered(p, q, delta)
    if not 0 < inside < 1:
        raise MethodError(f"inside is {inside}: give the share with the example, between 0 and 1")
    if low == high:
        return NEVER

    def holds(n: np.ndarray) -> np.ndarray:
        return np.array([_decided(int(one), high, low, inside, delta) for one in n])

    return search(holds, *_window(high, low, delta, inside))


def two_arms_normal(p: float, q: float, delta: float = 0.05, inside: float = 0.5) -> float:
    """`two_arms` by the normal approximation, which ignores the case without influence."""
    variance = p * (1 - p) / inside + q * (1 - q) / (1 - inside)
    return float((2 * norm.isf(delta)) ** 2 * variance / (p - q) ** 2) if p != q else math.inf


def equal_share(p: float, q: float) -> float:
    """The share of right answers that is equally likely under p and q, m of Subsets, Sec. 4.3."""
    if min(p, q) == 0:
        return 0.0 if max(p, q) < 1 else 0.5
    if max(p, q) == 1:
        return 1.0
    up, down = math.log(p / q), math.log((1 - q) / (1 - p))
    return down / (up + down)


def passes(n_in: int, n_out: int, p: float, q: float, threshold: float) -> float:
    """Probability that the difference of two arms' shares of right answers reaches a threshold.

    Exact: n_in models are right with probability p each, and n_out with probability q.
    """
    a, mass = _near(n_in, p)
    b, other = _near(n_out, q)
    most = np.floor((a / n_in - threshold) * n_out + 1e-9)  # that the other arm may have right
    below = np.concatenate([[0.0], np.cumsum(other)])
    return float(mass @ below[np.clip(most - b[0] + 1, 0, len(b)).astype(int)])


def _near(n: int, p: float) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of right answers of n models and their probabilities; the rest sum to below 1e-15."""
    spread = 8 * math.sqrt(n * p * (1 - p)) + 40
    k = np.arange(max(0, math.floor(n * p - spread)), min(n, math.ceil(n * p + spread)) + 1)
    ways = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    return k, np.exp(ways + xlogy(k, p) + xlog1py(n - k, -p))


def arms(n_models: int, inside: float) -> tuple[int, int]:
    """How many of the models are trained with an example, and how many without."""
    n_in = round(inside * n_models)
    return n_in, n_models - n_in


def _decided(n: int, high: float, low: float, inside: float, delta: float) -> bool:
    """Whether n models of two arms tell an influence from none, by half the influence."""
    n_in, n_out = arms(n, inside)
    half = (high - low) / 2
    return (
        min(n_in, n_out) > 0
        and passes(n_in, n_out, high, low, half) >= 1 - delta
        and passes(n_in, n_out, high, high, half) <= delta
        and passes(n_in, n_out, low, low, half) <= delta
    )


def search(holds: Holds, possible: int, sure: int) -> Count:
    """The first number from which on `holds` is true, and the first at all.

    It cannot be true below `possible` nor false from `sure` on.
    """
    if sure > MOST:
        raise MethodError(
            f"p and q are so near that {sure:,} numbers of models would be counted, of at most "
            f"{MOST:,}: `two_arms_normal` approximates, or move p and q apart"
        )
    tried = np.arange(max(1, possible), sure)
    true = holds(tried) if len(tried) else np.array([], dtype=bool)
    where, fails = np.flatnonzero(true), np.flatnonzero(~true)
    first = tried[where[0]] if len(where) else sure
    sustained = tried[fails[-1]] + 1 if len(fails) else max(1, possible)
    return Count(float(first), float(min(sustained, sure)))


def _sure(p: float, q: float, delta: float) -> tuple[int, int]:
    """Bounds for one arm: below the first no rule works, from the second on none fails.

    At the share m both errors have the same Chernoff bound, exp(-n KL(m, p)) = exp(-n KL(m, q)).
    """
    share = equal_share(p, q)
    rate = -math.inf if p == 0 and q == 1 else _log_mixture(p, q, share)
    sure = 1 if rate == -math.inf else math.ceil(math.log(delta) / rate)
    return _possible(p, q, delta), max(sure, 1)


def _log_mixture(p: float, q: float, share: float) -> float:
    """-KL(m, p), of the share m that p and q make equally likely."""
    if share == 0:
        return math.log(1 - max(p, q))
    if share == 1:
        return math.log(min(p, q))
    return share * math.log(p / share) + (1 - share) * math.log((1 - p) / (1 - share))


def _possible(p: float, q: float, delta: float) -> int:
    """Draws below which no rule distinguishes p from q: sqrt(1 - BC^2n) bounds the distance."""
    overlap = math.sqrt(p * q) + math.sqrt((1 - p) * (1 - q))
    if overlap == 0:
        return 1
    return max(1, math.floor(math.log(1 - (1 - 2 * delta) ** 2) / (2 * math.log(overlap))))


def _window(high: float, low: float, delta: float, inside: float) -> tuple[int, int]:
    """The bounds of `_sure` for two arms."""
    smaller = min(inside, 1 - inside)
    possible = math.floor(_possible(low, high, delta) / smaller) - math.ceil(1 / smaller)
    half, least = (high - low) / 2, math.ceil(2 / smaller)
    # The first error is a missed influence, stated as a difference that is too high.
    errors = ((-half, 1 - high, 1 - low), (half, high, high), (half, low, low))
    return possible, max(surely(*error, delta, inside, least) for error in errors)


def surely(threshold: float, p: float, q: float, delta: float, inside: float, least: int) -> int:
    """The number of models from which passing the threshold surely has probability delta at most.

    For p - q below the threshold: Hoeffding's bound on the number, and Chernoff's up to there.
    """
    gap = threshold - (p - q)
    hoeffding = -math.log(delta) / (2 * gap**2 * inside * (1 - inside))
    most = math.ceil(hoeffding) + least
    if most > MOST:
        return most
    n = np.arange(least, most + 1, dtype=float)
    n_in = np.rint(inside * n)
    fails = np.flatnonzero(_chernoff(n_in, n - n_in, p, q, threshold) > math.log(delta))
    return int(n[fails[-1]]) + 1 if len(fails) else least


def _chernoff(
    n_in: np.ndarray, n_out: np.ndarray, p: float, q: float, threshold: float
) -> np.ndarray:
    """The log of a bound on the probability that the difference of shares reaches the threshold."""

    def bound(pull: float, n_in: np.ndarray, n_out: np.ndarray) -> np.ndarray:
        tilt = pull * (n_in + n_out)
        one = xlog1py(n_in, p * np.expm1(tilt / n_in))
        other = xlog1py(n_out, q * np.expm1(-tilt / n_out))
        return one + other - tilt * threshold

    last = n_in[-1:], n_out[-1:]
    best = minimize_scalar(
        lambda pull: float(bound(pull, *last)[0]), bounds=(0, 10), method="bounded"
    )
    return bound(best.x, n_in, n_out)


def _ordered(p: float, q: float, delta: float) -> tuple[float, float]:
    for name, value in (("p", p), ("q", q)):
        if not 0 <= value <= 1:
            raise MethodError(f"{name} is {value}: give a probability, from 0 to 1")
    if not 0 < delta < 0.5:
        raise MethodError(f"delta is {delta}: give a probability of error above 0 and below 0.5")
    return min(p, q), max(p, q)
