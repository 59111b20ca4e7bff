"""Devices by name: `cpu`, `cuda:N` (AMD's too, in torch's build for ROCm), `mps`, `xpu:N`; several with commas, or "auto"."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from rankcell.errors import SettingsError
from rankcell.wording import note, option, shortened

_ALL = "auto, cpu, cuda, cuda:N, mps, xpu"


def choose_device(device: str) -> Any:
    """A torch.device, with its number where there may be several of its kind; "auto" is the first GPU of CUDA, or the processor.

    SettingsError when it is not to be had.
    """
    if device == "auto":
        return torch.device("cuda", 0) if _cuda_devices() else torch.device("cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError, ValueError):
        chosen = None
    if chosen is None or chosen.type not in _DEVICES:
        raise SettingsError(f"unknown device {shortened(device)}; one of {_ALL}{_other_name_hint(str(device))}")
    n_devices = _DEVICES[chosen.type]()
    if (chosen.index or 0) >= n_devices:
        kind = chosen.type.upper()
        raise SettingsError(f"device '{device}' is not there: torch sees {n_devices} {kind} device{'s' * (n_devices != 1)}; pass {option('device', 'cpu')}")
    return torch.device(chosen.type, chosen.index or 0) if chosen.type in ("cuda", "xpu") else torch.device(chosen.type)


def _other_name_hint(device: str) -> str:
    """Hint for a device under a name that torch does not use: how torch calls it, or nothing."""
    if device.upper().startswith(("MIG-", "GPU-")):
        return f" (a GPU by its UUID, or an instance of one, is set by CUDA_VISIBLE_DEVICES={device}, and is cuda:0 then)"
    if device.lower().startswith(("hip", "rocm", "amd")):
        return " (AMD's GPUs are cuda, cuda:N in torch's build for ROCm)"
    return ""


def devices_of(device: str) -> list[str]:
    """The devices that `device` names: several with commas; "auto" is every GPU of the first one's make, or the processor.

    Each is there; a GPU is named once, with its number (`cuda` is `cuda:0`).
    """
    names = [name.strip() for name in str(device).split(",")]
    if not all(names):
        raise SettingsError(f"device '{device}': expected auto, cpu, cuda, cuda:N, or several of these with commas")
    if len(names) > 1 and "auto" in names:
        raise SettingsError(f"device '{device}': auto is all devices already, name it alone")
    if names == ["auto"]:
        return _gpus_of_first_make()
    numbered = [f"{name}:0" if name in ("cuda", "mps", "xpu") else name for name in names]
    twice = next((n for n in numbered if n != "cpu" and numbered.count(n) > 1), None)
    if twice is not None:
        raise SettingsError(f"device '{device}': {twice} is named twice, and a GPU is used by one process")
    return [str(choose_device(name)) for name in names]


def one_device(device: str) -> str:
    """The name of the one device that `device` names, for work that is not shared out; of "auto" the first."""
    names = devices_of(device)
    if len(names) > 1 and device != "auto":
        raise SettingsError(f"device '{device}': this is not shared out over several devices, name one")
    return names[0]


def _gpus_of_first_make() -> list[str]:
    """All GPUs of the first one's make; a note names those that are left out, because their last digits would be others."""
    makes = [torch.cuda.get_device_name(i) for i in range(_cuda_devices())]
    if not makes:
        return ["cpu"]
    others = [f"cuda:{i} ({make})" for i, make in enumerate(makes) if make != makes[0]]
    if others:
        note(f"{option('device', 'auto')} takes all of the make of cuda:0 ({makes[0]}), so that numbers do not depend on which is free: left out are {', '.join(others)}")
    instances = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.startswith("MIG-")]
    if len(instances) > 1:
        note(f"CUDA gives a process one instance of a GPU: of the {len(instances)} in CUDA_VISIBLE_DEVICES {instances[0]} is used")
    return [f"cuda:{i}" for i, make in enumerate(makes) if make == makes[0]]


def _cuda_devices() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _mps_devices() -> int:
    return int(torch.backends.mps.is_available())


def _xpu_devices() -> int:
    return torch.xpu.device_count() if hasattr(torch, "xpu") and torch.xpu.is_available() else 0


_DEVICES: dict[str, Callable[[], int]] = {"cpu": lambda: 1, "cuda": _cuda_devices, "mps": _mps_devices, "xpu": _xpu_devices}


def synchronize(device: Any) -> None:
    """Wait until a device has done all that it was given."""
    backend = getattr(torch, device.type)
    if device.type in ("cuda", "xpu"):
        backend.synchronize(device)
    elif device.type != "cpu":
        backend.synchronize()


def make_current(device: Any) -> None:
    """Have libraries that ask torch for the current GPU take this one."""
    if device.type in ("cuda", "xpu"):
        getattr(torch, device.type).set_device(device)


@contextlib.contextmanager
def restoring_current(device: Any) -> Iterator[None]:
    """Restore the current GPU afterwards; `device`: the one that `make_current` is to take."""
    if device.type not in ("cuda", "xpu"):
        yield
        return
    backend = getattr(torch, device.type)
    before = backend.current_device()
    try:
        yield
    finally:
        backend.set_device(before)


@contextlib.contextmanager
def restoring_generators() -> Iterator[None]:
    """Restore torch's global random generators afterwards: the processor's, and those of all GPUs where the process uses any."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        for kind in ("cuda", "xpu"):
            backend = getattr(torch, kind, None)
            if backend is not None and backend.is_initialized():
                stack.enter_context(torch.random.fork_rng(range(backend.device_count()), device_type=kind))
        if _mps_devices():
            stack.callback(torch.mps.set_rng_state, torch.mps.get_rng_state())
        yield


def full_name(device: Any) -> str:
    """`cuda:N`, also of the current GPU, which libraries call `cuda`."""
    return str(torch.device("cuda", torch.cuda.current_device())) if str(device) == "cuda" else str(device)


def has_idle_processor(device: Any) -> bool:
    """Whether the processor has time to spare while the device computes."""
    return device.type != "cpu"


def has_float64(device: Any) -> bool:
    """Whether a device computes in 64 bits: Apple's GPUs and some of Intel's do not."""
    if device.type == "xpu":
        return bool(getattr(torch.xpu.get_device_properties(device), "has_fp64", True))
    return device.type != "mps"


def wide(x: Any) -> Any:
    """A tensor in 64 bits, on the processor where its device has none."""
    return x.double() if has_float64(x.device) else x.cpu().double()


def warn_of_threads(devices: Sequence[str]) -> None:
    """Each process keeps to the number of threads of the job, so that its numbers are those of one process."""
    n, threads, n_processors = devices.count("cpu"), torch.get_num_threads(), os.cpu_count() or 1
    if n > 1 and n * threads > n_processors:
        note(
            f"{n} processes of {threads} threads each on {n_processors} processors are in each other's way: start with "
            f"OMP_NUM_THREADS={max(1, n_processors // n)} (in a folder of its own: the numbers go with the threads)"
        )
