"""What the real wandb does with what it is given."""

import json
import re
import socket
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.laboratory import runs
from experiments.laboratory.tracking import wandb_pages
from tests.experiments.cluster.slurm_cluster import until
from tests.experiments.laboratory.tiny import EXPERIMENT


def records(path: Path) -> list[Any]:
    """Everything in a file of an offline run: blocks of 32 KiB of pieces with 7 bytes before."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, loaded = path.read_bytes(), []
    at, piece = 7, b""
    while at + 7 <= len(content):
        if (left := 32_768 - at % 32_768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        piece += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last of its pieces
            loaded.append(Record.FromString(piece))
            piece = b""
    return loaded


def read_back(folder: Path) -> dict[str, Any]:
    """The content of an offline run: the page, its config, its history, and kinds of records."""
    (path,) = folder.glob("run-*.wandb")
    # wandb writes its file in a process of its own, which ends a moment after the page.
    until(lambda: any(r.WhichOneof("record_type") == "exit" for r in records(path)), "it is whole")
    loaded: dict[str, Any] = {"config": {}, "history": [], "kinds": set()}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        loaded["kinds"].add(kind)
        if kind == "run":
            loaded["page"] = record.run
            loaded["config"] |= {
                item.key: json.loads(item.value_json) for item in record.run.config.update
            }
        elif kind == "history":
            items = {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                for item in record.history.item
            }
            loaded["history"].append(items)
    return loaded


@pytest.fixture
def real(wandb, offline, monkeypatch):
    """The real wandb, which measures the machine quickly."""
    monkeypatch.delitem(sys.modules, "wandb")
    quick = wandb_pages.SETTINGS | {"x_stats_sampling_interval": 0.1}
    monkeypatch.setattr(wandb_pages, "SETTINGS", quick)


def shown(path: Path) -> bytes:
    """A file without the folders in which wandb keeps tables until they are sent."""
    return re.sub(rb"/[^\0 ]*/wandb/artifacts/staging/", b"", path.read_bytes())


def test_what_the_real_wandb_wrote_offline_is_the_whole_run(real, tmp_path):
    words = ["--preset", "slow", "--cell", "0", "--model.remark", "again"]
    assert EXPERIMENT.main(words) == 0
    (run,) = runs.load("tiny", "custom")
    model = run.meta["parts"][0]["key"]
    home = tmp_path / "results" / "wandb"
    (folder,) = home.glob(f"offline-run-*-{run.key}")
    loaded = read_back(folder)
    page = loaded["page"]
    assert (page.run_id, page.run_group, page.job_type) == (run.key, "tiny/custom", "score")
    assert page.project == "retrace"
    assert loaded["config"].items() >= {"model.steps": 12, "method": "Mean", "size": 50}.items()
    reported = [line for line in loaded["history"] if "training/loss" in line]
    assert [line["training/epoch"] for line in reported] == list(range(1, 13))
    assert loaded["history"][-1]["level"] == run.metrics["level"]
    assert {"summary", "exit"} <= loaded["kinds"]
    sent = [path for path in folder.rglob("*") if path.is_file() and "logs" not in path.parts]
    assert not {"wandb-metadata.json", "requirements.txt"} & {path.name for path in sent}
    repository = str(Path(__file__).resolve().parents[4])
    assert page.host != socket.gethostname()
    for private in (repository, f"{Path.home()}/"):
        assert not [path for path in sent if private.encode() in shown(path)], private
    (table,) = folder.rglob("*.table.json")
    assert [row[0] for row in json.loads(table.read_text())["data"]] == run.array("score").tolist()
    (folder,) = home.glob(f"offline-run-*-{model}")
    assert "stats" not in read_back(folder)["kinds"], "it was only sent"


def test_the_real_wandb_without_its_server_ends_no_experiment(real, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.setattr(wandb_pages, "SETTINGS", wandb_pages.SETTINGS | {"init_timeout": 3})
    assert EXPERIMENT.main([]) == 0
    out, err = capsys.readouterr()
    assert "6 computed now" in out
    assert err.count("W&B: off from here") == 1
    assert "python -m experiments track replay tiny" in err
