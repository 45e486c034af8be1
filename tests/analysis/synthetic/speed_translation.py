"""Made-up measurements of the cost of scoring sentence pairs."""

from dataclasses import dataclass

from tests.analysis.synthetic.shapes import write_made_up


@dataclass(frozen=True)
class Config:
    again: int = 0


def write(preset: str, seeds: int, *, ratio: float = 1.3) -> None:
    """Write a preset of so many measurements, scoring at a ratio to a plain pass."""

    def result(cell: Config) -> dict:
        moved = 1 + 0.01 * cell.again
        return {
            "ratio_scored": ratio * moved,
            "ratio_norms": 0.9 * moved,
            "ratio_loss": 0.3 * moved,
            "pairs_per_hour": 1e6 / moved,
            "num_params": 1_435_136,
        }

    write_made_up("speed_translation", preset, [*map(Config, range(seeds))], result)
