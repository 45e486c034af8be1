"""Steps of training on a CUDA device: side streams, and graphs that replay a step's launches."""

import logging
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from methods.examples import Examples

log = logging.getLogger(__name__)

WARM_UP = 3  # steps with batches of one shape before they are captured
GRAPHS = 4  # shapes of batches, at most: a plan has two, as the last batch of an epoch is smaller


def graphs_on(device: torch.device) -> bool:
    """Whether a type of device replays graphs."""
    return device.type == "cuda"


def streams(count: int, device: torch.device) -> list[Any]:
    """Side streams of a CUDA device; none on another device."""
    if device.type != "cuda":
        return []
    try:
        return [torch.cuda.Stream(device) for _ in range(count)]
    except (RuntimeError, AttributeError) as error:
        log.warning(f"networks wait for each other, as there are no CUDA streams: {_line(error)}")
        return []


class Graphed:
    """`step(batch)`, replayed as a CUDA graph once batches of its shape have come a few times.

    As torch's notes on CUDA graphs have it: some steps on a side stream, which are steps of the
    training too, then a capture with inputs, result, gradients and the optimizer's state at fixed
    places. What a step reads must lie there: it draws nothing on the CPU, and the learning rate is
    a tensor. `release()` drops the gradients, so that the graph allocates its own. If a step cannot
    be captured, a line says so, and steps are launched one by one.
    """

    def __init__(self, step: Callable[[Examples], Tensor], release: Callable[[], None]) -> None:
        self.step, self.release = step, release
        self.seen, self.captured = Counter[Any](), dict[Any, tuple[Any, Examples, Tensor]]()
        self.off = False
        self.side: Any = None
        self.pool: Any = None

    def __call__(self, batch: Examples) -> Tensor:
        """The result of a step; the next call may overwrite it."""
        shape = tuple((name, value.shape, value.dtype) for name, value in batch.items())
        if not self.off and shape not in self.captured and len(self.captured) < GRAPHS:
            self.seen[shape] += 1
            try:
                if self.seen[shape] <= WARM_UP:
                    return self._aside(batch)
                self._capture(shape, batch)
            except _Unable as reason:
                log.warning(f"steps are launched one by one, without a CUDA graph: {reason}")
                self.off = True
                self.release()
        if self.off or shape not in self.captured:
            return self.step(batch)
        graph, inputs, result = self.captured[shape]
        for name, value in batch.items():
            inputs[name].copy_(value)
        graph.replay()
        return result

    def _aside(self, batch: Examples) -> Tensor:
        try:
            self.side = self.side or torch.cuda.Stream()
        except (RuntimeError, AttributeError) as error:
            raise _Unable(_line(error)) from error
        drawn = torch.get_rng_state()
        self.side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.side), warnings.catch_warnings():
            # Adam is made to be captured, and would say that it is not yet.
            warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
            result = self.step(batch)
        torch.cuda.current_stream().wait_stream(self.side)
        if not torch.equal(drawn, torch.get_rng_state()):
            self.off = True
            log.warning("steps are launched one by one, without a CUDA graph: they draw on the CPU")
        return result

    def _capture(self, shape: Any, batch: Examples) -> None:
        inputs = {name: value.clone() for name, value in batch.items()}
        self.release()
        try:
            self.pool = self.pool or torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool):
                result = self.step(inputs)
        except RuntimeError as error:
            raise _Unable(_line(error)) from error
        self.captured[shape] = graph, inputs, result


class _Unable(Exception):
    """A step cannot be captured; the reason in a line."""


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
