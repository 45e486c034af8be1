"""`python -m experiments`: every experiment in one line; `status`: how far each has come."""

import sys
from collections.abc import Sequence

from experiments.laboratory import experiment as listing
from experiments.laboratory.errors import UserError
from experiments.laboratory.table import aligned


def line(name: str) -> list[str]:
    """Name, cells a preset and summary; of a broken experiment, why it cannot be imported."""
    try:
        experiment = listing.named(name)
        presets = [f"{preset} {len(cells)}" for preset, cells in experiment.presets.items()]
        return [name, ", ".join(presets), experiment.summary]
    except Exception as error:  # whatever is wrong with one, the others are listed
        return [name, "broken", f"{type(error).__name__}: {' '.join(str(error).split())}"]


def main(argv: Sequence[str]) -> int:
    """List the experiments, tell their status, or run the one that is named."""
    if not argv or argv[0] in ("-h", "--help"):
        rows = [line(name) for name in listing.names()]
        print(aligned(["experiment", "cells", "about"], rows) if rows else "no experiments yet")
        print("\nrun one: python -m experiments.NAME [--preset small]; its options: --help")
        print("how far they are: python -m experiments status [NAME [PRESET]]")
        return 0
    if argv[0] == "status":
        from experiments.laboratory import status

        return status.main(argv[1:])
    try:
        experiment = listing.named(argv[0])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return experiment.main(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
