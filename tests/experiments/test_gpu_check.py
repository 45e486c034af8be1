"""The check of a GPU: in its CPU form, with what it may not count on taken away."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from analysis import speed_gpu
from experiments import gpu_check
from experiments.laboratory import runs
from experiments.models.mnist_cnn import DigitsCNN
from experiments.timing import contract
from methods import Task
from methods.attributor import Attributor
from methods.ihvp.inverse import Inverse
from methods.rows.projections import Projection
from methods.tracin import TracIn
from tests.analysis.synthetic import gpu_check as gpu_runs

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
BLOCKED = (*gpu_check.OPTIONAL, "jinja2", "sacrebleu", "backpack", "opacus", "pytest")
BLOCK = f"""
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {BLOCKED!r}:
            return self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


@pytest.mark.long
def test_it_runs_whole_without_optional_packages_and_says_so_first(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
        "RETRACE_RESULTS": str(tmp_path / "results"),
        "CUDA_VISIBLE_DEVICES": "",
        "WANDB_MODE": "offline",
    }
    words = ["-m", "experiments.gpu_check", "--preset", "smoke", "--device", "cpu"]
    parts = [f"--cell={i}" for i in range(1, len(gpu_check.PRESETS["smoke"]))]
    done = subprocess.run(
        [sys.executable, *words, *parts], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    lines = done.stdout.splitlines()
    assert lines[0] == f"not installed, and done without: {', '.join(gpu_check.OPTIONAL)}"
    assert lines[1] == "Speed on cpu"  # flushed as it comes, before the table
    assert "W&B: off, wandb is not installed" in done.stderr
    assert f"{len(parts)} runs in" in done.stdout
    assert "2 processes" in done.stdout


def test_every_method_inverse_and_projection_is_checked():
    names = [name for name, _ in contract.checked()]
    assert len(names) == len(set(names))
    made = [method for _, method in contract.checked()]
    assert {type(method) for method in made} == set(contract.found(Attributor))
    inverses = {type(method.inverse) for method in made if hasattr(method, "inverse")}
    assert {one.__name__ for one in contract.found(Inverse)} - {
        one.__name__ for one in inverses
    } <= {"Dominant"}
    projections = {type(one.projection) for one in made if hasattr(one, "projection")}
    assert projections == set(contract.found(Projection))


@pytest.mark.parametrize("name", [name for name, _ in contract.checked()])
def test_the_cpu_holds_the_contract(name):
    method = dict(contract.checked())[name]
    first = contract.results(method, CPU)
    assert all(torch.isfinite(one).all() for one in first)
    assert any(float(one.norm()) > 0 for one in first)


def test_a_device_with_other_numbers_breaks_the_contract(monkeypatch):
    right = contract.task

    def wrong(device: torch.device) -> Task:
        task = right(torch.device("cpu"))
        if device.type == "meta":  # stands for a device that rounds
            return replace(task, params={n: 1.01 * v for n, v in task.params.items()})
        return task

    monkeypatch.setattr(contract, "task", wrong)
    method = TracIn(checkpoints=(-1,))
    assert contract.difference(method, CPU) == 0
    monkeypatch.setattr(contract, "results", _of_a_rounding_device(contract.results))
    assert contract.difference(method, torch.device("meta")) > gpu_check.TOLERANCE


def test_what_is_no_number_on_a_device_is_far_from_the_cpu(monkeypatch):
    exact = contract.results

    def broken(method, device):
        found = exact(method, CPU)
        return [*found[:-1], found[-1] * float("nan")] if device.type == "meta" else found

    monkeypatch.setattr(contract, "results", broken)
    assert contract.difference(TracIn(checkpoints=(-1,)), torch.device("meta")) == contract.FAR


def _of_a_rounding_device(results):
    def rounded(method, device):
        exact = results(method, CPU)
        return [1.01 * one for one in exact] if device.type == "meta" else exact

    return rounded


def test_sizes_follow_from_the_time_there_is(monkeypatch):
    seconds = 0.0

    def work(size: int) -> None:
        nonlocal seconds
        seconds += 0.01 * size

    monkeypatch.setattr(gpu_check, "now", lambda: seconds)
    assert gpu_check.timed(work, 1.0, 1_000) == (16, pytest.approx(0.16))
    assert seconds <= 1.0
    assert gpu_check.timed(work, 1.0, 4)[0] == 4
    assert gpu_check.timed(work, 1e-6, 1_000)[0] == 1


def test_rates_by_plain_torch_are_of_the_same_numbers():
    module = DigitsCNN().build(0).requires_grad_(False)
    some = contract.examples(8, 0)
    task = Task.of(module, gpu_check.cross_entropy)
    ours = TracIn(learning_rates=False).self_influence(task, some)
    theirs = gpu_check._plain_rows(module, some)
    assert torch.allclose(ours, theirs, rtol=1e-4)
    vector = torch.randn(task.size, generator=torch.Generator().manual_seed(0))
    product = gpu_check.Hessian(task, some).apply(vector[None])[0]
    plain = gpu_check._plain_product(module, vector, some)
    assert torch.allclose(product, plain, rtol=1e-3, atol=1e-5 * float(plain.abs().max()))


def test_a_failing_part_is_said_and_the_others_are_measured(monkeypatch, capsys):
    def fails(*_: object) -> None:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(gpu_check, "_plain_rows", fails)
    lines = list(gpu_check.Speed(DigitsCNN(), 8, 0.2, 4).lines())
    assert "self-influence, plain torch failed: no kernel image" in capsys.readouterr().out
    assert {"Hessian product", "self-influence"} <= {what for what, *_ in lines}
    assert all(math.isfinite(value) for *_, value in lines)


def test_the_artifact_says_whether_a_device_holds_the_contract(tmp_path, monkeypatch):
    for off, wrong in ((0.0, 0), (0.1, 2)):
        monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / str(wrong)))
        gpu_runs.write("small", off=off)
        table = speed_gpu.tabulate(runs.load("gpu_check", "small"))
        claims = table[table["kind"] == "claim"]
        assert len(claims) == 3
        assert (claims["verdict"] == "fails").sum() == wrong


def test_without_a_preset_it_checks_the_gpu_there_is_and_never_another_silently(monkeypatch):
    asked: list[list[str]] = []
    monkeypatch.setattr(gpu_check.Experiment, "main", lambda _, words: asked.append(words) or 0)
    monkeypatch.setattr(gpu_check, "device", lambda: torch.device("cuda"))
    gpu_check.main([])
    gpu_check.main(["--device", "cpu"])
    gpu_check.main(["--preset", "smoke"])
    assert [words[1] for words in asked] == ["paper", "small", "smoke"]

    def broken() -> torch.device:
        raise gpu_check.UserError("a GPU was given (SLURM_GPUS=1) and cannot be used")

    monkeypatch.setattr(gpu_check, "device", broken)
    assert gpu_check.main([]) == gpu_check.USER_MISTAKE
    assert len(asked) == 3


def test_a_cell_for_the_cpu_computes_there_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("RETRACE_DEVICE", "auto")
    seen: list[str] = []

    def lines(_: object) -> list[tuple[str, str, float]]:
        seen.append(os.environ["RETRACE_DEVICE"])
        return [("x", "y", 1.0)]

    monkeypatch.setattr(gpu_check.Contract, "lines", lines)
    gpu_check.run(gpu_check.Config(), tmp_path)
    assert seen == ["cpu"]
    assert os.environ["RETRACE_DEVICE"] == "auto"


def test_the_parts_together_take_eight_minutes_at_most():
    budgets = [getattr(cell.work, "seconds", 20.0) for cell in gpu_check.PRESETS["paper"]]
    assert sum(budgets) <= 400  # the rest is for the start, and for networks to be made


@pytest.mark.parametrize("place", range(1, 8))
def test_every_part_runs_on_a_gpu(place, pretend_gpu, tmp_path):
    work = gpu_check.TINY[place]
    found = gpu_check.run(gpu_check.Config(work, "cuda"), tmp_path)
    assert len(found["values"]) > 1
    assert (found["values"] >= 0).all()


@pytest.mark.parametrize("name", ["TracIn", "RandomProjection, Gaussian", "Influence, Arnoldi"])
def test_a_gpu_holds_the_contract(name, pretend_gpu):
    method = dict(contract.checked())[name]
    assert contract.difference(method, torch.device("cuda")) < gpu_check.TOLERANCE / 10
