"""Counts on the genes of a vocabulary: columns of one gene summed, unknown genes left out, the input unchanged."""

import copy
import dataclasses
from typing import Any

import numpy as np

from rankcell.counts.genes.features import remarks_of
from rankcell.counts.genes.gene_map import MIN_KNOWN, GeneMap, match_genes
from rankcell.counts.io.fallback import open_at_counts
from rankcell.counts.options import Counts
from rankcell.errors import InputError, SettingsError
from rankcell.vocab import Vocabulary
from rankcell.wording import note, option

KEY = "rankcell_genes"


def align_genes(
    adata: Any,
    vocab: Vocabulary,
    counts: Counts = Counts(),
    *,
    min_known: float = MIN_KNOWN,
) -> Any:
    """See rankcell.pp.align_genes."""
    if not hasattr(adata, "obsm"):
        raise InputError(f"align_genes takes an AnnData and got {type(adata).__name__}: read the file first, with anndata.read_h5ad")
    if not 0 <= min_known <= 1:
        raise SettingsError(f"{option('min_known')} is {min_known}; it is a share, from 0 to 1")
    if adata.isbacked or any(hasattr(x, "dask") for x in (adata.X, *adata.layers.values())):
        adata = adata.to_memory()
    allow_non_counts = counts.allow_non_counts
    with open_at_counts(adata, layer=counts.counts_layer, raw=counts.raw, allow_non_counts=allow_non_counts) as source:
        layer, raw = source.key.layer, source.key.raw
        genes = match_genes(source, vocab, gene_column=counts.gene_column, genome=counts.genome, min_known=min_known)
        if source.column_numbers is not None:  # the AnnData has more columns than the source: antibodies and the like
            slots = np.full((adata.raw if raw else adata).n_vars, -1, np.int32)
            slots[source.column_numbers] = genes.slot_of_column
            genes = dataclasses.replace(genes, slot_of_column=slots)
        totals = np.concatenate([block.n_counts for block in source.blocks(allow_non_counts=allow_non_counts)])
        for remark in remarks_of(source):
            note(remark)
        record = _record(genes, vocab, source.matrix)
    return _assembled(adata, vocab, genes, totals, record, layer=layer, raw=raw, allow_non_counts=allow_non_counts)


def _record(genes: GeneMap, vocab: Vocabulary, matrix: str) -> dict[str, Any]:
    """The provenance record for uns, in plain values that an h5ad file can hold."""
    return {
        "vocabulary": vocab.name,
        "vocabulary_hash": vocab.hash,
        "matrix": matrix,
        "gene_column": genes.column,
        "columns_known": genes.n_known,
        "columns_unknown": len(genes.slot_of_column) - genes.n_known,
        "genes": len(genes.gene_of_slot),
    }


def _assembled(
    adata: Any,
    vocab: Vocabulary,
    genes: GeneMap,
    totals: np.ndarray,
    record: dict[str, Any],
    *,
    layer: str | None,
    raw: bool,
    allow_non_counts: bool,
) -> Any:
    """The new AnnData; nothing in it is shared with the old one."""
    import anndata as ad

    x = adata.raw.X if raw else adata.layers[layer] if layer is not None else adata.X
    layers = {} if raw else {name: _summed(_numbers(name, values), genes, totals.dtype) for name, values in adata.layers.items()}
    obs = adata.obs.copy()
    if "n_counts" not in obs:
        obs["n_counts"] = totals
    return ad.AnnData(
        _summed(x, genes, totals.dtype, only_above_zero=allow_non_counts),
        obs=obs,
        var=_var(vocab, genes),
        layers=layers,
        obsm={name: values.copy() for name, values in adata.obsm.items()},
        obsp={name: values.copy() for name, values in adata.obsp.items()},
        uns=copy.deepcopy(dict(adata.uns)) | {KEY: record},
    )


def _var(vocab: Vocabulary, genes: GeneMap) -> Any:
    import pandas as pd

    at = genes.gene_of_slot
    columns = {
        "symbol": [vocab.symbols[i] for i in at],
        "token": vocab.tokens[at],
        "median": vocab.medians[at],
        "source_columns": np.bincount(genes.slot_of_column[genes.slot_of_column >= 0], minlength=len(at)),
    }
    return pd.DataFrame(columns, index=pd.Index([vocab.genes[i] for i in at], name="gene", dtype=object))


def _numbers(name: str, values: Any) -> Any:
    if np.dtype(values.dtype).kind not in "biuf":
        raise InputError(f"layer '{name}' holds {values.dtype}, not numbers: remove it first, with del adata.layers['{name}']")
    return values


def _summed(matrix: Any, genes: GeneMap, totals_type: np.dtype, *, only_above_zero: bool = False) -> Any:
    """The matrix with a column per gene, as CSR: each known column is added to its gene's.

    only_above_zero
        Leave out entries that are NaN, infinite or negative, as the totals do.
    """
    import scipy.sparse as sp

    dtype = np.dtype(matrix.dtype)
    if dtype == np.float16:  # scipy has no sparse matrices of it
        matrix, dtype = np.asarray(matrix, np.float32), np.dtype(np.float32)
    wide = {"f": np.float64, "u": np.uint64}.get(dtype.kind, np.int64)
    known = np.flatnonzero(genes.slot_of_column >= 0)
    to = (np.ones(len(known), wide), (known, genes.slot_of_column[known]))
    projection = sp.csr_matrix(to, shape=(len(genes.slot_of_column), len(genes.gene_of_slot)))
    widened = sp.csr_matrix(matrix).astype(wide)
    if only_above_zero:
        widened.data[~((widened.data > 0) & (widened.data < np.inf))] = 0
    summed = sp.csr_matrix(widened @ projection)
    summed.sort_indices()
    summed.eliminate_zeros()
    return summed.astype(_holding(summed.data, dtype, totals_type))


def _holding(sums: np.ndarray, dtype: np.dtype, totals_type: np.dtype) -> np.dtype:
    """The result type: the input's where it holds the sums, else a wider one that gives the same tokens.

    Rank values are computed in single precision when counts and cell totals both fit it (rankcell.tokens.rank_kernel). A wider
    type may not change that, or ties would break otherwise; so single precision stays where it was, and rounds sums
    above 2^24 as the rank values themselves do. Fractions are rounded to the input's type.
    """
    single = np.result_type(dtype, totals_type) in (np.float16, np.float32)
    widest = {"f": np.float64, "u": np.uint64}.get(dtype.kind, np.int64)
    steps = (dtype, np.uint16, np.float32) if single else (dtype, widest)
    integral = sums[np.floor(sums) == sums] if dtype.kind == "f" else sums
    with np.errstate(over="ignore", invalid="ignore"):
        fit = [t for t in steps if np.array_equal(integral.astype(t).astype(integral.dtype), integral)]
    return np.dtype(fit[0] if fit else steps[-1])
