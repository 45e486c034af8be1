"""A pretend GPU, for machines without one: the rules of a GPU over the values of the CPU.

    python -m tests.pretend_device experiments.NAME --preset smoke    # report all mistakes

Every tensor stays an ordinary CPU tensor. Whether it is "on cuda:0" is a property of its storage,
noted here, so that views, in-place operations, autograd, vmap, grad and jvp work unchanged and give
the CPU's own numbers. Within `PretendGpu`:

* torch.cuda has one device; `.to`, `.cuda()`, `device=` and `map_location` place tensors on it, and
  `.device` says so; autocast for it is the CPU's
* an error, as on a GPU: operands on two devices, a GPU index into a CPU tensor, a generator of the
  other device, numpy's view of a GPU tensor, integer matrix products, a second GPU
* synchronisations and launches are counted by line of this repository
* with `tf32`, float32 products and convolutions are rounded as torch's settings then allow

It has no kernels, streams, graphs, races or speed of its own, no memory but a size, and it ends at
the thread and the process.
"""

from __future__ import annotations

import runpy
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

ROOT = Path(__file__).resolve().parents[1]
GPU, CPU = torch.device("cuda", 0), torch.device("cpu")

aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default, aten.clone.default}
READS = {  # the host waits for what these return
    aten._local_scalar_dense.default, aten.equal.default, aten.allclose.default,
    aten.nonzero.default, aten.masked_select.default, aten.bincount.default,
    aten._unique2.default, aten.unique_dim.default, aten.unique_consecutive.default,
    aten.repeat_interleave.Tensor, aten._linalg_eigh.default,
}  # fmt: skip
INDEXED = {
    aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_put.default, aten.index_put_.default,
    aten._index_put_impl_.default,
}  # fmt: skip
PRODUCTS = {aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default}
CONVOLUTIONS = {aten.convolution.default, aten.convolution_backward.default}
JOINS = {aten.cat.default, aten.stack.default}
NO_KERNEL = {  # launch nothing, though they are not views
    aten._unsafe_view.default, aten.lift_fresh.default, aten.empty.memory_format,
    aten.empty_like.default, aten.new_empty.default, aten.empty_strided.default,
    aten.new_empty_strided.default, aten._local_scalar_dense.default,
}  # fmt: skip


class PretendGpu:
    """One GPU, while its block lasts; `strict=False` lists mistakes instead of raising them.

    syncs, launches  counters by "file:line" of this repository's innermost frame
    free             bytes that `torch.cuda.mem_get_info` calls free
    """

    name = "Pretend GPU"

    def __init__(self, strict: bool = True, tf32: bool = False) -> None:
        self.strict, self.tf32, self.free, self.total = strict, tf32, 70 << 30, 80 << 30
        self.syncs, self.launches, self.mistakes = Counter[str](), Counter[str](), Counter[str]()
        self._there: dict[int, StorageWeakRef] = {}  # storages on the GPU
        self._generators: set[int] = set()  # those on the GPU
        self._inside = False  # a function of GPU tensors runs: what it makes lies there too
        self._replays = False  # a recorded trace, which forgets where its constants lie
        self._counts = True
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        patch = self._stack.enter_context(pytest.MonkeyPatch.context())
        _patch_torch(patch, self)
        self._stack.enter_context(_Operations(self))
        self._stack.enter_context(_Functions(self))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()
        self._there.clear()

    @contextmanager
    def counting(self) -> Iterator[SimpleNamespace]:
        """The `syncs` and `launches` of a block alone, as counters."""
        before, counts = (self.syncs.copy(), self.launches.copy()), SimpleNamespace()
        yield counts
        counts.syncs, counts.launches = self.syncs - before[0], self.launches - before[1]

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor lies on the GPU, also one that functorch has wrapped."""
        storage = _storage(tensor)
        found = None if storage is None else self._there.get(storage._cdata)
        return found is not None and not found.expired()

    def place(self, tensor: Tensor, device: Any, copy: bool = False) -> Tensor:
        """The tensor on a device: itself if it is there and no copy is asked for."""
        there = self.checked(device)
        if there == self.holds(tensor) and not copy:
            return tensor
        if not there and self.holds(tensor):
            self._note(self.syncs)
        with self._uncounted():
            out = torch.clone(tensor)
        self._mark(_storage(out), there)
        return out

    def checked(self, device: Any) -> bool:
        """Whether a device is the GPU; an error if it is another one."""
        device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
        if device.type == "cuda" and (device.index or 0) > 0:
            self._mistake(f"CUDA error: invalid device ordinal ({device})")
        return device.type == "cuda"

    def report(self, top: int = 15) -> str:
        """All mistakes, and the lines that wait and launch most."""
        lines = [f"{count:9} x {what}" for what, count in self.mistakes.items()]
        lines = [f"{len(lines)} mistakes", *lines]
        for name, counter in (("synchronisations", self.syncs), ("launches", self.launches)):
            lines.append(f"{counter.total()} {name}")
            lines += [f"{count:9} x {site}" for site, count in counter.most_common(top)]
        return "\n".join(lines)

    def _mark(self, storage: Any, there: bool) -> None:
        if storage is None:
            return
        if not there:
            self._there.pop(storage._cdata, None)
        elif storage._cdata not in self._there:
            self._there[storage._cdata] = StorageWeakRef(storage)
            if len(self._there) % 10_000 == 0:
                self._there = {k: ref for k, ref in self._there.items() if not ref.expired()}

    def _note(self, counter: Counter[str]) -> None:
        if self._counts:
            counter[_site()] += 1

    @contextmanager
    def _uncounted(self) -> Iterator[None]:
        before, self._counts = self._counts, False
        try:
            yield
        finally:
            self._counts = before

    def _mistake(self, what: str) -> None:
        if self.strict:
            raise RuntimeError(what)
        self.mistakes[f"{_site()} {what}"] += 1

    def _operation(self, op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Check, count and compute one operation; note where its results lie."""
        tensors = [*_tensors(args), *_tensors(kwargs.values())]
        on = [self.holds(x) for x in tensors]
        there = any(on) or (not tensors and self._inside)
        if kwargs.get("device") is not None:
            meant = torch.device(kwargs["device"])
            there = self.checked(meant) or (there and meant.type == "cpu" and self._inside)
            kwargs["device"] = meant if meant.type == "meta" else CPU
        kwargs = kwargs | {"pin_memory": False} if kwargs.get("pin_memory") else kwargs
        if there or any(on):
            self._check(op, args, kwargs, tensors, on)
            self._count(op, args, on)
            if self.tf32:
                args = _rounded(op, args)
        out = op(*args, **kwargs)
        known = {s._cdata for x in tensors if (s := _storage(x)) is not None}
        for made in _tensors((out,)):
            if (s := _storage(made)) is not None and s._cdata not in known:
                self._mark(s, there)
        return out

    def _check(
        self, op: Any, args: Any, kwargs: dict[str, Any], tensors: list[Tensor], on: list[bool]
    ) -> None:
        generator = kwargs.get("generator")
        if generator is not None and generator._cdata not in self._generators:
            self._mistake(f"Expected a 'cuda' device type for generator but found 'cpu': {op}")
        if op in COPIES or self._replays:
            return
        if op in PRODUCTS and not (tensors[0].is_floating_point() or tensors[0].is_complex()):
            self._mistake(f"{op} is not implemented on CUDA for {tensors[0].dtype}")
        if op.namespace == "mkldnn":
            self._mistake(f"no kernel on CUDA for {op}")
        if op in INDEXED:
            values = args[2:3]
            indices = [x for x in args[1] if x is not None]
            if not self.holds(args[0]) and any(self.holds(x) for x in indices):
                self._mistake(
                    "indices should be either on cpu or on the same device as the indexed tensor "
                    f"(cpu): {op}"
                )
            tensors = [args[0], *values]
            on = [self.holds(x) for x in tensors]
        # A single number on the CPU goes with a GPU tensor, unless it is to be changed in place.
        changed = op._schema.is_mutable
        cpu = [
            x
            for i, (x, there) in enumerate(zip(tensors, on, strict=True))
            if not there
            and (x.ndim or op in JOINS or (changed and i == 0))
            and x.numel()  # a normalisation keeps an empty reserve
        ]
        if any(on) and cpu:
            where = zip(("cuda" if there else "cpu" for there in on), tensors, strict=True)
            shapes = [f"{place} {tuple(x.shape)}" for place, x in where]
            self._mistake(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"cuda:0 and cpu: {op} of {', '.join(shapes[:6])}"
            )

    def _count(self, op: Any, args: Any, on: list[bool]) -> None:
        masked = op in INDEXED and any(
            x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1]
        )
        back = op is aten.copy_.default and not on[0]
        if op in READS or masked or back:
            self._note(self.syncs)
        if not (op.is_view or op in NO_KERNEL):
            self._note(self.launches)


class _Operations(TorchDispatchMode):
    def __init__(self, gpu: PretendGpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.gpu._operation(op, args, dict(kwargs or {}))


class _Functions(TorchFunctionMode):
    """Notes which functions have GPU tensors: what is made inside of them lies there as well."""

    def __init__(self, gpu: PretendGpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        gpu, kwargs = self.gpu, kwargs or {}
        replays = isinstance(function, torch._ops.OpOverload)
        if kwargs.get("device") is not None and not replays:
            return function(*args, **kwargs)
        name = getattr(function, "__name__", "")
        if name == "__get__":  # of an attribute
            return function(*args, **kwargs)
        before = gpu._inside, gpu._replays
        some = (*args, *kwargs.values())
        gpu._inside = gpu._inside or any(gpu.holds(x) for x in _tensors(some))
        gpu._replays = gpu._replays or replays
        # The CPU's one_hot looks at its input even if the number of classes is given.
        checks = name == "one_hot" and len(some) > 1
        try:
            with gpu._uncounted() if checks else nullcontext():
                return function(*args, **kwargs)
        finally:
            gpu._inside, gpu._replays = before


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among some values, and within lists and dicts of them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
        elif isinstance(value, dict):
            yield from _tensors(value.values())


def _storage(tensor: Tensor) -> Any:
    """The storage under functorch's wrappers; None for a tensor without one, or without memory."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    try:
        storage = tensor.untyped_storage()
    except (RuntimeError, NotImplementedError):
        return None
    return None if storage.device.type == "meta" else storage


def _rounded(op: Any, args: Any) -> Any:
    """The operands as cuBLAS and cuDNN would round them under torch's settings."""
    backends = torch.backends
    setting = backends.cuda.matmul if op in PRODUCTS else backends.cudnn.conv
    if op not in PRODUCTS | CONVOLUTIONS or setting.fp32_precision != "tf32":
        return args

    def tf32(x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            return x
        return ((x.detach().clone().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)

    return tree_map_only(Tensor, tf32, args)


_names: dict[str, str | None] = {}


def _site() -> str:
    """The innermost line of this repository that is now being executed."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path not in _names:
            inside = path.startswith(f"{ROOT}/") and "/.venv/" not in path and path != __file__
            _names[path] = path.removeprefix(f"{ROOT}/") if inside else None
        if name := _names[path]:
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


def _patch_torch(patch: pytest.MonkeyPatch, gpu: PretendGpu) -> None:
    # `with torch.device(...)` keeps the functions that it finds at its first use: torch's own.
    _device_constructors()
    _patch_tensors(patch, gpu)
    _patch_storages(patch, gpu)
    _patch_cuda(patch, gpu)


def _patch_tensors(patch: pytest.MonkeyPatch, gpu: PretendGpu) -> None:
    def plain(name: str) -> Callable[..., Any]:
        method = getattr(Tensor, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            with torch._C.DisableTorchFunction():  # which would look up the patched method
                return method(*args, **kwargs)

        return call

    real = {name: plain(name) for name in ("to", "numpy", "__array__", "tolist")}
    where = torch._C.TensorBase.device.__get__  # type: ignore[attr-defined]

    def to(self: Tensor, *args: Any, copy: bool = False, **kwargs: Any) -> Tensor:
        if args and isinstance(args[0], Tensor):
            args = (args[0].device, args[0].dtype, *args[1:])
        device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
        out = self
        if dtype is not None or layout is not None:
            options = {} if layout is None else {"memory_format": layout}
            out = real["to"](self, dtype=dtype or self.dtype, **options)
        device = self.device if device is None else device
        if torch.device(device).type == "meta":
            return real["to"](out, device)
        return gpu.place(out, device, copy and out is self)

    def on_host(name: str) -> Callable[..., Any]:
        def call(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            if gpu.holds(self):
                message = "can't convert cuda:0 device type tensor to numpy: use Tensor.cpu() first"
                if gpu.strict:
                    raise TypeError(message)
                gpu._mistake(message)
            return real[name](self, *args, **kwargs)

        return call

    def tolist(self: Tensor) -> Any:
        if gpu.holds(self):
            gpu._note(gpu.syncs)
        return real["tolist"](self)

    def made(name: str) -> Callable[..., Tensor]:
        make = getattr(torch, name)

        def call(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
            for number in _tensors(data) if isinstance(data, list | tuple) else ():
                if gpu.holds(number):
                    gpu._note(gpu.syncs)
            out = make(data, *args, **kwargs)
            if device is None:
                device = data.device if isinstance(data, Tensor) else CPU
            return gpu.place(out, device)

        return call

    def new_tensor(self: Tensor, data: Any, dtype: Any = None, device: Any = None, **rest: Any):
        return torch.tensor(data, dtype=dtype or self.dtype, device=device or self.device, **rest)

    def placed(self: Tensor) -> torch.device:
        return GPU if gpu.holds(self) else where(self)

    for name in ("tensor", "as_tensor", "asarray"):
        patch.setattr(torch, name, made(name))
    for name, value in {
        "to": to,
        "cuda": lambda self, device=GPU, *args, **kwargs: to(
            self, GPU if device is None else device
        ),
        "cpu": lambda self, *args, **kwargs: to(self, CPU),
        "type_as": lambda self, other: to(self, other),
        "new_tensor": new_tensor,
        "numpy": on_host("numpy"),
        "__array__": on_host("__array__"),
        "tolist": tolist,
        "pin_memory": lambda self, device=None: self,
        "device": property(placed),
        "is_cuda": property(gpu.holds),
        "is_cpu": property(lambda self: placed(self).type == "cpu"),
        "get_device": lambda self: 0 if gpu.holds(self) else -1,
    }.items():
        patch.setattr(Tensor, name, value, raising=False)


def _patch_storages(patch: pytest.MonkeyPatch, gpu: PretendGpu) -> None:
    """Saved tensors remember where they were, and copies of modules stay there."""
    copied = torch.storage._StorageBase.__deepcopy__

    def held(storage: Any) -> bool:
        found = gpu._there.get(storage._cdata)
        return found is not None and not found.expired()

    def deepcopy(self: Any, memo: Any) -> Any:
        new = copied(self, memo)
        gpu._mark(new, held(self))
        return new

    def restore(storage: Any, location: str) -> Any:
        if not location.startswith("cuda"):
            return None
        gpu._mark(storage, gpu.checked(location))
        return storage

    patch.setattr(torch.storage._StorageBase, "__deepcopy__", deepcopy)
    package = (0, lambda storage: "cuda:0" if held(storage) else None, restore)
    others = torch.serialization._package_registry
    patch.setattr(torch.serialization, "_package_registry", [package, *others])


def _patch_cuda(patch: pytest.MonkeyPatch, gpu: PretendGpu) -> None:
    class Generator(torch.Generator):
        """A generator that draws as the CPU's does, wherever it is."""

        def __new__(cls, device: Any = "cpu") -> Any:
            made = super().__new__(cls)
            known = gpu._generators
            (known.add if gpu.checked(device) else known.discard)(made._cdata)
            return made

        @property
        def device(self) -> torch.device:  # type: ignore[override]
            return GPU if self._cdata in gpu._generators else CPU

    class Moment:
        """An event or a stream: everything before it is done."""

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...
        def elapsed_time(self, other: Any) -> float:
            return 0.0

        def query(self) -> bool:
            return True

        def _nothing(self, *args: Any) -> None: ...

        record = wait = synchronize = wait_stream = wait_event = record_event = _nothing

    properties = SimpleNamespace(
        name=gpu.name, major=9, minor=0, total_memory=gpu.total, multi_processor_count=132
    )
    answers: dict[str, Any] = {
        "is_available": True, "is_initialized": True, "device_count": 1, "current_device": 0,
        "get_device_name": gpu.name, "get_device_capability": (9, 0), "memory_reserved": 0,
        "memory_allocated": 0, "max_memory_allocated": 0, "max_memory_reserved": 0,
        "memory_stats": {}, "get_per_process_memory_fraction": 1.0, "is_bf16_supported": True,
        "is_current_stream_capturing": False,
        "init": None, "set_device": None, "empty_cache": None, "reset_peak_memory_stats": None,
        "manual_seed": None, "manual_seed_all": None, "set_rng_state": None,
        "_exchange_device": 0, "_maybe_exchange_device": 0, "get_device_properties": properties,
        "current_stream": Moment(), "default_stream": Moment(), "get_arch_list": ["sm_90"],
    }  # fmt: skip
    if not torch.cuda.is_available():
        answers["_lazy_init"] = None
    for name, answer in answers.items():
        patch.setattr(torch.cuda, name, lambda *a, _answer=answer, **k: _answer, raising=False)
    patch.setattr(torch.cuda, "mem_get_info", lambda device=None: (gpu.free, gpu.total))
    patch.setattr(torch.cuda, "synchronize", lambda device=None: gpu._note(gpu.syncs))
    patch.setattr(torch.cuda, "get_rng_state", lambda device=None: torch.get_rng_state())
    patch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    for name in ("Stream", "Event"):
        patch.setattr(torch.cuda, name, Moment)
    patch.setattr(torch, "Generator", Generator)
    for name, value in {
        "is_available": True,
        "device_count": 1,
        "current_accelerator": GPU,
    }.items():
        patch.setattr(torch.accelerator, name, lambda *a, _value=value, **k: _value)
    start = torch.autocast.__init__

    def autocast(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        start(self, "cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    patch.setattr(torch.autocast, "__init__", autocast)
    # Graph capture, which there is none of, is asked about at every step.
    patch.setattr(torch.optim.Optimizer, "_accelerator_graph_capture_health_check", lambda _: None)


def main(arguments: list[str]) -> int:
    """Run a module as a program on the pretend GPU, and report its mistakes."""
    code: Any = 0
    with PretendGpu(strict=False) as gpu:
        sys.argv = arguments
        try:
            runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code
        print(gpu.report(), file=sys.stderr)
    return int(bool(code or gpu.mistakes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
