"""The folder of data sets, and whether a download has any chance."""

import contextlib
import os
import threading
import urllib.request
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PROBE_SECONDS = 4.0


def root() -> Path:
    """$RETRACE_DATA (which `--data DIR` sets), or `data` in the repository."""
    return Path(os.environ.get("RETRACE_DATA") or REPOSITORY / "data")


def reachable(address: str) -> bool:
    """Whether a server answers within PROBE_SECONDS: libraries that download retry for minutes.

    The request runs in a thread, because resolving an unknown name can take minutes too.
    """
    answered = threading.Event()

    def request_head() -> None:
        with contextlib.suppress(OSError, ValueError):
            request = urllib.request.Request(address, method="HEAD")
            urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
            answered.set()

    thread = threading.Thread(target=request_head, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return answered.is_set()
