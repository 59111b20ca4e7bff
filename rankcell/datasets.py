"""Real cells that are at hand: data sets for trials, tutorials and the demo."""

from typing import TYPE_CHECKING, Any

import numpy as np

from rankcell.errors import InputError
from rankcell.near_names import suggest_names

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["pbmc68k"]
if not TYPE_CHECKING:
    __getattr__ = suggest_names(__name__, __all__)


def pbmc68k() -> "AnnData":
    """Load 700 peripheral blood cells (10x Genomics) with their integer counts back in X.

    Returns
    -------
    AnnData
        700 cells x 765 genes: `X` the counts (float32 CSR), `obs["n_counts"]` each cell's total over all its genes (also those not in
        this subset), `obs["bulk_labels"]` cell types, `var["ensembl_id"]`, `var_names` symbols.

    Raises
    ------
    InputError
        When the scanpy at hand ships its file without counts.

    Notes
    -----
    The counts are those of the layer `counts` where scanpy's file has one; before, it shipped log-normalised values in `raw`: a row's
    counts are their `expm1` divided by the smallest that is not zero (one count), whole numbers to within rounding.

    References
    ----------
    Zheng et al. 2017.
    """
    import warnings

    import anndata as ad
    import pandas as pd
    import scanpy as sc
    import scipy.sparse as sp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the file was written by an old anndata; its reader says so at length
        shipped = sc.datasets.pbmc68k_reduced()
    if "counts" in shipped.layers:
        x, names = sp.csr_matrix(shipped.layers["counts"]), shipped.var_names
    elif shipped.raw is not None:
        x, names = _counts_of_logarithms(shipped.raw.X), shipped.raw.var_names
    else:
        raise InputError("this scanpy ships its pbmc68k_reduced without counts, in neither layers['counts'] nor raw")
    symbols = [str(g) for g in names]
    ids = _ensembl_ids()
    var = pd.DataFrame({"ensembl_id": [ids.get(s, "") for s in symbols]}, index=pd.Index(symbols, name="symbol"))
    obs = shipped.obs[["bulk_labels", "n_genes", "percent_mito", "n_counts", "phase", "louvain"]].copy()
    obs.index.name = "cell_id"
    return ad.AnnData(x.astype(np.float32), obs=obs, var=var)


def _counts_of_logarithms(values: Any) -> Any:
    """Counts from log1p of rows that were scaled each by its own factor, and in which some gene has one count."""
    import scipy.sparse as sp

    x = sp.csr_matrix(values).astype(np.float64)
    x.data = np.expm1(x.data)
    x.eliminate_zeros()
    one = np.array([x.data[a:b].min() if b > a else 1.0 for a, b in zip(x.indptr[:-1], x.indptr[1:], strict=True)])
    x.data = np.rint(x.data / np.repeat(one, np.diff(x.indptr)))
    return x


def _ensembl_ids() -> dict[str, str]:
    from rankcell.vocab.catalog import dictionaries, read_ids

    return read_ids(dictionaries() / "pbmc68k.symbols.tsv")
