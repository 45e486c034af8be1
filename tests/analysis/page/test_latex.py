"""The tables of every committed artifact can be set by LaTeX."""

import importlib
import re

import pytest

from analysis.page import docs
from analysis.page.tables import Table, escaped, latex

FOLDER = docs.ROOT / "results" / "artifacts"
COMMITTED = sorted(FOLDER.glob("*/*.json"))
ABOUT = {
    "id": "one", "title": "A & B", "tier": "paper", "command": "make",
    "verdict": {"word": "reproduced", "holding": 2, "counted": 2},
}  # fmt: skip


def test_a_table_becomes_an_environment_with_its_numbers_flush_right():
    table = Table("Claims", ["claim", "ours"], [["p_1 > 5%", "−0.5"]])
    text = latex(ABOUT, [table])
    assert r"\begin{tabular}{lr}" in text
    assert r"p\_1 $>$ 5\% & $-$0.5 \\" in text
    assert r"\caption{A \& B (paper tier): claims.}" in text


def test_what_latex_reads_as_commands_is_escaped():
    assert escaped("a\\b{c}") == r"a\textbackslash{}b\{c\}"


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parent.name} {path.stem}")
def test_every_committed_table_has_cells_for_its_columns(path, monkeypatch):
    monkeypatch.delenv("RETRACE_RESULTS", raising=False)
    text = importlib.import_module(f"analysis.{path.stem}").ARTIFACT.latex(path.parent.name)
    assert text.isascii(), set(re.findall(r"[^\x00-\x7f]", text))
    columns = 0
    for line in text.splitlines():
        if begun := re.match(r"\\begin\{tabular\}\{([lr]+)\}", line):
            columns = len(begun[1])
        elif line.endswith(r"\\"):
            assert len(re.findall(r"(?<!\\)&", line)) == columns - 1
    assert columns
