"""Neither meta.json nor W&B tells where a user's files are, or a secret."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from experiments.laboratory import privacy, provenance, runs

HOME = Path.home()
REPOSITORY = Path(__file__).resolve().parents[3]

TEXTS = {
    f"{HOME}/data/x.bin": "~/data/x.bin",
    f"read {HOME}/data and {HOME}": "read ~/data and ~",
    "/home/ann/models/bert": "~/models/bert",
    "file:///Users/ann/x": "file://~/x",
    "/nfs/homes/ann/x": "~/x",
    "'/home/ann'": "'~'",
    f"{REPOSITORY}/experiments/x.py": "./experiments/x.py",
    "docs/home/page": "docs/home/page",
    f"{HOME}other/x": f"{HOME}other/x" if len(HOME.parts) == 2 else "~/x",
    "https://ann:hunter22@host/x": "https://***@host/x",
    "mnli dev 9815 pairs": "mnli dev 9815 pairs",
    "hf_abcdefghijklmnop": "***",
    "key ghp_0123456789abcdefghij!": "key ***!",
    "NVIDIA H200": "NVIDIA H200",
}


@pytest.mark.parametrize("text", TEXTS)
def test_texts_lose_homes_and_secrets_and_nothing_else(text):
    assert privacy.scrubbed(text) == TEXTS[text]


def test_data_keeps_its_shape_and_the_keys_of_runs(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "correct horse")
    monkeypatch.setenv("RETRACE_DATA", "/scratch/ann/data")
    given = {
        "parts": [{"name": "a", "key": "0123456789abcdef"}],
        "data": {"/home/ann/x": "/scratch/ann/data/x", "y": 1.5},
        "api_key": "x",
        "n_tokens": 12,
        "note": ["correct horse battery", None, True],
    }
    assert privacy.scrubbed(given) == {
        "parts": [{"name": "a", "key": "0123456789abcdef"}],
        "data": {"~/x": "$RETRACE_DATA/x", "y": 1.5},
        "api_key": "***",
        "n_tokens": 12,
        "note": ["*** battery", None, True],
    }


def test_of_a_command_options_called_like_secrets_and_folders_are_left_out():
    argv = [
        f"{REPOSITORY}/experiments/x.py", "--data", "/scratch/ann/d", "--api-key", "abc",
        "--hf-token=def", "--password", "--seed", "3", "--out=/home/ann/results", "s3://bucket/x",
        "--n_tokens", "12",
    ]  # fmt: skip
    assert privacy.words(argv) == [
        "experiments/x.py", "--data", "d", "--api-key", "***",
        "--hf-token=***", "--password", "--seed", "3", "--out=results", "s3://bucket/x",
        "--n_tokens", "12",
    ]  # fmt: skip


@dataclass(frozen=True)
class Config:
    folder: str = "/home/ann/models"


def test_a_run_keeps_its_config_and_tells_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123")
    monkeypatch.setattr("sys.argv", ["/home/ann/mine.py", "0123456789abcdef0123", "/home/ann/x y"])

    def compute(_):
        runs.note("data", {"/home/ann/models/bert": "md5 0", f"{HOME}/y": "1 pairs"})
        return {"x": 1}

    run = runs.once("a", Config(), compute)
    text = (run.path / "meta.json").read_text()
    assert "ann" not in text
    assert str(HOME) + "/" not in text
    assert "0123456789abcdef0123" not in text
    assert json.loads(text)["argv"] == ["mine.py", "***", "x y"]
    assert run.config["folder"] == "/home/ann/models"
    assert runs.find("a", Config()) == run


def test_the_repository_that_holds_the_package_is_asked_once_and_before_the_run(
    tmp_path, monkeypatch
):
    provenance.commit.cache_clear()
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    subprocess.run(["git", "init", "-q", tmp_path / "other"], check=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "other"))
    events = []
    plain = subprocess.run

    def asked(words, **options):
        assert not [name for name in options["env"] if name.startswith("GIT_")]
        assert options["cwd"] == REPOSITORY
        events.append(words[2])
        return plain(words, **options)

    monkeypatch.setattr(provenance.subprocess, "run", asked)
    for name in "ab":
        runs.once(name, Config(), lambda _: events.append("computed") or {"x": 1})
    assert events[-2:] == ["computed", "computed"]
    assert events[:-2] in (["ls-files"], ["ls-files", "status", "rev-parse"]), "an archive, a clone"
    provenance.commit.cache_clear()
