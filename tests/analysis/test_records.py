"""Committed records give the committed tables: from a fresh clone, every number can be remade."""

import gzip
import json
from pathlib import Path

import pytest

from analysis.__main__ import artifacts
from experiments.laboratory import records

RESULTS = Path(__file__).resolve().parents[2] / "results"


def recorded(artifact, tier):
    """Whether a committed artifact was built since its provenance says what it read."""
    about = RESULTS / "artifacts" / tier / f"{artifact.id}.json"
    kept = RESULTS / "records" / tier / f"{artifact.experiment}.jsonl.gz"
    return (
        kept.exists() and about.exists() and "arrays" in json.loads(about.read_bytes())["numbers"]
    )


TIERS = ("small", "paper")
COMMITTED = [(one, tier) for one in artifacts()[0] for tier in TIERS if recorded(one, tier)]
FILES = sorted((RESULTS / "records").glob("*/*"))


@pytest.fixture(autouse=True)
def committed(monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(RESULTS))


def test_a_record_gives_the_committed_table(monkeypatch, tmp_path):
    (tmp_path / "records").symlink_to(RESULTS / "records")
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))  # without the runs of this machine
    for artifact, tier in COMMITTED:
        text, _ = artifact.measure(tier, partial=True)
        committed = (RESULTS / "artifacts" / tier / f"{artifact.id}.csv").read_text()
        assert text == committed, f"{artifact.id} {tier}"


def test_a_record_is_small_and_holds_no_place_of_a_machine():
    for file in FILES:
        text = gzip.decompress(file.read_bytes()).decode()
        assert file.stat().st_size <= records.LARGEST
        assert [json.loads(line)["key"] for line in text.splitlines()]
        assert not any(place in text for place in ("/home/", "/root/", "/Users/", "/tmp/")), file


def test_all_records_together_are_small():
    assert sum(file.stat().st_size for file in FILES) <= 60_000_000
