"""How exactly float32 is multiplied: in full, or with TensorFloat-32, whatever is set globally.

On a GPU torch may read 11 of the 24 bits of operands; of convolutions it does so unless told not
to. Per-example gradients are then off by 1e-3, and the proof that a layer's factored rows are its
gradients fails. Attribution is in full: classes that compute derive from `FullPrecision`, functions
that do so by themselves are decorated.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from threading import Lock
from typing import Any, Literal

import torch

Products = Literal["ieee", "tf32"]
AUTOCAST = ("cuda", "cpu", "mps")

_lock = Lock()
_blocks = 0  # of full precision that are open, in all threads: torch's settings are the process's
_restore: Callable[[], None]


@contextmanager
def products(kind: Products) -> Iterator[None]:
    """Multiply float32 so within the block, or the function it decorates; then as before.

    `ieee` keeps all 24 bits; `tf32` lets matrix products and convolutions read 11 of them, which is
    faster on a GPU.
    """
    restore = _set(kind)
    try:
        yield
    finally:
        restore()


@contextmanager
def full_precision() -> Iterator[None]:
    """The same with all 24 bits and without autocast; blocks may overlap in several threads.

    torch's settings are put back when the last such block of any thread ends.
    """
    global _blocks, _restore
    with _lock:
        if _blocks == 0:
            _restore = _set("ieee")
        _blocks += 1
    try:
        with ExitStack() as stack:
            for device in AUTOCAST:  # which is a setting of the thread
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:
        with _lock:
            _blocks -= 1
            if _blocks == 0:
                _restore()


def _set(kind: Products) -> Callable[[], None]:
    """Set every precision, and return what undoes it.

    Torch has older settings of the same, and refuses to read them where they contradict: both are
    set.
    """
    backends: Any = torch.backends
    around = [backends, backends.cudnn]  # followed by each place without a precision of its own
    places = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    places += [backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]
    followed = []
    for place in around:
        followed.append(place.fp32_precision)
        place.fp32_precision = "none"
    own = [place.fp32_precision for place in places]
    matmul, cudnn = _older()
    torch.set_float32_matmul_precision("highest" if kind == "ieee" else "high")
    backends.cudnn.allow_tf32 = kind == "tf32"
    for place in places:
        place.fp32_precision = kind

    def restore() -> None:
        torch.set_float32_matmul_precision(matmul)
        backends.cudnn.allow_tf32 = cudnn
        for place, value in zip([*places, *around], [*own, *followed], strict=True):
            place.fp32_precision = value

    return restore


def _older() -> tuple[str, bool]:
    """The older settings, of matrix products and cuDNN: read where the newer ones agree."""
    backends: Any = torch.backends
    cuda, mkldnn, cudnn = backends.cuda, backends.mkldnn, backends.cudnn
    matmul, convolutions = "highest", False
    for first, second in (("ieee", "ieee"), ("tf32", "tf32"), ("tf32", "bf16")):
        cuda.matmul.fp32_precision, mkldnn.matmul.fp32_precision = first, second
        with suppress(RuntimeError):
            matmul = torch.get_float32_matmul_precision()
    cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = "tf32"
    with suppress(RuntimeError):
        convolutions = bool(cudnn.allow_tf32)
    return matmul, convolutions


class FullPrecision:
    """A class whose public methods compute in full precision, those of subclasses included.

    Generators are left alone: their caller's code runs between their steps.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, method in list(vars(cls).items()):
            public = not name.startswith("_") or name in ("__init__", "__matmul__")
            if public and inspect.isfunction(method) and not inspect.isgeneratorfunction(method):
                setattr(cls, name, _in_full(method))


def _in_full(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        with full_precision():
            return method(*args, **kwargs)

    return call
