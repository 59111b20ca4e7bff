"""Attention over rows of many lengths on a pretended GPU, by the rules of flash attention."""

import torch


def varlen_attention(gpu, given):
    """[tokens, heads, head width] of the arguments of torch's operations, old and new, as {name: tensor with `inner` numbers}."""
    if not gpu.varlen_runs:
        raise RuntimeError("USE_FLASH_ATTENTION was not enabled for build.")
    if gpu.capability < (8, 0):
        raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.")
    q, k, v = given["query"], given["key"], given["value"]
    ends = [given[n] if n in given else given[n.replace("cu_", "cum_")] for n in ("cu_seq_q", "cu_seq_k")]
    _check(q, k, v, ends)
    starts_q, starts_k = (x.inner.tolist() for x in ends)
    n_q, n_k = ([b - a for a, b in zip(x, x[1:], strict=False)] for x in (starts_q, starts_k))
    if len(n_q) != len(n_k) or starts_q[-1] != len(q) or starts_k[-1] != len(k):
        raise RuntimeError("cu_seqlens: as many rows of queries as of keys, which end at the number of tokens")
    if given["max_q"] != max(n_q) or given["max_k"] != max(n_k) or min(n_k) < 1:
        raise RuntimeError("max_q and max_k are the longest rows, and no row is without keys")
    mixed = torch.empty(q.shape, dtype=q.dtype)
    scale = given.get("scale") or q.shape[-1] ** -0.5
    for i in range(len(n_q)):
        rows = zip((q, k, v), (starts_q, starts_k, starts_k), strict=True)
        a, b, c = (x.inner[s[i] : s[i + 1]].transpose(0, 1).float() for x, s in rows)
        weights = ((a @ b.transpose(1, 2)) * scale).softmax(-1)
        mixed[starts_q[i] : starts_q[i + 1]] = (weights.to(q.dtype).float() @ c).transpose(0, 1).to(q.dtype)
    return mixed


def _check(q, k, v, ends) -> None:
    if q.dtype not in (torch.float16, torch.bfloat16) or len({q.dtype, k.dtype, v.dtype}) > 1:
        raise RuntimeError(f"FlashAttention only support fp16 and bf16 data type, and got {q.dtype}, {k.dtype}, {v.dtype}")
    if any(not hasattr(x, "inner") or x.dtype != torch.int32 or not x.is_contiguous() for x in ends):
        raise RuntimeError("cu_seqlens: contiguous, int32, on the GPU")
    if q.shape[-1] % 8 or q.shape[-1] > 256:
        raise RuntimeError(f"head width {q.shape[-1]}: a multiple of 8, at most 256")
    for x in (q, k, v):
        strides = [s for s, n in zip(x.stride()[:-1], x.shape[:-1], strict=True) if n > 1]
        if x.stride(-1) != 1 or any(s % 8 for s in [*strides, x.storage_offset()]):
            raise RuntimeError(f"rows that do not begin at 16 bytes: strides {x.stride()}, offset {x.storage_offset()}")
