"""Scores of single tokens are inner products with the gradients of their own losses."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from methods.errors import MethodError
from methods.examples import take
from methods.ihvp.kfac import EKFAC
from methods.influence import Influence
from methods.rows.projections import Gaussian
from methods.search.projected import Projected
from methods.task import Task
from methods.tracin import TracIn
from tests.methods import networks
from tests.methods.test_attributors import CLOSE, DAMPING, ENTRIES

PAD = -100
METHODS = {  # whose scores of a sentence are the sums over its tokens
    name: method
    for name, method in ENTRIES.items()
    if not name.startswith("representer") and name not in ("cosine", "truncated")
} | {"ekfac": Influence(EKFAC(), DAMPING)}  # without rank, and tokens have no column of classes


class Causal(nn.Module):
    """A tiny language model: words, attention to what is before, and logits of the next word."""

    def __init__(self):
        super().__init__()
        self.words, self.norm = nn.Embedding(7, 4), nn.LayerNorm(4)
        self.mixed, self.out = nn.Linear(4, 4), nn.Linear(4, 7)

    def forward(self, ids):
        h = self.words(ids)
        far = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).triu(1)
        weights = (h @ h.transpose(1, 2)).masked_fill(far, float("-inf")).softmax(2)
        return self.out(self.norm(h + self.mixed(weights @ h)))


def of_tokens(logits, labels):
    return 0.1 * cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=PAD)


def per_token(model, batch):
    return of_tokens(model(batch["ids"][:, :-1]), batch["labels"])


def summed(model, batch):
    return per_token(model, batch).sum(1)


def sentences(n, seed):
    ids = networks.integers(7, n, 6, seed=seed)
    labels = ids[:, 1:].clone()
    lengths = torch.arange(n) % 4 + 2
    labels[torch.arange(5) >= lengths[:, None]] = PAD
    return {"ids": ids, "labels": labels}


QUERY, CANDIDATES = sentences(3, 0), sentences(9, 1)


@pytest.fixture(scope="module")
def tasks():
    model = networks.built(Causal)
    moments = networks.checkpoints(model)
    settings = {"checkpoints": moments, "weight_decay": 0.01}
    return (Task.of(model, summed, measurement=per_token, **settings),
            Task.of(model, summed, **settings))  # fmt: skip


def gradient(task, value):
    leaves = {n: v.clone().requires_grad_() for n, v in task.params.items()}
    model = networks.built(Causal)
    logits = torch.func.functional_call(model, leaves, (value["ids"][:, :-1],))
    losses = of_tokens(logits, value["labels"])
    rows = [torch.autograd.grad(loss, leaves.values(), retain_graph=True) for loss in losses[0]]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


def test_they_are_autograds_in_float64(tasks):
    task, _ = tasks
    fitted = TracIn(learning_rates=False, checkpoints=(0,)).fit(task, CANDIDATES)
    moment = task.at(task.checkpoints[0])
    query, train = (
        [gradient(moment, take(e, slice(i, i + 1))) for i in range(len(e["ids"]))]
        for e in (QUERY, CANDIDATES)
    )
    whole = torch.stack([rows.sum(0) for rows in train])
    wanted = torch.stack([rows @ whole.T for rows in query])
    have = fitted.token_scores(QUERY, CANDIDATES)
    torch.testing.assert_close(have, wanted, **CLOSE)
    assert have.shape == (3, 5, 9)
    assert not have[QUERY["labels"] == PAD].any()
    assert have[QUERY["labels"] != PAD].any(-1).all()


@pytest.mark.parametrize("name", METHODS)
def test_of_every_method_they_add_up_to_the_scores_of_sentences(name, tasks):
    method, (task, whole) = METHODS[name], tasks
    tokens = method.fit(task, CANDIDATES).token_scores(QUERY, CANDIDATES)
    wanted = method.fit(whole, CANDIDATES).scores(QUERY, CANDIDATES)
    torch.testing.assert_close(tokens.sum(1), wanted, rtol=1e-7, atol=1e-9)


def test_projected_rows_and_data_sets_have_tokens_too(tasks):
    task, whole = tasks
    items = [take(QUERY, slice(i, i + 1)) for i in range(3)]
    items = [{name: column[0] for name, column in item.items()} for item in items]
    ours, theirs = (Projected(TracIn().fit(t, CANDIDATES), Gaussian(16)) for t in (task, whole))
    tokens = ours.token_scores(items, CANDIDATES)
    torch.testing.assert_close(tokens.sum(1), theirs.scores(QUERY, CANDIDATES), **CLOSE)


def test_a_token_whose_value_is_zero_but_not_its_gradient_is_kept():
    plain = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(plain.weight)
    task = Task.of(
        plain.eval(),
        lambda model, batch: model(batch["x"])[:, 0],
        lambda model, batch: model(batch["x"]) * torch.tensor([1.0, 0.0, 3.0]),
    )
    x = {"x": torch.tensor([[2.0]]).double()}
    scores = TracIn(learning_rates=False).fit(task, x).token_scores(x, x)
    assert scores.tolist() == [[[4.0], [0.0], [12.0]]]


def test_sentences_of_nothing_but_padding_have_zeros(tasks):
    empty = {**QUERY, "labels": torch.full_like(QUERY["labels"], PAD)}
    fitted = TracIn().fit(tasks[0], CANDIDATES)
    assert not fitted.token_scores(empty, CANDIDATES).any()


def test_a_loss_of_another_shape_is_one_line(tasks):
    task, whole = tasks
    with pytest.raises(MethodError, match=r"return one value per token, \(b, t\)"):
        TracIn().fit(whole, CANDIDATES).token_scores(QUERY, CANDIDATES)
    with pytest.raises(MethodError, match="only as the measurement of `token_scores`"):
        TracIn().fit(task, CANDIDATES).scores(QUERY, CANDIDATES)
