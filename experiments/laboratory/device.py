"""Where experiments compute: the one place that chooses between CPU and GPU.

`--device`, or RETRACE_DEVICE, is auto, cpu, cuda, cuda:1 or mps. auto takes the GPU that is there
and says so. A GPU that was given to this process and cannot be used is an error, never a run on the
CPU. Of several processes of one computation, each has the GPU of its local rank.
"""

import os
import platform
import re
import sys
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from experiments.laboratory import process, provenance
from experiments.laboratory.errors import UserError
from experiments.laboratory.process import GPU_SHARE
from methods import workers

WORDS = re.compile(r"auto|cpu|cuda(:\d+)?|mps")
WORKSPACES = (":4096:8", ":16:8")  # of cuBLAS, with which its sums have one order
ON_THE_CPU = "or compute on the CPU with --device cpu"
# What says that a scheduler, or the user, gave this process a GPU. The first kind holds indices or
# names of devices, as a CUDA program reads them; the second, devices or how many there are.
VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
GIVEN = (
    "SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "SLURM_GPUS_ON_NODE", "SLURM_GPUS", "SLURM_GPUS_PER_NODE",
    "SLURM_GPUS_PER_TASK", "NVIDIA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL",
)  # fmt: skip
COUNTS = ("SLURM_GPUS_ON_NODE", "SLURM_GPUS", "SLURM_GPUS_PER_NODE", "SLURM_GPUS_PER_TASK")

_said: set[str] = set()


def device() -> torch.device:
    """The device of this process. A UserError says why there is none, and what helps."""
    _make_deterministic()
    word = requested()
    chosen, why = _auto() if word == "auto" else (_named(word), "")
    _prove(chosen)
    if chosen.type == "cuda" and chosen.index != torch.cuda.current_device():
        torch.cuda.set_device(chosen)  # for what says "cuda" and no number
    if chosen.type == "cuda":
        _keep_to_share(chosen)
    _say(f"{chosen} ({_name(chosen)}){why}")
    provenance.computes_on(str(chosen), _name(chosen))
    return chosen


def on_device(examples: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The columns of some examples, moved to that device."""
    chosen = device()
    return {name: column.to(chosen) for name, column in examples.items()}


def measured(kind: str) -> torch.device:
    """The device of a cell that measures one kind, `cpu` or `cuda`, and says so in its config."""
    if kind != "cpu":
        if (chosen := device()).type == kind:
            return chosen
        raise UserError(
            f"this cell measures {kind}, and the device is {chosen}: run it where there is one, "
            "without another --device"
        )
    chosen = torch.device(kind)
    if requested() not in ("auto", "cpu") or (requested() == "auto" and not _cuda_problem()):
        _say(f"{chosen} ({_name(chosen)}) for cells that measure the CPU")
    _make_deterministic()
    provenance.computes_on(str(chosen), _name(chosen))
    return chosen


def gpu_name() -> str | None:
    """The name of the GPU on which this process would compute; None if it has none."""
    word = requested()
    try:
        chosen = _named("cuda" if word == "auto" else word)
    except UserError:
        return None
    return _name(chosen) if chosen.type == "cuda" else None


def requested() -> str:
    """What --device or RETRACE_DEVICE asks for; a UserError if it is none of the words."""
    word = os.environ.get("RETRACE_DEVICE") or "auto"
    if not WORDS.fullmatch(word):
        raise UserError(
            f"there is no device {word!r}: give auto, cpu, cuda, cuda:1 or mps, by --device or "
            "RETRACE_DEVICE"
        )
    return word


def unsupported(error: Exception) -> str:
    """In one line what a device does not support, if an error of torch says that; otherwise ""."""
    first = str(error).strip().partition("\n")[0]
    if "MPS" in first and isinstance(error, TypeError | NotImplementedError | RuntimeError):
        return f"mps cannot do this ({first.rstrip('.')}): give --device cpu"
    if "deterministic implementation" in first and isinstance(error, RuntimeError):
        return f"{first.partition(' You can')[0].rstrip('.,')}: leave out --deterministic"
    return ""


def _auto() -> tuple[torch.device, str]:
    """The device there is, and a remark on it."""
    problem = _cuda_problem()
    if not problem:
        return _named("cuda"), ""
    if given := _given():
        raise UserError(f"a GPU was given ({given}) and cannot be used: {problem}, {ON_THE_CPU}")
    if _present():
        return torch.device("cpu"), f", though this machine has a GPU: {problem}"
    if torch.backends.mps.is_available():
        return torch.device("cpu"), ", not mps, which has no float64; --device mps tries it"
    return torch.device("cpu"), ""


def _named(word: str) -> torch.device:
    kind, _, index = word.partition(":")
    if kind == "mps" and not torch.backends.mps.is_available():
        built = (
            "is not available on this machine" if torch.backends.mps.is_built() else "is of macOS"
        )
        raise UserError(f"mps {built}: give --device cpu or auto")
    if kind != "cuda":
        return torch.device(kind)
    if problem := _cuda_problem():
        raise UserError(f"{word} cannot be used: {problem}, {ON_THE_CPU}")
    count = torch.cuda.device_count()
    if index and int(index) >= count:
        seen = "cuda:0 alone" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise UserError(f"there is no {word}: this process sees {seen}; give one of them, or cuda")
    return torch.device(kind, int(index) if index else (workers.local_rank() or 0) % count)


def _cuda_problem() -> str:
    """Why no GPU can be used, and what helps; "" if one can."""
    _look()
    if torch.cuda.is_available():
        return ""
    version = f"PyTorch {torch.__version__}"
    other = "PyTorch's own package index has builds for each CUDA version"
    if not torch.backends.cuda.is_built():
        return f"{version} is built without CUDA: install a build with it ({other})"
    try:
        torch.cuda.init()
        reason = "no GPU answers"
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
    if "too old" in reason:
        number = re.search(r"version (\d+)", reason)
        takes = f", which supports CUDA {int(number[1]) // 1000}" if number else ""
        takes += f".{int(number[1]) % 1000 // 10}" if number else ""
        return (
            f"the NVIDIA driver{takes}, is too old for {version}: update the driver, or install a "
            f"build of PyTorch for that CUDA ({other})"
        )
    if "no NVIDIA driver" in reason:
        return "there is no NVIDIA driver: go to a node that has one"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return (
            f"no GPU has the index in CUDA_VISIBLE_DEVICES={visible} ({_sentence(reason)}): "
            "correct it (nvidia-smi -L lists the GPUs)"
        )
    return f"{version} says: {_sentence(reason)}: see whether nvidia-smi finds the GPU"


@cache
def _look() -> None:
    """Ask for a GPU once without torch's own warning, which says what a UserError says better."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.cuda.is_available()


def _given() -> str:
    """The variable that gives this process a GPU, with its value; "" if none does."""
    for name in VISIBLE:
        value = os.environ.get(name)
        if value is not None:  # if that hides every GPU, it is what somebody wants
            first = value.split(",")[0].strip()
            return f"{name}={value}" if re.match(r"\d|GPU-|MIG-", first) else ""
    for name in GIVEN:
        value = os.environ.get(name, "")
        # 2, gpu:2 or a100:1,h100:1 are counts, of which one may be 0, and a100 alone is one of
        # that type; anything else is a list.
        some = (
            re.search(r"(^|,)[A-Za-z](?![^,]*:)|(^|:)0*[1-9]", value)
            if name in COUNTS
            else re.match(r"\d|GPU-|MIG-|gpu", value)
        )
        if some:
            return f"{name}={value}"
    return ""


def _present() -> bool:
    """Whether the machine has an NVIDIA GPU whose driver is loaded."""
    return any(Path("/proc/driver/nvidia/gpus").glob("*"))


@cache
def _prove(chosen: torch.device) -> None:
    """Compute one sum: a device may be there and have no kernels in this build, or be taken."""
    if chosen.type == "cpu":
        return
    try:
        right = float(torch.ones(2, device=chosen).sum()) == 2.0
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"{chosen} is there and does not compute ({_sentence(str(error))}): free it, choose "
            f"another, {ON_THE_CPU}"
        ) from error
    if not right:
        raise UserError(f"{chosen} computes 1 + 1 wrongly: choose another, {ON_THE_CPU}")


@cache
def _keep_to_share(chosen: torch.device) -> None:
    """Take no more of the GPU's memory than RETRACE_GPU_SHARE, where several processes share it."""
    word = os.environ.get(GPU_SHARE)
    if word:
        if not re.fullmatch(r"0?\.\d+|1(\.0*)?", word):
            raise UserError(f"{GPU_SHARE} is {word}: give a share of the GPU's memory, as 0.25")
        torch.cuda.set_per_process_memory_fraction(float(word), chosen)


def _name(chosen: torch.device) -> str:
    if chosen.type == "cuda":
        return torch.cuda.get_device_name(chosen)
    return platform.machine()


def _say(line: str) -> None:
    """Say once in this process where it computes."""
    if line not in _said:
        _said.add(line)
        rank = workers.local_rank()
        among = "" if rank is None else f", local rank {rank}"
        print(f"device: {line}{among}", file=sys.stderr, flush=True)


def _make_deterministic() -> None:
    """Before CUDA starts, let torch use deterministic algorithms alone, if that is asked for."""
    if not process.deterministic() or torch.are_deterministic_algorithms_enabled():
        return
    size = os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", WORKSPACES[0])
    if size not in WORKSPACES:
        raise UserError(
            f"CUBLAS_WORKSPACE_CONFIG is {size}: unset it, or give {' or '.join(WORKSPACES)}, for "
            "--deterministic"
        )
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def _sentence(text: str) -> str:
    return text.strip().partition("\n")[0].partition(". ")[0].rstrip(".")
