"""Where data sets are."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def root() -> Path:
    """$RETRACE_DATA (which `--data DIR` sets), or `data` in the repository."""
    return Path(os.environ.get("RETRACE_DATA") or REPOSITORY / "data")
