"""Tallies: the normalised values of one part of the cells, kept in a file so that parts can be counted apart and built from together.

A tally is a parquet file with a row per cell and gene that it shows: `gene` (id, dictionary-encoded) and `value`
(float64, count / n_counts * target_sum). Its metadata holds, under `rankcell`, what it was made with: all the
genes of the input in their order with their symbols, target_sum, the files and the digests of their cells, the number of
cells and of columns, and the hash of the table of ids if one was given. Values of a gene are complete within a cell; cells
are not told apart.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rankcell.errors import InputError
from rankcell.store import atomic_path, seal, seal_damage
from rankcell.store.whole import BLANK, SEAL_KEY
from rankcell.vocab.build import GeneColumns
from rankcell.wording import command

_FORMAT, _UNSEALED = "rankcell-tally-2", "rankcell-tally-1"  # those of early versions hold no hash of themselves
_KEY, _LABEL = b"rankcell", "rankcell tally"
_ROWS = 1_000_000
_IDS = 65_536


class CellsDigest:
    """Digest of the cells of one source: sha256 over their ids, their number, the number of genes, and each
    cell's n_counts, which are given block by block. Neither the format nor the size of the blocks changes it."""

    def __init__(self, ids: Any, n_genes: int):
        """`ids`: an arrow string array."""
        self._sha256 = hashlib.sha256(f"{len(ids)} {n_genes}\n".encode())
        for start in range(0, len(ids), _IDS):
            self._sha256.update("".join(f"{i}\n" for i in ids.slice(start, _IDS).to_pylist()).encode())

    def add(self, n_counts: np.ndarray) -> None:
        self._sha256.update(np.ascontiguousarray(n_counts, "<f8").tobytes())

    def value(self) -> str:
        return self._sha256.hexdigest()


@dataclasses.dataclass(frozen=True)
class Tally:
    """A tally file: its genes, the number of values, and what it was made with (`built_from`, `digests`, `gene_column`, `ids`,
    `cells`, `columns`, `target_sum`)."""

    path: Path
    genes: GeneColumns
    facts: dict[str, Any]
    rows: int

    def values(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(slots of `genes.keys`, values), part by part. InputError when the file is broken or was changed."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        slot_of_key = {k: i for i, k in enumerate(self.genes.keys)}
        try:
            with pq.ParquetFile(self.path, read_dictionary=["gene"]) as file:
                for group in range(file.num_row_groups):  # one by one: read as a whole, pyarrow keeps what it has read
                    for batch in file.iter_batches(batch_size=_ROWS, row_groups=[group], columns=["gene", "value"]):
                        gene = batch.column("gene")
                        slot_of_entry = np.array([slot_of_key[k] for k in gene.dictionary.to_pylist()], np.int32)
                        slots, values = slot_of_entry[gene.indices.to_numpy()], batch.column("value").to_numpy()
                        if not (values > 0).all() or not np.isfinite(values).all():
                            raise InputError(f"{self.path} holds values that are not above zero: it is damaged; make it again")
                        yield slots, np.ascontiguousarray(values, np.float64)
        except (pa.ArrowException, OSError, KeyError, IndexError, TypeError) as e:
            raise InputError(f"{self.path} cannot be read to its end ({_line(e)}): make it again") from e


def is_tally(path: Any) -> bool:
    """Whether `path` is named as a tally is (`.parquet`)."""
    return isinstance(path, (str, os.PathLike)) and Path(path).suffix.lower() == ".parquet"


def open_tally(path: str | os.PathLike) -> Tally:
    """The tally in `path`. InputError when it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is a folder, not a tally" if path.is_dir() else f"no such file: {path}")
    try:
        file = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as e:
        raise InputError(f"{path} is not a readable parquet file ({_line(e)})") from e
    try:
        facts = json.loads((file.metadata or {})[_KEY])
        if facts["format"] not in (_FORMAT, _UNSEALED):
            raise ValueError(facts["format"])
        keys, symbols = zip(*facts.pop("genes"), strict=True)
        genes = GeneColumns(keys, symbols, np.arange(len(keys), dtype=np.int32))
        {k: facts[k] for k in ("built_from", "digests", "gene_column", "ids", "cells", "columns", "target_sum")}
        if len(facts["digests"]) != len(facts["built_from"]):
            raise ValueError("digests")
    except (KeyError, ValueError, TypeError) as e:
        raise InputError(f"{path} is a parquet file but not a tally: make one of counts with {command('vocab tally')}") from e
    fault = seal_damage(path, _LABEL, required=facts["format"] == _FORMAT)
    if fault is not None:
        raise InputError(f"{path} is damaged ({fault}): bring it back, or delete it and make it again with {command('vocab tally')}")
    return Tally(path, genes, facts, file.num_rows)


def write_tally(
    path: str | os.PathLike,
    values: Iterable[tuple[np.ndarray, np.ndarray]],
    genes: GeneColumns,
    facts: Callable[[], dict[str, Any]],
    *,
    force: bool = False,
) -> int:
    """Write `values` (slots of `genes.keys`, values) as they come, then `facts()`; the number of values. One block is held in
    memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("gene", pa.dictionary(pa.int32(), pa.string())), ("value", pa.float64())])
    names = pa.array(genes.keys, pa.string())
    total = 0
    with atomic_path(path, force=force) as part:
        with pq.ParquetWriter(part, schema, compression="zstd") as out:
            for slots, numbers in values:
                out.write_table(pa.table([pa.DictionaryArray.from_arrays(pa.array(slots), names), pa.array(numbers)], schema=schema))
                total += len(slots)
            head = {"format": _FORMAT, **facts(), "genes": list(zip(genes.keys, genes.symbols, strict=True))}
            out.add_key_value_metadata({_KEY: json.dumps(head, ensure_ascii=False).encode(), SEAL_KEY: BLANK})
        seal(part, _LABEL)
        if not total:
            raise InputError("no gene has a count: a tally cannot be made of empty cells")
    return total


def _line(e: Exception) -> str:
    text = str(e).strip().splitlines()
    return text[0][:200] if text else type(e).__name__
