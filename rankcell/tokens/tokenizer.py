"""Tokenizer: count sources -> a TokenSet, in memory or streamed to a folder."""

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import pyarrow as pa

from rankcell.arguments import checked
from rankcell.counts.options import Counts
from rankcell.errors import SettingsError
from rankcell.store import require_apart, require_new
from rankcell.tokens.cropping import note_cropping
from rankcell.tokens.job import Encoding, Job, Reading
from rankcell.tokens.options import Tokenizing
from rankcell.tokens.spec import TokenSpec
from rankcell.tokens.token_folder import DATASET_FILES, SPEC_FILE, dataset_folder
from rankcell.tokens.tokenset import TokenSet
from rankcell.vocab import Vocabulary, find_vocabulary
from rankcell.wording import note, option, python_verb


class Tokenizer:
    """Rank-value encoding of cells with one vocabulary.

    Parameters
    ----------
    vocab
        A Vocabulary, a vocabulary folder, or the name of a shipped or fetched one.
    tokenizing
        How long rows are, which cells become rows, and what is kept beside them.

    Raises
    ------
    VocabularyError
        When there is no such vocabulary.
    SettingsError
        When `max_len` leaves no room for a gene.
    """

    @python_verb()
    def __init__(self, vocab: str | os.PathLike | Vocabulary | None = None, tokenizing: Tokenizing = Tokenizing()):
        self.vocab, self.tokenizing = find_vocabulary(vocab), tokenizing
        self.frame = self.vocab.frame if tokenizing.cls is None else self.vocab.make_frame(cls=tokenizing.cls)
        self.max_len = self.vocab.max_len if tokenizing.max_len is None else tokenizing.max_len
        if self.max_len <= len(self.frame):
            raise SettingsError(
                f"{option('max_len')} is {self.max_len}, with {len(self.frame)} special tokens no gene fits: give at least {len(self.frame) + 1}"
            )

    @property
    def encoding(self) -> Encoding:
        """Vocabulary, frame and longest row of the rows."""
        return Encoding(self.vocab, self.frame, self.max_len)

    @checked
    @python_verb(**Tokenizing.option_words())  # which are the constructor's
    def tokenize(
        self,
        source: Any,
        *,
        obs: str | Sequence[str] = (),
        counts: Counts = Counts(),
        progress: Callable[[int, int], None] | None = None,
    ) -> TokenSet:
        """Tokenize a count file, an AnnData, a folder or pattern of files, or a list of these, into a TokenSet in memory.

        Parameters
        ----------
        source
            Counts: the path of a file, an AnnData, a folder or pattern of files, or a list of these.
        obs
            Cell columns to carry along.
        counts
            Where the counts are, and which genes count.
        progress
            Called as `progress(cells_done, cells)` after each batch.

        Returns
        -------
        TokenSet
            A row per cell in the input's order. Of several inputs (a folder or pattern too) the rows follow each other, the column `source`
            says which one a row is from, and cell ids are `<source>:<id>`. Columns beside `input_ids`: `counts` (`keep_counts`: count /
            n_counts * target_sum, float32, 0 at special tokens), and `input_ids_uncropped` and `length_uncropped` (`keep_uncropped`: all
            genes of a cell, without special tokens).

        Warns
        -----
        RankcellWarning
            One, with the number of cells without any known gene: they keep their row (without genes).
        """
        return self.run(source, obs=obs, counts=counts, progress=progress)

    @checked
    @python_verb(**Tokenizing.option_words())
    def write(
        self,
        source: Any,
        out: str | os.PathLike,
        *,
        obs: str | Sequence[str] = (),
        counts: Counts = Counts(),
        force: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> TokenSet:
        """Tokenize into a token folder in a stream, and open it: memory does not grow with the number of cells.

        Parameters
        ----------
        source
            As in `tokenize`.
        out
            The folder, complete or absent whatever happens meanwhile.
        obs, counts
            As in `tokenize`.
        force
            Replace a token folder that stands there.
        progress
            As in `tokenize`.

        Returns
        -------
        TokenSet
            Opened from the folder.

        Raises
        ------
        OutputError
            When the folder exists, without `force`.
        """
        return self.run(source, out, obs=obs, counts=counts, force=force, progress=progress)

    def run(
        self,
        source: Any,
        out: str | os.PathLike | None = None,
        *,
        obs: str | Sequence[str],
        counts: Counts,
        force: bool = False,
        note_empty: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> TokenSet:
        """Run a tokenization job in memory or into a folder; behind `tokenize` and `write`.

        Parameters
        ----------
        source
            As in `tokenize`.
        out
            The folder; None: in memory.
        obs, counts
            As in `tokenize`.
        force
            Replace a token folder that stands there.
        note_empty
            Warn of the cells without any known gene; False where the caller goes on to a step that does.
        progress
            As in `tokenize`.

        Returns
        -------
        TokenSet
            In memory, or opened from the folder.
        """
        if out is not None:
            require_apart(out, source if isinstance(source, (list, tuple)) else [source])
            require_new(out, force=force, marker=SPEC_FILE, own=DATASET_FILES)
        with closing(Job.of(self.encoding, source, Reading(obs, self.tokenizing, counts))) as job:
            if out is None:
                table = pa.Table.from_batches(list(job.batches(progress)), schema=job.schema)
                tokens = TokenSet(table, self._spec(job)).known_to_fit(self.vocab.hash)
            else:
                self._write(job, out, force, progress)
            self._note(job, note_empty)
        return (tokens if out is None else TokenSet.open(out)).known_vocabulary(self.vocab)

    def _write(self, job: Job, out: str | os.PathLike, force: bool, progress: Callable[[int, int], None] | None) -> None:
        require_apart(out, job.inputs.items)
        with dataset_folder(out, job.schema, force=force) as sink:
            for batch in job.batches(progress):
                sink.write(batch)
            sink.spec = self._spec(job)

    def _spec(self, job: Job) -> TokenSpec:
        facts = {"source": job.facts, "categories": job.categories, "cropping": job.cropping.to_json()}
        return TokenSpec.of(self.vocab, frame=self.frame, max_len=self.max_len, **facts)

    def _note(self, job: Job, note_empty: bool) -> None:
        for remark in job.remarks:
            note(remark)
        note_cropping(self._spec(job))
        if job.n_empty and note_empty:
            note(
                f"{job.n_empty:,} of {job.n_selected:,} cells have no gene with a count that vocabulary '{self.vocab.name}' knows: "
                "they keep their row, and their embedding will be NaN"
            )
