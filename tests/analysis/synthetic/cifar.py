"""Made-up runs of the experiment on CIFAR-10's proponents, in the shape of the real ones."""

from tests.analysis.synthetic.proponents import write_proponents


def write(preset: str, seeds: int) -> None:
    """Write the runs that Figures 5 and 6 are made of."""
    write_proponents("cifar_proponents", preset, range(seeds), shape=(6, 6, 3))
