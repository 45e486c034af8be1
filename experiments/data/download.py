"""Whether a download has any chance, asked before a library that retries for minutes is."""

import contextlib
import threading
import urllib.request

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
