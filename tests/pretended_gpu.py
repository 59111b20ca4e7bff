"""GPUs that are pretended on a machine without one: tensors that hold a processor's numbers and say `cuda:N`.

What a GPU would refuse is refused: operands on two devices, rows that variable-length attention cannot take. What makes a GPU slow
is counted: kernels, copies either way, and waits of the host for the device. Results are the processor's own, random numbers too
(with `draws_by_call` not these: then, as on a GPU, each call draws numbers of its own, and one large draw is not several small ones).

torch itself takes such a tensor for one of its meta device (which has no kernels, so that nothing passes by the dispatch below), and
only Python sees a CUDA device. Threads that are started meanwhile pretend too; other processes do not.
"""

import collections
import contextlib
import functools
import sys
import threading
import types
from dataclasses import dataclass, field
from typing import NamedTuple
from unittest import mock

import torch
from pretended_varlen import varlen_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map_only
from unordered import is_unordered

# Kernels that operations launch where it is not one
KERNELS = {"native_layer_norm_backward": 2, "topk": 3, "sort": 4, "segment_reduce": 2, "linalg_qr": 20, "nonzero": 3, "_unique2": 6}
NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "detach", "alias", "lift_fresh"}
# Operations whose result has a size, or whose arguments have a check, that the host must know
WAITS = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal", "is_nonzero", "segment_reduce", "bincount"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
VARLEN = {"_varlen_attn", "_flash_attention_forward"}


class Event(NamedTuple):
    """Something that costs time: its name, the bytes that move, and the line of rankcell that asked for it."""

    name: str
    n_bytes: int
    where: str


class Launch(NamedTuple):
    """An operation of torch (without namespace and overload), its kernels, and the shape and type of what it gives."""

    name: str
    kernels: int
    shape: tuple[int, ...]
    dtype: torch.dtype | None


@dataclass
class PretendedGpu:
    """The devices, and what has been seen of them since `reset`."""

    n_devices: int = 2
    kind: str = "cuda"  # or "mps": Apple's, one of them, without numbers of 64 bits
    name: str = "NVIDIA H100 80GB HBM3"
    names: tuple[str, ...] = ()  # where they differ
    capability: tuple[int, int] = (9, 0)
    memory: int = 80 * 2**30
    varlen_runs: bool = True  # whether variable-length attention is there
    draws_by_call: bool = False  # whether random numbers depend on the number of the call
    launches: list[Launch] = field(default_factory=list, repr=False)
    copies_in: list[Event] = field(default_factory=list, repr=False)
    copies_home: list[Event] = field(default_factory=list, repr=False)
    waits: list[Event] = field(default_factory=list, repr=False)
    calls: collections.Counter = field(default_factory=collections.Counter)  # of functions of torch.cuda
    used: collections.Counter = field(default_factory=collections.Counter)  # {number of a device: operations there}
    current: int = 0  # the device that `cuda` is
    generators: dict[int, object] = field(default_factory=lambda: collections.defaultdict(int))  # {number of a device: its generator's state}
    unordered: list[Event] = field(default_factory=list, repr=False)  # what gives other bits each time on a GPU
    allocations: int = 0
    fails_at: int | None = None  # the allocation that fails, counted by `allocations`

    def reset(self) -> None:
        for seen in (self.launches, self.copies_in, self.copies_home, self.waits, self.calls, self.used, self.unordered):
            seen.clear()
        self.allocations = 0

    @property
    def kernels(self) -> int:
        return sum(launch.kernels for launch in self.launches)

    def operations(self) -> collections.Counter:
        """{operation: how often}"""
        return collections.Counter(launch.name for launch in self.launches)

    def name_of(self, device: object = None) -> str:
        return self.names[_index(device)] if self.names else self.name

    @contextlib.contextmanager
    def out_of_memory(self, number: int, error: Exception | None = None):
        """The `number`-th allocation from here on, from 1, fails once."""
        self.fails_at, self.error = (
            self.allocations + number,
            error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        )
        try:
            yield
        finally:
            self.fails_at = None

    def allocate(self) -> None:
        self.allocations += 1
        if self.allocations == self.fails_at:
            raise self.error

    def wait(self, name: str, n_bytes: int = 0) -> None:
        self.waits.append(Event(name, n_bytes, _caller()))


class OnGpu(torch.Tensor):
    """`inner`: the numbers; `device` as it looks from Python."""

    @staticmethod
    def __new__(cls, gpu: PretendedGpu, inner: torch.Tensor, device: torch.device):
        how = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype, "device": torch.device("meta")}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, **how)
        made.gpu, made.inner, made.place = gpu, inner, device
        return made

    device = property(lambda self: self.place)
    is_cuda, is_meta = property(lambda self: self.place.type == "cuda"), property(lambda self: False)
    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types_, args=(), kwargs=None):
        leaves = tree_flatten((args, kwargs))[0]
        return _dispatch(next(x.gpu for x in leaves if isinstance(x, OnGpu)), func, args, kwargs or {}, leaves)

    def __repr__(self):
        return f"OnGpu({tuple(self.shape)}, {self.dtype}, {self.device})"


_Generator = torch.Generator


class PretendedGenerator(_Generator):
    """A generator of random numbers whose device is `place`."""

    def __new__(cls, device="cpu"):
        made = super().__new__(cls)
        made.place, made.first_seed, made.n_calls = torch.device(device), 0, 0
        return made

    def __init__(self, device="cpu"):
        pass

    def manual_seed(self, seed):
        self.first_seed, self.n_calls = seed, 0
        return super().manual_seed(seed)

    def begin_call(self) -> None:
        """Go on with numbers that only the seed and the number of the call decide."""
        self.n_calls += 1
        super().manual_seed((self.first_seed + 0x9E3779B97F4A7C15 * self.n_calls) % 2**63)


def _caller() -> str:
    """The innermost line of rankcell on the stack."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if "/rankcell/" in path and "/site-packages/" not in path and "/tests/" not in path:
            return f"{path.rpartition('/rankcell/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


def _index(device: object) -> int:
    if isinstance(device, int) or device is None:
        return device or 0
    return torch.device(device).index or 0


def _whole(gpu: PretendedGpu, device: object) -> torch.device:
    index = torch.device(device).index
    return torch.device(gpu.kind, gpu.current if index is None else index)


@functools.cache
def _is_view(func) -> bool:
    returns = func._schema.returns
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


def _dispatch(gpu: PretendedGpu, func, args, kwargs, leaves):
    """One operation of torch, on a GPU if an operand is there or its result is to be."""
    tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
    there = [x for x in tensors if isinstance(x, OnGpu)]
    to = kwargs.get("device")
    if not there and (to is None or torch.device(to).type != gpu.kind):
        return func(*args, **kwargs)
    name = func._schema.name.partition("::")[2]
    if name == "_to_copy":
        return _copied(gpu, args[0], kwargs)
    if name == "copy_":
        return _copy_into(gpu, args[0], args[1], non_blocking=bool(kwargs.get("non_blocking") or (args[2:] or [False])[0]))
    if name == "_local_scalar_dense":
        gpu.wait("item")
        return func(args[0].inner)
    devices = {x.device for x in there} | ({_whole(gpu, to)} if to is not None and torch.device(to).type == gpu.kind else set())
    if len(devices) > 1:
        raise RuntimeError(f"Expected all tensors to be on the same device, but found at least two devices, {devices} ({func})")
    (device,) = devices
    _check_operands(gpu, name, args, [x for x in tensors if x.dim() and not isinstance(x, OnGpu)], device)
    if name in VARLEN:
        return _varlen(gpu, func, args, kwargs, device)
    if not _is_view(func):
        gpu.allocate()
    if name in WAITS or (name == "repeat_interleave" and kwargs.get("output_size") is None):
        gpu.wait(name)
    return _run(gpu, func, name, args, kwargs, there, device)


def _check_operands(gpu: PretendedGpu, name, args, elsewhere, device) -> None:
    """Tensors of the processor beside those of a GPU: only as an index, which is then copied and waited for."""
    if name in INDEXING:
        indices = [x for x in args[1] if x is not None]
        if any(x.dtype in (torch.bool, torch.uint8) for x in indices):
            gpu.wait("index by a mask")
        for x in (x for x in elsewhere if any(x is i for i in indices)):
            gpu.copies_in.append(Event("index", x.nbytes, _caller()))
            gpu.wait("index on the processor", x.nbytes)
        elsewhere = [x for x in elsewhere if not any(x is i for i in indices)]
    if elsewhere:
        raise RuntimeError(f"Expected all tensors to be on the same device, but found at least two devices, {device} and cpu! ({name})")


def _run(gpu: PretendedGpu, func, name, args, kwargs, there, device):
    inner_args, inner_kwargs = tree_map_only(OnGpu, lambda x: x.inner, (args, kwargs))
    if inner_kwargs.get("device") is not None:
        inner_kwargs = {**inner_kwargs, "device": torch.device("cpu"), **({"pin_memory": False} if "pin_memory" in inner_kwargs else {})}
    gpu.used[device.index] += 1
    if is_unordered(name, inner_args, inner_kwargs):
        gpu.unordered.append(Event(name, 0, _caller()))
    found = func(*inner_args, **inner_kwargs)
    _count(gpu, func, name, found)
    _check_width(gpu, found)
    known = {id(x.inner): x for x in there}
    if any(x.shape != x.inner.shape or x.stride() != x.inner.stride() for x in there):
        raise NotImplementedError(f"{name} changes the shape of its argument")
    return tree_map_only(torch.Tensor, lambda x: known[id(x)] if id(x) in known else OnGpu(gpu, x, device), found)


def _check_width(gpu: PretendedGpu, found) -> None:
    if gpu.kind == "mps" and any(isinstance(x, torch.Tensor) and x.dtype == torch.float64 for x in tree_flatten(found)[0]):
        raise TypeError(
            "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. Please use float32 instead."
        )


def _count(gpu: PretendedGpu, func, name, found, kernels=None) -> None:
    if name in NO_KERNEL or (func is not None and _is_view(func)):
        return
    first = next((x for x in tree_flatten(found)[0] if isinstance(x, torch.Tensor)), None)
    kernels = KERNELS.get(name, 1) if kernels is None else kernels
    gpu.launches.append(Launch(name, kernels, *((tuple(first.shape), first.dtype) if first is not None else ((), None))))


def _copied(gpu: PretendedGpu, x, kwargs):
    """To another device or another type; what is on the right device already is converted there."""
    to, dtype = kwargs.get("device"), kwargs.get("dtype") or x.dtype
    layout = {"memory_format": kwargs["memory_format"]} if kwargs.get("memory_format") is not None else {}
    inner = x.inner if isinstance(x, OnGpu) else x
    made = torch.ops.aten._to_copy.default(inner, dtype=dtype, **layout)
    if to is None or torch.device(to).type != "cpu":
        _check_width(gpu, made)
    if not isinstance(x, OnGpu):
        _arrives(gpu, x, bool(kwargs.get("non_blocking")))
        gpu.allocate()
        return OnGpu(gpu, made, _whole(gpu, to))
    if to is not None and torch.device(to).type == "cpu":
        _leaves(gpu, x)
        return made
    target = _whole(gpu, to) if to is not None and torch.device(to).type == gpu.kind else x.device
    gpu.allocate()
    _count(gpu, None, "_to_copy" if target == x.device else "copy between devices", made)
    return OnGpu(gpu, made, target)


def _copy_into(gpu: PretendedGpu, to, x, *, non_blocking):
    if isinstance(to, OnGpu):
        if not isinstance(x, OnGpu) and x.dim():
            _arrives(gpu, x, non_blocking)
        to.inner.copy_(x.inner if isinstance(x, OnGpu) else x)
        _count(gpu, None, "copy_", to)
        return to
    _leaves(gpu, x)
    return to.copy_(x.inner)


def _arrives(gpu: PretendedGpu, x, non_blocking) -> None:
    """A copy to a GPU is waited for unless it is of pinned memory and need not be."""
    pinned = bool(getattr(x, "is_pretended_pinned", False))
    gpu.copies_in.append(Event("pinned" if pinned else "pageable", x.nbytes, _caller()))
    if not (pinned and non_blocking):
        gpu.wait("copy to the GPU", x.nbytes)


def _leaves(gpu: PretendedGpu, x) -> None:
    gpu.copies_home.append(Event("home", x.inner.nbytes, _caller()))
    gpu.wait("copy home", x.inner.nbytes)


def _varlen(gpu: PretendedGpu, func, args, kwargs, device):
    given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
    if not all(isinstance(given[name], OnGpu) for name in ("query", "key", "value")):
        raise RuntimeError("variable-length attention: all of its tensors are on the GPU")
    gpu.allocate()
    found = varlen_attention(gpu, given)
    gpu.launches.append(Launch("varlen", 2, tuple(found.shape), found.dtype))
    more = torch.empty((found.shape[1], found.shape[0])), torch.zeros(2, dtype=torch.int64), torch.zeros(0), torch.zeros(0)
    return tuple(OnGpu(gpu, x, device) for x in (found, *more[: len(func._schema.returns) - 1]))


class _Dispatch(TorchDispatchMode):
    def __init__(self, gpu: PretendedGpu):
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func, types_, args=(), kwargs=None):
        return _dispatch(self.gpu, func, args, kwargs or {}, tree_flatten((args, kwargs))[0])


class _Functions(TorchFunctionMode):
    """What never reaches a dispatch on a build of torch for processors, or not as it does on one for GPUs."""

    def __init__(self, gpu: PretendedGpu):
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func, types_, args=(), kwargs=None):
        kwargs = kwargs or {}
        if isinstance(kwargs.get("generator"), _Generator):
            _check_generator(self.gpu, args, kwargs)
        special = _SPECIAL.get(func)
        return func(*args, **kwargs) if special is None else special(self.gpu, func, *args, **kwargs)


def _check_generator(gpu, args, kwargs) -> None:
    """Random numbers are drawn by a generator of the device that they are for."""
    generator = kwargs["generator"]
    x = next((x for x in args if isinstance(x, torch.Tensor)), None)
    device = torch.device(kwargs.get("device") or "cpu") if x is None else x.device
    place = getattr(generator, "place", torch.device("cpu"))
    here, there = (_whole(gpu, d) if d.type == gpu.kind else d for d in (device, place))
    if here != there:
        raise RuntimeError(f"Expected a '{here}' generator device but found '{there}'")
    if here.type == gpu.kind and gpu.draws_by_call:
        generator.begin_call()


def _to(gpu, func, x, *args, **kwargs):
    """`Tensor.to`: `cuda` is `cuda:0`, and what is there already stays."""
    if args and isinstance(args[0], torch.Tensor):
        args = (args[0].device, args[0].dtype, *args[1:])
    device, dtype, non_blocking, layout = torch._C._nn._parse_to(*args, **{k: v for k, v in kwargs.items() if k != "copy"})
    if device is not None and device.type == gpu.kind:
        device = _whole(gpu, device)
    how = {"dtype": dtype, "non_blocking": non_blocking, "copy": kwargs.get("copy", False)}
    how |= {} if layout is None else {"memory_format": layout}
    return func(x, **how) if device is None or device == x.device else func(x, device=device, **how)


def _pin_memory(gpu, func, x, *args):
    if isinstance(x, OnGpu):
        raise RuntimeError(f"cannot pin '{x.type()}' only dense CPU tensors can be pinned")
    made = x.clone()
    made.is_pretended_pinned = True
    return made


def _tensor(gpu, func, *args, device=None, **kwargs):
    made = func(*args, **kwargs)
    return made if device is None else _to(gpu, torch.Tensor.to, made, device)


def _set_item(gpu, func, x, at, value):
    """A number is not made a tensor of the device that torch takes this one to be on."""
    if isinstance(x, OnGpu) and not isinstance(value, torch.Tensor):
        value = torch.tensor(value, dtype=x.dtype)
    return func(x, at, value)


def _whole_function(gpu, func, *args, **kwargs):
    """A function that torch takes apart, or gives numbers as tensors of the device that it takes these to be on; without gradients."""
    operands = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    there = [x for x in operands if isinstance(x, OnGpu)]
    if not there:
        return func(*args, **kwargs)
    if len({x.device for x in operands if x.dim()}) > 1:
        raise RuntimeError(f"Expected all tensors to be on the same device ({func.__name__})")
    gpu.allocate()
    if func is torch.nn.functional.scaled_dot_product_attention and any(x.requires_grad for x in there):
        _note_gradient(gpu, func.__name__)
    args, kwargs = tree_map_only(OnGpu, lambda x: x.inner, (args, kwargs))
    with _disable_current_modes():
        found = func(*args, **kwargs)
    _count(gpu, None, func.__name__, found)
    return OnGpu(gpu, found, there[0].device)


def _note_gradient(gpu, name) -> None:
    """Fused attention sums its gradient in no fixed order, except where torch is told to."""
    if torch.is_grad_enabled() and not torch.are_deterministic_algorithms_enabled():
        gpu.unordered.append(Event(f"{name}_backward", 0, _caller()))


_SPECIAL = {
    torch.Tensor.to: _to,
    torch.Tensor.cuda: lambda gpu, func, x, device=None, **kwargs: _to(
        gpu, torch.Tensor.to, x, torch.device("cuda", gpu.current if device is None else _index(device)), **kwargs
    ),
    torch.Tensor.pin_memory: _pin_memory,
    torch.Tensor.tolist: lambda gpu, func, x: (x.cpu() if isinstance(x, OnGpu) else x).tolist(),
    torch.Tensor.numpy: lambda gpu, func, x, **kwargs: func(x, **kwargs) if not isinstance(x, OnGpu) else _no_numpy(x),
    torch.tensor: _tensor,
    torch.as_tensor: _tensor,
    torch.Tensor.__setitem__: _set_item,
    torch.nn.functional.scaled_dot_product_attention: _whole_function,
    torch.where: _whole_function,
    torch.Tensor.where: _whole_function,
}


def _no_numpy(x):
    raise TypeError(f"can't convert {x.device} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first.")


@contextlib.contextmanager
def _modes(gpu: PretendedGpu):
    with _Functions(gpu), _Dispatch(gpu):
        yield


@contextlib.contextmanager
def pretended(**facts):
    """Pretend GPUs in this process (facts: the first fields of PretendedGpu); gives the PretendedGpu that sees what happens."""
    gpu = PretendedGpu(**facts)
    run = threading.Thread.run

    def run_pretending(thread):
        with _modes(gpu):
            run(thread)

    def counted(name, value=None):
        return lambda *args, **kwargs: gpu.calls.update([name]) or value

    properties = types.SimpleNamespace(
        total_memory=gpu.memory, name=gpu.name, major=gpu.capability[0], minor=gpu.capability[1], multi_processor_count=132
    )
    patches = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: gpu.n_devices,
        "current_device": lambda: gpu.current,
        "set_device": lambda device: setattr(gpu, "current", _index(device)),
        "init": lambda: None,
        "is_initialized": lambda: True,
        "get_rng_state": lambda device="cuda": gpu.generators[_index(device)],
        "set_rng_state": lambda state, device="cuda": gpu.generators.update({_index(device): state}),
        "manual_seed_all": lambda seed: None,
        "manual_seed": lambda seed: None,
        "get_device_name": gpu.name_of,
        "get_device_capability": lambda device=None: gpu.capability,
        "get_device_properties": lambda device=None: properties,
        "mem_get_info": lambda device=None: (gpu.memory, gpu.memory),
        "empty_cache": counted("empty_cache"),
        "synchronize": counted("synchronize"),
        "is_bf16_supported": lambda *args, **kwargs: gpu.capability >= (8, 0),
    }
    with contextlib.ExitStack() as stack:
        if gpu.kind == "mps":
            stack.enter_context(mock.patch.object(torch.backends.mps, "is_available", lambda: True))
        else:
            for name, value in patches.items():
                stack.enter_context(mock.patch.object(torch.cuda, name, value))
        # a view of a tensor that was made outside cannot be made inside inference mode; the numbers are the same without gradients
        stack.enter_context(
            mock.patch.object(torch, "inference_mode", lambda mode=True: torch.no_grad() if mode else contextlib.nullcontext())
        )
        stack.enter_context(mock.patch.object(torch, "Generator", PretendedGenerator))
        stack.enter_context(mock.patch.object(threading.Thread, "run", run_pretending))
        stack.enter_context(_modes(gpu))
        yield gpu
