"""What the benchmarks share: the machine in words, best-of timing, the matrix-multiply rate, and made-up counts."""

import os
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def machine() -> str:
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as f:
            model = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), model)
    except OSError:
        pass
    return f"{model}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"


def best_of(n: int, *work: Callable[[], Any], before: Callable[[], Any] = lambda: None) -> list[float]:
    """The shortest of `n` runs of each piece of work, in turn, so that a slow moment of the machine hits all alike.

    `before` is called before each run and not timed.
    """
    best = [float("inf")] * len(work)
    for _ in range(n):
        for i, run in enumerate(work):
            before()
            start = time.perf_counter()
            run()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def forward_flops(*, tokens: int, length: int, layers: int, width: int, intermediate: int) -> float:
    """Floating-point operations of `layers` BERT blocks over `tokens` tokens in rows of `length`: matrix products alone."""
    per_token = 2 * (4 * width * width + 2 * width * intermediate) + 2 * 2 * length * width
    return float(tokens) * layers * per_token


def matmul_rate(*, rows: int, width: int, intermediate: int, repeats: int = 5) -> float:
    """Floating-point operations a second that this machine reaches on the matrix sizes of a block (fp32, all threads)."""
    import torch

    x = torch.randn(rows, width)
    shapes = [(width, width)] * 4 + [(width, intermediate)]
    weights = [torch.randn(a, b) for a, b in shapes]
    back = torch.randn(intermediate, width)
    wide = torch.randn(rows, intermediate)

    def once() -> None:
        for w in weights:
            x @ w
        wide @ back

    once()
    (seconds,) = best_of(repeats, once)
    return 2 * rows * (4 * width * width + 2 * width * intermediate) / seconds


def made_up_counts(n_cells: int, n_genes: int, *, detected: int = 1900, seed: int = 0) -> Any:
    """A sparse float32 count matrix: `detected` genes a cell, most counts 1. For timing only; it means nothing."""
    import scipy.sparse as sp

    rng = np.random.default_rng(seed)
    indices = np.concatenate([np.sort(rng.choice(n_genes, detected, replace=False)) for _ in range(n_cells)]).astype(np.int32)
    data = (1 + rng.geometric(0.6, len(indices)) // 2).astype(np.float32)
    return sp.csr_matrix((data, indices, np.arange(n_cells + 1) * detected), shape=(n_cells, n_genes))
