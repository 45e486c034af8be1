"""The README says what the results say."""

from analysis import readme


def test_the_table_of_artifacts_is_current(monkeypatch):
    monkeypatch.delenv("RETRACE_RESULTS", raising=False)
    text = readme.README.read_text()
    assert readme.BEGIN in text, f"README.md has lost its marker: {readme.BEGIN.strip()}"
    assert readme.rewritten(text) == text, "run `python -m analysis.readme`"
