"""Steps as CUDA graphs: a graph recorded on the CPU, which replays operations on the same memory.

It has the two properties by which a capture goes wrong unnoticed: what is captured does not run,
and a replay takes numbers of Python, and memory, as they were when it was captured.
"""

import contextlib
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from experiments.training import graphs, loop, stacked
from experiments.training.graphs import WARM_UP, Graphed
from experiments.training.loop import fit, flat_params
from experiments.training.plans import Adam, Cosine, Fit, cross_entropy
from experiments.training.stacked import Apart, Stack, fit_stack
from methods.ensembles.masks import draw_masks
from tests.experiments.training.test_stacked import SEEDS, cnn, mlp, normalised
from tests.experiments.training.test_training import TRAIN, same

MASKS = draw_masks(3, 130, 91, seed=0)
PLAN = Cosine(epochs=3, batch_size=20, lr=0.05, weight_decay=1e-3)  # another rate in every step


class Recorded(TorchDispatchMode):
    """Stands for torch.cuda.CUDAGraph: the operations of a capture, on the memory they had."""

    made = 0

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.before, self.own = [], {}, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        for tensor in given:
            place = tensor.untyped_storage()._cdata
            if place not in self.own and place not in self.before:
                self.before[place] = tensor.untyped_storage(), tensor.untyped_storage().clone()
        result = function(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        places = {tensor.untyped_storage()._cdata for tensor in given}
        self.own |= {tensor.untyped_storage()._cdata for tensor in made} - places
        self.calls.append((function, args, kwargs, made))
        return result

    def capture_end(self) -> None:
        """What was captured did not run: memory from before it is as it was."""
        for storage, content in self.before.values():
            storage.copy_(content)

    def replay(self) -> None:
        type(self).made += 1
        with torch._C._AutoDispatchBelowAutograd():
            self._again()

    def _again(self) -> None:
        for function, args, kwargs, made in self.calls:
            found = function(*args, **kwargs)
            leaves = [leaf for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)]
            for old, new in zip(made, leaves, strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@contextlib.contextmanager
def capturing(graph, pool=None):
    try:
        with graph:
            yield
    finally:
        graph.capture_end()


class Stream:
    """Stands for torch.cuda.Stream."""

    def __init__(self, *_):
        pass

    def wait_stream(self, _):
        pass


@pytest.fixture
def recorded(monkeypatch):
    """torch.cuda with graphs that are recorded, for networks that are on the CPU."""
    for name, stand_in in {
        "CUDAGraph": Recorded,
        "graph": capturing,
        "graph_pool_handle": lambda: "a pool",
        "Stream": Stream,
        "stream": lambda _: contextlib.nullcontext(),
        "current_stream": lambda *_: Stream(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(stacked, "graphs_on", lambda device: True)
    monkeypatch.setattr(Recorded, "made", 0)
    return Recorded


def trained(network, kind, plan, folder, loss=cross_entropy, seen=None):
    networks = kind([network(seed) for seed in SEEDS])
    folder.mkdir(exist_ok=True)
    return fit_stack(networks, loss, TRAIN, MASKS, plan, SEEDS, folder, seen)


@pytest.mark.parametrize(
    ("network", "kind"), [(mlp, Stack), (mlp, Apart), (cnn, Apart), (normalised, Apart)]
)
@pytest.mark.parametrize("plan", [PLAN, replace(PLAN, lr=0.01, adam=Adam()), Fit(3, 20, 0.05, 0.0)])
def test_replayed_steps_are_the_steps_themselves(
    network, kind, plan, recorded, tmp_path, monkeypatch
):
    found = trained(network, kind, plan, tmp_path)
    # 15 steps of two shapes: 12 with 20 examples, 3 with 11, which are all warm-up.
    assert recorded.made == 12 - WARM_UP
    monkeypatch.undo()
    expected = trained(network, kind, plan, tmp_path / "plain")
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_a_graph_has_the_precision_of_the_plan(precision, recorded, tmp_path, monkeypatch):
    plan = replace(PLAN, precision=precision, channels_last=True)
    found = trained(cnn, Apart, plan, tmp_path)
    assert recorded.made
    monkeypatch.undo()
    expected = trained(cnn, Apart, plan, tmp_path / "plain")
    np.testing.assert_allclose(found["params"], expected["params"], rtol=1e-5, atol=1e-7)


def test_moved_images_are_those_of_each_step(recorded, tmp_path, monkeypatch):
    def seen(batch):
        return {**batch, "image": batch["image"] + 0.1 * torch.rand(batch["image"].shape)}

    found = trained(mlp, Apart, PLAN, tmp_path, seen=seen)
    assert recorded.made
    monkeypatch.undo()
    expected = trained(mlp, Apart, PLAN, tmp_path / "plain", seen=seen)
    np.testing.assert_allclose(found["params"], expected["params"], rtol=1e-5, atol=1e-7)
    assert not same(expected, trained(mlp, Apart, PLAN, tmp_path / "still"))


def test_a_loss_that_draws_on_the_cpu_is_not_captured(recorded, tmp_path, caplog, monkeypatch):
    def loss(module, batch):
        return cross_entropy(module, {**batch, "image": batch["image"] * torch.rand(1)})

    with caplog.at_level(logging.WARNING):
        found = trained(mlp, Apart, PLAN, tmp_path, loss)
    assert recorded.made == 0
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == "steps are launched one by one, without a CUDA graph: they draw on the CPU"
    monkeypatch.undo()
    assert same(found, trained(mlp, Apart, PLAN, tmp_path / "plain", loss))


@pytest.mark.parametrize("broken", ["Stream", "graph_pool_handle", "CUDAGraph", "graph"])
def test_where_a_capture_fails_one_line_says_so_and_training_goes_on(
    broken, recorded, tmp_path, caplog, monkeypatch
):
    def failing(*_, **__):
        raise RuntimeError("operation not permitted when stream is capturing\nmore about it")

    monkeypatch.setattr(torch.cuda, broken, failing)
    with caplog.at_level(logging.WARNING):
        found = trained(mlp, Apart, PLAN, tmp_path)
    assert recorded.made == 0
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == (
        "steps are launched one by one, without a CUDA graph: "
        "operation not permitted when stream is capturing"
    )
    monkeypatch.undo()
    expected = trained(mlp, Apart, PLAN, tmp_path / "plain")["params"]
    np.testing.assert_allclose(found["params"], expected, rtol=1e-5, atol=1e-7)


def test_a_network_with_any_loss_of_a_user_is_not_captured(recorded, tmp_path):
    fit(mlp(0), cross_entropy, TRAIN, PLAN, 0, tmp_path)
    assert recorded.made == 0


def test_only_a_few_shapes_are_captured(recorded):
    taken = []

    def step(batch):
        taken.append(len(batch["x"]))
        return batch["x"] * 2

    graphed = Graphed(step, lambda: None)
    for turn in range(WARM_UP + 3):
        for size in range(1, graphs.GRAPHS + 3):
            batch = {"x": torch.full((size,), float(turn))}
            assert graphed(batch).tolist() == [2.0 * turn] * size
    assert len(graphed.captured) == graphs.GRAPHS
    assert taken.count(1) == WARM_UP + 1  # and once to capture
    assert taken.count(graphs.GRAPHS + 2) == WARM_UP + 3


def test_a_killed_training_that_was_replayed_resumes(recorded, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_SECONDS", -1.0)
    expected = trained(cnn, Apart, PLAN, tmp_path)
    torn, left = tmp_path / "torn", iter(range(8))

    def seen(batch):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return batch

    with pytest.raises(KeyboardInterrupt):
        trained(cnn, Apart, PLAN, torn, seen=seen)
    made = recorded.made
    found = trained(cnn, Apart, PLAN, torn)
    assert recorded.made > made
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-7)
    assert flat_params(cnn(0)).shape == found["params"].shape[2:]
