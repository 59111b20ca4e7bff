"""The same command on the same GPU gives the same weights: torch's deterministic algorithms, for as long as a training lasts."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

from rankcell.wording import note

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
_CUBLAS_SETTINGS = (":4096:8", ":16:8")  # with which cuBLAS is deterministic (NVIDIA's manual, "Results Reproducibility")


@contextlib.contextmanager
def deterministic(device: Any) -> Iterator[None]:
    """Have torch take deterministic algorithms on an NVIDIA GPU, where the gradient of attention is summed in no fixed order otherwise;
    on other devices nothing changes. What was set before stands again afterwards.

    torch looks at cuBLAS's setting once, at the first matrix product of a process. Where that came before, without the setting, a note
    says so and the training is an ordinary one.
    """
    if device.type != "cuda" or torch.version.hip:
        yield
        return
    fill = torch.utils.deterministic
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        fill.fill_uninitialized_memory,
    )
    try:
        with _cublas_setting():
            torch.use_deterministic_algorithms(True)
            fill.fill_uninitialized_memory = False  # nothing reads memory that it has not written
            if not _multiplies(device):
                torch.use_deterministic_algorithms(False)
                note(
                    f"this training cannot be repeated to the byte: the process used the GPU before without {CUBLAS}; set it to {_CUBLAS_SETTINGS[0]} at the start"
                )
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        fill.fill_uninitialized_memory = before[2]


@contextlib.contextmanager
def _cublas_setting() -> Iterator[None]:
    """A setting with which cuBLAS is deterministic: the caller's where it is one."""
    before = os.environ.get(CUBLAS)
    if before not in _CUBLAS_SETTINGS:
        os.environ[CUBLAS] = _CUBLAS_SETTINGS[0]
    try:
        yield
    finally:
        if before is None:
            del os.environ[CUBLAS]
        else:
            os.environ[CUBLAS] = before


def _multiplies(device: Any) -> bool:
    """Whether torch takes cuBLAS for deterministic in this process."""
    square = torch.ones(2, 2, device=device)
    try:
        torch.mm(square, square)
    except RuntimeError as e:
        if CUBLAS not in str(e):  # torch has no other sign of it than the variable's name in the text
            raise
        return False
    return True
