"""Answers to names that are not there: the nearest that is, or the verb that took its place."""

import difflib
import os
import shlex
import sys
from collections.abc import Iterable, Mapping


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the nearest known one, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"there is {', '.join(known) or 'none'}"


def answer(package: str, folder: str, what: str, listed: str, verbs: Mapping[str, str]) -> None:
    """End `python -m PACKAGE.NAME` in one line if there is no such file, or it is a verb by now.

    While Python looks for the module named after -m it imports the package first, with "-m" in
    place of the program's path: there this is called, the only place that can answer without a file
    for each old name. `listed` says where the names are.
    """
    if sys.argv[:1] != ["-m"]:
        return
    module = sys.orig_argv[-len(sys.argv)].removeprefix("-m")
    name = module.removeprefix(f"{package}.")
    if name == module or "." in name:
        return
    known = sorted(f.removesuffix(".py") for f in os.listdir(folder) if not f.startswith("_"))
    if name in verbs:
        command = shlex.join(["python", "-m", package, verbs[name], *sys.argv[1:]])
        message = f"{module} is now a verb: `{command}`"
    elif name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        message = f"no {what} {name!r}: {f'did you mean {near[0]}?' if near else listed}"
    else:
        return
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
