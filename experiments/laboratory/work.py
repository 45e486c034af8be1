"""What a run takes, counted from its config before it is run; and devices' rates, in which to pay.

Operations are multiplications and additions of matrix products and convolutions. A kernel is one
call of torch, which takes some microseconds however small it is.
"""

import os
from dataclasses import dataclass, replace
from typing import Any, Literal

from experiments.laboratory.errors import UserError

Kind = Literal["training", "scoring"]
Precision = Literal["float32", "tf32", "bf16"]


@dataclass(frozen=True)
class Rate:
    """Operations a second that networks of the papers get from a device, and seconds of a kernel.

    They are about half of the maker's figures in float32, a quarter in TF32 and an eighth in
    bfloat16, where memory is the limit; finished runs correct them.
    """

    name: str
    float32: float
    tf32: float
    bf16: float
    kernel: float = 7e-6
    replayed: float = 1e-6  # of a kernel that a CUDA graph launches

    def of(self, precision: Precision) -> float:
        return {"float32": self.float32, "tf32": self.tf32, "bf16": self.bf16}[precision]

    def measured(self, device: str) -> bool:
        """Whether a run on a device of this name, as meta.json has it, tells about this one."""
        if self.name == GIVEN:
            return True
        word = "cpu" if self in (LAPTOP, CORES) else self.name.split()[-1]
        return word.lower() in device.lower()


GIVEN = "the rate given"
CORE = 40e9  # float32, of a core of a server with AVX2; its matrix products reach 90e9
CORES = Rate("cores here", *(CORE * (os.cpu_count() or 1),) * 3, 5e-6, 5e-6)
LAPTOP = Rate("laptop of 8 cores", 200e9, 200e9, 200e9, 5e-6, 5e-6)
A100 = Rate("A100", 10e12, 39e12, 39e12)
RATES = {
    "cpu": CORES,
    "laptop": LAPTOP,
    "v100": Rate("V100", 8e12, 8e12, 8e12),  # it has neither TF32 nor bfloat16
    "a100": A100,
    "h100": Rate("H100", 33e12, 124e12, 124e12),
    "h200": Rate("H200", 33e12, 124e12, 124e12),
}


def rate(words: str | None, gpu: str | None, wants_gpu: bool) -> Rate:
    """The rate that is asked for: operations a second (`40e12`), or the name of a device.

    Otherwise that of `gpu`, the name of the GPU here; without one that of an A100 if work `wants`
    one, and of the processor here if not.
    """
    if words is None:
        known = next((r for key, r in RATES.items() if key in (gpu or "").lower()), None)
        return known or (A100 if wants_gpu or gpu else CORES)
    if words.lower() in RATES:
        return RATES[words.lower()]
    try:
        value = float(words)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(
            f"a rate of {words!r}: give operations a second, as 40e12, or one of {', '.join(RATES)}"
        )
    return Rate(GIVEN, value, value, value)


@dataclass(frozen=True)
class Unit:
    """A forward and backward pass of a network over one example.

    size        number of parameters that are differentiated
    operations  of the pass; `forward` is the forward pass's part
    kernels     of the pass over any number of examples
    held        bytes kept from the forward for the backward pass
    """

    size: int
    operations: float
    forward: float
    kernels: int
    held: float

    def part(self, share: float) -> "Unit":
        """The same with a share of the parameters differentiated, from the top."""
        backward = (self.operations - self.forward) * share
        return replace(self, size=round(self.size * share), operations=self.forward + backward)


@dataclass(frozen=True)
class Step:
    """Work that is repeated `times`, with some operations and kernels each time."""

    operations: float
    kernels: float = 1
    times: float = 1
    precision: Precision = "float32"
    replayed: bool = False
    """Whether a GPU replays the kernels as a CUDA graph."""

    def seconds(self, rate: Rate) -> float:
        """What limits it, arithmetic or the calls."""
        kernel = rate.replayed if self.replayed else rate.kernel
        each = max(self.operations / rate.of(self.precision), self.kernels * kernel)
        return self.times * each


@dataclass(frozen=True)
class Work:
    """A run by its name and config, and what it takes besides the runs that are its `parts`.

    Without a config it is work within the run whose part it is. `memory` is the peak in bytes,
    `disk` what is kept, `scratch` what is needed meanwhile. `given` are seconds of work that cannot
    be counted. `gpu` says whether it computes on a GPU where there is one; `cores` is how many keep
    one process of it busy.
    """

    label: str
    steps: tuple[Step, ...] = ()
    parts: tuple["Work", ...] = ()
    name: str = ""
    config: Any = None
    kind: Kind = "scoring"
    memory: float = 0
    disk: float = 0
    scratch: float = 0
    given: float | None = None
    gpu: bool = True
    cores: int = 2

    @property
    def operations(self) -> float:
        return sum(step.operations * step.times for step in self.steps)

    def seconds(self, rate: Rate) -> float | None:
        """Seconds without those of the parts; None if nothing is known."""
        if not self.steps and not self.parts:
            return self.given
        return sum(step.seconds(rate) for step in self.steps) + (self.given or 0.0)
