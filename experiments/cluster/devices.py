"""The GPUs of this machine, seen without taking one: a process of their own looks at them."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass

from experiments.laboratory.errors import UserError
from experiments.laboratory.table import counted

LOOK = (
    "import json, torch; c = torch.cuda; n = c.device_count() if c.is_available() else 0; "
    "print(json.dumps([c.get_device_properties(i).total_memory for i in range(n)]))"
)


@dataclass(frozen=True)
class Gpu:
    """A GPU: what CUDA_VISIBLE_DEVICES has for it, and the bytes of its memory."""

    id: str
    memory: int


def gpus(word: str) -> list[Gpu]:
    """`all` GPUs that this process may use, or those of the numbers `0,2`; none for ""."""
    if not word:
        return []
    if not re.fullmatch(r"all|\d+(,\d+)*", word, re.A):
        raise UserError(f"--gpus {word} cannot be read: give all, or their numbers, as 0,1")
    sizes = _memory()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(len(sizes))]
    here = [Gpu(name.strip(), size) for name, size in zip(names, sizes, strict=False)]
    if word == "all":
        return here
    chosen = list(dict.fromkeys(map(int, word.split(","))))
    if max(chosen) >= len(here):
        raise UserError(
            f"--gpus {word}: there {'is' if len(here) == 1 else 'are'} {counted(len(here), 'GPU')} "
            "here; leave out --gpus, and all are used"
        )
    return [here[number] for number in chosen]


def _memory() -> list[int]:
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True)
    try:
        return [int(size) for size in json.loads(done.stdout.splitlines()[-1])]
    except (ValueError, IndexError):
        return []
