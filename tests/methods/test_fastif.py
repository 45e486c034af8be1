"""FastIF: neighbours, s_test by repeats, scores of candidates; alone and in several processes."""

import os
import signal
import subprocess
import sys
from itertools import chain

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from methods import fastif, workers
from methods.errors import MethodError
from methods.examples import take
from methods.fastif import FastIF, neighbours
from methods.ihvp.cg import CG
from methods.ihvp.lissa import LiSSA
from methods.influence import Influence
from methods.rows.gradients import gradient_rows
from methods.task import Task
from methods.workers import ALONE, Group

N, D = 60, 4
CONVERGED = FastIF(k=7, lissa=LiSSA(depth=400, sample=None, scale=3.0), damping=0.3)


def nll(model, batch):
    return F.cross_entropy(model(batch["x"]), batch["label"], reduction="none")


def softmax_regression(dtype=torch.float64):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(N, D, generator=draw, dtype=dtype)
    model = nn.Linear(D, 3).to(dtype)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(0.3 * torch.randn(value.shape, generator=draw, dtype=dtype))
    model.requires_grad_(False).eval()
    examples = {"x": x, "label": torch.randint(0, 3, (N,), generator=draw)}
    return Task.of(model, nll, weight_decay=0.01), examples


def parts():
    task, examples = softmax_regression()
    return task, take(examples, slice(0, 50)), take(examples, slice(50, N))


def result(settings, group=ALONE, candidates=None):
    task, train, query = parts()
    pool = train if candidates is None else candidates
    features = (query["x"], pool["x"])
    return fastif.influential(task, train, query, features, settings, candidates, group)


def test_neighbours_are_the_nearest_by_distance_nearest_first():
    draw = torch.Generator().manual_seed(1)
    query, train = torch.randn(5, 3, generator=draw), torch.randn(40, 3, generator=draw)
    wanted = torch.cdist(query, train).topk(6, largest=False).indices
    assert torch.equal(neighbours(query, train, 6), wanted)


def test_neighbours_without_faiss_are_the_same(monkeypatch):
    draw = torch.Generator().manual_seed(2)
    query, train = torch.randn(5, 3, generator=draw), torch.randn(400, 3, generator=draw)
    train[200:] = train[:200]  # every neighbour has one at the same distance
    wanted = neighbours(query, train, 9)
    assert (wanted[:, :-1:2] + 200 == wanted[:, 1::2]).all()
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(fastif, "DISTANCES", 1_000)  # two queries at a time
    assert torch.equal(neighbours(query, train, 9), wanted)


@pytest.mark.parametrize(
    ("query", "train", "k", "message"),
    [
        ((2, 3), (4, 3), 5, "5 neighbours among 4 training examples: lower k"),
        ((2, 3), (4, 2), 1, "features of 3 and 2 numbers"),
        ((2, 3), (4, 3), 0, "k is 0: give 1 or more"),
    ],
)
def test_neighbours_that_cannot_be_are_one_line(query, train, k, message):
    with pytest.raises(MethodError, match=message):
        neighbours(torch.zeros(query), torch.zeros(train), k)


def test_scores_of_candidates_equal_the_influence_functions_of_conjugate_gradients():
    task, train, query = parts()
    wanted = Influence(CG(1e-10), damping=0.3).scores(task, train, query)
    few = result(CONVERGED)
    assert few.candidates.shape == few.scores.shape == (10, 7)
    torch.testing.assert_close(few.scores, wanted.gather(1, few.candidates))
    torch.testing.assert_close(result(FastIF(None, CONVERGED.lissa, 0.3)).scores, wanted)


def test_other_candidates_keep_the_hessian_of_the_training_set():
    task, train, query = parts()
    fitted = Influence(CG(1e-10), damping=0.3).fit(task, train)
    few = result(FastIF(None, CONVERGED.lissa, 0.3), candidates=query)
    torch.testing.assert_close(few.scores, fitted.scores(query, query))


def test_the_error_of_s_test_is_that_of_a_mean_of_repeats():
    task, train, query = parts()
    settings = FastIF(None, LiSSA(depth=40, sample=2, scale=6.0, repeats=30), damping=0.3)
    estimate = fastif.s_test(task, train, query, settings)
    recursion = fastif.recursion_of(task, train, settings)
    gradients = gradient_rows(task, query).dense()
    each = torch.stack([recursion.estimate(gradients, repeat) for repeat in range(30)])
    torch.testing.assert_close(estimate.mean, each.mean(0))
    torch.testing.assert_close(estimate.error, (each.var(0).sum(1) / 30).sqrt())
    half = FastIF(None, LiSSA(depth=40, sample=2, scale=6.0, repeats=15), damping=0.3)
    wider = fastif.s_test(task, train, query, half).error
    assert 1.1 < float((wider / estimate.error).mean()) < 1.8  # the root of two


def test_one_repeat_has_no_error():
    task, train, query = parts()
    assert fastif.s_test(task, train, query, CONVERGED).error.isnan().all()


def test_the_path_of_a_repeat_passes_through_what_fewer_steps_return():
    task, train, query = parts()
    gradients = gradient_rows(task, query).dense()
    settings = FastIF(None, LiSSA(depth=30, sample=2, scale=6.0), damping=0.3)
    along = dict(fastif.recursion_of(task, train, settings).along(gradients, 0, (10, 20, 30)))
    fewer = FastIF(None, LiSSA(depth=20, sample=2, scale=6.0), damping=0.3)
    wanted = fastif.recursion_of(task, train, fewer).estimate(gradients, 0)
    assert sorted(along) == [10, 20, 30]
    torch.testing.assert_close(along[20], wanted)


def test_a_diverging_recursion_says_what_to_raise():
    task, train, query = parts()
    with pytest.raises(MethodError, match=r"LiSSA diverged.*raise `scale`"):
        fastif.s_test(task, train, query, FastIF(None, LiSSA(400, None, scale=0.05), damping=0.3))


SHARED = FastIF(k=7, lissa=LiSSA(depth=50, sample=2, scale=6.0, repeats=5), damping=0.3)


def in_a_group(group):
    one = result(SHARED, group)
    return one.candidates, one.scores, one.s_test.mean, one.s_test.error


def test_two_processes_find_what_one_does():
    alone, shared = in_a_group(ALONE), workers.run(in_a_group, 2)
    for one, other in zip(alone, shared, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.long
def test_processes_of_torchrun_find_what_one_does(tmp_path):
    path = tmp_path / "result.pt"
    torchrun = "-m torch.distributed.run --standalone --nproc-per-node=2"
    command = f"{torchrun} -m tests.methods.fastif_by_torchrun"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *command.split(), path], env=environment, check=True)
    size, shared = torch.load(path)
    assert size == 2
    for one, other in zip(in_a_group(ALONE), shared, strict=True):
        torch.testing.assert_close(one, other)


def test_a_group_divides_work_without_rest_or_repetition():
    shares = [list(Group(rank, 3).share(8)) for rank in range(3)]
    assert sorted(chain.from_iterable(shares)) == list(range(8))


def fails_in_one(group):
    if group.rank == 1:
        raise MethodError("no room for worker one")
    group.sum(torch.ones(1))
    return "never"


def is_killed(group):
    if group.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    group.sum(torch.ones(1))


def test_an_error_in_one_worker_is_everybodys_and_nothing_hangs():
    with pytest.raises(MethodError, match="worker 1 failed: MethodError: no room for worker one"):
        workers.run(fails_in_one, 2)


def test_a_killed_worker_stops_the_others():
    with pytest.raises(
        MethodError, match=r"worker 1 was killed by SIGKILL.*of 2 workers were stopped"
    ):
        workers.run(is_killed, 2)


def test_a_process_started_alone_joins_a_group_of_one(monkeypatch):
    for name in ("WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    with workers.joined() as group:
        assert group == ALONE


@pytest.mark.parametrize("size", [0, -1])
def test_no_workers_are_refused(size):
    with pytest.raises(MethodError, match="give 1 or more"):
        workers.run(in_a_group, size)


@pytest.mark.parametrize("library", [True, False])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("where", ["query", "train"])
def test_features_without_a_distance_have_no_neighbours(where, bad, library, monkeypatch):
    if not library:
        monkeypatch.setattr(fastif, "load_faiss", _absent)
    features = {"query": torch.randn(3, 4), "train": torch.randn(20, 4)}
    features[where][1:] = bad
    if (where, bad, library) == ("query", 1e30, False):  # it forms no square of a query
        wanted = torch.cdist(*(each.double() for each in features.values())).topk(4, largest=False)
        assert neighbours(*features.values(), 4)[0].equal(wanted.indices[0])
        return
    said = (
        "not finite" if bad == 1e30 else f"features of {'query' if where == 'query' else 'train'}"
    )
    with pytest.raises(MethodError, match=said):
        neighbours(features["query"], features["train"], 4)


def _absent():
    raise MethodError("no FAISS")
