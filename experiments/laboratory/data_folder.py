"""Where data sets are."""

import contextlib
import os
import threading
import urllib.request
from pathlib import Path

# Whether a download has any chance, asked before a library that retries for minutes is.


PROBE_SECONDS = 4.0


def reachable(address: str) -> bool:
    """Whether a server answers soon. In a thread: a name may take minutes to not be found."""
    answered = threading.Event()

    def ask() -> None:
        with contextlib.suppress(OSError, ValueError):
            request = urllib.request.Request(address, method="HEAD")
            urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
            answered.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return answered.is_set()


REPOSITORY = Path(__file__).resolve().parents[2]


def root() -> Path:
    """$RETRACE_DATA (which `--data DIR` sets), or `data` in the repository."""
    return Path(os.environ.get("RETRACE_DATA") or REPOSITORY / "data")
