"""Experiments on a pretend GPU: no operation on two devices, and the CPU's own numbers.

One cell of each kind of every smoke preset, most of them in .ci/run alone; and, of the largest, the
same with less data and smaller networks.
"""

import re
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from experiments import (
    cifar_proponents,
    finetune_vs_retrain,
    ground_truth,
    hessian_scaling,
    nondeterminism,
    speed_ensembles,
    subset_ensembles,
    vit_mislabel,
    wmt_filtering,
    wmt_retrieval,
    wmt_scoring,
)
from experiments.data.parallel import Corpus
from experiments.ensembles import attributions, classifiers
from experiments.images import cifar_models, proponents, vit_models
from experiments.laboratory import registry
from experiments.laboratory.errors import UserError
from experiments.laboratory.runs import Run
from experiments.models.resnet import ResNet
from experiments.training.augmentation import CropAndFlip
from experiments.training.plans import Stepped
from methods.ihvp.arnoldi import Krylov
from tests.analysis.synthetic.shapes import KNOWN, hold
from tests.experiments.data.photo_files import write_flowers
from tests.experiments.ensembles.test_classifiers import TINY, shrunk
from tests.experiments.test_ground_truth import DIVISION
from tests.experiments.test_mnli_simulator import TINY as SIMULATED
from tests.experiments.test_subset_ensembles import TINY as ENSEMBLE
from tests.experiments.test_wmt_filtering import METHODS, MODEL, POOL
from tests.pretend_device import PretendGpu

TOLERANCE = 1e-4  # of the largest number of an array: rounding, in sums of another order
GROWN = {"ground_truth": 10}  # times that: its networks train stacked on a CPU, apart on a GPU
FLOOR = 1e-6  # for what is rounding itself, such as the distance of a basis from orthonormal
BY_THE_CLOCK = re.compile(
    r"second|_hour|ratio|gops|flops|bytes|over_limit|rounds|(^|_)ms$|"  # and those of mnli_speed:
    r"_candidate$|_step(_|$)|^step_|_pass$|^search_|^product$|^result$|"
    r"^values$|^spent$|"  # and those of gpu_check:
    r"^machine$"  # which says where it was
)
HOST = 0.2  # of all multiply-adds, which may be the CPU's
ON_THE_CPU = {
    "gpu_check",
    "hessian_scaling",
    "speed_ensembles",
    "tracin_sketch",
}  # what they do is there
QUICK = {
    ("dbpedia", 1), ("hessian_scaling", 1), ("mnist_first_order", 14), ("model_count", 0),
    ("tracin_sketch", 8),
}  # fmt: skip
"""Smoke cells for `make test`; all together take many minutes."""
SMOKE = [
    (name, number) for name in registry.names() for number, _ in KNOWN[name] if number is not None
]


def marked(cell: tuple[str, int]) -> Any:
    marks = () if cell in QUICK else pytest.mark.long
    return pytest.param(*cell, marks=marks, id=f"{cell[0]}-{cell[1]}")


class Operations(TorchDispatchMode):
    """Counts multiply-adds on the CPU and on the pretend GPU."""

    def __init__(self, gpu: PretendGpu) -> None:
        super().__init__()
        self.gpu, self.count = gpu, Counter[bool]()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = op(*args, **(kwargs or {}))
        if count := flop_registry.get(op.overloadpacket):
            there = any(isinstance(x, torch.Tensor) and self.gpu.holds(x) for x in args)
            self.count[there] += count(*args, **(kwargs or {}), out_val=out)
        return out


@pytest.mark.parametrize(("name", "number"), [marked(cell) for cell in SMOKE])
def test_a_smoke_cell_runs_on_a_gpu(name, number, smoke_runs, tmp_path, monkeypatch):
    experiment = registry.named(name)
    cell = experiment.presets["smoke"][number]
    monkeypatch.setenv("RETRACE_RESULTS", str(smoke_runs))
    there = experiment.once(cell)
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    with PretendGpu() as gpu, Operations(gpu) as operations:
        here = experiment.once(cell)
    hold(name, here.metrics | here.arrays())
    compare(there, here, GROWN.get(name, 1))
    on_host = operations.count[False] / max(1, operations.count.total())
    assert on_host <= HOST or name in ON_THE_CPU


def test_every_experiment_has_smoke_cells_and_the_quick_ones_are_among_them():
    assert {name for name, _ in SMOKE} == set(registry.names())
    assert set(SMOKE) >= QUICK


def cifar() -> list[Any]:
    model = cifar_models.Model(
        ResNet(8, 2),
        cifar_models.Data("digits", 60, 60),
        Stepped(2, 20, 0.05, drops=(0.5,)),
        CropAndFlip(1),
    )
    queries = proponents.Queries(12, 4, shown=cifar_proponents.SHOWN)
    basis = Krylov(6, 20, 0, 4)
    methods = cifar_proponents.methods(4, basis)
    return [cifar_proponents.Config(model, method, queries) for method in methods]


def vit_model() -> vit_models.Model:
    start = replace(vit_models.SMOKE.start, n=100, augment=CropAndFlip(1))
    return replace(
        vit_models.SMOKE,
        start=replace(start, fit=replace(start.fit, epochs=1, every=1)),
        data=replace(vit_models.SMOKE.data, n_train=60, n_test=60),
        fit=replace(vit_models.SMOKE.fit, epochs=1, every=1),
    )


def vit() -> list[Any]:
    plan = vit_mislabel.Plan((3,), (0.2, 1.0), 1, Krylov(5, 20, 0, 4), 10)
    return list(vit_mislabel.cells(vit_model(), 1, plan))


def scaling() -> list[Any]:
    return [hessian_scaling.Config(hessian_scaling.Precision(vit_model(), 5, 20, 4))]


def photographs() -> classifiers.Recipe:
    return replace(shrunk(classifiers.FLOWERS_RESNET, 2), fit=replace(TINY.fit, epochs=1))


def disagreeing() -> list[Any]:
    rates = classifiers.Sweep(TINY.fit, (0.01, 0.1), (0.0,))
    moved = replace(TINY, fit=rates, view=classifiers.LITTLE)
    both = nondeterminism.cells(moved, {"both": 2, "init": 2}, stack=2)
    return [*both, *nondeterminism.cells(photographs(), {"init": 1}, stack=1)]


def without() -> list[Any]:
    compared = finetune_vs_retrain.Compared(TINY, n_seeds=2, n_dropped=2, share=0.5, stack=2)
    return finetune_vs_retrain.cells(compared)


def retrieved() -> list[Any]:
    plan = wmt_retrieval.Plan(1, Krylov(6, 16, 0, 4), 1, 1, dims=(2, 4), of_last=(10, 50))
    tests = (wmt_retrieval.Translation(Corpus("generated test", 0, 10)),)
    fold = wmt_retrieval.Fold(n=30, corrupted=6)
    return plan.cells(MODEL, fold, tests)


def filtered() -> list[Any]:
    setting = replace(
        wmt_filtering.filters.SMOKE,
        model=MODEL,
        methods=METHODS,
        noisy_pool=POOL,
        retrain=MODEL,
        early=2,
        seeds=1,
    )
    arms = {type(c.arm): c for c in wmt_filtering.cells(setting) if c.pool == POOL}
    return list(arms.values())


def attributed() -> list[Any]:
    whole, basis = attributions.Whole(ENSEMBLE, 1, 4), Krylov(10, None, 0, 4)
    cells = ground_truth.cells(DIVISION, whole, (2, 12), basis, (1,))
    return [replace(c, dampings=c.dampings[:2]) if hasattr(c, "dampings") else c for c in cells]


CELLS = {
    "cifar_proponents": cifar,
    "vit_mislabel": vit,
    "hessian_scaling": scaling,
    "nondeterminism": disagreeing,
    "finetune_vs_retrain": without,
    "subset_ensembles": lambda: subset_ensembles.cells(ENSEMBLE, 24, (5, 10), 6),
    "ground_truth": attributed,
    "wmt_retrieval": retrieved,
    "wmt_scoring": lambda: [wmt_scoring.Scoring(MODEL, POOL, METHODS, shard) for shard in (0, 1)],
    "wmt_filtering": filtered,
    "mnli_simulator": lambda: [SIMULATED],
}


LONG = {
    "cifar_proponents", "ground_truth", "hessian_scaling", "mnli_simulator", "nondeterminism",
    "subset_ensembles", "vit_mislabel", "wmt_filtering", "wmt_retrieval", "wmt_scoring",
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name in LONG else ()) for name in CELLS]
)
def test_a_gpu_gives_the_numbers_of_the_cpu(name, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    write_flowers(tmp_path, 2, monkeypatch)
    experiment, cells = registry.named(name), CELLS[name]()
    runs: dict[str, list[Run]] = {}
    for place in ("cpu", "gpu"):
        monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / place))
        with PretendGpu() if place == "gpu" else nullcontext() as gpu:
            runs[place] = [experiment.once(cell) for cell in cells]
            if gpu:
                assert gpu.launches.total() > 100 * len(cells), "it computed there"
    for ours, theirs in zip(*runs.values(), strict=True):
        compare(ours, theirs)


TIMED = {
    "hessian_scaling": hessian_scaling.Config(
        hessian_scaling.Timing(hessian_scaling.LITTLE[0], (1, 2), 4, 3, repeats=1, whole=True)
    ),
    "speed_ensembles": replace(speed_ensembles.TINY, way=speed_ensembles.Stacked(2), epochs=1),
}


def timed_on(cell: Any, kind: str) -> Any:
    work = getattr(cell, "work", cell)
    there = replace(work, device=kind)
    return there if work is cell else replace(cell, work=there)


@pytest.mark.parametrize("name", TIMED)
def test_a_cell_that_measures_one_device_runs_there_or_says_that_it_cannot(
    name, tmp_path, monkeypatch
):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    experiment = registry.named(name)
    with PretendGpu() as gpu:
        experiment.once(timed_on(TIMED[name], "cpu"))
        assert not gpu.launches
        experiment.once(timed_on(TIMED[name], "cuda"))
        assert gpu.launches.total() > 100
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("RETRACE_DEVICE", "cpu")
    with pytest.raises(UserError, match="this cell measures cuda, and the device is cpu"):
        experiment.once(timed_on(TIMED[name], "cuda"))


def compare(one: Run, other: Run, grown: float = 1) -> None:
    """Refuse two runs of one config that differ by more than rounding, `grown` so many times."""
    left, right = ({**run.metrics, **run.arrays()} for run in (one, other))
    assert set(left) == set(right)
    for name in left:
        if BY_THE_CLOCK.search(name):
            continue
        expected, found = np.asarray(left[name]), np.asarray(right[name])
        if name == "neighbours":  # at distances that only rounding tells apart, in either order
            expected, found = np.sort(expected), np.sort(found)
        if expected.dtype.kind != "f":
            np.testing.assert_array_equal(found, expected, err_msg=f"{one.config} {name}")
            continue
        scale = np.nanmax(np.abs(expected), initial=0)
        np.testing.assert_allclose(
            found,
            expected,
            rtol=0,
            atol=grown * TOLERANCE * scale + FLOOR,
            err_msg=f"{one.config} {name}",
        )
