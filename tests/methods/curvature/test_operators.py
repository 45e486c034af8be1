"""Every operator is the matrix it says, on every network of the project."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jvp, vmap

from experiments import models
from experiments.dbpedia import cross_entropy as word_loss
from experiments.housing import squared_error
from experiments.mnist_mislabel import keep_units
from experiments.models.housing_mlp import HousingMLP
from experiments.models.inception_v3 import InceptionV3
from experiments.models.mnist_cnn import DigitsCNN
from experiments.models.own_classifiers import CNN, MLP, Linear
from experiments.models.resnet import ResNet
from experiments.models.resnet18 import ResNet18, SmallImageResNet18
from experiments.models.text_classifier import TextClassifier
from experiments.models.transformer import Transformer, TranslationLoss
from experiments.models.vit import ViT
from experiments.models.wmt_transformer import WmtTransformer, sentence_loss
from methods.curvature import products
from methods.curvature.exact_hessian import LIMIT, KnownHessian, exact_hessian
from methods.curvature.operators import GaussNewton, Hessian
from methods.errors import MethodError
from methods.examples import Examples
from methods.task import Task
from tests.methods import networks

SENTENCES = ("source", "target")
OPERATORS = {
    "Hessian": Hessian,
    "GaussNewton": GaussNewton,
    "Linearized": lambda *args: Hessian(*args).linearized(),
}


# Trained, never differentiated twice, and too large for it here.
TRAINED_ONLY = (InceptionV3, ResNet18, SmallImageResNet18)


def architectures() -> Iterator[Any]:
    """Frozen dataclasses with `build` in experiments/models, but for TRAINED_ONLY."""
    for info in pkgutil.iter_modules(models.__path__, models.__name__ + "."):
        for _, kind in inspect.getmembers(importlib.import_module(info.name), inspect.isclass):
            own = kind.__module__ == info.name and is_dataclass(kind) and hasattr(kind, "build")
            if own and kind not in TRAINED_ONLY:
                yield kind


def task_of(config: Any) -> tuple[Task, Examples]:
    """A network of the project with a batch it takes."""
    if isinstance(config, HousingMLP):
        regression = {"input": networks.normal(3, 8), "target": networks.normal(3, seed=1)}
        model = config.build(8, seed=0).double()
        return Task.of(model, squared_error, weight_decay=0.02), regression
    if isinstance(config, TextClassifier):
        text = {"words": networks.integers(6, 3, 4), "label": networks.integers(5, 3, seed=1)}
        model = config.build(torch.linspace(1, 2, 6), 5, seed=0).double()
        return Task.of(model, word_loss, weight_decay=0.02), text
    if isinstance(config, WmtTransformer):
        model = config.build(seed=0).double()
        words = {name: networks.integers(6, 3, 4, seed=i) for i, name in enumerate(SENTENCES)}
        return Task.of(model, sentence_loss, weight_decay=0.02), words
    if isinstance(config, Transformer):
        model = config.build(8, seed=0).double()
        words = {"source": networks.integers(6, 3, 4) + 1}
        words["target"] = networks.integers(6, 3, 5, seed=1) + 1  # no padding among them
        return Task.of(model, TranslationLoss(), weight_decay=0.02), words
    if isinstance(config, Linear | MLP | CNN):  # of any shape
        model = config.build((1, 8, 8), 10, seed=0).double()
        return Task.of(model, networks.nll, weight_decay=0.02), networks.examples(3, 1, 8, 8)
    if not hasattr(config, "image_shape"):
        pytest.fail(f"say here what batch {type(config).__name__} takes")
    model = config.build(seed=0).double()  # its own scale: wild weights saturate the softmax
    return Task.of(model, networks.nll, weight_decay=0.02), networks.examples(
        3, *config.image_shape, classes=10
    )


SMALLER: dict[str, Callable[[], Any]] = {  # whose Hessian can be written out
    "ResNet": lambda: ResNet(depth=8, width=4),
    "HousingMLP": lambda: HousingMLP(hidden=(16, 16)),
    "TextClassifier": lambda: TextClassifier(width=8),
    "ViT": lambda: ViT(2, 8, 2, 4, 8, channels=1),
    "CNN": lambda: CNN((3, 4)),
    "MLP": lambda: MLP((6,)),
    "Transformer": lambda: Transformer(8, 2, 1, 8, longest=8),
    "WmtTransformer": lambda: WmtTransformer(1, 8, 8, 2, 6),
}
CASES: dict[str, Callable[[], tuple[Task, Examples]]] = {
    kind.__name__: lambda kind=kind: task_of(SMALLER.get(kind.__name__, kind)())
    for kind in architectures()
}
CASES["a LayerNorm transformer block"] = lambda: (
    Task.of(networks.built(networks.Block), networks.nll, weight_decay=0.02),
    networks.sentences(3),
)
CASES["torch's encoder layer, in part"] = lambda: (
    Task.of(networks.built(networks.Encoder), networks.nll, only=["layer.*"], weight_decay=0.02),
    networks.sentences(3),
)


def split_network(whole: bool) -> tuple[Task, Examples]:
    """A network with its widest layer in two, and of it all or the part experiments take."""
    module, names = keep_units(DigitsCNN().build(seed=0).double(), 4, seed=1)
    task = Task.of(module, networks.nll, only=() if whole else names, weight_decay=0.02)
    return task, networks.examples(3, *DigitsCNN.image_shape, classes=10)


CASES["a layer in two"] = lambda: split_network(whole=True)
CASES["a layer in two, in part"] = lambda: split_network(whole=False)


SLOW = ("SmallInception", "Transformer", "WmtTransformer")  # others have the same layers


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=pytest.mark.long if n in SLOW else ()) for n in CASES],
    ids=[name.replace(" ", "-") for name in CASES],
)
def case(request: pytest.FixtureRequest) -> tuple[Task, Examples]:
    return CASES[request.param]()


def directions(task: Task, n: int) -> Tensor:
    """Random unit vectors, (n, p)."""
    return F.normalize(networks.normal(n, task.size, seed=3), dim=1)


def differences(function: Callable[[dict], Tensor], task: Task, v: Tensor, step: float) -> Tensor:
    """The central difference of a function of the parameters along v."""
    ahead, behind = (
        function({n: p + s * v for (n, p), v in zip(task.params.items(), vs, strict=True)})
        for s in (step, -step)
        for vs in [task.unflatten(v).values()]
    )
    return (ahead - behind) / (2 * step)


def gradient_at(task: Task, batch: Examples) -> Callable[[dict], Tensor]:
    def gradient(params: dict) -> Tensor:
        params = {n: p.detach().requires_grad_() for n, p in params.items()}
        loss = task.function(task.loss)(params, batch).mean()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(params.values()))])

    return gradient


def outputs_at(task: Task, batch: Examples) -> Callable[[dict], Tensor]:
    model, frozen = task.loss.model, task.frozen or {}  # type: ignore[attr-defined]
    asked: list[Any] = []  # what the loss calls its model with

    def noted(*arguments: Any) -> Any:
        asked.append(arguments)
        return model(*arguments)

    task.loss.user_loss(noted, batch)  # type: ignore[attr-defined]
    return lambda params: functional_call(model, {**frozen, **params}, asked[0])


def expected_product(name: str, task: Task, batch: Examples, v: Tensor) -> Tensor:
    """The operator times v, from first derivatives by autograd and central differences."""
    shift = 0.12 * v
    if name != "GaussNewton":
        return differences(gradient_at(task, batch), task, v, 1e-5) + shift
    outputs = outputs_at(task, batch)
    slope = differences(outputs, task, v, 1e-5)
    params = {n: p.detach().requires_grad_() for n, p in task.params.items()}
    z = outputs(params)

    def criterion_gradient(at: Tensor) -> Tensor:
        at = at.detach().requires_grad_()
        loss = task.loss.user_loss(lambda *_: at, batch)  # type: ignore[attr-defined]
        return torch.autograd.grad(loss.mean(), at)[0]

    curved = (criterion_gradient(z + 1e-4 * slope) - criterion_gradient(z - 1e-4 * slope)) / 2e-4
    return (
        torch.cat([g.flatten() for g in torch.autograd.grad(z, list(params.values()), curved)])
        + shift
    )


@pytest.mark.parametrize("name", OPERATORS)
def test_products_are_symmetric_and_equal_finite_differences(
    name: str, case: tuple[Task, Examples]
) -> None:
    task, batch = case
    operator = OPERATORS[name](task, batch, 0.1)
    vectors = directions(task, 2)
    products = operator.apply(vectors)
    u, v = vectors
    torch.testing.assert_close(u @ products[1], v @ products[0], rtol=1e-9, atol=1e-12)
    again = operator @ u
    torch.testing.assert_close(again, products[0], rtol=1e-9, atol=1e-12)
    expected = expected_product(name, task, batch, v)
    assert (products[1] - expected).norm() <= 1e-6 * expected.norm()
    # The multiple of the identity alone must not pass for the whole.
    assert (products[1] - 0.12 * v).norm() > 1e-3 * products[1].norm()


WRITTEN_OUT = [name for name in CASES if CASES[name]()[0].size <= LIMIT]
SLOW_WHOLE = (*SLOW, "ResNet", "StridedCNN", "BenchmarkMLP")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long if name in SLOW_WHOLE else ())
        for name in WRITTEN_OUT
    ],
)
def test_the_exact_hessian_equals_products(name: str) -> None:
    task, batch = CASES[name]()
    matrix = exact_hessian(task, batch)
    assert torch.equal(matrix, matrix.T)
    index = torch.randperm(task.size, generator=torch.Generator().manual_seed(0))[:20]
    rows = torch.eye(task.size, dtype=task.dtype)[index]
    products = Hessian(task, batch).apply(rows) - task.weight_decay * rows
    torch.testing.assert_close(matrix[index], products, rtol=1e-9, atol=1e-11)


def test_the_exact_hessian_is_the_matrix_of_all_products(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task.of(networks.built(networks.Twice), networks.nll)
    batch = networks.examples(40, 6)
    monkeypatch.setattr(products, "CHUNK", 7)
    expected = Hessian(task, batch).dense(block=9)
    torch.testing.assert_close(exact_hessian(task, batch), expected, rtol=1e-9, atol=1e-12)
    known = KnownHessian(task, batch, expected, damping=0.1)
    v = directions(task, 2)
    torch.testing.assert_close(known.apply(v), Hessian(task, batch, damping=0.1).apply(v))
    whole = Hessian(task.only(["middle.*"]), batch).dense()
    torch.testing.assert_close(exact_hessian(task.only(["middle.*"]), batch), whole)


def test_an_exact_hessian_too_large_says_what_to_use() -> None:
    task = Task.of(nn.Linear(30_000, 1).eval(), networks.nll)
    with pytest.raises(MethodError, match=r"4 GB: use Arnoldi"):
        exact_hessian(task, {})


def test_gauss_newton_is_the_product_of_jacobians_and_positive() -> None:
    task = Task.of(networks.built(networks.Twice), networks.nll)
    batch = networks.examples(6, 6)
    matrix = GaussNewton(task, batch).dense()
    z = outputs_at(task, batch)(task.params)
    flat = task.flatten(task.params)
    jacobian = torch.autograd.functional.jacobian(
        lambda values: outputs_at(task, batch)(task.unflatten(values)), flat
    ).flatten(0, 1)
    p = z.softmax(1)
    curvature = torch.block_diag(*(torch.diag_embed(p) - p[:, :, None] * p[:, None]))
    expected = jacobian.T @ (curvature / len(z)) @ jacobian
    torch.testing.assert_close(matrix, expected, rtol=1e-9, atol=1e-12)
    assert torch.linalg.eigvalsh(matrix).min() > -1e-12
    assert torch.linalg.eigvalsh(Hessian(task, batch).dense()).min() < -1e-6


def test_gauss_newton_refuses_a_model_called_twice() -> None:
    def twice(model: Any, batch: Examples) -> Tensor:
        return networks.nll(model, batch) + networks.nll(model, batch)

    task = Task.of(networks.built(networks.Mlp), twice)
    with pytest.raises(MethodError, match="2 times"):
        GaussNewton(task, networks.examples(3, 6)).apply(torch.ones(1, task.size).double())


def test_other_forms_are_silently_wrong_through_layer_norm() -> None:
    model = networks.built(lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5)))
    task, batch = Task.of(model, networks.nll), networks.examples(6, 4, classes=5)
    v = directions(task, 1)[0]
    expected = differences(gradient_at(task, batch), task, v, 1e-5)
    ours = Hessian(task, batch)
    assert (ours @ v - expected).norm() < 1e-7 * expected.norm()
    torch.testing.assert_close(exact_hessian(task, batch), ours.dense())

    def mean_loss(flat: Tensor) -> Tensor:
        return task.loss(task.unflatten(flat), batch).mean()

    def rows(flat: Tensor) -> Tensor:
        def one(flat: Tensor, x: Tensor, y: Tensor) -> Tensor:
            return task.loss(task.unflatten(flat), {"x": x[None], "y": y[None]})[0]

        return vmap(grad(one), (None, 0, 0))(flat, batch["x"], batch["y"]).mean(0)

    flat = task.flatten(task.params)
    theirs = {
        "torch.func.hessian": hessian(mean_loss)(flat) @ v,
        "jvp(vmap(grad))": jvp(rows, (flat,), (v,))[1],
    }
    if torch.__version__ < "2.16":  # seen up to here; a release that mends it is no failure
        for form, product in theirs.items():
            assert (product - expected).norm() > 0.05 * expected.norm(), form


@pytest.mark.parametrize("kind", [F.mse_loss, F.huber_loss, F.cross_entropy])
def test_what_forward_mode_cannot_do_or_does_otherwise_is_linearised_all_the_same(kind):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Embedding(5, 3, padding_idx=0), nn.Flatten(), nn.Linear(6, 2))
    network.double().eval()

    def loss(model, batch):
        outputs = model(batch["words"])
        return kind(outputs, batch["target"], reduction="none").reshape(len(outputs), -1).sum(1)

    target = torch.tensor([[0.2, 0.8], [1.0, 0.0]], dtype=torch.float64)
    examples = {"words": torch.tensor([[1, 0], [2, 3]]), "target": target}
    task = Task.of(network, loss)
    hessian = Hessian(task, examples)
    exact = hessian.dense()
    torch.testing.assert_close(exact, exact.T)
    assert not exact[:3].any(), "the padding row is no parameter"
    assert exact.any()
    torch.testing.assert_close(hessian.linearized().dense(), exact)
    torch.testing.assert_close(exact_hessian(task, examples), exact)
    torch.testing.assert_close(hessian.linearized().dense(), exact)
