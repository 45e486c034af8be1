"""A run depends on the sources of its roots and of all that these import, and on no others."""

import functools
from dataclasses import dataclass
from pathlib import Path

import pytest

from experiments.laboratory import runs, sources
from experiments.laboratory.experiment import Experiment
from tests.experiments.laboratory.tiny import EXPERIMENT, Config, Mean

PACKAGE = {
    "experiments/__init__.py": '"""Experiments."""',
    "experiments/one.py": """
import methods.plain as plain, methods.second
from experiments.room import module
from experiments.room.deep import (
    thing,  # of another
    other as renamed,
)
from methods.objects import Thing


def late():
    from methods.late import x
    import methods.latest
""",
    "experiments/room/__init__.py": '"""A room."""',
    "experiments/room/module.py": "import numpy\n",
    "experiments/room/deep/__init__.py": "",
    "experiments/room/deep/thing.py": "from methods.far import away\n",
    "experiments/room/deep/other.py": "",
    "experiments/room/unused.py": "",
    "experiments/two.py": "from experiments.one import late\n",
    "experiments/apart.py": "",
    "methods/plain.py": "",
    "methods/second.py": "from methods.second import me\nfrom experiments import one\n",
    "methods/objects.py": "class Thing: pass",
    "methods/late.py": "x = 1",
    "methods/latest.py": "",
    "methods/far.py": "away = 1",
}
UNUSED = {"experiments/room/unused.py", "experiments/apart.py", "experiments/two.py"}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Another package in place of this one."""
    for name, text in PACKAGE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(sources, "REPOSITORY", tmp_path)
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    for kept in (sources.digest, sources._path, sources._source):
        kept.cache_clear()


def digest(*roots: str) -> str | None:
    forget()
    return sources.digest(roots)


def test_the_digest_changes_with_every_source_that_is_imported_and_with_no_other(package):
    before = digest("experiments.one")
    assert before is not None
    for name, text in PACKAGE.items():
        (package / name).write_text(f"{text}\n# changed")
        assert (digest("experiments.one") == before) is (name in UNUSED), name
        (package / name).write_text(text)
    assert digest("experiments.one") == before
    assert digest("experiments.two") != before
    assert digest("experiments.one", "experiments.apart") != before
    (package / "methods" / "far.py").unlink()
    assert digest("experiments.one") != before
    assert digest("experiments.gone") is None


def test_every_source_is_read_once_a_process(package, monkeypatch):
    read = []
    plain = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or plain(path))
    for _ in range(2):
        assert sources.digest(("experiments.one",)) != sources.digest(("experiments.two",))
    assert len(read) == len(set(read)) == len(PACKAGE) - 2


def test_what_is_described_is_the_same_or_not_as_far_as_that_can_be_known(package):
    described = {"sha256": digest("experiments.one"), "roots": ["experiments.one"]}
    assert sources.same(described)
    assert not sources.same(described | {"sha256": "0" * 64})
    assert not sources.same(None), "an earlier version wrote no digest"
    assert sources.same({"sha256": "0" * 64, "roots": ["script_of_mine"]}), "it is not here"
    for wrong in ([], "x", {"roots": "ab"}, {"roots": [1]}, {}):
        assert not sources.same(wrong)


@dataclass(frozen=True)
class Holder:
    part: object = None
    many: tuple = ()


class Worker:
    def work(self, folder):
        return {}


def compute(folder):
    return {}


MINE, TINY = __name__, "tests.experiments.laboratory.tiny"


def test_roots_are_found_in_configs_functions_partials_methods_and_what_they_close_over():
    def closed(folder):
        return EXPERIMENT.run(config, folder)

    config = Config()
    assert sources.code(config).roots == (TINY,)
    assert sources.code(compute).roots == (MINE,)
    assert sources.code(closed).roots == (MINE, TINY)
    assert sources.code(functools.partial(compute, x=Mean())).roots == (MINE, TINY)
    assert sources.code(Worker().work).roots == (MINE,)
    assert TINY in sources.code(Holder(many=(1, [Mean()]))).roots
    assert sources.code(Holder(part=Path("x"), many=(1.0, "a"))).roots == (MINE,)
    experiment = Experiment("x", compute, {"smoke": [Config()]})
    assert sources.code(experiment).roots == ("experiments.laboratory.experiment", MINE)


def test_a_run_says_which_code_made_it(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    meta = runs.once("a", Config(), compute).meta
    assert meta["code"]["roots"] == [MINE, TINY]
    assert meta["code"]["sha256"] == sources.digest((MINE, TINY))
    assert sources.same(meta["code"])
