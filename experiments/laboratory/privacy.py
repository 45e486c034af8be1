"""What is written down for others: without the folders of this machine's users, without secrets.

meta.json and W&B get only what has passed here. A config keeps its words in config.json, as its key
is their hash; W&B gets them without.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
HIDDEN = "***"
SHORTEST = 6  # characters of a secret that is looked for in other words: shorter ones are anywhere
_NAME = re.compile(
    r"(api|access|secret|private|auth|ssh|license)[_-]?key|token(?!s|iz)|secret|passw|passphrase"
    r"|credential|cookie|bearer",
    re.IGNORECASE,
)
_KEY = re.compile(r"[_-]key$", re.IGNORECASE)  # of options and variables; runs have keys, too
_FORMS = re.compile(  # of Hugging Face, GitHub, GitLab, OpenAI, Slack, AWS, Google, W&B; JWT
    r"\b(?:hf_|gh[opsur]_|github_pat_|glpat-|sk-|xox[abeprs]-|AKIA|ya29\.|wandb_v1_)[\w.-]{10,}"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}"
)
_LOGIN = re.compile(r"(?<=://)[^/\s@]+@")  # https://name:password@host
_HOMES = re.compile(
    r"(?<![\w.~$-])(?:/root|(?:/[\w.-]+)*?/(?:homes?|users)/[^/\s'\":,;]+)(?=/|$|[\s'\":,;])",
    re.IGNORECASE,
)


def scrubbed(value: Any) -> Any:
    """JSON-able data with the same shape, its texts without home folders and secrets."""
    return _scrubbed(value, _secrets())


def _scrubbed(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, str):
        return _text(value, secrets)
    if isinstance(value, Mapping):
        return {
            _text(str(name), secrets): (
                HIDDEN if _is_secret(name, item) else _scrubbed(item, secrets)
            )
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_scrubbed(item, secrets) for item in value]
    return value


def words(argv: Sequence[str]) -> list[str]:
    """The words of a command: what options called like secrets are given is hidden.

    Of an absolute path outside the repository, the last name stays.
    """
    shown, hide = [], False
    for word in argv:
        option, equals, value = word.partition("=")
        secret = option.startswith("-") and _called_secret(option)
        if hide and not word.startswith("-"):
            shown.append(HIDDEN)
        elif equals:
            shown.append(f"{_text(option)}={HIDDEN if secret else _word(value)}")
        else:
            shown.append(_word(word))
        hide = secret and not equals
    return shown


def _called_secret(name: str) -> bool:
    return bool(_NAME.search(name) or _KEY.search(name))


def _is_secret(name: Any, value: Any) -> bool:
    return isinstance(value, str) and bool(value) and bool(_NAME.search(str(name)))


def _word(word: str) -> str:
    path = Path(word)
    if not path.is_absolute():
        return _text(word)
    inside = path.is_relative_to(REPOSITORY)
    return _text(str(path.relative_to(REPOSITORY)) if inside else path.name)


def _text(text: str, secrets: list[str] | None = None) -> str:
    for secret in _secrets() if secrets is None else secrets:
        text = text.replace(secret, HIDDEN)
    text = _LOGIN.sub(f"{HIDDEN}@", _FORMS.sub(HIDDEN, text))
    if "/" not in text and os.sep not in text:
        return text
    for folder, name in _folders():
        # Only whole names: /home/ann is no part of /home/anna.
        pattern = rf"(?<![\w.-]){re.escape(folder)}(?=/|$|[^\w.-])"
        text = re.sub(pattern, name.replace("\\", r"\\"), text)
    return _HOMES.sub("~", text)


def _secrets() -> list[str]:
    """The values of variables of the environment that are called like secrets."""
    named = {value for name, value in os.environ.items() if _called_secret(name)}
    return sorted((value for value in named if len(value) >= SHORTEST), key=len, reverse=True)


def _folders() -> list[tuple[str, str]]:
    """Folders of this machine and what stands for them, the longest first."""
    named = {str(REPOSITORY): "."}
    for variable in ("RETRACE_DATA", "RETRACE_RESULTS"):
        if os.path.isabs(given := os.environ.get(variable, "")):
            named[given.rstrip("/")] = f"${variable}"
    for home in {os.path.expanduser("~"), os.path.realpath(os.path.expanduser("~"))}:
        if os.path.isabs(home) and home != "/":
            named.setdefault(home, "~")
    return sorted(named.items(), key=lambda pair: -len(pair[0]))
