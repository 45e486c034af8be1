"""Made-up checks of a device: the contract held or broken, and speeds."""

from dataclasses import dataclass

import numpy as np

from tests.analysis.synthetic.shapes import write_made_up

SAME, RATE = "difference from the CPU", "examples a second"
PARTS: dict[str, list[tuple[str, str, float]]] = {
    "Contract": [("TracIn", SAME, 1e-6), ("Influence, Arnoldi", SAME, 2e-5)],
    "Speed": [
        ("self-influence", RATE, 2e5),
        ("self-influence", "passes", 1.3),
        ("self-influence, plain torch", RATE, 2e4),
        ("self-influence, plain torch", "passes", 13.0),
    ],
    "Ensembles": [("SmallInception, 8 together", "networks an hour", 60.0)],
    "Family": [
        ("digits", "parameters", 824_458.0),
        ("digits", f"training step, {RATE}", 3e5),
        ("digits", f"Hessian product, {RATE}", 9e4),
    ],
    "Together": [("1 process", "sum is right", 1.0), ("1 process", "GB a second of a sum", 900.0)],
}


@dataclass(frozen=True)
class Config:
    work: str


def write(preset: str, seeds: int = 1, *, off: float = 0.0) -> None:
    """Write a check whose numbers differ from the CPU's by `off` more; it has no seeds."""

    def result(cell: Config) -> dict:
        what, quantity, values = zip(*PARTS[cell.work], strict=True)
        moved = [value + off * (of == SAME) for of, value in zip(quantity, values, strict=True)]
        return {
            "work": cell.work,
            "spent": 10.0,
            "what": np.array(what),
            "quantity": np.array(quantity),
            "values": np.array(moved),
        }

    write_made_up("gpu_check", preset, [*map(Config, PARTS)], result)
