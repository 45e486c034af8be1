"""The README table of artifacts, from the committed results: `python -m analysis.readme`."""

import json
import sys
from pathlib import Path

from analysis import disk
from analysis.command import guarded
from experiments import runs

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- artifacts: python -m analysis.readme -->\n", "<!-- end of artifacts -->"
SHOWN = ("paper", "small")  # the first of these tiers that an artifact has


def table() -> str:
    """The table in Markdown: a line an artifact, at its highest tier on disk."""
    lines = ["| artifact | what it shows | tier | verdict | command |", "|---|---|---|---|---|"]
    seen: dict[str, str] = {}
    for tier in SHOWN:
        for path in sorted((runs.results() / "artifacts" / tier).glob("*.json")):
            about = json.loads(path.read_text())
            verdict = f"**{about['verdict']['word']}**"
            link = f"[{about['id']}](results/artifacts/{tier}/{about['id']}.png)"
            missing = about["numbers"]["missing"]
            done = tier if not missing else f"{tier}, {missing} runs missing"
            line = f"| {link} | {about['title']} | {done} | {verdict} | `{about['command']}` |"
            seen.setdefault(about["id"], line)
    return "\n".join([*lines, *(seen[name] for name in sorted(seen))]) + "\n"


def rewritten(text: str) -> str:
    """The README's text with the table of now."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


def main() -> int:
    """Write the table into the README and return the exit code."""

    def work() -> int:
        text = disk.read(README, "run it in a checkout").decode()
        disk.write(README, rewritten(text).encode(), "free or permit that folder")
        return 0

    return guarded(work)


if __name__ == "__main__":
    sys.exit(main())
