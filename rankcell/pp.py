"""Preprocessing counter: counts to tokens, in scanpy's manner."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rankcell.counts.genes.gene_map import MIN_KNOWN
from rankcell.counts.options import Counts
from rankcell.near_names import suggest_names
from rankcell.progress import progress
from rankcell.tokens import TokenSet
from rankcell.tokens.options import Tokenizing
from rankcell.vocab import Vocabulary, find_vocabulary
from rankcell.wording import python_verb

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["align_genes", "tokenize"]
if not TYPE_CHECKING:
    __getattr__ = suggest_names(__name__, __all__)


@python_verb()
def align_genes(
    adata: "AnnData",
    vocab: str | os.PathLike | Vocabulary | None = None,
    *,
    counts: Counts = Counts(),
    min_known: float = MIN_KNOWN,
) -> "AnnData":
    """Align counts to the genes of a vocabulary: a new AnnData with one column per gene.

    Parameters
    ----------
    adata
        An AnnData with raw counts, which is not changed; one backed by a file, or lazy (dask), is read into memory.
    vocab
        A Vocabulary, a vocabulary folder, or the name of a shipped or fetched one (`demo`: a toy of 765 genes). Required.
    counts
        Which matrix holds the counts and becomes X (`rc.Counts`; default X), and which of its genes are taken.
    min_known
        The smallest share of the columns, and of the vocabulary's genes, that has to be known.

    Returns
    -------
    AnnData
        X is CSR: the columns of one gene summed, genes that the vocabulary does not know left out, in the order in which genes first
        come in the input. X has the input's type, or a wider one where a sum needs it. var has the vocabulary's gene ids as names, and
        `symbol`, `token`, `median` and `source_columns` (how many columns were summed). `uns["rankcell_genes"]` says which column
        named the genes, how many columns were known and unknown, and the vocabulary.

    Raises
    ------
    GeneError
        When a smaller share than `min_known` is known.

    Notes
    -----
    `obs["n_counts"]` is kept, or set to each cell's total over all columns of the input, unknown genes included: rank
    values divide by it, so that the new AnnData gives the same tokens as the old one. obs, obsm, obsp and uns are copied,
    layers are summed like X (with `raw` they are left out, because their columns are others). Left out: varm, varp, the
    input's own var columns, raw, and with `counts_layer` the old X.
    """
    from rankcell.counts.io.align import align_genes as align

    return align(adata, find_vocabulary(vocab), counts, min_known=min_known)


@python_verb()
def tokenize(
    adata: "AnnData",
    vocab: str | os.PathLike | Vocabulary | None = None,
    *,
    obs: str | Sequence[str] = (),
    tokenizing: Tokenizing = Tokenizing(),
    counts: Counts = Counts(),
    out: str | os.PathLike | None = None,
    force: bool = False,
) -> TokenSet:
    """Tokenize counts by rank value: the genes of every cell in descending order of it.

    Parameters
    ----------
    adata
        An AnnData with raw counts (never changed), the path of a count file (h5ad, loom, zarr, 10x), a folder or pattern of such
        files, or a list of these.
    vocab
        A Vocabulary, a vocabulary folder, or the name of a shipped or fetched one (`demo`: a toy of 765 genes). None: the one at hand
        that knows the genes best, with a note, if it knows at least half of them; else it is required.
    obs
        Cell columns to carry along.
    tokenizing
        How long rows are, which cells become rows, and what is kept beside them: `rc.Tokenizing(max_len=2048, filter="n_genes > 200")`.
    counts
        Where the counts are (`rc.Counts`; default X).
    out
        Write a token set folder, batch by batch, and open it; without it the tokens are in memory.
    force
        Replace a token set in `out`.

    Returns
    -------
    TokenSet
        A row per cell in the AnnData's order with its cell ids.

    Notes
    -----
    The rank value of a gene is count / n_counts * 10,000 / median.
    """
    from rankcell.tokens.cells import tokenize_cells

    with progress("tokenize") as tick:
        return tokenize_cells(adata, vocab, obs=obs, tokenizing=tokenizing, counts=counts, out=out, force=force, progress=tick)
