"""DataInf by its formula with dense matrices, and where it is exact."""

import pytest
import torch
from torch import Tensor

from methods.datainf import DataInf
from methods.errors import MethodError
from methods.examples import Examples, take
from methods.task import Task
from tests.methods import networks

TRAIN, QUERY = networks.examples(13, 6), networks.examples(4, 6, seed=20)


def gradients(task: Task, examples: Examples) -> dict[str, Tensor]:
    rows = task.unflatten(networks.gradient_rows(task, task.loss, examples))
    return {name: value.flatten(1) for name, value in rows.items()}


@pytest.mark.parametrize("damping", [None, 0.7])
@pytest.mark.parametrize("make", [networks.Mlp, networks.Outside])
def test_the_inverse_is_the_mean_of_inverses(make: type, damping: float | None) -> None:
    task = Task.of(networks.built(make), networks.nll)
    q, g = gradients(task, QUERY), gradients(task, TRAIN)
    wanted = torch.zeros(4, 13).double()
    for name, own in g.items():
        size = own.shape[1]
        lam = 0.1 * own.square().sum() / (13 * size) if damping is None else damping
        if lam == 0:
            continue
        eye = lam * torch.eye(size).double()
        inverse = sum(torch.linalg.inv(torch.outer(one, one) + eye) for one in own) / 13
        wanted += q[name] @ inverse @ own.T
    fitted = DataInf(damping=damping).fit(task, TRAIN)
    torch.testing.assert_close(fitted.scores(QUERY, TRAIN), wanted)
    torch.testing.assert_close(fitted.self_influence(TRAIN), fitted.scores(TRAIN, TRAIN).diagonal())


def test_of_one_training_example_it_is_the_inverse() -> None:
    task, one = Task.of(networks.built(networks.Mlp), networks.nll), take(TRAIN, slice(0, 1))
    scores = DataInf(damping=0.2).fit(task, one).scores(QUERY, TRAIN)
    q, g, own = (gradients(task, some) for some in (QUERY, TRAIN, one))
    wanted = sum(
        q[n] @ torch.linalg.solve(own[n].T @ own[n] + 0.2 * torch.eye(g[n].shape[1]), g[n].T)
        for n in g
    )
    torch.testing.assert_close(scores, wanted)


def test_a_regulariser_is_of_candidates_but_not_of_the_fisher_matrix() -> None:
    model = networks.built(networks.Mlp)
    plain = Task.of(model, networks.nll, weight_decay=0.3)
    whole = Task.of(model, networks.nll, weight_decay=0.3, regularised=True)
    method = DataInf(damping=0.5)
    more = method.scores(whole, TRAIN, QUERY) - method.scores(plain, TRAIN, QUERY)
    params = torch.cat([v.flatten() for v in plain.params.values()])
    inverted = method.fit(plain, TRAIN).query_rows(QUERY).dense()
    torch.testing.assert_close(more, (0.3 * inverted @ params)[:, None].expand(4, 13))


def test_a_damping_must_be_positive() -> None:
    with pytest.raises(MethodError, match=r"damping is 0\.0: give a positive number"):
        DataInf(damping=0.0)
    with pytest.raises(MethodError, match="relative_damping is 0: give a positive number"):
        DataInf(relative_damping=0)
    other = Task.of(networks.built(networks.Outside), networks.nll)
    state = DataInf().state(other, TRAIN)
    with pytest.raises(MethodError, match="made for another model"):
        DataInf().fit(Task.of(networks.built(networks.Mlp), networks.nll), TRAIN, state)
