"""TokenSet: token rows with the caller's cell ids, chosen annotations, and the TokenSpec they were made with."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rankcell.counts.arrays import as_numbers
from rankcell.counts.columns import arrow_column, carried_names
from rankcell.errors import CellError, TokensError
from rankcell.store import atomic_path, content_hash, read_json
from rankcell.tokens.arrow import DatasetWriter, dataset_files, read_rows
from rankcell.tokens.fingerprint import check_seal, sealed
from rankcell.tokens.plain import check_rows, spec_of_plain
from rankcell.tokens.spec import TokenSpec
from rankcell.tokens.token_rows import COUNTS, IDS, ROWS, UNCROPPED, plain_ids, plain_rows, row_number, row_numbers, without_padding
from rankcell.vocab import Frame, Vocabulary, find_vocabulary
from rankcell.vocab.catalog import find_by_hash
from rankcell.wording import offers, option, python_verb

SPEC_FILE = "rankcell.json"
RENAMED = "renamed"  # in TokenSpec.source: {cell column: the name under which it is carried}
DATASET_FILES = (  # all that a token folder holds; the last are what the datasets library keeps there of its own steps
    *(SPEC_FILE, "dataset_info.json", "state.json"),
    re.compile(r"data-\d{5,}(-of-\d{5,})?\.arrow"),
    re.compile(r"cache-[0-9a-f]{16}(_\d{5,}_of_\d{5,})?\.arrow"),
)
OWN_COLUMNS = (ROWS, "length", COUNTS, UNCROPPED, "length_uncropped", IDS)


class TokenSet:
    """Token rows, a row per cell in the caller's order.

    `table` is an arrow table with `input_ids` (list of integers), `length`, `cell_id` and the annotations; opened from
    a folder it is memory-mapped, so that a set larger than memory can be walked.
    """

    def __init__(self, table: pa.Table, spec: TokenSpec):
        self.table = table
        self.spec = spec
        self._opened: dict[str, Any] = {}
        self._checked = ""  # hash of the vocabulary that the rows are known to fit
        self._vocab: Vocabulary | None = None  # that of the spec, where this process has it
        self._folder: Path | None = None

    def __len__(self) -> int:
        return self.table.num_rows

    def __repr__(self) -> str:
        obs = f", obs: {', '.join(self.obs_columns)}" if self.obs_columns else ""
        return f"TokenSet({len(self):,} cells, vocabulary '{self.spec.vocabulary}', frame {tuple(self.frame.to_json().values())}{obs})"

    @property
    def frame(self) -> Frame:
        return self.spec.frame

    @property
    def obs_columns(self) -> list[str]:
        return [c for c in self.table.column_names if c not in OWN_COLUMNS or (c == COUNTS and not self.has_counts)]

    @functools.cached_property
    def cell_ids(self) -> list[str]:
        """The caller's cell ids (str); row numbers as text where there were none."""
        if "cell_id" not in self.table.column_names:
            return [str(i) for i in range(len(self))]
        return self.table["cell_id"].cast(pa.string()).to_pylist()

    def obs_name(self, column: str) -> str:
        """The name under which the table carries a cell column: `obs_length` for a `length` of the cells'. CellError when it does not."""
        others = self.spec.source.get(RENAMED)
        name = others.get(column, column) if isinstance(others, Mapping) else column
        if name not in self.obs_columns:
            remedy = f"tokenize again with {option('obs', column)}" if offers("obs") else "tokenize again and carry it along"
            raise CellError(f"the tokens carry no cell column '{column}' (they have: {', '.join(self.obs_columns) or 'none'}): {remedy}")
        return name

    def obs(self, column: str) -> np.ndarray:
        """One annotation by its name in the input or the table, an entry per cell. CellError when the set does not carry it."""
        return self.table[self.obs_name(column)].to_numpy()

    def obs_df(self) -> Any:
        """All annotations as a pandas DataFrame with the cell ids as its index; what were categories are so again."""
        import pandas as pd

        frame = self.table.select(self.obs_columns).to_pandas().set_index(pd.Index(self.cell_ids, name="cell_id"))
        for name, kind in self.spec.categories.items():
            if name in frame:
                frame[name] = pd.Categorical(frame[name], categories=kind["categories"], ordered=kind["ordered"])
        return frame

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """int64: tokens per row, special tokens included."""
        parts = [np.diff(offsets) for offsets, _ in self._lists(ROWS)[1]]
        return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)

    def row(self, i: int) -> np.ndarray:
        """The tokens of cell `i` (int32), special tokens included. `i` is a row number from 0, as everywhere here; CellError for any other."""
        return self._entry(ROWS, i).astype(np.int32)

    def genes(self, i: int) -> np.ndarray:
        """The gene tokens of cell `i`, from the highest rank value down."""
        return self.frame.body(self.row(i))

    @property
    def has_uncropped(self) -> bool:
        """Whether the genes that did not fit the rows are kept (`keep_uncropped`)."""
        return UNCROPPED in self.table.column_names

    @property
    def has_counts(self) -> bool:
        """Whether the rows' counts are kept (`keep_counts`)."""
        return COUNTS in self.table.column_names and pa.types.is_list(self.table.schema.field(COUNTS).type)

    def uncropped(self, i: int) -> np.ndarray:
        """All gene tokens of cell `i` (int32), without special tokens, those too that did not fit its row."""
        return self._entry(UNCROPPED, i).astype(np.int32)

    def counts(self, i: int) -> np.ndarray:
        """count / n_counts * target_sum of each token of cell `i` (float32; 0 at special tokens)."""
        return self._entry(COUNTS, i)

    def _entry(self, column: str, i: int) -> np.ndarray:
        i = row_number(i, len(self))
        start, flat = self._lists(column)
        chunk = int(np.searchsorted(start, i, side="right")) - 1
        offsets, values = flat[chunk]
        k = i - int(start[chunk])
        return values[offsets[k] : offsets[k + 1]]

    def _lists(self, column: str) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
        """Where each chunk of a list column begins, and its (offsets, values) as views of the mapped file."""
        if column not in self._opened:
            chunks = self.table[column].chunks
            start = np.cumsum([0, *(len(c) for c in chunks)])
            self._opened[column] = start, [(as_numbers(c.offsets), as_numbers(c.values)) for c in chunks]
        return self._opened[column]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.row(i) for i in range(len(self)))

    @functools.cached_property
    def n_genes(self) -> np.ndarray:
        """int64: genes per cell."""
        return self.lengths - len(self.frame)

    def take(self, rows: Sequence[int] | np.ndarray) -> "TokenSet":
        """The cells at `rows` (row numbers from 0), in that order. CellError for what are no rows of the set."""
        rows = pa.array(row_numbers(rows, len(self)))
        taken = TokenSet(self.table.take(rows).combine_chunks(), self.spec).known_to_fit(self._checked)
        taken._vocab, taken._folder = self._vocab, self._folder
        return taken

    def known_vocabulary(self, vocab: Vocabulary) -> "TokenSet":
        """Remember the Vocabulary of the spec, in place; returns the set. One with another content hash is not taken."""
        if vocab.hash == self.spec.vocabulary_hash:
            self._vocab = vocab
        return self

    def find_vocabulary(self) -> Vocabulary | None:
        """Find the vocabulary that the rows were made with, by its content hash; None where it is nowhere.

        It is the one that this process made or opened the set with, a shipped or fetched one, or a folder of its name in the working
        folder or beside the token folder.
        """
        if self._vocab is None:
            name, beside = self.spec.vocabulary, [] if self._folder is None else [self._folder.parent]
            is_plain = name != ".." and Path(name).name == name  # a file of somebody else's may call it anything
            folders = [place / name for place in (Path(), *beside)] if is_plain and name else []
            self._vocab = find_by_hash(self.spec.vocabulary_hash, folders)
        return self._vocab

    def known_to_fit(self, vocabulary_hash: str) -> "TokenSet":
        """Mark the rows as checked against the vocabulary of this hash, in place; returns the set."""
        self._checked = vocabulary_hash
        return self

    def require_rows(self, vocab: Vocabulary) -> None:
        """TokensError unless every row is the frame around genes of `vocab`; looked through once.

        Rows made in this process, and folders whose fingerprint is right, are known to be.
        """
        if self._checked != vocab.hash:
            check_rows(self._lists(ROWS)[1], vocab, self.frame, self.spec.source.get("folder", "these tokens"))
            self._checked = vocab.hash

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 of the rows, the cell ids and the spec's meaning."""
        h = hashlib.sha256(f"{self.spec.vocabulary_hash}|{self.frame.to_json()}|{len(self)}".encode())
        for i, cell in enumerate(self.cell_ids):
            h.update(f"\0{cell}\0".encode())
            h.update(self.row(i).astype("<i4").tobytes())
        return h.hexdigest()

    @classmethod
    def from_rows(
        cls,
        rows: Iterable[Sequence[int]],
        spec: TokenSpec,
        *,
        cell_ids: Sequence[str] | None = None,
        obs: Mapping[str, Sequence[Any]] | None = None,
    ) -> "TokenSet":
        """A TokenSet of rows in memory, special tokens included as the spec's frame says.

        TokensError for what are no token numbers; CellError for ids that are missing, stand there twice, or are of another number.
        """
        rows = [_tokens(r, i) for i, r in enumerate(rows)]
        ids = [str(i) for i in range(len(rows))] if cell_ids is None else [None if c is None or c != c else str(c) for c in cell_ids]
        if len(ids) != len(rows):
            raise CellError(f"{len(rows):,} rows and {len(ids):,} cell ids: give one for each row")
        plain_ids(pa.chunked_array([pa.array(ids, pa.string())]), "these rows")
        lengths = np.array([len(r) for r in rows], np.int64)
        names = carried_names(obs or {}, OWN_COLUMNS)
        batch = make_batch(np.concatenate([np.empty(0, np.int32), *rows]), lengths, ids, {name: obs[c] for name, c in names.items()})
        return cls(pa.Table.from_batches([batch]), dataclasses.replace(spec, source={**spec.source, **renamed(names)}))

    def save(self, folder: str | os.PathLike, *, force: bool = False) -> None:
        """Write a `datasets` folder with rankcell.json beside the data, atomically."""
        with dataset_folder(folder, self.table.schema.remove_metadata(), force=force) as sink:
            for batch in self.table.to_batches(max_chunksize=10_000):
                sink.write(batch)
            sink.spec = self.spec

    @classmethod
    @python_verb()
    def open(cls, folder: str | os.PathLike, *, vocab: str | os.PathLike | Vocabulary | None = None) -> "TokenSet":
        """Open a folder written here, or a plain `datasets` folder (Geneformer's) completed by `vocab` (also a name or folder).

        Of a folder written here the fingerprint is checked. In a plain one, large and fixed-size lists and whole numbers stored as
        floats are taken, and padding at the end of rows is left out with a note.

        Raises TokensError when it cannot be read, was changed since it was written, needs a vocabulary, or its rows do not fit the one
        given; CellError when cell ids are missing or stand there twice.
        """
        vocab = None if vocab is None else find_vocabulary(vocab)
        files = dataset_files(folder)
        head = _read_spec(Path(folder))
        is_sealed = check_seal(Path(folder), head, files, name=SPEC_FILE)
        table = plain_rows(read_rows(folder, files, validate=not is_sealed), folder)
        if head is not None:
            spec = TokenSpec.from_json(head)
            if vocab is not None:
                spec.require(vocab, owner="the one given")
            tokens = cls(table, spec).known_to_fit(spec.vocabulary_hash if is_sealed else "")
            tokens._folder = Path(folder)
            return tokens if vocab is None else tokens.known_vocabulary(vocab)
        if vocab is None:
            raise TokensError(f"{folder} is a plain dataset that does not say its vocabulary: pass it with {option('vocab')}")
        table = without_padding(table, vocab.pad)
        rows = cls(table, TokenSpec.of(vocab, frame=Frame(), max_len=vocab.max_len))
        return cls(table, spec_of_plain(table, rows._lists(ROWS)[1], vocab, Path(folder))).known_to_fit(vocab.hash).known_vocabulary(vocab)


def renamed(names: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The `renamed` entry of TokenSpec.source for cell columns ({name in the set: cell column}); {} where none was renamed."""
    others = {column: name for name, column in names.items() if name != column}
    return {RENAMED: others} if others else {}


def _read_spec(folder: Path) -> dict[str, Any] | None:
    """Read rankcell.json; None where there is none."""
    try:
        value = read_json(folder / SPEC_FILE)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        raise TokensError(f"{folder / SPEC_FILE} cannot be read ({e}): bring it back, or tokenize again") from e
    if not isinstance(value, dict):
        raise TokensError(f"{folder / SPEC_FILE} holds no spec: bring it back, or tokenize again")
    return value


def _tokens(row: Any, number: int) -> np.ndarray:
    """One row as int32."""
    try:
        values = np.asarray(row)
        is_plain = values.ndim == 1 and (values.dtype.kind in "iuf" or not values.size) and np.isfinite(values.astype(float)).all()
        if is_plain and (values == np.rint(values)).all() and (np.abs(values.astype(float)) < 2**31).all():
            return values.astype(np.int32)
    except (ValueError, TypeError):
        pass
    raise TokensError(f"row {number} is no list of token numbers: {str(row)[:80]}")


def make_batch(values: np.ndarray, lengths: np.ndarray, cell_ids: Sequence[str], obs: Mapping[str, Any]) -> pa.RecordBatch:
    """One record batch of rows that stand end to end in `values` (int32)."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    columns = {
        "input_ids": pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, pa.int32())),
        "length": pa.array(lengths, pa.int64()),
        "cell_id": pa.array(cell_ids, pa.string()),
    }
    return pa.RecordBatch.from_pydict(columns | {name: plain_obs(v, name) for name, v in obs.items()})


def plain_obs(values: Any, name: str = "") -> pa.Array:
    """Annotations as plain arrow values: categories as their names, numbers and booleans as they are, NaN as null."""
    array = values if isinstance(values, pa.Array) else arrow_column(values, name)
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if pa.types.is_large_string(array.type) or pa.types.is_null(array.type):
        array = array.cast(pa.string())
    return array


@contextlib.contextmanager
def dataset_folder(folder: str | os.PathLike, schema: pa.Schema, *, force: bool = False) -> Iterator[DatasetWriter]:
    """A DatasetWriter on a temporary folder that becomes `folder` when all went well. Set its `spec` before leaving."""
    with atomic_path(folder, force=force, marker=SPEC_FILE, own=DATASET_FILES, exclusive=True) as part:
        sink = DatasetWriter(part, schema)
        try:
            yield sink
        finally:
            sink.close()
        spec = sink.spec.to_json()
        sink.describe(content_hash(spec))
        value = sealed(spec, sink.hashes)
        (part / SPEC_FILE).write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
