"""Precisions: what matrix products are computed in, which of them a device is fast in, and torch's switches for them."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from rankcell.errors import SettingsError
from rankcell.model.blocks import has_onednn
from rankcell.wording import option, shortened

PRECISIONS = ("auto", "fp32", "tf32", "bf16", "fp16")
_WIDE_ENOUGH = 192  # narrower models gain nothing from a lower precision


def require_precision(precision: str) -> None:
    """SettingsError when it is none of PRECISIONS."""
    if precision not in PRECISIONS:
        raise SettingsError(f"unknown precision {shortened(precision)}; one of {', '.join(PRECISIONS)}")


def precision_on(precision: str, device: Any) -> str:
    """`precision` as a device computes it, "auto" as fp32; SettingsError where the device does not have it."""
    require_precision(precision)
    if precision == "tf32" and not _has_tf32(device):
        raise SettingsError(
            f"{option('precision', 'tf32')}: device '{device}' does not have it (CUDA devices since Ampere do); choose {option('precision', 'fp32')}"
        )
    return "fp32" if precision == "auto" else precision


def dtype_of(precision: str) -> Any:
    """The torch.dtype of weights in a precision."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)


def faster_precisions(device: Any, width: int) -> list[str]:
    """What is faster than fp32 for a model of this width on a device; of equal speed the more exact first.

    fp16 rounds to 11 bits, bf16 to 8, tf32 to 11 at half the speed of both; fp16 overflows beyond 65,504.
    """
    if width < _WIDE_ENOUGH:
        return []
    if device.type == "cuda":
        major = torch.cuda.get_device_capability(device)[0]
        if torch.version.hip:
            return ["fp16", "bf16"]
        return ["fp16", "bf16", "tf32"] if major >= 8 else ["fp16"] if major >= 7 else []
    return ["bf16"] if _has_fast_bf16(device) else []


def _has_tf32(device: Any) -> bool:
    return device.type == "cuda" and not torch.version.hip and torch.cuda.get_device_capability(device)[0] >= 8


def _has_fast_bf16(device: Any) -> bool:
    """Of a processor: AVX-512 BF16 or AMX."""
    if device.type != "cpu" or not has_onednn(device, torch.bfloat16):
        return False
    return any(getattr(torch.cpu, name, lambda: False)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))


@contextlib.contextmanager
def pinned(precision: str) -> Iterator[None]:
    """Have torch compute products as a precision says, whatever else the program has set: float32 ones in tf32 or exactly, half ones
    with float32 sums. What was set before stands again afterwards."""
    before = [(owner, name, getattr(owner, name)) for owner, name in _switches()]
    overall = _overall()
    try:
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        for owner, name, _ in before:
            if name.startswith("allow_"):
                setattr(owner, name, False)
        yield
    finally:
        if overall is not None:
            torch.set_float32_matmul_precision(overall)
        for owner, name, value in before:
            setattr(owner, name, value)


def _switches() -> list[tuple[Any, str]]:
    """(owner, name) of torch's switches for products, as far as this torch has them."""
    cuda, cpu = torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)
    names = ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction", "allow_fp16_accumulation")
    owned = [(cuda, name) for name in names] + [(cuda, "fp32_precision"), (cpu, "fp32_precision")]
    return [(owner, name) for owner, name in owned if hasattr(owner, name)]


def _overall() -> str | None:
    """torch's one setting for float32 products; None where somebody has set them one by one, which it then refuses to tell."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None
