"""Libraries beside ours: results are compared first, and one that is absent is a row."""

from dataclasses import replace

import pytest
import torch

from experiments import speed
from experiments.laboratory.errors import UserError
from experiments.timing.peers import beside, cells, projections
from experiments.timing.peers.beside import Beside, Way, compared
from experiments.timing.peers.cells import PEERS, TASKS, TINY, Compared, Peer
from methods.rows.projections import SJLT


def task(ours: float = 1.0, theirs: float = 1.0, count: int = 0) -> Beside:
    """A task whose results are these."""
    way = Way("as it is", lambda: lambda: torch.full((3,), theirs), count)
    return Beside("a task", "example", 4, lambda: torch.full((3,), ours), {"torch": way})


@pytest.mark.long
@pytest.mark.parametrize("peer", TINY, ids=lambda peer: peer.task)
def test_a_small_comparison_says_how_fast_both_are_and_how_far_apart(peer, tmp_path):
    found = speed.run(speed.Config(peer, 2), tmp_path)
    assert found["installed"]
    assert found["version"]
    assert found["difference"] < 1e-3
    assert 0 < found["ratio_low"] <= found["ratio"] <= found["ratio_high"]
    assert len(found["ratios"]) == 2
    assert found["ours_ms"] > 0
    assert found["theirs_ms"] > 0


def test_results_that_differ_are_not_timed():
    with pytest.raises(UserError, match=r"torch and ours differ by 10.0%, so their times"):
        compared(task(theirs=1.1), "torch")
    with pytest.raises(UserError, match="differ by nan"):
        compared(task(theirs=float("nan")), "torch")
    _, gap = compared(task(theirs=1.0001), "torch")
    assert gap == pytest.approx(1e-4, rel=1e-2)


def test_a_library_that_does_less_is_held_against_as_little_of_ours():
    with pytest.raises(UserError, match="differ by"):
        compared(replace(task(ours=2.0), same=lambda: torch.ones(2)), "torch")
    few = replace(task(ours=2.0, count=1), same=lambda: torch.ones(3))
    assert compared(few, "torch")[1] == 0


def test_a_library_that_is_absent_is_a_row_and_no_error(monkeypatch, tmp_path):
    monkeypatch.setitem(beside.MODULES, "opacus", "no_such_library")
    found = speed.run(speed.Config(Peer("self-influence", "opacus", 8), 2), tmp_path)
    assert not found["installed"]
    header, rows = speed.peers_table([found])
    assert "not installed: `pip install -e .[peers]`" in rows[0][-1]
    assert len(rows[0]) == len(header)


def test_times_are_of_a_unit_of_each_side(monkeypatch, tmp_path):
    seconds = {"ours": [0.8, 0.8], "theirs": [0.6, 1.2]}
    monkeypatch.setattr(cells.clock, "in_turns", lambda *_args, **_more: seconds)
    few = replace(task(count=2), same=lambda: torch.ones(3))
    monkeypatch.setitem(TASKS, "one", Compared(lambda n: few, 4, ("torch",)))
    found = speed.run(speed.Config(Peer("one", "torch", 4), 2), tmp_path)
    assert found["ours_ms"] == pytest.approx(200)  # four examples a call
    assert found["theirs_ms"] == pytest.approx(450)  # two
    assert found["ratios"] == pytest.approx([1.5, 3.0])


def test_an_unknown_task_or_library_names_the_nearest():
    with pytest.raises(UserError, match="self-influence"):
        Peer("self-influenze").measured(1)
    with pytest.raises(UserError, match="numpy"):
        Peer("subsets", "torch", 100).measured(1)


def test_each_library_of_each_task_is_a_cell():
    assert {(one.task, one.library) for one in PEERS} == {
        (name, library) for name, task in TASKS.items() for library in task.libraries
    }
    names = ("LiSSA, one", "subsets")
    assert all(set(TASKS[one].make(100).ways) == set(TASKS[one].libraries) for one in names)


def test_rows_of_a_random_map_are_held_by_their_lengths():
    made = projections.digits(SJLT, 64, 2)
    rows = made.ours()
    assert rows.shape == (2, 64)
    assert projections.lengths(-rows, rows) == 0
    assert projections.lengths(2 * rows, rows) == pytest.approx(3.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert compared(made, "torch")[1] < made.tolerance


def test_a_plain_two_sided_map_is_ours():
    assert compared(projections.two_sided(7, 2), "torch")[1] < 1e-5
