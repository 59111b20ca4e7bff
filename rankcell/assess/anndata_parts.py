"""What scores and labels need of an AnnData: columns of obs, embeddings in obsm."""

import difflib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from rankcell.assess.embedding_scores import LabelledCells
from rankcell.errors import CellError, InputError
from rankcell.tokens.opening import is_tokens


def require_anndata(adata: Any, verb: str, role: str = "adata") -> None:
    """InputError unless the parameter `role` of a verb is an AnnData."""
    if not hasattr(adata, "obsm"):
        advice = "read the file first" if isinstance(adata, (str, os.PathLike)) else "rc.tl.embed_cells makes one of tokens" if is_tokens(adata) else "anndata.AnnData makes one"
        raise InputError(f"{verb} wants an AnnData as {role} and got {type(adata).__name__}: {advice}")


def obs_column(adata: Any, name: str, where: str = "adata") -> Any:
    """One column of obs; CellError naming near ones when there is none."""
    if name in adata.obs:
        return adata.obs[name]
    raise CellError(f"{where} has no obs column '{name}'{_offer(name, list(adata.obs))}")


def embedding(adata: Any, key: str, where: str = "adata") -> np.ndarray:
    """An embedding [cells, width] of obsm; CellError when there is none or it is no table of numbers."""
    if key not in adata.obsm:
        hint = " (rc.tl.embed makes X_rankcell)" if not len(adata.obsm) else ""
        raise CellError(f"{where} has no obsm key '{key}'{_offer(key, list(adata.obsm))}{hint}")
    x = adata.obsm[key]
    x = np.asarray(x.toarray() if hasattr(x, "toarray") else x)
    if x.ndim != 2 or x.shape[1] < 1 or x.dtype.kind not in "fiu":
        raise CellError(f"obsm key '{key}' of {where} is {x.dtype} of shape {x.shape}: an embedding is numbers, [cells, width]")
    return x


def labelled_cells(adata: Any, label: str, batch: str | None, folds: int) -> LabelledCells:
    """The cells by their obs columns `label` and `batch`."""
    batches = None if batch is None else obs_column(adata, batch)
    return LabelledCells.of(obs_column(adata, label), batches, folds=folds, name=label, batch_name=batch or "")


def _offer(name: str, names: Sequence[str]) -> str:
    lower = {str(n).lower(): str(n) for n in names}
    near = [lower[n] for n in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.6)]
    if near:
        return f"; did you mean {' or '.join(repr(n) for n in near)}?"
    return f" (it has: {', '.join(map(str, list(names)[:12])) or 'none'}{', ...' if len(names) > 12 else ''})"
