"""Whether W&B is on, and where it sends to, from the variables that wandb itself honours."""

import contextlib
import netrc
import os
import re
from pathlib import Path
from urllib.parse import urlparse

from experiments.problems import nearest


def mode() -> tuple[str, str]:
    """The mode, and why it is off: "" if it is not."""
    asked = os.environ.get("WANDB_MODE", "").lower()
    found = {"": "online", "run": "online", "dryrun": "offline"}.get(asked, asked)
    if found == "disabled":
        return found, "WANDB_MODE is disabled"
    if found not in ("online", "offline"):
        near = nearest(asked, ["online", "offline", "disabled"])
        return found, f"WANDB_MODE is {asked!r}: {near}"
    if found == "online" and not _credentials():
        return found, "no credentials: `wandb login`, or WANDB_MODE=offline, turns it on"
    return found, ""


def project() -> str:
    """The project that everything is sent to."""
    return os.environ.get("WANDB_PROJECT") or "retrace"


def entity() -> str | None:
    """The user or team that everything is sent to; None for wandb's own default."""
    return os.environ.get("WANDB_ENTITY")


def destination(found: str) -> str:
    """Mode, entity and project as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", f"{found}-{entity() or ''}-{project()}")


def _credentials() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    for path in (os.environ.get("NETRC"), Path.home() / ".netrc", Path.home() / "_netrc"):
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            if path and netrc.netrc(str(path)).authenticators(host):
                return True
    return False
