"""TokenSet: token rows with the caller's cell ids, chosen annotations, and the TokenSpec they were made with."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rankcell.counts.columns import carried_names
from rankcell.errors import CellError, TokensError
from rankcell.tokens.plain import check_rows, spec_of_plain
from rankcell.tokens.record_batches import table_of_rows
from rankcell.tokens.spec import RENAMED, TokenSpec, renamed
from rankcell.tokens.token_folder import dataset_folder, read_folder
from rankcell.tokens.token_rows import COUNTS, IDS, ROWS, UNCROPPED, ListColumns, row_numbers, without_padding
from rankcell.vocab import Frame, Vocabulary, find_vocabulary
from rankcell.vocab.catalog import find_by_hash
from rankcell.wording import offers, option, python_verb

OWN_COLUMNS = (ROWS, "length", COUNTS, UNCROPPED, "length_uncropped", IDS)


class TokenSet:
    """Token rows, a row per cell in the caller's order.

    Parameters
    ----------
    table
        An arrow table with `input_ids` (list of integers), `length`, `cell_id` and the annotations; opened from a folder it is
        memory-mapped, so that a set larger than memory can be walked.
    spec
        Vocabulary, frame and longest row that the rows were made with.
    """

    def __init__(self, table: pa.Table, spec: TokenSpec):
        self.table = table
        self.spec = spec
        self._lists = ListColumns(table)
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
        """The special tokens around the genes of every row."""
        return self.spec.frame

    @property
    def obs_columns(self) -> list[str]:
        """Names of the cell columns that the table carries."""
        return [c for c in self.table.column_names if c not in OWN_COLUMNS or (c == COUNTS and not self.has_counts)]

    @functools.cached_property
    def cell_ids(self) -> list[str]:
        """The caller's cell ids (str); row numbers as text where there were none."""
        if "cell_id" not in self.table.column_names:
            return [str(i) for i in range(len(self))]
        return self.table["cell_id"].cast(pa.string()).to_pylist()

    def obs_name(self, column: str) -> str:
        """Look up the name under which the table carries a cell column: `obs_length` for a `length` of the cells'.

        Parameters
        ----------
        column
            Its name in the input or the table.

        Returns
        -------
        str
            Its name in the table.

        Raises
        ------
        CellError
            When the set does not carry it.
        """
        others = self.spec.source.get(RENAMED)
        name = others.get(column, column) if isinstance(others, Mapping) else column
        if name not in self.obs_columns:
            remedy = f"tokenize again with {option('obs', column)}" if offers("obs") else "tokenize again and carry it along"
            raise CellError(f"the tokens carry no cell column '{column}' (they have: {', '.join(self.obs_columns) or 'none'}): {remedy}")
        return name

    def obs(self, column: str) -> np.ndarray:
        """Read one annotation.

        Parameters
        ----------
        column
            Its name in the input or the table; CellError when the set does not carry it.

        Returns
        -------
        array
            An entry per cell.
        """
        return self.table[self.obs_name(column)].to_numpy()

    def obs_df(self) -> Any:
        """Read all annotations.

        Returns
        -------
        DataFrame
            A row per cell with the cell ids as its index; what were categories are so again.
        """
        import pandas as pd

        frame = self.table.select(self.obs_columns).to_pandas().set_index(pd.Index(self.cell_ids, name="cell_id"))
        for name, kind in self.spec.categories.items():
            if name in frame:
                frame[name] = pd.Categorical(frame[name], categories=kind["categories"], ordered=kind["ordered"])
        return frame

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens per row (int64), special tokens included."""
        parts = [np.diff(offsets) for offsets, _ in self._lists.of(ROWS)[1]]
        return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)

    def row(self, i: int) -> np.ndarray:
        """Read the tokens of one cell.

        Parameters
        ----------
        i
            A row number from 0, as everywhere here; CellError for any other.

        Returns
        -------
        array
            int32, special tokens included.
        """
        return self._lists.entry(ROWS, i).astype(np.int32)

    def genes(self, i: int) -> np.ndarray:
        """Read the gene tokens of one cell.

        Parameters
        ----------
        i
            A row number.

        Returns
        -------
        array
            int32, from the highest rank value down.
        """
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
        """Read all gene tokens of one cell, those too that did not fit its row.

        Parameters
        ----------
        i
            A row number.

        Returns
        -------
        array
            int32, without special tokens.
        """
        return self._lists.entry(UNCROPPED, i).astype(np.int32)

    def counts(self, i: int) -> np.ndarray:
        """Read the scaled count of each token of one cell.

        Parameters
        ----------
        i
            A row number.

        Returns
        -------
        array
            float32: count / n_counts * target_sum; 0 at special tokens.
        """
        return self._lists.entry(COUNTS, i)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.row(i) for i in range(len(self)))

    @functools.cached_property
    def n_genes(self) -> np.ndarray:
        """Genes per cell (int64)."""
        return self.lengths - len(self.frame)

    def take(self, rows: Sequence[int] | np.ndarray) -> "TokenSet":
        """Select cells.

        Parameters
        ----------
        rows
            Row numbers from 0; CellError for what are no rows of the set.

        Returns
        -------
        TokenSet
            The cells at `rows`, in that order.
        """
        rows = pa.array(row_numbers(rows, len(self)))
        taken = TokenSet(self.table.take(rows).combine_chunks(), self.spec).known_to_fit(self._checked)
        taken._vocab, taken._folder = self._vocab, self._folder
        return taken

    def known_vocabulary(self, vocab: Vocabulary) -> "TokenSet":
        """Remember the Vocabulary of the spec, in place.

        Parameters
        ----------
        vocab
            The vocabulary; one with another content hash is not taken.

        Returns
        -------
        TokenSet
            The set itself.
        """
        if vocab.hash == self.spec.vocabulary_hash:
            self._vocab = vocab
        return self

    def find_vocabulary(self) -> Vocabulary | None:
        """Find the vocabulary that the rows were made with, by its content hash.

        Returns
        -------
        Vocabulary or None
            The one that this process made or opened the set with, a shipped or fetched one, or a folder of its name in the working folder
            or beside the token folder; None where it is nowhere.
        """
        if self._vocab is None:
            name, beside = self.spec.vocabulary, [] if self._folder is None else [self._folder.parent]
            is_plain = name != ".." and Path(name).name == name  # a file of somebody else's may call it anything
            folders = [place / name for place in (Path(), *beside)] if is_plain and name else []
            self._vocab = find_by_hash(self.spec.vocabulary_hash, folders)
        return self._vocab

    def known_to_fit(self, vocabulary_hash: str) -> "TokenSet":
        """Mark the rows as checked against a vocabulary, in place.

        Parameters
        ----------
        vocabulary_hash
            The content hash of the vocabulary.

        Returns
        -------
        TokenSet
            The set itself.
        """
        self._checked = vocabulary_hash
        return self

    def require_rows(self, vocab: Vocabulary) -> None:
        """Check that every row is the frame around genes of a vocabulary; looked through once.

        Parameters
        ----------
        vocab
            The vocabulary.

        Raises
        ------
        TokensError
            When a row is not. Rows made in this process, and folders whose fingerprint is right, are known to be.
        """
        if self._checked != vocab.hash:
            check_rows(self._lists.of(ROWS)[1], vocab, self.frame, self.spec.source.get("folder", "these tokens"))
            self._checked = vocab.hash

    @functools.cached_property
    def fingerprint(self) -> str:
        """Fingerprint (sha256) of the rows, the cell ids and the spec's meaning."""
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
        """Make a TokenSet of rows in memory.

        Parameters
        ----------
        rows
            Token numbers of each cell, special tokens included as the spec's frame says.
        spec
            Vocabulary, frame and longest row that the rows were made with.
        cell_ids
            One for each row; None: the row numbers as text.
        obs
            Annotations by name, an entry per row.

        Returns
        -------
        TokenSet
            A row per cell.

        Raises
        ------
        TokensError
            For what are no token numbers.
        CellError
            For ids that are missing, stand there twice, or are of another number.
        """
        names = carried_names(obs or {}, OWN_COLUMNS)
        table = table_of_rows(rows, cell_ids, {name: obs[c] for name, c in names.items()})
        return cls(table, dataclasses.replace(spec, source={**spec.source, **renamed(names)}))

    def save(self, folder: str | os.PathLike, *, force: bool = False) -> None:
        """Write a `datasets` folder with rankcell.json beside the data, atomically.

        Parameters
        ----------
        folder
            The folder, complete or absent whatever happens meanwhile.
        force
            Replace a token folder that stands there.
        """
        with dataset_folder(folder, self.table.schema.remove_metadata(), force=force) as sink:
            for batch in self.table.to_batches(max_chunksize=10_000):
                sink.write(batch)
            sink.spec = self.spec

    @classmethod
    @python_verb()
    def open(cls, folder: str | os.PathLike, *, vocab: str | os.PathLike | Vocabulary | None = None) -> "TokenSet":
        """Open a folder written here, or a plain `datasets` folder (Geneformer's).

        Parameters
        ----------
        folder
            The token folder. Of one written here the fingerprint is checked. In a plain one, large and fixed-size lists and whole numbers
            stored as floats are taken, and padding at the end of rows is left out with a note.
        vocab
            The vocabulary that completes a plain folder, also its name or folder.

        Returns
        -------
        TokenSet
            Memory-mapped.

        Raises
        ------
        TokensError
            When it cannot be read, was changed since it was written, needs a vocabulary, or its rows do not fit the one given.
        CellError
            When cell ids are missing or stand there twice.
        """
        vocab = None if vocab is None else find_vocabulary(vocab)
        table, head, is_sealed = read_folder(folder)
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
        spec = spec_of_plain(table, ListColumns(table).of(ROWS)[1], vocab, Path(folder))
        return cls(table, spec).known_to_fit(vocab.hash).known_vocabulary(vocab)
