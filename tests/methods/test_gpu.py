"""Methods on a GPU, a pretended one: the CPU's numbers, no mixed devices, few waits and launches.

Numbers agree to CLOSE of the largest: the operations are the same, but a product of the CPU's may
be summed in another order. A chunk is one call of the loss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from methods import FastIF, Influence, MethodError, Representer, Task, TracIn, fastif
from methods.attributor import Attributor
from methods.checkpoints import Checkpoint
from methods.curvature.krylov_basis import BFloat16, Disk
from methods.curvature.operators import GaussNewton, Hessian
from methods.ensembles import agreement, lds, masks, overlap, subset
from methods.examples import Examples
from methods.fastif import influential
from methods.ihvp.arnoldi import Arnoldi, Krylov, StoredKrylov
from methods.ihvp.cg import CG
from methods.ihvp.compressed import Compressed
from methods.ihvp.deflated import Deflated
from methods.ihvp.exact import Exact
from methods.ihvp.lissa import LiSSA
from methods.ihvp.sketch import Sketch
from methods.relatif import RelatIF
from methods.rows import projections
from methods.rows.gradients import Gradients
from methods.search import index as indexes
from methods.search.projected import Projected
from methods.search.searches import HNSW, IVF, Search, highest
from methods.search.searches import Exact as Exhaustive
from methods.tracin import descent, measure, watch
from tests.methods import networks, test_attributors
from tests.pretend_device import GPU, PretendGpu

CLOSE = 1e-5
WAITS = 2  # the most synchronisations a chunk
ENDS = 6  # and once a call: numbers are checked, ties looked for, results moved
PASS = 150  # the most launches a chunk of gradients: the network has 8 parameters in 5 layers
LAUNCHES = {
    "cg": 300,
    "gauss-newton": 300,
    "lissa": 300,
    "lissa-scale": 300,
    "fastif": 300,
    "truncated": 300,
}  # with Hessian products
DAMPING = 50.0

ENTRIES: dict[str, Attributor] = {
    **test_attributors.ENTRIES,
    # With settings for the curvature of this network, and few products:
    "cg": Influence(CG(tolerance=1e-4), DAMPING),
    "exact": Influence(Exact(sample=4), DAMPING),
    "lissa": Influence(LiSSA(depth=3, sample=4, scale=200.0), DAMPING),
    "lissa-scale": Influence(LiSSA(depth=2, sample=4), DAMPING),
    "arnoldi": Influence(Arnoldi(3, Krylov(5, sample=4, keep=4)), DAMPING),
    "arnoldi-bfloat16": Influence(
        Arnoldi(3, StoredKrylov(5, sample=4, keep=4, storage=BFloat16())), DAMPING
    ),
    "arnoldi-disk": Influence(
        Arnoldi(3, StoredKrylov(5, sample=4, keep=4, storage=Disk())), DAMPING
    ),
    "deflated": Influence(Deflated(3, Krylov(5, sample=4, keep=4)), DAMPING),
    "compressed": Influence(Compressed(projections.Gaussian(6), sample=4), DAMPING),
    "sketch": Influence(Sketch(projections.Gaussian(3), steps=10, sample=4), DAMPING),
    "fastif": FastIF(3, LiSSA(depth=2, sample=4, scale=200.0, repeats=2), DAMPING),
    "gauss-newton": Influence(
        Deflated(3, Krylov(5, sample=4, keep=4)), DAMPING, curvature=GaussNewton
    ),
    "relatif-l": RelatIF(Influence(Exact(sample=4), DAMPING)),
    "relatif-theta": RelatIF(Influence(Arnoldi(3, Krylov(5, sample=4, keep=4)), DAMPING), "theta"),
    "representer": Representer(tolerance=1e-6),
    "representer-labels": Representer(labels="y", tolerance=1e-6),
}


def images(n: int, seed: int = 0) -> Examples:
    some = networks.examples(n, 2, 7, 7, seed=seed)
    return {"x": some["x"].float(), "y": some["y"]}


TRAIN, QUERY = images(9), images(5, seed=20)


def moved(examples: Examples) -> Examples:
    return {name: column.to("cuda") for name, column in examples.items()}


class Counted:
    """A task on a device, its checkpoints on the CPU, and how often its loss was called."""

    def __init__(self, device: str) -> None:
        self.calls, model = 0, networks.built(networks.ConvNet)
        moments = [
            Checkpoint({name: value.float() for name, value in moment.params.items()}, moment.lr)
            for moment in networks.checkpoints(model)
        ]
        self.task = Task.of(
            model.float().to(device), self.nll, weight_decay=0.01, checkpoints=moments
        )

    def nll(self, model: Any, batch: Examples) -> Tensor:
        self.calls += 1
        return networks.nll(model, batch)


@pytest.fixture(autouse=True)
def few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of three, so that there are several."""

    def three(self: Gradients, examples: Examples) -> int:
        self._probe(examples)
        return 3

    monkeypatch.setattr(Gradients, "chunk", three)
    monkeypatch.setattr(Gradients, "projected_chunk", three)


def close(have: Any, want: Any) -> None:
    have, want = (torch.as_tensor(x).cpu().double() for x in (have, want))
    atol = CLOSE * float(want.nan_to_num().abs().max())
    torch.testing.assert_close(have, want, rtol=0, atol=atol, equal_nan=True)


CALLS: dict[str, Callable[[Any], Any]] = {
    "scores": lambda fitted: fitted.scores(QUERY, TRAIN),
    "self-influence": lambda fitted: fitted.self_influence(TRAIN),
    "proponents": lambda fitted: fitted.proponents(QUERY, TRAIN, 4)[0],
}


SLOW = {"unrolling", "lissa-scale", "truncated", "sketch", "datainf", "fastif", "trak"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name in SLOW else ()) for name in ENTRIES]
)
def test_a_method_gives_the_cpu_s_numbers_and_rarely_waits(name: str) -> None:
    method, most = ENTRIES[name], LAUNCHES.get(name, PASS)
    wanted = method.fit(Counted("cpu").task, TRAIN)
    numbers = {what: call(wanted) for what, call in CALLS.items()}
    with PretendGpu(tf32=True) as gpu:
        there = Counted("cuda")
        fitted = method.fit(there.task, TRAIN)
        close(fitted.scores(moved(QUERY), moved(TRAIN)), numbers["scores"])
        for what, call in CALLS.items():  # it is known now which layers are factored
            there.calls = 0
            with gpu.counting() as counts:
                have = call(fitted)
            assert have.device.type == "cpu"
            close(have, numbers[what])
            assert counts.syncs.total() <= WAITS * there.calls + ENDS, counts.syncs
            assert counts.launches.total() <= most * there.calls, counts.launches


def fitted_pair(method: Attributor) -> tuple[Any, Any]:
    """The method fitted on the GPU and on the CPU."""
    return tuple(method.fit(Counted(device).task, TRAIN) for device in ("cuda", "cpu"))  # type: ignore


def test_fitting_rarely_waits(pretend_gpu: PretendGpu) -> None:
    """A Krylov basis waits for its norms, and each product for the check of drawn examples."""
    for name in ("arnoldi", "deflated", "compressed", "exact", "sketch"):
        there = Counted("cuda")
        with pretend_gpu.counting() as counts:
            ENTRIES[name].fit(there.task, moved(TRAIN))
        assert counts.syncs.total() <= WAITS * there.calls + ENDS, (name, counts.syncs)


def test_scores_leave_the_gpu_once(pretend_gpu: PretendGpu) -> None:
    """All that waits for each chunk is the check of its gradients, and now and then their proof."""
    fitted, _ = fitted_pair(TracIn())
    fitted.scores(QUERY, TRAIN)
    with pretend_gpu.counting() as counts:
        fitted.scores(QUERY, TRAIN)
    by_file = Counter[str]()
    for line, times in counts.syncs.items():
        by_file[line.split(":")[0]] += times
    assert by_file.pop("methods/fitted/scoring.py") == 1
    assert by_file.keys() <= {"methods/finite.py", "methods/rows/gradients.py"}


def test_scores_that_do_not_fit_are_collected_on_the_cpu(pretend_gpu: PretendGpu) -> None:
    fitted, wanted = fitted_pair(TracIn())
    pretend_gpu.free = 8 * QUERY["y"].numel() * TRAIN["y"].numel() * 4 - 8
    with pretend_gpu.counting() as counts:
        close(fitted.scores(QUERY, TRAIN), wanted.scores(QUERY, TRAIN))
    assert sum(n for line, n in counts.syncs.items() if "fitted/scoring" in line) > 1


@pytest.mark.parametrize("method", [Influence(Exact(), DAMPING), ENTRIES["representer-labels"]])
def test_a_method_saved_on_a_gpu_is_restored_on_either(
    method: Attributor, pretend_gpu: PretendGpu, tmp_path: Path
) -> None:
    there, _ = fitted_pair(method)
    there.save(tmp_path / "saved")
    for device in ("cuda", "cpu"):
        restored = method.restore(Counted(device).task, tmp_path / "saved")
        close(restored.scores(QUERY, TRAIN), there.scores(QUERY, TRAIN))


@pytest.mark.parametrize("search", [Exhaustive(), HNSW(4), IVF(2, 2)])
@pytest.mark.parametrize("project", [False, True])
def test_an_index_finds_the_same_neighbours(
    search: Search, project: bool, pretend_gpu: PretendGpu, tmp_path: Path
) -> None:
    if not isinstance(search, Exhaustive):
        pytest.importorskip("faiss")
    found = []
    for fitted in fitted_pair(TracIn()):
        fitted = Projected(fitted, projections.Rademacher(8)) if project else fitted
        built = indexes.build(fitted, TRAIN, search)
        folder = tmp_path / str(len(found))
        indexes.save(built, folder)
        loaded = indexes.load(folder, fitted, TRAIN)
        for each in (built, loaded):
            scores, places = each.search(fitted.query_rows(QUERY).dense(), 3)
            assert scores.device.type == places.device.type == "cpu"
            found.append((scores, places))
        if isinstance(search, Exhaustive):
            assert built.engine.device == fitted.task.device
    for scores, places in found[1:]:
        close(scores, found[0][0])
        assert torch.equal(places, found[0][1])


def test_ties_are_broken_with_two_looks_at_the_gpu(pretend_gpu: PretendGpu) -> None:
    scores = networks.integers(3, 40, 30).float()
    wanted = highest(scores, 7)
    with pretend_gpu.counting() as counts:
        values, places = highest(scores.to("cuda"), 7)
    assert counts.syncs.total() <= 2
    assert torch.equal(values.cpu(), wanted[0])
    assert torch.equal(places.cpu(), wanted[1])


def test_fastif_scores_few_candidates_as_on_the_cpu(pretend_gpu: PretendGpu) -> None:
    train = {**TRAIN, "length": networks.integers(9, 9)}
    features = [some["x"].flatten(1) for some in (QUERY, TRAIN)]
    settings = FastIF(4, LiSSA(depth=2, sample=4, scale=200.0, repeats=2), DAMPING)
    wanted = influential(Counted("cpu").task, train, QUERY, tuple(features), settings)
    there = Counted("cuda")
    for some in (train, moved(train)):
        have = influential(
            there.task, some, moved(QUERY), tuple(x.cuda() for x in features), settings
        )
        assert torch.equal(have.candidates.cpu(), wanted.candidates)
        close(have.scores, wanted.scores)
        close(have.s_test.mean, wanted.s_test.mean)
        close(have.s_test.error, wanted.s_test.error)


@pytest.mark.parametrize("query", ["cpu", "cuda"])
@pytest.mark.parametrize("train", ["cpu", "cuda"])
def test_fastif_takes_features_and_s_test_from_either_device(
    query: str, train: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_faiss() -> None:
        raise MethodError("not installed")

    features = networks.normal(5, 3), networks.normal(9, 3, seed=1)
    wanted = fastif.neighbours(*features, 4)
    task, s_test = Counted("cpu").task, torch.ones(5, Counted("cpu").task.size)
    products = fastif.scores(task, s_test, TRAIN, wanted)
    monkeypatch.setattr(fastif, "load_faiss", no_faiss)
    with PretendGpu():
        found = fastif.neighbours(features[0].to(query), features[1].to(train), 4)
        assert torch.equal(found, wanted)
        have = fastif.scores(Counted("cuda").task, s_test.to(query), TRAIN, found.to(train))
        close(have, products)


def test_the_ideal_tracin_and_operators_take_examples_from_anywhere(
    pretend_gpu: PretendGpu,
) -> None:
    def results(device: str, train: Examples, query: Examples) -> list[Tensor]:
        task = Counted(device).task
        step = descent(task, train, 0.1)
        watched = watch(task, query, step)
        vectors = torch.ones(2, task.size).to(device)
        products = [Hessian(task, train), GaussNewton(task, train), Hessian(task, train, sample=2)]
        linear = Hessian(task, train).linearized()
        many = [operator.apply(vectors) for operator in (*products, linear)]
        return [measure(task, query), watched.before, watched.influence, *step.values(), *many]

    wanted = results("cpu", TRAIN, QUERY)
    for have in (results("cuda", TRAIN, moved(QUERY)), results("cuda", moved(TRAIN), QUERY)):
        for one, other in zip(have, wanted, strict=True):
            assert one.device == GPU
            close(one, other)


def test_representer_points_are_the_cpu_s(pretend_gpu: PretendGpu) -> None:
    there, here = fitted_pair(ENTRIES["representer-labels"])
    for examples in (TRAIN, moved(TRAIN)):
        close(there.coefficients(examples), here.coefficients(TRAIN))
        close(there.logits(examples), here.logits(TRAIN))
        assert torch.equal(there.classes(examples).cpu(), here.classes(TRAIN))


def test_ensembles_take_masks_and_outcomes_from_either_device(pretend_gpu: PretendGpu) -> None:
    drawn = masks.draw_masks(16, 9, 5, seed=1)
    right = networks.normal(16, 9) > 0
    shares = networks.normal(16, 9).sigmoid()
    on_gpu = torch.from_numpy(drawn).to("cuda")
    assert np.array_equal(masks.Packed.of(on_gpu).bits, masks.Packed.of(drawn).bits)
    for outcomes in (right, shares):
        want = subset.influence(drawn, outcomes), subset.memorization(drawn, outcomes)
        for inside in (drawn, on_gpu, masks.Packed.of(drawn)):
            for results in (outcomes, outcomes.to("cuda")):
                close(subset.influence(inside, results), want[0])
                close(subset.memorization(inside, results), want[1])
    scores, cuda = want[0], want[0].to("cuda")
    close(lds.lds(on_gpu, shares.cuda(), cuda), lds.lds(drawn, shares, scores))
    close(lds.reliability(shares.cuda(), shares + 0.1), lds.reliability(shares, shares + 0.1))
    close(lds.area(cuda, cuda > 0.1), lds.area(scores, scores > 0.1))
    close(overlap.iou(cuda, scores + 0.1, [0.1, 0.0]), overlap.iou(scores, scores + 0.1, [0.1, 0]))
    close(overlap.iou(scores, cuda, [0.1]), [1.0])
    classes = networks.integers(3, 4, 9)
    close(agreement.agreement(classes.cuda()), agreement.agreement(classes))
    close(agreement.chance_agreement(classes.cuda()), agreement.chance_agreement(classes))


class Normalised(nn.Module):
    """A network with running statistics, and a table that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm, self.head = nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)
        self.register_buffer("gain", torch.ones(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.inner(x)) * self.gain)


def test_checkpoints_from_files_are_brought_to_the_model_s_device_and_precision(
    pretend_gpu: PretendGpu, tmp_path: Path
) -> None:
    model, train = networks.built(Normalised), networks.examples(9, 6)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    saved = torch.load(tmp_path / "model.pt", map_location="cpu")
    single = {name: value.float() for name, value in saved.items()}
    wanted = TracIn().scores(
        Task.of(model, networks.nll, checkpoints=[Checkpoint(saved, 0.1)]), train, train
    )
    on_gpu = Task.of(model.to("cuda"), networks.nll)
    for params, tolerance in ((saved, 1e-10), (moved(saved), 1e-10), (single, 1e-5)):
        task = replace(on_gpu, checkpoints=(Checkpoint(params, 0.1),))
        scores = TracIn().scores(task, train, train)
        torch.testing.assert_close(scores, wanted, rtol=tolerance, atol=tolerance)


def test_a_model_on_two_devices_is_refused_by_name(pretend_gpu: PretendGpu) -> None:
    train = networks.examples(9, 6)
    model = networks.built(Normalised)
    model.inner.to("cuda")
    task = Task.of(model, networks.nll)
    for method in (TracIn(learning_rates=False), Influence(CG(), 1.0)):
        with pytest.raises(MethodError, match=r"on 2 devices, .* on cpu and inner.bias on cuda:0"):
            method.scores(task, train, train)
    model = networks.built(Normalised)
    task = Task.of(model, networks.nll)
    model.to("cuda")
    with pytest.raises(MethodError, match=r"cuda:0 and head.bias on cpu: move all of it to one"):
        TracIn(learning_rates=False).scores(task, train, train)
