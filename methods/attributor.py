"""An attribution method is two embeddings and an inner product.

THE sign convention: a positive score is a proponent, helpful: upweighting the candidate lowers
the query's measurement. Rows of a score matrix are queries, columns are candidates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from methods import folders
from methods.errors import MethodError
from methods.examples import Examples, count, sourced
from methods.fitted.origin import Origin, identity
from methods.fitted.scoring import Fitted
from methods.precision import FullPrecision
from methods.task import Task

State = dict[str, Tensor]


class Attributor(FullPrecision, ABC):
    """A frozen dataclass of hyper-parameters.

    `fit` has two steps. `state` is the expensive one, done once a model: arrays that may be kept,
    and shared by methods whose `state_settings` are equal. `fitted` is the cheap one. A method
    defines `fitted`, and the other two if it has such arrays.
    """

    @property
    def reads_train(self) -> bool:
        """Whether the fitted method goes on reading the training examples."""
        return False

    @property
    def state_settings(self) -> Any:
        """The settings that `state` depends on, a frozen dataclass; None where it is empty."""
        return None

    def state(self, task: Task, train: Examples) -> State:
        """The expensive part of `fit`, as arrays; `train` is what the curvature is estimated on."""
        return {}

    @abstractmethod
    def fitted(self, task: Task, state: State, train: Examples | None) -> Fitted:
        """The method of a state; `train` is None only where the method does not read it."""

    def fit(self, task: Task, train: Examples | None = None, state: State | None = None) -> Fitted:
        """Fit the method to a task.

        Without `state` it is computed from `train`. With it, `train` is needed only by a method
        that goes on reading it: CG and LiSSA multiply by its Hessian, Representer needs its size.

        Here and below, examples are a dict of tensors, a data set or a DataLoader; see `Source`.
        """
        train = None if train is None else _checked(train)
        if state is None and train is not None:
            state = self.state(task, train)
        if state is None or (train is None and self.reads_train):
            name = type(self).__name__
            raise MethodError(f"{name} needs the training examples: give them to `fit`")
        fitted = self.fitted(task, state, train)
        fitted.origin = Origin(self, task, state, train if self.reads_train else None)
        return fitted

    def restore(self, task: Task, folder: Path | str, train: Examples | None = None) -> Fitted:
        """The fitted method that `Fitted.save` wrote, for the same task and settings.

        `train` is needed where the method reads it again and it was not saved, being a data set.
        Parameters, weight decay and settings are checked; functions cannot be: give the loss
        and the measurement that are meant.
        """

        def load(folder: Path, about: Any) -> tuple[Any, dict[str, Examples]]:
            saved: dict[str, Examples] = {"state": {}, "train": {}}
            for name in about["sha256"]:
                part, column = name.removesuffix(".npy").split(".", 1)
                saved[part][column] = torch.from_numpy(np.load(folder / name))
            return {what: about[what] for what in ("method", "model")}, saved

        about, saved = folders.read(folder, "fitted.json", "fitted method", load)
        for what, mine in identity(self, task).items():
            theirs = about[what]
            for name in {**theirs, **mine}:
                have, want = theirs.get(name), mine.get(name)
                if have != want:
                    differs = f"{name} is {have} there and {want} here"
                    reason = differs if what == "method" else f"other {name}"
                    raise MethodError(
                        f"{folders.quoted(folder)} is of another {what}: {reason}; fit again"
                    )
        return self.fit(task, saved["train"] or train, saved["state"])

    def scores(self, task: Task, train: Examples, query: Examples) -> Tensor:
        """Fit, then score every training example for every query, (n_query, n_train)."""
        train, query = _checked(train), _checked(query)
        return self.fit(task, train).scores(query, train)

    def self_influence(self, task: Task, train: Examples) -> Tensor:
        """Fit, then score every training example for itself, (n_train,)."""
        train = _checked(train)
        return self.fit(task, train).self_influence(train)


def _checked(given: Examples) -> Examples:
    """The examples as they are read; what are none is told before anything else is asked for."""
    examples = sourced(given)
    count(examples)
    return examples
