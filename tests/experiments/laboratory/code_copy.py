"""A copy of the code with two small experiments and a figure, as a cluster runs it."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
CODE = ("methods", "experiments", "analysis", "slurm")
EXTRA = {
    "tests/experiments/laboratory/tiny.py": "experiments",
    "tests/experiments/laboratory/pair.py": "experiments",
    "tests/experiments/laboratory/chain.py": "experiments",
    "tests/analysis/walk_figure.py": "analysis",
}


@dataclass(frozen=True)
class Laboratory:
    """Where the code lies, and where its results go."""

    code: Path
    results: Path

    @classmethod
    def built(cls, folder: Path) -> "Laboratory":
        code = folder / "code"
        for name in CODE:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPOSITORY / name, code / name, ignore=ignored)
        for name, room in EXTRA.items():
            shutil.copy(REPOSITORY / name, code / room)
        tiny = code / "experiments" / "tiny.py"
        # Artifacts are drawn of tiers, so the slow walks are the small one there.
        tiny.write_text(tiny.read_text().replace('"slow": ', '"small": '))
        return cls(code, folder / "results")

    def environment(self, **more: str) -> dict[str, str]:
        outer = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        ours = {
            "PYTHON": sys.executable,
            "PYTHONPATH": str(self.code),
            "RETRACE_RESULTS": str(self.results),
            "WANDB_MODE": "disabled",
            "OMP_NUM_THREADS": "1",
        }
        return outer | ours | more

    def run(self, *words: str, **more: str) -> subprocess.CompletedProcess:
        """Run a program in the folder of the code; `more` is added to its environment."""
        return subprocess.run(
            words, cwd=self.code, env=self.environment(**more), capture_output=True, text=True
        )

    def python(self, *words: str, **more: str) -> subprocess.CompletedProcess:
        return self.run(sys.executable, "-m", *words, **more)


def contents(folder: Path) -> dict[str, bytes]:
    """Every byte that must not depend on what happened: arrays, metrics and configs."""
    files = [*folder.glob("runs/*/*/arrays/*.npy"), *folder.glob("runs/*/*/[cm]*.json")]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if path.name != "meta.json"
    }
