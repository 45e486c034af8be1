"""Promises of every attribution method: a new one without an entry here fails."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import methods
from methods import ihvp
from methods.attributor import Attributor
from methods.checkpoints import Checkpoint
from methods.curvature.operators import GaussNewton
from methods.datainf import DataInf
from methods.errors import MethodError
from methods.examples import Examples, take
from methods.fastif import FastIF
from methods.gradcos import GradCos
from methods.ihvp.arnoldi import Arnoldi, Krylov
from methods.ihvp.cg import CG
from methods.ihvp.cholesky import Cholesky
from methods.ihvp.compressed import Compressed
from methods.ihvp.deflated import Deflated
from methods.ihvp.exact import Exact
from methods.ihvp.inverse import Inverse
from methods.ihvp.kfac import EKFAC, KFAC
from methods.ihvp.lissa import LiSSA
from methods.ihvp.sketch import Sketch
from methods.ihvp.truncated import Truncated
from methods.influence import Influence
from methods.logra import LoGra
from methods.random_projection import RandomProjection
from methods.relatif import RelatIF
from methods.representer import Representer
from methods.rows.projections import SJLT, Gaussian, Rademacher, Select, TwoSided
from methods.search.projected import Projected
from methods.task import Task
from methods.tracin import TracIn
from methods.trak import TRAK
from methods.unrolling import Unrolling
from tests.methods import networks

CLOSE = {"rtol": 1e-8, "atol": 1e-10}
DAMPING = 4.0  # makes the Hessian of an untrained network positive definite

ENTRIES: dict[str, Attributor] = {
    "tracin": TracIn(),
    "tracin-mean": TracIn(learning_rates=False),
    "tracin-last": TracIn(checkpoints=(-1,)),
    "gaussian": RandomProjection(Gaussian(8)),
    "rademacher": RandomProjection(Rademacher(8)),
    "sjlt": RandomProjection(SJLT(8)),
    "select": RandomProjection(Select(8)),
    "two-sided": RandomProjection(TwoSided(10)),
    "cg": Influence(CG(tolerance=1e-12), DAMPING),
    "exact": Influence(Exact(), DAMPING),
    "cholesky": Influence(Cholesky(), DAMPING),
    "truncated": Influence(Truncated(4), DAMPING),
    "lissa": Influence(LiSSA(depth=10, sample=4, scale=20.0), DAMPING),
    "arnoldi": Influence(Arnoldi(3, Krylov(8, sample=None, keep=5)), DAMPING),
    "deflated": Influence(Deflated(3, Krylov(8, sample=None, keep=5)), DAMPING),
    "compressed": Influence(Compressed(Gaussian(6)), DAMPING),
    "sketch": Influence(Sketch(Gaussian(6), steps=20, sample=8), DAMPING),
    "fastif": FastIF(3, LiSSA(depth=10, sample=4, scale=20.0, repeats=2), DAMPING),
    "representer": Representer(),
    "representer-labels": Representer(labels="y"),
    "cosine": GradCos(),
    "gauss-newton": Influence(
        Deflated(3, Krylov(8, sample=None, keep=5)), DAMPING, curvature=GaussNewton
    ),
    "relatif-l": RelatIF(Influence(Deflated(3, Krylov(8, sample=None, keep=5)), DAMPING)),
    "relatif-theta": RelatIF(
        Influence(Arnoldi(3, Krylov(8, sample=None, keep=5)), DAMPING, curvature=GaussNewton),
        "theta",
    ),
    "kfac": Influence(KFAC(), DAMPING),
    "ekfac": Influence(EKFAC(labels="y", rank=3), DAMPING),
    "trak": TRAK(SJLT(6)),
    "datainf": DataInf(),
    "unrolling": Unrolling(40, segments=2, damping=0.1),
    "logra": LoGra(3, 4),
}
TRAIN, QUERY = networks.examples(13, 6), networks.examples(5, 6, seed=20)


def model_and_checkpoints() -> tuple[Any, tuple[Checkpoint, ...]]:
    model = networks.built(networks.Mlp)
    return model, networks.checkpoints(model)


def the_task(**settings: Any) -> Task:
    model, moments = model_and_checkpoints()
    return Task.of(model, networks.nll, weight_decay=0.01, checkpoints=moments, **settings)


def swapped(batch: Examples) -> Examples:
    return {**batch, "y": (batch["y"] + 1) % 3}


def swapped_nll(model: Any, batch: Examples) -> Tensor:
    """A measurement other than the loss: that of the same input with another label."""
    return networks.nll(model, swapped(batch))


@pytest.fixture(params=ENTRIES)
def method(request: pytest.FixtureRequest) -> Attributor:
    return ENTRIES[request.param]


def equal(have: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(have, want, **CLOSE)


def with_nan(batch: Examples, index: int) -> Examples:
    x = batch["x"].clone()
    x[index, 0] = float("nan")
    return {**batch, "x": x}


def test_every_method_has_an_entry() -> None:
    methods_here = set(networks.subclasses(methods, Attributor))
    remedy = "give each method a small instance in ENTRIES, by which its contract is tested"
    assert methods_here == {type(m) for m in ENTRIES.values()}, remedy
    inverses = {type(m.inverse) for m in ENTRIES.values() if isinstance(m, Influence)}
    assert set(networks.subclasses(ihvp, Inverse)) == inverses, remedy


def test_scores_are_a_cpu_matrix_of_queries_by_candidates(method: Attributor) -> None:
    task = the_task()
    fitted = method.fit(task, TRAIN)
    scores = fitted.scores(QUERY, TRAIN)
    assert scores.shape == (5, 13)
    own = fitted.self_influence(TRAIN)
    assert own.shape == (13,)
    for result in (scores, own):
        assert result.device.type == "cpu"
        assert result.dtype == task.dtype
        assert not result.requires_grad
        assert float(result.abs().min()) > 0
    equal(method.scores(task, TRAIN, QUERY), scores)
    equal(method.self_influence(task, TRAIN), own)


@pytest.mark.parametrize("measurement", [None, swapped_nll])
def test_self_influence_is_the_diagonal(method: Attributor, measurement: Any) -> None:
    fitted = method.fit(the_task(measurement=measurement), TRAIN)
    equal(fitted.self_influence(TRAIN), fitted.scores(TRAIN, TRAIN).diagonal())


def test_rows_multiply_to_the_scores(method: Attributor) -> None:
    fitted = method.fit(the_task(), TRAIN)
    expected = fitted.scores(QUERY, TRAIN)
    equal(fitted.query_rows(QUERY).inner(fitted.train_rows(TRAIN)), expected)
    query, train = fitted.own_rows(TRAIN)
    equal(query.paired(train), fitted.self_influence(TRAIN))


@pytest.mark.parametrize("chunk", [1, pytest.param(4, marks=pytest.mark.long)])
def test_independent_of_batch_size(
    method: Attributor, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = the_task()
    scores, own = method.scores(task, TRAIN, QUERY), method.self_influence(task, TRAIN)
    monkeypatch.setattr("methods.rows.gradients.CHUNK", chunk)
    monkeypatch.setattr("methods.rows.gradients.MOST", chunk)
    monkeypatch.setattr("methods.fitted.scoring.QUERY_BYTES", 1)
    equal(method.scores(task, TRAIN, QUERY), scores)
    equal(method.self_influence(task, TRAIN), own)


def test_follows_the_order_of_examples(method: Attributor) -> None:
    fitted = method.fit(the_task(), TRAIN)
    scores, own = fitted.scores(QUERY, TRAIN), fitted.self_influence(TRAIN)
    order = torch.randperm(13, generator=torch.Generator().manual_seed(1))
    equal(fitted.scores(QUERY, take(TRAIN, order)), scores[:, order])
    equal(fitted.self_influence(take(TRAIN, order)), own[order])
    equal(fitted.scores(take(QUERY, order[order < 5]), TRAIN), scores[order[order < 5]])
    equal(fitted.scores(QUERY, take(TRAIN, slice(2, 3))), scores[:, 2:3])


def test_the_task_is_left_as_it_was(method: Attributor) -> None:
    task = the_task()
    model = task.loss.model  # type: ignore[attr-defined]
    before = copy.deepcopy((task.params, [c.params for c in task.checkpoints], TRAIN, QUERY))
    fitted = method.fit(task, TRAIN)
    fitted.scores(QUERY, TRAIN)
    fitted.self_influence(TRAIN)
    after = (task.params, [c.params for c in task.checkpoints], TRAIN, QUERY)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert not any(p.requires_grad for p in task.params.values())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(part._forward_hooks or part.training for part in model.modules())


def test_proponents_and_opponents_are_the_ends_of_the_scores(method: Attributor) -> None:
    fitted = method.fit(the_task(), TRAIN)
    scores = fitted.scores(QUERY, TRAIN)
    for search, descending in [(fitted.proponents, True), (fitted.opponents, False)]:
        values, index = search(QUERY, TRAIN, 4)
        ordered = scores.sort(1, descending=descending)
        equal(values, ordered.values[:, :4])
        equal(scores.gather(1, index), values)
        assert torch.equal(index, ordered.indices[:, :4])


def test_a_kept_state_replaces_the_work(method: Attributor) -> None:
    task = the_task()
    state = method.state(task, TRAIN)
    assert all(isinstance(v, Tensor) for v in state.values())
    expected = method.scores(task, TRAIN, QUERY)
    equal(method.fit(task, TRAIN, state).scores(QUERY, TRAIN), expected)


def test_a_state_is_all_that_fit_needs_unless_the_method_reads_the_training_examples(
    method: Attributor,
) -> None:
    task = the_task()
    state = method.state(task, TRAIN)
    if method.reads_train:
        with pytest.raises(MethodError, match="needs the training examples"):
            method.fit(task, state=state)
    else:
        without = method.fit(task, state=state).scores(QUERY, TRAIN)
        assert torch.equal(without, method.fit(task, TRAIN, state).scores(QUERY, TRAIN))
    with pytest.raises(MethodError, match="needs the training examples"):
        method.fit(task)


def test_a_saved_method_is_restored_to_the_last_bit(method: Attributor, tmp_path: Path) -> None:
    fitted, folder = method.fit(the_task(), TRAIN), tmp_path / "new" / "folder"
    fitted.save(folder)
    restored = method.restore(the_task(), folder)
    assert torch.equal(restored.scores(QUERY, TRAIN), fitted.scores(QUERY, TRAIN))
    assert torch.equal(restored.self_influence(TRAIN), fitted.self_influence(TRAIN))
    with pytest.raises(MethodError, match="exists"):
        restored.save(folder)


def other_task(what: str) -> Task:
    task = the_task()
    moments = list(task.checkpoints)
    moments[0] = replace(moments[0], lr=0.2)
    moved = {name: value + 1e-9 for name, value in task.params.items()}
    return {
        "parameters": replace(task, params=moved),
        "frozen parameters": replace(task, frozen={"mean": torch.ones(2)}),
        "weight decay": replace(task, weight_decay=0.02),
        "checkpoints": replace(task, checkpoints=tuple(moments)),
    }[what]


@pytest.mark.parametrize("what", ["parameters", "frozen parameters", "weight decay", "checkpoints"])
def test_a_saved_method_of_another_model_is_refused(
    method: Attributor, what: str, tmp_path: Path
) -> None:
    method.fit(the_task(), TRAIN).save(tmp_path / "folder")
    with pytest.raises(MethodError, match=f"is of another model: other {what}; fit again$"):
        method.restore(other_task(what), tmp_path / "folder")


def test_a_saved_method_of_other_settings_is_refused(method: Attributor, tmp_path: Path) -> None:
    method.fit(the_task(), TRAIN).save(tmp_path / "folder")
    for other in [one for one in ENTRIES.values() if one != method]:
        with pytest.raises(MethodError, match=r"is of another method: \S+ is .* there and .*"):
            other.restore(the_task(), tmp_path / "folder")


def test_the_setting_that_differs_is_named(tmp_path: Path) -> None:
    method = Influence(Arnoldi(3, Krylov(8, sample=None, keep=5)), DAMPING)
    method.fit(the_task(), TRAIN).save(tmp_path / "folder")
    other = Influence(Arnoldi(2, Krylov(8, sample=None, keep=5)), DAMPING)
    message = r"another method: inverse\.num_eigen is 3 there and 2 here; fit again$"
    with pytest.raises(MethodError, match=message):
        other.restore(the_task(), tmp_path / "folder")


def test_a_damaged_or_missing_saved_method_is_one_clear_error(tmp_path: Path) -> None:
    method, folder = ENTRIES["arnoldi"], tmp_path / "folder"
    method.fit(the_task(), TRAIN).save(folder)
    for name in ("state.eigenvectors.npy", "fitted.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(MethodError, match="is a damaged fitted method"):
            method.restore(the_task(), folder)
    with pytest.raises(MethodError, match="no fitted method in"):
        method.restore(the_task(), tmp_path / "nowhere")


def test_only_what_fit_made_can_be_saved(tmp_path: Path) -> None:
    fitted = Projected(TracIn().fit(the_task(), TRAIN), TwoSided(9))
    with pytest.raises(MethodError, match="was not made by `fit`"):
        fitted.save(tmp_path / "folder")


def test_nan_in_the_data_is_an_error(method: Attributor) -> None:
    task = the_task()
    fitted = method.fit(task, TRAIN)
    for index in (0, -1):
        with pytest.raises(MethodError, match="finite"):
            fitted.scores(with_nan(QUERY, index), TRAIN)
        with pytest.raises(MethodError, match="finite"):
            fitted.scores(QUERY, with_nan(TRAIN, index))
        with pytest.raises(MethodError, match="finite"):
            fitted.self_influence(with_nan(TRAIN, index))


def test_nan_in_what_is_fitted_on_is_an_error(method: Attributor) -> None:
    with pytest.raises(MethodError, match="finite"):
        method.scores(the_task(), with_nan(TRAIN, 5), QUERY)


def test_nan_that_only_the_loss_makes_is_not_blamed_on_an_inverse() -> None:
    def broken(model: Any, batch: Examples) -> Tensor:
        return networks.nll(model, batch) * torch.where(batch["x"][:, 0] > -99, torch.nan, 1.0)

    task = Task.of(model_and_checkpoints()[0], broken, networks.nll)
    for inverse in (CG(), LiSSA(depth=5), Arnoldi(2, Krylov(4, None))):
        with pytest.raises(MethodError, match="Hessian product is not finite"):
            Influence(inverse, damping=1.0).scores(task, TRAIN, QUERY)


def test_measurement_is_used_on_the_query_side_only(method: Attributor) -> None:
    measured = method.scores(the_task(measurement=swapped_nll), TRAIN, QUERY)
    equal(measured, method.scores(the_task(), TRAIN, swapped(QUERY)))
    assert not torch.allclose(measured, method.scores(the_task(), TRAIN, QUERY))


def test_only_some_parameters_equal_a_model_of_just_them(method: Attributor) -> None:
    """The head alone, over frozen layers, is a linear model of their features."""
    model, _ = model_and_checkpoints()
    frozen = {n: p.detach() for n, p in model.named_parameters()}
    heads = [
        {n: p.detach() + shift for n, p in model.head.named_parameters()} for shift in (0.2, 0)
    ]

    def features(batch: Examples) -> Examples:
        with torch.no_grad():
            return {**batch, "x": model.middle(model.inner(batch["x"]).tanh()).tanh()}

    alone = Task.of(
        model.head, networks.nll, weight_decay=0.01, checkpoints=[Checkpoint(h, 0.3) for h in heads]
    )
    whole = replace(
        Task.of(model, networks.nll, weight_decay=0.01),
        checkpoints=tuple(
            Checkpoint({**frozen, **{f"head.{n}": v for n, v in h.items()}}, 0.3) for h in heads
        ),
    )
    some = whole.only(["head.*"])
    assert list(some.params) == ["head.weight", "head.bias"]
    expected = method.scores(alone, features(TRAIN), features(QUERY))
    equal(method.scores(some, TRAIN, QUERY), expected)
    same = Task.of(
        model, networks.nll, only=["head.*"], weight_decay=0.01, checkpoints=whole.checkpoints
    )
    equal(method.scores(same, TRAIN, QUERY), expected)
    equal(method.self_influence(some, TRAIN), method.self_influence(alone, features(TRAIN)))


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["zzz"], r"'zzz': there are inner\.weight, inner\.bias"),
        (["head.*", "inner.wieght"], r"'inner\.wieght': did you mean inner\.weight"),
        (["*", "heads.*"], r"'heads\.\*': did you mean head\.bias or head\.weight"),
    ],
)
def test_every_pattern_must_match_a_parameter(patterns: list[str], message: str) -> None:
    with pytest.raises(MethodError, match=f"no parameter matches {message}"):
        the_task(only=patterns)
    with pytest.raises(MethodError, match=f"no parameter matches {message}"):
        TracIn(layers=tuple(patterns)).fit(the_task(), TRAIN)
    with pytest.raises(MethodError, match="no pattern to choose parameters by"):
        the_task().only([])


def test_one_string_is_no_list_of_patterns() -> None:
    for act in (lambda: the_task(only="*.weight"), lambda: the_task().only("*.weight")):
        with pytest.raises(MethodError, match=r'one string: give a list, only=\["\*\.weight"\]'):
            act()


@pytest.mark.parametrize("part", ["", "middle"])
def test_a_module_in_training_mode_is_an_error(part: str) -> None:
    model, _ = model_and_checkpoints()
    model.get_submodule(part).train()
    with pytest.raises(MethodError, match=f"{part or 'the model'} is in training mode"):
        Task.of(model, networks.nll)


@pytest.mark.parametrize("name", ["arnoldi", "sketch"])
def test_a_state_of_another_model_is_an_error(name: str) -> None:
    method, other = (
        ENTRIES[name],
        Task.of(networks.built(lambda: networks.Mlp(hidden=7)), networks.nll),
    )
    with pytest.raises(MethodError, match="another model"):
        method.fit(the_task(), TRAIN, method.state(other, TRAIN))
