"""From an input to the CountSource of its format. The formats imported here have registered themselves."""

import os
from pathlib import Path
from typing import Any

# In the order in which they are asked: h5ad takes every other HDF5 file, and says what it holds
from rankcell.counts.io import loom, tenx, mtx, zarrstore, in_memory, h5ad  # noqa: F401 # isort: skip
from rankcell.counts.genes.features import exclude_non_genes
from rankcell.counts.genes.orientation import refuse_transposed
from rankcell.counts.io.file_kinds import describe_file, require_file
from rankcell.counts.matrix_key import MatrixKey
from rankcell.counts.source import FORMATS, CountSource
from rankcell.errors import InputError
from rankcell.wording import option


def is_input(source: Any) -> bool:
    """Whether a format recognises the input."""
    return any(recognises(source) for _, recognises, _ in FORMATS)


def open_counts(source: Any, *, layer: str | None = None, raw: bool = False) -> CountSource:
    """Open a count file or an AnnData. InputError when it is not there, broken, empty or of no known format."""
    if layer is not None and raw:
        raise InputError(f"{option('counts_layer', layer)} and {option('raw', True)} were both given: choose one")
    if isinstance(source, (str, os.PathLike)) and not Path(source).exists():
        raise InputError(f"no such file: {source}")
    if isinstance(source, (str, os.PathLike)):
        require_file(Path(source))
    for _, recognises, opener in FORMATS:
        if recognises(source):
            opened = opener(source, layer=layer, raw=raw)
            opened.key = MatrixKey(layer, raw)
            try:
                opened.check_door()
                refuse_transposed(opened)
                exclude_non_genes(opened)
            except InputError:
                opened.close()
                raise
            return opened
    known = ", ".join(name for name, _, _ in FORMATS)
    if not isinstance(source, (str, os.PathLike)):
        raise InputError(
            f"counts come as an AnnData or as the path of a file ({known.removesuffix(', AnnData')}), and this is of type {type(source).__name__}: "
            "anndata.AnnData(X, obs=..., var=...) makes one of a matrix or table, cells x genes"
        )
    kind = describe_file(Path(source)) if Path(source).is_file() else ""
    raise InputError(f"{source} is not a count file of a known format ({known}){f'; it {kind}' if kind else ''}")
