"""From the seconds of parts to the time of whole configurations, point by point."""

from dataclasses import dataclass

import numpy as np

from experiments.runs import Run

WORKS = (
    "whole_candidate", "whole_step_large", "whole_step_one", "cached_candidate",
    "cached_step_large", "cached_step_one", "rows_candidate", "rows_pass", "step_one", "product",
    "product_pass", "together_step", "together_candidate", "alone_step", "alone_candidate",
)  # fmt: skip


@dataclass(frozen=True)
class Costs:
    """Seconds of each part, (n_points,) by name, and what they are multiplied by."""

    seconds: dict[str, np.ndarray]
    ks: tuple[int, ...]
    depth: int
    workers: int
    n: int

    @classmethod
    def of(cls, run: Run) -> "Costs":
        """Read the costs that a run measured."""
        work = run.config["work"]
        names = [*WORKS, *(f"search_{k}" for k in work["ks"])]
        seconds = {name: np.asarray(run.array(name), dtype=float) for name in names}
        counts = int(work["depth"]), int(run.metrics["workers"]), int(run.metrics["n_train"])
        return cls(seconds, tuple(work["ks"]), *counts)

    @property
    def columns(self) -> dict[str, str]:
        """The ways to find s_test, with their names."""
        several = f"fast s_test, {self.workers} processes"
        return {
            "original": "original s_test",
            "fast": "fast s_test, 1 process",
            "shared": several,
        }

    def total(self, n: int, k: int | None, s_test: str) -> np.ndarray:
        """Seconds for one query at n training pairs, (n_points,)."""
        one, many = self.seconds, self.search(n, k)
        count = n if k is None else k
        if s_test == "original":
            return many + count * one["whole_candidate"] + self.depth * one["whole_step_large"]
        candidates, step = count * one["rows_candidate"], one["step_one"]
        s = self.workers * self.depth * step
        if s_test == "fast":
            return many + candidates + s
        return many + candidates / self.gain("candidate") + s / self.gain("step")

    def chain(self, n: int, k: int) -> dict[str, np.ndarray]:
        """The same after each change, from the original without kNN to the last of them."""
        one, several = self.seconds, self.workers
        original = self.depth * one["whole_step_large"]
        found = {"original, no kNN": self.total(n, None, "original")}
        search = self.search(n, k)
        found["candidates: kNN"] = search + k * one["whole_candidate"] + original
        repeats = several * self.depth
        found[f"s_test: B = 1, T = {several}"] = (
            search + k * one["whole_candidate"] + repeats * one["whole_step_one"]
        )
        found["frozen layers once"] = (
            search + k * one["cached_candidate"] + repeats * one["cached_step_one"]
        )
        found["factored rows"] = (
            search + k * one["rows_candidate"] + repeats * one["cached_step_one"]
        )
        found["products at layers"] = self.total(n, k, "fast")
        found[f"{several} processes"] = self.total(n, k, "shared")
        return found

    def gains(self) -> dict[str, np.ndarray]:
        """Each change on the part that it changes, times faster, (n_points,)."""
        one = self.seconds
        return {
            "frozen layers once, a candidate": one["whole_candidate"] / one["cached_candidate"],
            "frozen layers once, a step of B = 1": one["whole_step_one"] / one["cached_step_one"],
            "factored rows in batches, a candidate": one["cached_candidate"]
            / one["rows_candidate"],
            "products at layers, a step of B = 1": one["cached_step_one"] / one["step_one"],
            f"{self.workers} processes, candidates": self.gain("candidate"),
            f"{self.workers} processes, s_test": self.gain("step"),
        }

    def gain(self, part: str) -> np.ndarray:
        """How many times faster the processes together are than one of them alone."""
        return self.seconds[f"alone_{part}"] / self.seconds[f"together_{part}"]

    def search(self, n: int, k: int | None) -> np.ndarray | float:
        """Seconds to find the k nearest of n pairs, which grow with n."""
        return 0.0 if k is None else self.seconds[f"search_{k}"] * n / self.n
