"""Operations that give other bits each time on a GPU."""

import torch
from torch.utils._pytree import tree_flatten

# Of torch.use_deterministic_algorithms: what has no fixed order of sums, or of writes, on CUDA by default. Sums of floating numbers,
# writes to repeated places; backward passes that have none are those of operations below, and of others that nothing here uses.
UNORDERED_SUMS = {
    *(
        "cumsum",
        "cumprod",
        "bincount",
        "histc",
        "index_add",
        "index_add_",
        "scatter_add",
        "scatter_add_",
        "scatter_reduce",
        "scatter_reduce_",
    ),
    *(
        "put_",
        "kthvalue",
        "embedding_dense_backward",
        "_embedding_bag",
        "index_copy",
        "index_copy_",
        "gather_backward",
        "nll_loss2d_forward",
    ),
    *("upsample_bilinear2d_backward", "grid_sampler_2d_backward", "_ctc_loss", "max_unpool2d", "median.dim", "bmm_sparse"),
}
# Those that torch runs in a fixed order under torch.use_deterministic_algorithms
DETERMINISTIC_BY_SETTING = {
    *("index_add", "index_add_", "scatter_add", "scatter_add_", "index_copy", "index_copy_", "gather_backward", "bmm_sparse"),
    *("embedding_dense_backward", "index_put", "index_put_", "_index_put_impl_", "scatter", "scatter_"),
}


def is_unordered(name, args, kwargs) -> bool:
    """Whether a GPU may give other bits, or other numbers, each time that it runs this."""
    if torch.are_deterministic_algorithms_enabled() and name in DETERMINISTIC_BY_SETTING:
        return False
    floating = any(isinstance(x, torch.Tensor) and x.dtype.is_floating_point for x in tree_flatten((args, kwargs))[0])
    if name in UNORDERED_SUMS:
        return floating
    if name in ("index_put", "index_put_", "_index_put_impl_"):
        adds = kwargs.get("accumulate", args[3] if len(args) > 3 else False)
        return bool(floating and adds) or (args[2].numel() > 1 and _repeats(args[0], args[1]))
    if name in ("scatter", "scatter_"):
        return isinstance(args[3], torch.Tensor)
    return False


def _repeats(x, indices) -> bool:
    """Whether indices name a place of `x` twice."""
    places = torch.arange(x.numel()).view(x.shape)[tuple(slice(None) if i is None else i for i in indices)]
    return places.unique().numel() < places.numel()
