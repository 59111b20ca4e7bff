"""Preprocessing counter: counts to tokens, in scanpy's manner."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rankcell import jobs
from rankcell.counts.genes.gene_map import MIN_KNOWN
from rankcell.progress import progress
from rankcell.tokens import TokenSet
from rankcell.vocab import Vocabulary, find_vocabulary
from rankcell.wording import python_verb

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["align_genes", "tokenize"]


@python_verb(counts_layer="layer")
def align_genes(
    adata: "AnnData",
    vocab: str | os.PathLike | Vocabulary | None = None,
    *,
    gene_column: str | None = None,
    genome: str | None = None,
    layer: str | None = None,
    raw: bool = False,
    allow_non_counts: bool = False,
    min_known: float = MIN_KNOWN,
) -> "AnnData":
    """Counts on the genes of a vocabulary: a new AnnData with one column per gene; the input is not changed.

    adata
        An AnnData with raw counts; one backed by a file, or lazy (dask), is read into memory.
    vocab
        A Vocabulary, a vocabulary folder, or the name of a shipped or fetched one (`demo`: a toy of 765 genes). Required.
    gene_column
        The var column that names the genes; None: the one whose entries the vocabulary knows best.
    genome
        As for tokenize.
    layer, raw
        Which matrix holds the counts and becomes X; default X.
    allow_non_counts
        Sum values that are not counts.
    min_known
        GeneError when a smaller share of the columns, and of the vocabulary's genes, is known.

    Returns an AnnData whose X is CSR: the columns of one gene summed, genes that the vocabulary does not know left out, in
    the order in which genes first come in the input. X has the input's type, or a wider one where a sum needs it. var has
    the vocabulary's gene ids as names, and `symbol`, `token`, `median` and `source_columns` (how many columns were summed).
    `uns["rankcell_genes"]` says which column named the genes, how many columns were known and unknown, and the vocabulary.

    `obs["n_counts"]` is kept, or set to each cell's total over all columns of the input, unknown genes included: rank
    values divide by it, so that the new AnnData gives the same tokens as the old one. obs, obsm, obsp and uns are copied,
    layers are summed like X (with `raw` they are left out, because their columns are others). Left out: varm, varp, the
    input's own var columns, raw, and with `layer` the old X.
    """
    from rankcell.counts.io.align import align_genes as align

    return align(
        adata,
        find_vocabulary(vocab),
        gene_column=gene_column,
        genome=genome,
        layer=layer,
        raw=raw,
        allow_non_counts=allow_non_counts,
        min_known=min_known,
    )


@python_verb(counts_layer="layer")
def tokenize(
    adata: "AnnData",
    vocab: str | os.PathLike | Vocabulary | None = None,
    *,
    obs: Sequence[str] = (),
    max_len: int | None = None,
    cls: bool | None = None,
    layer: str | None = None,
    raw: bool = False,
    gene_column: str | None = None,
    genome: str | None = None,
    filter: str | None = None,
    keep_counts: bool = False,
    keep_uncropped: bool = False,
    allow_non_counts: bool = False,
    allow_repeated_cells: bool = False,
    workers: int | None = None,
) -> TokenSet:
    """Rank-value tokens of every cell: genes in descending order of count / n_counts * 10,000 / median.

    adata
        An AnnData with raw counts (never changed), the path of a count file (h5ad, loom, zarr, 10x), a folder or pattern of such
        files, or a list of these.
    vocab
        A Vocabulary, a vocabulary folder, or the name of a shipped or fetched one (`demo`: a toy of 765 genes). None: the one at hand
        that knows the genes best, with a note, if it knows at least half of them; else it is required.
    obs
        Cell columns to carry along.
    max_len, cls
        Longest row, and whether rows carry `<cls>` and `<eos>`; None: as the vocabulary says.
    layer, raw
        Which matrix holds the counts; default X.
    gene_column
        The var column that names the genes; None: the one whose entries the vocabulary knows best.
    genome
        Of an input with the genes of several genomes: the one whose genes count; None: the one that the vocabulary knows.
    filter
        Only cells for which this pandas expression over obs is true, such as `cell_type == 'B'`.
    keep_counts
        Also keep count / n_counts * target_sum beside each token (column `counts`).
    keep_uncropped
        Also keep all genes of each cell (columns `input_ids_uncropped`, `length_uncropped`).
    allow_non_counts
        Rank values that are not counts.
    allow_repeated_cells
        Take several inputs that hold the same cells, which are refused otherwise.
    workers
        Threads; None: the processors, at most 8.

    Returns a TokenSet, a row per cell in the AnnData's order with its cell ids.
    """
    options = dict(locals())  # every parameter is one of the job's
    with progress("tokenize") as tick:
        return jobs.tokenize(options.pop("adata"), **options, progress=tick)
