"""Simulations that counts and plans are held against: coins, and ensembles of made-up models."""

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import binom

from methods.masks import draw_masks
from methods.overlap import iou
from methods.plan import false_share, null_iou, null_rate, standard_error
from methods.power import equal_share, one_arm
from methods.randomness import numpy_generator
from methods.subset import Sums

ENOUGH = 50  # pairs found, below which a share of them says nothing
THRESHOLDS = tuple(round(0.025 * i, 3) for i in range(1, 25))


@dataclass(frozen=True)
class Coins:
    """Both probabilities of error at the counted number of models, drawn `n_draws` times."""

    values: tuple[float, ...] = (0.05, 0.2, 0.4, 0.6, 0.8, 0.95)
    delta: float = 0.05
    n_draws: int = 20_000
    seed: int = 0

    def outcome(self) -> dict[str, Any]:
        """Errors (n_pairs, 2) as simulated and as calculated, at the first number that does."""
        draw = numpy_generator(self.seed, "coins")
        pairs = list(combinations(self.values, 2))
        simulated, exact = np.zeros((2, len(pairs), 2))
        for place, (p, q) in enumerate(pairs):
            n = int(one_arm(p, q, self.delta).first)
            cut = np.floor(n * equal_share(p, q) + 1e-9)
            simulated[place] = [
                (draw.binomial(n, p, self.n_draws) > cut).mean(),
                (draw.binomial(n, q, self.n_draws) <= cut).mean(),
            ]
            exact[place] = binom.sf(cut, n, p), binom.cdf(cut, n, q)
        return {
            "difference": float((simulated - exact).mean()),
            "worst": float(simulated.max()),
            "pairs": np.array(pairs),
            "simulated": simulated,
            "exact": exact,
        }


@dataclass(frozen=True)
class Ensembles:
    """Pairs of ensembles of models that are right by chance, estimated as trained ones are.

    Of each number of `models`: queries that nothing influences, right with each of the
    probabilities `p`; and queries that one example each influences by `influence`.
    """

    models: tuple[int, ...] = (25, 50, 100, 200, 400, 1000, 2000)
    p: tuple[float, ...] = (0.5, 0.9)
    inside: float = 0.7
    influence: float = 0.3
    n_train: int = 200
    n_query: int = 400
    seed: int = 0

    def outcome(self) -> dict[str, Any]:
        """Arrays over models, probabilities and THRESHOLDS, simulated and as planned."""
        found: dict[str, list[Any]] = {}
        for n_models in self.models:
            for name, values in (self._null(n_models) | self._planted(n_models)).items():
                found.setdefault(name, []).append(values)
        arrays = {name: np.array(values) for name, values in found.items()}
        return {
            "error_ratio": float((arrays["error"] / arrays["error_planned"]).mean()),
            **arrays,
            "models": np.array(self.models),
            "p": np.array(self.p),
            "thresholds": np.array(THRESHOLDS),
        }

    def _masks(self, n_models: int, which: int) -> np.ndarray:
        size = round(self.inside * self.n_train)
        # Ensembles of one seed share no mask: each begins where the one before it ended.
        first = 3 * sum(n for n in self.models if n < n_models) + which * n_models
        return draw_masks(n_models, self.n_train, size, self.seed, first)

    def _null(self, n_models: int) -> dict[str, Any]:
        """What is estimated where there is no influence, by two ensembles."""
        measured: dict[str, list[Any]] = {}
        for place, p in enumerate(self.p):
            estimates = []
            for which in range(2):
                draw = numpy_generator(self.seed, "right", n_models, place, which)
                right = draw.random((n_models, self.n_query)) < p
                estimates.append(Sums.of(self._masks(n_models, which), right).influence())
            passed = [[float((e >= t).double().mean()) for t in THRESHOLDS] for e in estimates]
            planned = [(n_models, t, p, self.inside) for t in THRESHOLDS]
            new = {
                "error": float(np.mean([float(e.double().std()) for e in estimates])),
                "error_planned": standard_error(n_models, p, p, self.inside),
                "rate": np.mean(passed, axis=0),
                "rate_planned": [null_rate(*one) for one in planned],
                "iou": iou(estimates[0], estimates[1], THRESHOLDS).numpy(),
                "iou_planned": [null_iou(*one) for one in planned],
            }
            for name, value in new.items():
                measured.setdefault(name, []).append(value)
        return dict(measured)

    def _planted(self, n_models: int) -> dict[str, Any]:
        """The share of false pairs among those found, as it is and as it would be expected."""
        draw = numpy_generator(self.seed, "planted", n_models)
        masks = self._masks(n_models, 2)
        cause = draw.integers(self.n_train, size=self.n_query)
        base = draw.uniform(0.2, 1 - self.influence, self.n_query)
        right = draw.random((n_models, self.n_query)) < base + self.influence * masks[:, cause]
        sums = Sums.of(masks, right)
        estimate = sums.influence().numpy()
        true = np.arange(self.n_train) == cause[:, None]
        total, inside = sums.total.numpy(), sums.inside.numpy()
        shares, expected, seen = [], [], []
        for threshold in THRESHOLDS:
            above = estimate >= threshold
            n_found = int(above.sum())
            shares.append((above & ~true).sum() / n_found if n_found >= ENOUGH else np.nan)
            expected.append(false_share(n_found, total, inside, n_models, threshold))
            seen.append((above & true).sum() / self.n_query)
        return {"false": shares, "false_planned": expected, "seen": seen}
