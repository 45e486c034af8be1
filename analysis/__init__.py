"""Tables and figures: numbers from finished runs, then ink from the numbers alone.

A file on this level defines ARTIFACT, one table or figure, named paper_artifact. What artifacts
share belongs in the rooms numbers, ink and page. Nothing here trains, imports torch or reads W&B.
"""

import difflib
import os
import sys

from experiments.laboratory import runs as runs  # its package ends imports in one line at ctrl-C

# While Python looks for the module named after -m it imports this package first.
if sys.argv[:1] == ["-m"]:
    _module = sys.orig_argv[-len(sys.argv)].removeprefix("-m")
    if _module == "analysis.readme":
        print("error: analysis.readme is now a verb: `python -m analysis docs`", file=sys.stderr)
        sys.exit(2)
    _name, _known = _module.removeprefix("analysis."), os.listdir(os.path.dirname(__file__))
    _names = sorted(file.removesuffix(".py") for file in _known if not file.startswith("_"))
    if _name != _module and "." not in _name and _name not in _names:
        _near = difflib.get_close_matches(_name, _names, n=1)
        _cure = f"did you mean {_near[0]}?" if _near else "docs/results.md lists them"
        print(f"error: no artifact {_name!r}: {_cure}", file=sys.stderr)
        sys.exit(2)
