"""Every kind of cell of the paper tier of mnist_mislabel runs, on a few made-up digits."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from experiments import mnist_mislabel
from experiments.digits import models
from experiments.mnist_mislabel import Config
from experiments.training.second_order import Finish
from methods.ihvp.arnoldi import Arnoldi, Krylov
from methods.ihvp.compressed import Compressed
from methods.ihvp.lissa import LiSSA
from methods.influence import Influence
from methods.random_projection import RandomProjection
from methods.tracin import TracIn
from tests.experiments.data.idx_files import write_mnist

N_TRAIN, N_EVAL, FEW = 32, 32, 5


def kind(cell: Config) -> str:
    """The part of a cell that makes it a different computation, without numbers and seeds."""
    method: Any = cell.method
    inner = getattr(method, "inverse", None) or getattr(method, "projection", None)
    parts = [cell.model.network, method, inner, getattr(inner, "projection", None), cell.part]
    names = [type(part).__name__ for part in parts if part is not None]
    if isinstance(method, TracIn):
        names.append("all" if method.checkpoints is None else "some")
    if isinstance(inner, Arnoldi) and inner.positive_only:
        names.append("positive")
    return " ".join(names)


def shrunk(cell: Config) -> Config:
    """The same on fewer examples, in one epoch and a few products."""
    model = cell.model
    model = replace(
        model,
        data=replace(model.data, n_train=N_TRAIN, n_eval=N_EVAL),
        fit=replace(model.fit, epochs=1, every=1),
        finish=model.finish and Finish(rounds=1, iterations=2, sample=16),
    )
    return replace(cell, model=model, method=_shrunk(cell.method))


def _shrunk(method: Any) -> Any:
    if isinstance(method, TracIn) and method.checkpoints is not None:
        return replace(method, checkpoints=(0,))  # one epoch, one checkpoint
    if isinstance(method, RandomProjection):
        return RandomProjection(replace(method.projection, dim=min(FEW, method.projection.dim)))
    inverse = getattr(method, "inverse", None)
    if isinstance(inverse, LiSSA):
        return replace(method, inverse=replace(inverse, depth=2))
    if isinstance(inverse, Arnoldi):
        basis = Krylov(6, sample=32, keep=FEW)
        few = replace(inverse, num_eigen=min(FEW, inverse.num_eigen), basis=basis)
        return replace(method, inverse=few)
    if isinstance(inverse, Compressed):
        return replace(method, inverse=Compressed(replace(inverse.projection, dim=FEW)))
    return method


CELLS = {kind(cell): shrunk(cell) for cell in reversed(mnist_mislabel.PRESETS["paper"])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data and results that the cells share, so that each network is trained once."""
    home = tmp_path_factory.mktemp("paper")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETRACE_RESULTS", str(home))
        # The Hessian of 2,616 parameters costs seconds a block: one of all the examples.
        blocks = models.Blocks
        patch.setattr(models, "Blocks", lambda model: blocks(model, 1))
        write_mnist(home, {"train": N_TRAIN + N_EVAL, "test": 10}, patch)
        models.load_data.cache_clear()
        yield home
        models.load_data.cache_clear()


SLOW = (
    "LargeCNN Influence LiSSA",
    "SmallCNN Influence Compressed Gaussian",
    "SmallCNN Influence Exact",
)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.long if n in SLOW else ()) for n in CELLS]
)
def test_a_cell_of_the_paper_tier_runs(name, folder):
    outcome = mnist_mislabel.run(CELLS[name], folder)
    assert outcome["self_influence"].shape == (N_TRAIN,)
    assert np.isfinite(outcome["self_influence"]).all()
    # Five of 824,458 coordinates may all be of units that no digit turns on.
    assert np.ptp(outcome["self_influence"]) > 0 or name.endswith("Select")
    assert outcome["top_images"].shape == (30, 28, 28)
    whole = {"LargeCNN": 824_458, "SmallCNN": 2_616}[name.split()[0]]
    assert outcome["num_params"] == (25 * 3_137 + 2_570 if name.endswith("Part") else whole)
    assert not re.search("Arnoldi|Compressed", name) or 0 < outcome["proj_dim"] <= FEW


def test_the_kinds_are_those_of_the_table_and_the_figures():
    large = ["Loss", "TracIn all", "TracIn some", "Influence LiSSA", "Influence LiSSA Part"]
    large += ["Influence Arnoldi", "Influence Arnoldi positive"]
    small = ["Loss", "TracIn all", "Influence LiSSA", "Influence Arnoldi", "Influence Exact"]
    small += ["Influence Compressed Gaussian", "RandomProjection Gaussian"]
    large += ["RandomProjection Gaussian", "RandomProjection Select"]
    wanted = {f"LargeCNN {one}" for one in large} | {f"SmallCNN {one}" for one in small}
    assert set(CELLS) == wanted
    assert next(cell for cell in mnist_mislabel.PRESETS["paper"] if cell.part).method == Influence(
        LiSSA(100)
    )
