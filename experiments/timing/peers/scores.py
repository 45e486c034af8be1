"""Self-influence and scores of TracIn, of all layers or the last, beside other libraries."""

import tempfile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.laboratory.device import device
from experiments.models.mnist_cnn import LargeCNN
from experiments.timing.peers.beside import Beside, Call, Way, pairs
from experiments.timing.work import examples
from experiments.training.plans import cross_entropy
from methods.examples import Examples, chunks
from methods.fitted.embedded import Bilinear, Embedded
from methods.rows.maps import Directions
from methods.task import Task
from methods.tracin import TracIn

CHUNK = 64  # examples at a time, of theirs: the fastest of 16 to 256 for most
DIRECTIONS = 100
LAST = "9"  # the last layer's name in LargeCNN


def self_influence(n: int = 256) -> Beside:
    """TracIn's self-influence, all layers, one checkpoint."""
    module, batch = network(), examples(n)
    fitted = TracIn(learning_rates=False).fit(Task.of(module, cross_entropy), batch)
    return Beside(
        "self-influence, all layers",
        "example",
        n,
        lambda: fitted.self_influence(batch),
        {
            "opacus": Way("ghost norms of fast gradient clipping", lambda: _ghost_norms(batch)),
            "captum": Way(
                "TracInCP, sample_wise_grads_per_batch",
                lambda: tracin(module, batch).self_influence,
            ),
            "backpack-for-pytorch": Way("BatchGrad", lambda: _batch_grad(batch)),
            "dattri": Way("TracInAttributor without projection", lambda: _dattri_self(batch)),
        },
    )


def scores(n: int = 1_000, queries: int = 100) -> Beside:
    """TracIn's scores of candidates for queries, all layers, one checkpoint."""
    module, batch, query = network(), examples(n), examples(queries, 1)
    fitted = TracIn(learning_rates=False).fit(Task.of(module, cross_entropy), batch)
    asked = (query["image"], query["label"])

    def captum() -> Call:
        method = tracin(module, batch)
        return lambda: method.influence(asked, k=None)

    return Beside(
        f"scores of {n:,} x {queries}, all layers",
        "candidate",
        n,
        lambda: fitted.scores(query, batch),
        {
            "kronfluence": Way(
                f"identity factors, all queries at once, {CHUNK} candidates",
                lambda: _kronfluence(batch, query),
            ),
            "captum": Way("TracInCP, sample_wise_grads_per_batch", captum),
            "dattri": Way(
                f"TracInAttributor without projection, {CHUNK} candidates",
                lambda: _dattri_scores(batch, query),
            ),
        },
    )


def last_layer(n: int = 6_000, queries: int = 100) -> Beside:
    """The same of the last layer's weights: captum leaves its bias out."""
    module, batch, query = network(), examples(n), examples(queries, 1)
    task = Task.of(module, cross_entropy, only=[f"{LAST}.weight"])
    fitted = TracIn(learning_rates=False).fit(task, batch)

    def captum() -> Call:
        from captum.influence import TracInCPFast

        method = TracInCPFast(
            module,
            module.get_submodule(LAST),
            pairs(batch),
            checkpoints=["now"],
            checkpoints_load_func=lambda model, path: 1.0,
            loss_fn=nn.CrossEntropyLoss(reduction="sum"),
            batch_size=500,
        )
        return lambda: method.influence((query["image"], query["label"]), k=None)

    return Beside(
        f"scores of {n:,} x {queries}, last layer",
        "candidate",
        n,
        lambda: fitted.scores(query, batch),
        {"captum": Way("TracInCPFast, 500 candidates at a time", captum)},
    )


def directions(n: int = 128, queries: int = 16) -> Beside:
    """Scores through an Arnoldi basis: the directions are drawn here, eigenvalues are one."""
    module, batch, query = network(), examples(n), examples(queries, 1)
    task = Task.of(module, cross_entropy)
    draw = torch.Generator().manual_seed(3)
    matrix = torch.randn(DIRECTIONS, task.size, generator=draw).to(task.device)
    basis = Directions(matrix, task)
    fitted = Embedded(task, Bilinear(basis, basis))

    def pydvl() -> Call:
        from pydvl.influence.torch.base import TorchBatch, TorchGradientProvider
        from pydvl.influence.torch.functional import LowRankProductRepresentation
        from pydvl.influence.torch.operator import LowRankOperator

        known = LowRankProductRepresentation(torch.ones(DIRECTIONS), matrix.T.contiguous())
        form = LowRankOperator(known, exact=False).as_bilinear_form()
        gradients = TorchGradientProvider(module, F.cross_entropy, dict(module.named_parameters()))
        asked, *some = (
            TorchBatch(one["image"], one["label"]) for one in (query, *chunks(batch, CHUNK))
        )
        return lambda: torch.cat([form.grads_inner_prod(asked, one, gradients) for one in some], 1)

    return Beside(
        f"scores through {DIRECTIONS} directions",
        "example",
        n + queries,
        lambda: fitted.scores(query, batch),
        {"pyDVL": Way(f"LowRankOperator, {CHUNK} candidates at a time", pydvl)},
    )


def network() -> nn.Module:
    """The MNIST CNN of 820k parameters, on the device."""
    module: nn.Module = LargeCNN().build(0).to(device())
    return module


def _contiguous() -> nn.Module:
    """The same with its weights in the layout that wrappers of layers ask for."""
    return network().to(memory_format=torch.contiguous_format)


def tracin(module: nn.Module, batch: Examples) -> Any:
    """TracIn of captum at one checkpoint, the gradients of a batch's examples at once."""
    from captum.influence import TracInCP

    return TracInCP(
        module,
        pairs(batch),
        checkpoints=["now"],
        checkpoints_load_func=lambda model, path: 1.0,
        loss_fn=nn.CrossEntropyLoss(reduction="sum"),
        batch_size=CHUNK,
        sample_wise_grads_per_batch=True,
    )


def _ghost_norms(batch: Examples) -> Call:
    from opacus.grad_sample import GradSampleModuleFastGradientClipping

    wrapped = GradSampleModuleFastGradientClipping(
        _contiguous().train(), max_grad_norm=1.0, use_ghost_clipping=True, loss_reduction="sum"
    )

    def norms() -> Tensor:
        out = []
        for some in chunks(batch, CHUNK):
            wrapped.zero_grad()
            F.cross_entropy(wrapped(some["image"]), some["label"], reduction="sum").backward()
            out.append(wrapped.get_norm_sample().square())
        return torch.cat(out)

    return norms


def _batch_grad(batch: Examples) -> Call:
    from backpack import backpack, extend
    from backpack.extensions import BatchGrad

    extended = extend(_contiguous())
    criterion = extend(nn.CrossEntropyLoss(reduction="sum"))

    def norms() -> Tensor:
        out = []
        for some in chunks(batch, CHUNK):
            extended.zero_grad()
            with backpack(BatchGrad()):
                criterion(extended(some["image"]), some["label"]).backward()
            grads: list[Any] = [p.grad_batch.flatten(1) for p in extended.parameters()]
            out.append(torch.stack([g.square().sum(1) for g in grads]).sum(0))
        return torch.cat(out)

    return norms


def _dattri() -> Any:
    """TracIn of dattri at one checkpoint; its own default projects to 512 dimensions."""
    from dattri.algorithm.tracin import TracInAttributor
    from dattri.task import AttributionTask

    module = _contiguous()

    def loss(params: Any, data: Any) -> Tensor:
        image, label = data
        outputs = torch.func.functional_call(module, params, image[None])
        return F.cross_entropy(outputs, label[None])

    task = AttributionTask(loss, module, dict(module.named_parameters()))
    method = TracInAttributor(task, torch.ones(1), normalized_grad=False)
    method.projector_kwargs = None
    return method


def _loader(batch: Examples, size: int) -> Any:
    return torch.utils.data.DataLoader(pairs(batch), size)


def _dattri_self(batch: Examples) -> Call:
    method, loader = _dattri(), _loader(batch, CHUNK)
    return lambda: method.self_attribute(loader)


def _dattri_scores(batch: Examples, query: Examples) -> Call:
    method = _dattri()
    both = _loader(batch, CHUNK), _loader(query, len(query["label"]))
    return lambda: method.attribute(*both).T


def _kronfluence(batch: Examples, query: Examples) -> Call:
    """Pairwise scores without a preconditioner; its results go through files in a folder."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task as Measured

    class Loss(Measured):
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

    task, folder = Loss(), tempfile.TemporaryDirectory()
    analyzer = Analyzer(
        "peers",
        prepare_model(_contiguous(), task),
        task,
        cpu=device().type == "cpu",
        output_dir=folder.name,
        disable_tqdm=True,
        disable_model_save=True,
    )
    analyzer.fit_all_factors("none", pairs(batch), CHUNK, factor_args=FactorArguments("identity"))

    def scores() -> Tensor:
        folder.name  # noqa: B018  # kept for as long as this is called
        analyzer.compute_pairwise_scores(
            "scores",
            "none",
            pairs(query),
            pairs(batch),
            per_device_query_batch_size=len(query["label"]),
            per_device_train_batch_size=CHUNK,
            score_args=ScoreArguments(),
            overwrite_output_dir=True,
        )
        found: Tensor = analyzer.load_pairwise_scores("scores")["all_modules"]
        return found

    return scores
