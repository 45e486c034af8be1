"""Which experiments a table or figure is made from, read from its file in `analysis`.

Nothing of analysis is imported: experiments do not know who draws them.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from experiments.laboratory import registry
from experiments.laboratory.errors import UserError, nearest
from experiments.laboratory.lists import TIERS

FOLDER = Path(__file__).resolve().parents[2] / "analysis"
NAMED = {"Artifact": 1, "SecondExperiment": 0}  # where the experiment is among the arguments


@dataclass(frozen=True)
class Made:
    """An artifact: its experiments, the one that its tiers are of first, and renamed presets."""

    id: str
    experiments: tuple[str, ...]
    presets: dict[str, str]

    def lines(self) -> list[str]:
        """What it is made from, and the command for each tier."""
        lines = [f"{self.id} is made from runs of {' and '.join(self.experiments)}"]
        known = {name: registry.described(name)[0] for name in self.experiments}
        for tier in TIERS:
            preset = self.presets.get(tier, tier)
            if preset not in known[self.experiments[0]]:
                continue
            steps = [
                f"python -m experiments.{name} --preset {preset if place == 0 else tier}"
                for place, name in enumerate(self.experiments)
                if place == 0 or tier in known[name]
            ]
            steps.append(f"python -m analysis.{self.id} --preset {tier}")
            lines.append(f"{tier:6} {' && '.join(steps)}")
        return lines


def names() -> list[str]:
    """The names of all artifacts."""
    return [path.stem for path in sorted(FOLDER.glob("[!_]*.py"))]


def named(name: str) -> Made:
    """An artifact by its name; a UserError suggests the nearest if there is none."""
    if name not in names():
        raise UserError(f"no artifact {name!r}: {nearest(name, names())}")
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    experiments, presets = [], {}
    for call in _calls(tree):
        options = {one.arg: one.value for one in call.keywords}
        given = options.get("experiment", next(iter(call.args[NAMED[_name(call)] :]), None))
        if isinstance(given, ast.Constant):
            experiments.append((_name(call) != "Artifact", str(given.value)))
        if "presets" in options:
            presets = ast.literal_eval(options["presets"])
    ordered = tuple(dict.fromkeys(one for _, one in sorted(experiments)))
    return Made(name, ordered, presets)


def _calls(tree: ast.Module) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name(node) in NAMED:
            yield node


def _name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def show(words: list[str]) -> int:
    """Print the lines of the artifact that is named: `python -m experiments --artifact NAME`."""
    if len(words) != 1:
        raise UserError(f"--artifact takes one name, and {len(words)} are given: as in fastif_fig7")
    print("\n".join(named(words[0]).lines()))
    return 0
