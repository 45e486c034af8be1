"""The experiments: one file each, run as `python -m experiments.NAME`.

A file on this level defines EXPERIMENT (a config, `run(config)` and its presets). What several
experiments share belongs in a room beside them. An experiment never imports another experiment,
nor anything of analysis.
"""

import shlex
import sys

_NOW_VERBS = {
    "experiments.runs": "runs",
    "experiments.status": "status",
    "experiments.tracking": "track",
    "experiments.cluster": "submit",
    "experiments.array": "array",
}

# While Python looks for the module named after -m it imports this package first, with "-m" in
# place of the program's path: the only place that can answer without a file for each old name.
if sys.argv[:1] == ["-m"]:
    _module = sys.orig_argv[-len(sys.argv)].removeprefix("-m")
    if _module in _NOW_VERBS:
        _command = shlex.join(["python", "-m", "experiments", _NOW_VERBS[_module], *sys.argv[1:]])
        print(f"error: {_module} is now a verb: `{_command}`", file=sys.stderr)
        sys.exit(2)
