"""The one place that chooses the device: what is asked for, what is there, and what is said."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from experiments.laboratory import clock, device, provenance, runs
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment
from tests.experiments.laboratory.tiny import EXPERIMENT

REPOSITORY = Path(__file__).resolve().parents[3]
OUTER = ("SLURM_", "CUDA_", "NVIDIA_", "HIP_", "ROCR_", "GPU_", "RETRACE_D", "CUBLAS_")


@pytest.fixture(autouse=True)
def undetermined(monkeypatch):
    """No word about devices in the environment, and nothing said or set before or after."""
    for name in [*os.environ]:
        if name.startswith(OUTER) or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            monkeypatch.delenv(name)
    # The experiments' command line sets these; what is deleted here is restored afterwards.
    for name in ("RETRACE_DEVICE", "RETRACE_DETERMINISTIC", "CUBLAS_WORKSPACE_CONFIG"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(device, "_said", set())
    monkeypatch.setattr(device, "_present", lambda: False)
    monkeypatch.setattr(provenance, "_latest", {})
    yield
    torch.use_deterministic_algorithms(False)


class Gpus:
    """Some GPUs that are only asked what they are."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch, self.current = patch, 0

    def put(self, count: int, why: str = "Found no NVIDIA driver on your system. See http://x"):
        def init() -> None:
            raise RuntimeError(why)

        cuda = {
            "is_available": lambda: count > 0,
            "device_count": lambda: count,
            "current_device": lambda: self.current,
            "set_device": lambda chosen: setattr(self, "current", torch.device(chosen).index),
            "get_device_name": lambda chosen: f"Card {torch.device(chosen).index}",
            "init": init,
        }
        for name, value in cuda.items():
            self.patch.setattr(torch.cuda, name, value)
        self.patch.setattr(device, "_prove", lambda chosen: None)


@pytest.fixture
def gpus(monkeypatch):
    return Gpus(monkeypatch)


def asked(monkeypatch, word):
    monkeypatch.setenv("RETRACE_DEVICE", word)


def test_auto_takes_what_is_there_and_says_so_once(gpus, capsys):
    gpus.put(0)
    assert device.device() == torch.device("cpu")
    assert device.device() == torch.device("cpu")
    assert capsys.readouterr().err.startswith("device: cpu (")
    gpus.put(2)
    for _ in range(2):
        assert device.device() == torch.device("cuda", 0)
    assert capsys.readouterr().err == "device: cuda:0 (Card 0)\n"


def test_what_is_asked_for_is_taken(gpus, monkeypatch):
    gpus.put(2)
    taken = {"cpu": "cpu", "cuda": "cuda:0", "cuda:1": "cuda:1", "auto": "cuda:0", "": "cuda:0"}
    for word, name in taken.items():
        asked(monkeypatch, word)
        assert str(device.device()) == name
        assert gpus.current == (name == "cuda:1") or name == "cpu", "for what only says cuda"


def test_a_plan_knows_the_gpu_of_this_process_and_starts_nothing(gpus, monkeypatch, capsys):
    names = {"auto": "Card 0", "cuda:1": "Card 1", "cuda:7": None, "cpu": None}
    for count, known in ((2, names), (0, dict.fromkeys(names))):
        gpus.put(count)
        for word, name in known.items():
            asked(monkeypatch, word)
            assert device.gpu_name() == name
    assert capsys.readouterr() == ("", "")


def test_each_of_several_processes_has_the_gpu_of_its_local_rank(gpus, monkeypatch, capsys):
    gpus.put(2)
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert device.device() == torch.device("cuda", 1)
    assert capsys.readouterr().err == "device: cuda:1 (Card 1), local rank 1\n"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert device.device() == torch.device("cuda", 1), "two GPUs for four processes"
    gpus.put(1)  # srun --gpus-per-task=1
    assert device.device() == torch.device("cuda", 0)


@pytest.mark.parametrize("word", ["gpu", "cuda:", "cuda:-1", "cuda:x", "CUDA", "cpu:0", "0", " "])
def test_a_word_that_is_no_device_is_refused(word, monkeypatch):
    asked(monkeypatch, word)
    with pytest.raises(UserError, match="give auto, cpu, cuda, cuda:1 or mps, by --device or"):
        device.device()


OLD = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU "
    "driver by downloading it from http://x"
)
UNUSABLE = {
    "no driver": (0, "", "no NVIDIA driver"),
    "old driver": (0, OLD, "supports CUDA 11.4, is too old for PyTorch"),
    "other": (0, "CUDA unknown error - try x. See y", "CUDA unknown error - try x:"),
}


@pytest.mark.parametrize("case", UNUSABLE)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CUDA_VISIBLE_DEVICES", "0"),
        ("CUDA_VISIBLE_DEVICES", "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"),
        ("CUDA_VISIBLE_DEVICES", "MIG-GPU-1/2/3"),
        ("SLURM_JOB_GPUS", "0,1"),
        ("SLURM_STEP_GPUS", "3"),
        ("SLURM_GPUS_ON_NODE", "1"),
        ("SLURM_GPUS_PER_TASK", "h200:1"),
        ("SLURM_GPUS", "10"),
        ("SLURM_GPUS_PER_NODE", "a100"),
        ("SLURM_GPUS_PER_NODE", "a100:0,h100:1"),
    ],
)
def test_a_gpu_that_was_given_and_cannot_be_used_is_an_error(case, name, value, gpus, monkeypatch):
    count, why, reason = UNUSABLE[case]
    gpus.put(count, why) if why else gpus.put(count)
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught:
        device.device()
    message = str(caught.value)
    assert f"a GPU was given ({name}={value}) and cannot be used: " in message
    assert "--device cpu" in message
    assert "http" not in message
    assert reason in message or name == "CUDA_VISIBLE_DEVICES"
    asked(monkeypatch, "cpu")
    assert device.device() == torch.device("cpu")


def test_a_build_without_cuda_names_itself_and_the_cure(gpus, monkeypatch):
    gpus.put(0)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    monkeypatch.setenv("SLURM_JOB_GPUS", "0")
    with pytest.raises(UserError, match="is built without CUDA: install a build with it"):
        device.device()


def test_an_index_that_no_gpu_has_is_named(gpus, monkeypatch):
    gpus.put(0, "No CUDA GPUs are available")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(UserError, match="no GPU has the index in CUDA_VISIBLE_DEVICES=7"):
        device.device()
    gpus.put(2)
    asked(monkeypatch, "cuda:2")
    with pytest.raises(UserError, match="there is no cuda:2: this process sees cuda:0 to cuda:1"):
        device.device()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CUDA_VISIBLE_DEVICES", ""),
        ("CUDA_VISIBLE_DEVICES", "-1"),
        ("CUDA_VISIBLE_DEVICES", "NoDevFiles"),
        ("SLURM_GPUS_ON_NODE", "0"),
        ("SLURM_GPUS_ON_NODE", "gpu:0"),
        ("SLURM_GPUS_ON_NODE", "(null)"),
        ("SLURM_GPUS_PER_NODE", "gpu:a100:0,h100:0"),
        ("SLURM_JOB_GPUS", ""),
        ("NVIDIA_VISIBLE_DEVICES", "void"),
    ],
)
def test_without_a_gpu_of_its_own_a_process_computes_on_the_cpu(name, value, gpus, monkeypatch):
    gpus.put(0)
    monkeypatch.setenv(name, value)
    assert device.device() == torch.device("cpu")


def test_a_gpu_of_the_machine_that_is_not_used_is_mentioned(gpus, monkeypatch, capsys):
    gpus.put(0, OLD)
    monkeypatch.setattr(device, "_present", lambda: True)
    assert device.device() == torch.device("cpu")
    assert "though this machine has a GPU: the NVIDIA driver" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["cuda", "cuda:0", "mps"])
def test_what_is_asked_for_and_not_there_is_an_error(word, gpus, monkeypatch):
    gpus.put(0)
    asked(monkeypatch, word)
    with pytest.raises(UserError, match=rf"{word}.*--device cpu"):
        device.device()


def test_a_gpu_that_does_not_compute_is_an_error(gpus, monkeypatch):
    prove = device._prove
    gpus.put(1)
    monkeypatch.setattr(device, "_prove", prove)

    def ones(*size, device):
        raise RuntimeError(
            "CUDA error: no kernel image is available for execution on the device\nX"
        )

    monkeypatch.setattr(torch, "ones", ones)
    with pytest.raises(UserError, match=r"cuda:0 is there and does not compute \(.*no kernel"):
        device.device()


def test_a_cell_that_measures_one_kind_of_device_stays_there(gpus, monkeypatch, capsys):
    gpus.put(1)
    assert device.measured("cuda") == torch.device("cuda", 0)
    assert device.measured("cpu") == torch.device("cpu")
    assert "for cells that measure the CPU" in capsys.readouterr().err
    asked(monkeypatch, "cpu")
    with pytest.raises(UserError, match="this cell measures cuda, and the device is cpu"):
        device.measured("cuda")


# The command line


@dataclass(frozen=True)
class Config:
    work: str = "ones"


def experiment(run) -> Experiment:
    return Experiment("on_device", run, {"smoke": [Config()]}, gpu=True)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    return tmp_path / "runs"


def where(config, scratch):
    return {"on": str(device.device())}


def test_the_flag_wins_and_is_handed_to_child_processes(store, gpus, monkeypatch):
    gpus.put(2)
    asked(monkeypatch, "cpu")
    assert experiment(where).main(["--device", "cuda:1"]) == 0
    assert runs.load("on_device", "smoke")[0].metrics == {"on": "cuda:1"}
    program = "import os; print(os.environ['RETRACE_DEVICE'])"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert child.stdout == "cuda:1\n"


@pytest.mark.parametrize("word", ["gpu", "cuda", "cuda:3", "mps"])
def test_a_mistaken_device_is_one_line_and_nothing_is_computed(word, store, gpus, capsys):
    gpus.put(0)
    assert experiment(where).main(["--device", word]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not list(store.glob("on_device/*/meta.json"))


def test_an_experiment_without_a_device_says_that_it_stays_on_the_cpu(store, gpus, capsys):
    gpus.put(1)
    assert EXPERIMENT.main(["--cell", "0", "--device", "cuda"]) == 0
    assert "device: these cells of tiny stay on the CPU" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't x."
            ),
            "mps cannot do this (Cannot convert a MPS Tensor to float64",
        ),
        (
            NotImplementedError("The operator 'aten::x' is not implemented for the MPS device. If"),
            "give --device cpu",
        ),
        (
            RuntimeError(
                "put_ does not have a deterministic implementation, but you set x. You can"
            ),
            "leave out --deterministic",
        ),
    ],
)
def test_what_a_device_does_not_support_is_one_line(error, line, store, capsys):
    def run(config, scratch):
        raise error

    assert experiment(run).main(["--device", "cpu"]) == 2
    (said,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("error: ")]
    assert line in said


def test_deterministic_algorithms_are_used_and_recorded_if_asked_for(store, monkeypatch):
    def run(config, scratch):
        device.device()
        return {"is": torch.are_deterministic_algorithms_enabled()}

    assert experiment(run).main(["--device", "cpu", "--deterministic"]) == 0
    (made,) = runs.load("on_device", "smoke")
    assert made.metrics["is"] is made.meta["deterministic"] is True
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    torch.use_deterministic_algorithms(False)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(UserError, match="CUBLAS_WORKSPACE_CONFIG is :0:0: unset it"):
        device.device()


# What a run records


def test_a_run_says_where_it_was_computed_and_how_much_of_a_gpu_it_took(store, gpus, monkeypatch):
    gpus.put(1)
    peaks, waits = [3 << 30, 5 << 30, 4 << 30], []
    answers = {
        "is_initialized": lambda: True,
        "synchronize": lambda *a: waits.append(1),
        "max_memory_allocated": lambda: peaks[0],
        "reset_peak_memory_stats": lambda: None,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)

    def inner(scratch):
        peaks[0] = 5 << 30
        provenance.note("precision", {"training": "bf16"})  # as the training loop does
        return where(None, scratch)

    def run(config, scratch):
        runs.once("inner", Config("inner"), inner)
        peaks[0] = 4 << 30
        return where(config, scratch)

    assert experiment(run).main([]) == 0
    (meta,) = (one.meta for one in runs.load("on_device", "smoke"))
    assert meta["device"] == "cuda (Card 0)"
    assert meta["precision"] == {"attribution": "float32 without TF32", "training": "bf16"}
    assert meta["deterministic"] is False
    assert meta["gpu"].pop("seconds") > 0
    assert meta["gpu"] == {
        "device": "cuda:0", "name": "Card 0", "count": 1, "peak_memory_bytes": 5 << 30
    }  # fmt: skip
    assert waits, "the GPU's work has ended when its seconds are counted"

    made = replace(experiment(where), name="later")
    assert made.main(["--device", "cpu"]) == 0
    (meta,) = (one.meta for one in runs.load("later", "smoke"))
    assert meta["device"].startswith("cpu (")
    assert meta["gpu"] is None


def test_a_run_of_what_is_on_the_device_already_was_computed_there(store, gpus):
    gpus.put(1)
    device.device()
    made = runs.once("kept", Config(), lambda scratch: {"one": 1})
    assert made.meta["device"] == "cuda (Card 0)"


def test_what_is_on_a_gpu_is_told_and_recorded(store, pretend_gpu, capsys):
    def run(config, scratch):
        moved = device.on_device({"x": torch.arange(3.0)})["x"]
        assert pretend_gpu.holds(moved)
        return {"sum": float(moved.sum())}

    assert experiment(run).main([]) == 0
    assert capsys.readouterr().err.startswith("device: cuda:0 (Pretend GPU)\n")
    (made,) = runs.load("on_device", "smoke")
    assert made.metrics == {"sum": 3.0}
    assert made.meta["device"] == "cuda (Pretend GPU)"
    assert made.meta["gpu"]["device"] == "cuda:0"


def test_runs_from_before_these_facts_are_read(store):
    made = runs.once("old", Config(), lambda scratch: {"one": 1})
    path = made.path / "meta.json"
    meta = json.loads(path.read_bytes())
    later = ("gpu", "precision", "format", "sha256")
    path.write_text(json.dumps({n: v for n, v in meta.items() if n not in later}))
    assert runs.find("old", Config()).meta.get("gpu") is None


def test_the_clock_is_the_processor_s_on_the_cpu_and_waits_for_a_gpu(monkeypatch):
    waits = []
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    monkeypatch.setattr(clock.time, "process_time", lambda: 1.5)
    monkeypatch.setattr(clock.time, "perf_counter", lambda: 7.0)
    assert (clock.now("cpu"), clock.wall(torch.device("cpu")), waits) == (1.5, 7.0, [])
    assert (clock.now("cuda:1"), clock.wall(torch.device("cuda", 1))) == (7.0, 7.0)
    assert [torch.device(one) for one in waits] == [torch.device("cuda", 1)] * 2
