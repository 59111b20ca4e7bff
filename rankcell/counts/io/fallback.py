"""Where counts are read when nobody named a matrix: X; where X holds none, the one layer (or raw) that plainly does."""

import contextlib
from typing import Any

import numpy as np

from rankcell.counts.block import first_non_count, value_of_kind
from rankcell.counts.io.opening import open_counts
from rankcell.counts.matrix_key import RAW, MatrixKey
from rankcell.counts.source import CountSource, looks_like_counts, shown
from rankcell.errors import InputError
from rankcell.wording import offers, option

_TRIED = ("counts", "raw_counts", "count", "Counts", "UMIs", "umi_counts", "raw")


def open_at_counts(
    source: Any, *, layer: str | None = None, raw: bool = False, genome: str | None = None, allow_non_counts: bool = False
) -> CountSource:
    """Open counts with a fallback: where no matrix is named and X is missing or holds no counts, the one other matrix that plainly holds them.

    Plainly: it is raw or a layer named as counts are (`counts`, `raw_counts`, `UMIs`, ...), and its entries are counts. The source
    then says so in its `remarks`. With `allow_non_counts` X is taken as it is. `genome` chooses between matrices of several genomes.
    """
    if layer is not None or raw:
        return open_counts(source, layer=layer, raw=raw)
    try:
        opened = open_counts(source)
    except InputError as e:
        if genome is not None:  # a 10x file of version 2 has a matrix for each
            with contextlib.suppress(InputError):
                return open_counts(source, layer=genome)
        instead = _only_counts_without_x(source)
        if instead is None:
            raise
        return _remark(instead, e.fact)
    if allow_non_counts or not opened.others or (odd := _odd(opened)) is None:
        return opened
    keys = plain_counts(opened)
    if len(keys) != 1:
        return opened
    opened.close()
    as_it_is = f"; {option('allow_non_counts', True)} ranks X as it is" if offers("allow_non_counts") else ""
    return _remark(open_counts(source, layer=keys[0].layer, raw=keys[0].raw), f"{opened.matrix} holds {odd}", as_it_is)


def plain_counts(source: CountSource) -> list[MatrixKey]:
    """The other matrices of an input that plainly hold counts."""
    return [key for key in source.elsewhere() if key.is_called_counts()]


def _only_counts_without_x(source: Any) -> CountSource | None:
    """An input that cannot be opened at X, opened at the one matrix that plainly holds counts; None where there are none or several."""
    able: list[CountSource] = []
    for key in (RAW, *map(MatrixKey, _TRIED)):
        try:
            opened = open_counts(source, layer=key.layer, raw=key.raw)
        except InputError:
            continue
        if looks_like_counts(lambda at=opened: at.x):
            able.append(opened)
        else:
            opened.close()
    if len(able) == 1:
        return able[0]
    for opened in able:
        opened.close()
    return None


def _odd(source: CountSource) -> str | None:
    """The first entry at the start of X that is no count, in words; None where all are."""
    try:
        head = source.x.head()
    except (InputError, OSError, KeyError, ValueError, RuntimeError):
        return None
    if head.dtype.kind not in "biuf" or (odd := first_non_count(np.asarray(head))) is None:
        return None
    at, kind = odd
    return f"{shown(head[at])}, {value_of_kind(kind)}, not counts"


def _remark(source: CountSource, cause: str, more: str = "") -> CountSource:
    """The source with a remark that it is read where nobody asked for it, and why."""
    source.remarks.append(f"{cause}: {source.matrix}, which holds counts, is read in its place{more}")
    return source
