"""Orientation: a matrix of genes x cells is refused with its cause, before its cells are taken for genes.

Genes are recognised in the names of the rows (cell ids, or a cell column of gene names) and sought in vain in those of the columns:
by the shape of Ensembl ids, and by membership in a vocabulary, in any case of letters.
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import numpy as np

from rankcell.counts.genes.ids import is_ensembl_gene
from rankcell.counts.source import CountSource
from rankcell.errors import GeneError, InputError
from rankcell.vocab import Vocabulary
from rankcell.vocab.catalog import vocabularies_at_hand

_BARCODE = re.compile(r"[ACGT]{10,}")
_GENE_COLUMN = re.compile(r"gene|feature|symbol|accession|ensembl", re.IGNORECASE)
_LOOKED_AT = 1_000  # names, where the question is whether to look closer
_MOST, _PART = 0.5, 0.1
_FEWEST = 10  # known names: fewer are a coincidence, such as the wells C3 and F2


def refuse_transposed(source: CountSource) -> None:
    """GeneError when the cell ids are Ensembl ids of genes, or the columns are barcodes and the rows genes of a vocabulary at hand.

    It costs a look at some names; vocabularies are read only where these are odd.
    """
    ids = source.ids[:: len(source.ids) // _LOOKED_AT + 1].to_pylist()
    names = [values[:: len(values) // _LOOKED_AT + 1] for values in source.var.values()]
    if _share(is_ensembl_gene, ids) > _MOST or any(_share(_BARCODE.search, values) > _MOST for values in names):
        require_genes_in_columns(source)


def require_genes_in_columns(source: CountSource, vocab: Vocabulary | None = None) -> None:
    """GeneError when the names of the rows are genes to `vocab` (None: to one at hand) and those of the columns are not."""
    vocabularies = [vocab] if vocab is not None else [Vocabulary.load(folder) for folder in vocabularies_at_hand().values()]
    if any(_are_genes(values, vocabularies) for values in source.var.values()):
        return
    for names in _row_names(source):
        if _are_genes(names, vocabularies):
            columns = next((values for values in source.var.values() if any(values)), [""])
            raise GeneError(
                f"{source.name}: {source.matrix} is genes x cells, not cells x genes: its rows are genes (such as {_first(names)}) and its "
                f"columns are not (such as {_first(columns)}): {transpose_advice(source)}"
            )


def transpose_advice(source: CountSource) -> str:
    if source.format == "AnnData":
        return "transpose it first, with adata.T"
    return "transpose it first (read it as an AnnData, take adata.T, and write that with write_h5ad)"


def _row_names(source: CountSource) -> Iterable[list[str]]:
    """The cell ids, then the cell columns that are called as gene names are."""
    yield [v or "" for v in source.ids.to_pylist()]
    for column in filter(_GENE_COLUMN.search, source.obs_columns):
        with contextlib.suppress(InputError):  # a column that cannot be read says nothing
            values = source.obs(column).to_pylist()
            if any(isinstance(v, str) for v in values):
                yield [v if isinstance(v, str) else "" for v in values]


def _are_genes(names: Sequence[str], vocabularies: Sequence[Vocabulary]) -> bool:
    """Whether most names are Ensembl ids, or a vocabulary knows a tenth of them, or a tenth of its own genes among them."""
    if _share(is_ensembl_gene, names) > _MOST:
        return True
    upper = [name.upper() for name in names]
    for vocab in vocabularies:
        genes = np.maximum(vocab.lookup(names), vocab.lookup(upper))
        known = genes[genes >= 0]
        n_genes = len(np.unique(known))
        if len(known) and n_genes >= min(_FEWEST, len(names) / 2) and (len(known) >= _PART * len(names) or n_genes >= _PART * len(vocab)):
            return True
    return False


def _share(test: Callable[[str], object], names: Sequence[str | None]) -> float:
    return sum(bool(test(name)) for name in names if name) / max(1, len(names))


def _first(names: Sequence[str]) -> str:
    return ", ".join(islice((name for name in names if name), 2))
