"""Where W&B is: its mode, project and entity by wandb's own variables, and its server."""

import base64
import contextlib
import functools
import importlib.util
import json
import netrc
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from experiments.laboratory import data_folder
from experiments.laboratory.errors import UserError, nearest, one_line

ANSWER_SECONDS = 15.0


def mode() -> tuple[str, str]:
    """The mode that wandb's variables ask for, and why W&B is off: "" if it is on."""
    word = os.environ.get("WANDB_MODE", "").lower()
    chosen = {"": "online", "run": "online", "dryrun": "offline"}.get(word, word)
    if chosen == "disabled":
        return chosen, "WANDB_MODE is disabled"
    if chosen not in ("online", "offline"):
        return chosen, f"WANDB_MODE is {word!r}: {nearest(word, ['online', 'offline', 'disabled'])}"
    if chosen == "online" and not _password():
        return chosen, "no credentials: `wandb login`, or WANDB_MODE=offline, turns it on"
    if not _installed():
        return chosen, "wandb is not installed: `pip install wandb`"
    return chosen, ""


def project() -> str:
    """The project that everything is sent to."""
    return os.environ.get("WANDB_PROJECT") or "retrace"


def entity() -> str | None:
    """The user or team that everything is sent to; None for wandb's own default."""
    return os.environ.get("WANDB_ENTITY")


def server() -> str:
    """The address of the server."""
    return (os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").rstrip("/")


@functools.cache
def answers(address: str) -> bool:
    """Whether a server of W&B answers, asked once a process.

    Behind a firewall that drops packets, wandb itself would wait for half a minute and more, for
    every run.
    """
    return data_folder.reachable(address, refusals=True)


def ask(query: str, **variables: Any) -> dict[str, Any]:
    """What the server answers to a GraphQL document; a UserError says in a line why it does not."""
    login = base64.b64encode(f"api:{_password()}".encode()).decode()
    request = urllib.request.Request(
        f"{server()}/graphql",
        json.dumps({"query": query, "variables": variables}).encode(),
        {"Content-Type": "application/json", "Authorization": f"Basic {login}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            given = json.load(answer)
    except (OSError, ValueError) as error:
        reason = f"answers {error.code}" if isinstance(error, urllib.error.HTTPError) else error
        raise UserError(
            f"{_host()}: {one_line(reason)}: look at WANDB_BASE_URL and the login"
        ) from (error)
    if given.get("errors"):
        message = one_line(given["errors"][0].get("message", "no reason"))[:200]
        raise UserError(f"{_host()} refuses ({message}): look at the rights of WANDB_ENTITY")
    return dict(given["data"])


def _host() -> str:
    return f"the W&B server {urlparse(server()).hostname}"


def _installed() -> bool:
    if "wandb" in sys.modules:
        return sys.modules["wandb"] is not None
    return importlib.util.find_spec("wandb") is not None


def _password() -> str:
    """The API key, which is never written down; "" if there is none."""
    if key := os.environ.get("WANDB_API_KEY"):
        return key
    host = urlparse(server()).hostname or ""
    for path in (os.environ.get("NETRC"), Path.home() / ".netrc", Path.home() / "_netrc"):
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            if path and (login := netrc.netrc(str(path)).authenticators(host)):
                return login[2]
    return ""
