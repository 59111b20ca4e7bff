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


def matmul_rates(*, tokens: int, length: int, width: int, heads: int, intermediate: int, dtype: Any, repeats: int = 5) -> dict[str, float]:
    """Floating-point operations a second of the matrix products of one block on this processor, all threads, nothing else done.

    `tokens` go through the linear layers at once; attention's two products are of every head of a row of `length` tokens, in
    pieces of as many queries as rankcell takes at once, so that their results stay in the caches.
    "torch": as torch multiplies by itself; "best": each product by torch or by oneDNN, whichever is faster.
    """
    import torch

    from rankcell.model.blocks import has_onednn, queries_at_once

    step = queries_at_once(length, dtype.itemsize)
    onednn = torch.ops.mkldnn._linear_pointwise if has_onednn(torch.device("cpu"), dtype) else None
    x, wide = torch.randn(tokens, width, dtype=dtype), torch.randn(tokens, intermediate, dtype=dtype)
    q, k, v = (torch.randn(heads, length, width // heads, dtype=dtype) for _ in range(3))
    scores, v_t = (q @ k.transpose(1, 2)), v.transpose(1, 2).contiguous()

    def linear(a: Any, n: int) -> tuple[Callable[[], Any], Callable[[], Any], float]:
        w = torch.randn(n, a.shape[1], dtype=dtype)
        return lambda: torch.nn.functional.linear(a, w), lambda: onednn(a, w, None, "none", [], ""), 2.0 * a.numel() * n / tokens

    def by_head(a: Any, b: Any, product: Callable[[Any, Any], Any]) -> Callable[[], Any]:
        def run() -> None:
            for h in range(heads):
                for i in range(0, length, step):
                    product(a[h, i : i + step], b[h])

        return run

    def other(a: Any, b: Any) -> Any:
        return onednn(a, b, None, "none", [], "")

    products = [linear(x, 3 * width), linear(x, width), linear(x, intermediate), linear(wide, width)]
    each = 2.0 * length * width
    products += [(by_head(a, b, lambda x, y: x @ y.T), by_head(a, b, other), each) for a, b in ((q, k), (scores, v_t))]
    with torch.inference_mode():
        work = [f for own, second, _ in products for f in ([own, second] if onednn is not None else [own, own])]
        seconds = best_of(repeats + 1, *work)
    flops = [n * (tokens if i < 4 else length) for i, (_, _, n) in enumerate(products)]
    per_token = [n for _, _, n in products]
    slow = sum(n * t / f for n, f, t in zip(per_token, flops, seconds[::2], strict=True))
    fast = sum(n * min(t) / f for n, f, t in zip(per_token, flops, zip(seconds[::2], seconds[1::2], strict=True), strict=True))
    return {"torch": sum(per_token) / slow, "best": sum(per_token) / fast}


def made_up_counts(n_cells: int, n_genes: int, *, detected: int = 1900, seed: int = 0) -> Any:
    """A sparse float32 count matrix: `detected` genes a cell, most counts 1. For timing only; it means nothing."""
    import scipy.sparse as sp

    rng = np.random.default_rng(seed)
    indices = np.concatenate([np.sort(rng.choice(n_genes, detected, replace=False)) for _ in range(n_cells)]).astype(np.int32)
    data = (1 + rng.geometric(0.6, len(indices)) // 2).astype(np.float32)
    return sp.csr_matrix((data, indices, np.arange(n_cells + 1) * detected), shape=(n_cells, n_genes))
