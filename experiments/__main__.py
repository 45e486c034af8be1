"""`python -m experiments`: list every experiment, run one, or carry out a verb such as `status`."""

import importlib
import sys
from collections.abc import Sequence

from experiments.laboratory import artifacts, registry
from experiments.laboratory.errors import guarded, nearest
from experiments.laboratory.table import aligned, cut, width

VERBS = {
    "runs": "experiments.laboratory.store",
    "status": "experiments.laboratory.status",
    "track": "experiments.laboratory.tracking.command",
    "submit": "experiments.cluster.submit",
    "array": "experiments.cluster.array",
    "judge": "experiments.ensembles.judge",
}
VERBS_HELP = """
run one:            python -m experiments.NAME [--preset small]; its options: --help
made for a figure:  python -m experiments --artifact fastif_fig7
how far they are:   python -m experiments status [NAME [PRESET]]
the store of runs:  python -m experiments runs verify|pack|merge|record|attempts|clean
made by other code: python -m experiments runs outdated|remake
judge a new method: python -m experiments judge MODULE:CLASS [--preset small]
send runs to W&B:   python -m experiments track replay|report [NAME]
submit to Slurm:    python -m experiments submit NAME PRESET, or slurm/submit NAME PRESET"""


def main(argv: Sequence[str]) -> int:
    """List the experiments, carry out a verb, or run the experiment that is named."""
    return guarded(lambda: _main(argv), begun=False)


def _main(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        told = {name: registry.described(name) for name in registry.names()}
        rows = [[name, ", ".join(presets), summary] for name, (presets, summary) in told.items()]
        table = cut(aligned(["experiment", "presets", "about"], rows), width())
        print(table if rows else "no experiments yet")
        print(VERBS_HELP)
        return 0
    word, *rest = argv
    if word in VERBS:
        code: int = importlib.import_module(VERBS[word]).main(rest)
        return code
    if word == "--artifact":
        return artifacts.show(rest)
    known = registry.names()
    if word not in known:
        message = f"no experiment or verb {word!r}: {nearest(word, [*VERBS, *known])}"
        print(f"error: {message}", file=sys.stderr)
        return 2
    return registry.named(word).main(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
