"""Tokenizer: count sources -> a TokenSet, in memory or streamed to a folder."""

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import pyarrow as pa

from rankcell.arguments import checked
from rankcell.errors import SettingsError
from rankcell.store import require_apart, require_new
from rankcell.tokens.cropping import note_cropping
from rankcell.tokens.job import Encoding, Job, Options
from rankcell.tokens.spec import TokenSpec
from rankcell.tokens.tokenset import DATASET_FILES, SPEC_FILE, TokenSet, dataset_folder
from rankcell.vocab import Vocabulary, find_vocabulary
from rankcell.wording import note, option, python_verb


class Tokenizer:
    """Rank-value encoding of cells with one vocabulary.

    vocab
        A Vocabulary, a vocabulary folder, or the name of a shipped or fetched one; VocabularyError when there is none.
    max_len
        Longest row, special tokens included; None: what the vocabulary says.
    cls
        Whether rows carry `<cls>` (and `<eos>` where the vocabulary has one); None: as the vocabulary says.
    """

    @checked
    def __init__(self, vocab: str | os.PathLike | Vocabulary | None = None, *, max_len: int | None = None, cls: bool | None = None):
        self.vocab = find_vocabulary(vocab)
        self.frame = self.vocab.frame if cls is None else self.vocab.make_frame(cls=cls)
        self.max_len = self.vocab.max_len if max_len is None else int(max_len)
        if self.max_len <= len(self.frame):
            raise SettingsError(
                f"{option('max_len')} is {self.max_len}, with {len(self.frame)} special tokens no gene fits: give at least {len(self.frame) + 1}"
            )

    @checked
    @python_verb(counts_layer="layer")
    def tokenize(
        self,
        source: Any,
        *,
        obs: Sequence[str] = (),
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
        rows_per_block: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> TokenSet:
        """The cells of a count file, an AnnData, a folder or pattern of files, or a list of these, as a TokenSet in memory.

        A row per cell in the input's order. Of several inputs (a folder or pattern too) the rows follow each other, the column
        `source` says which one a row is from, and cell ids are `<source>:<id>`.

        obs
            Cell columns to carry along.
        layer, raw
            Which matrix holds the counts (default X).
        gene_column
            The var column that names the genes; None: the one that the vocabulary knows best.
        genome
            Of an input with the genes of several genomes: the one whose genes count; None: the one that the vocabulary knows.
        filter
            Only cells for which this pandas expression over cell columns is true: `cell_type == 'B'`, or `filter_pass`.
        keep_counts
            Also a column `counts` beside `input_ids`: count / n_counts * target_sum (float32, 0 at special tokens).
        keep_uncropped
            Also `input_ids_uncropped` and `length_uncropped`: all genes of a cell, without special tokens.
        allow_non_counts
            Rank values that are not counts; entries that are not above zero are left out.
        allow_repeated_cells
            Take several inputs that hold the same cells, which are refused otherwise.
        workers
            Threads; None: the processors, at most 8. The result does not depend on it, nor on `rows_per_block`.
        progress
            Called as `progress(cells_done, cells)` after each batch.

        Cells without any known gene keep their row (without genes) and are counted in one RankcellWarning.
        """
        options = {k: v for k, v in locals().items() if k not in ("self", "source", "progress")}
        return self.run(source, Options(**options), progress=progress)

    @checked
    @python_verb(counts_layer="layer")
    def write(
        self,
        source: Any,
        out: str | os.PathLike,
        *,
        obs: Sequence[str] = (),
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
        rows_per_block: int | None = None,
        force: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> TokenSet:
        """The same into a folder, batch by batch, and open it. `progress(cells_done, cells)` is called after each batch."""
        options = {k: v for k, v in locals().items() if k not in ("self", "source", "out", "force", "progress")}
        return self.run(source, Options(**options), out, force=force, progress=progress)

    def run(
        self,
        source: Any,
        options: Options,
        out: str | os.PathLike | None = None,
        *,
        force: bool = False,
        note_empty: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> TokenSet:
        """What `tokenize` (without `out`) and `write` do.

        note_empty
            Warn of the cells without any known gene; False where the caller goes on to a step that does.
        """
        if out is not None:
            require_apart(out, source if isinstance(source, (list, tuple)) else [source])
            require_new(out, force=force, marker=SPEC_FILE, own=DATASET_FILES)
        with closing(Job.of(Encoding(self.vocab, self.frame, self.max_len), source, options)) as job:
            if out is None:
                table = pa.Table.from_batches(list(job.batches(progress)), schema=job.schema)
                tokens = TokenSet(table, self._spec(job)).known_to_fit(self.vocab.hash)
            else:
                self._write(job, out, force, progress)
            self._note(job, note_empty)
        return tokens if out is None else TokenSet.open(out)

    def _write(self, job: Job, out: str | os.PathLike, force: bool, progress: Callable[[int, int], None] | None) -> None:
        require_apart(out, job.inputs.items)
        with dataset_folder(out, job.schema, force=force) as sink:
            for batch in job.batches(progress):
                sink.write(batch)
            sink.spec = self._spec(job)

    def _spec(self, job: Job) -> TokenSpec:
        how = {"source": job.facts, "categories": job.categories, "cropping": job.cropping.to_json()}
        return TokenSpec.of(self.vocab, frame=self.frame, max_len=self.max_len, **how)

    def _note(self, job: Job, note_empty: bool) -> None:
        for remark in job.remarks:
            note(remark)
        note_cropping(self._spec(job))
        if job.n_empty and note_empty:
            note(
                f"{job.n_empty:,} of {job.n_kept:,} cells have no gene with a count that vocabulary '{self.vocab.name}' knows: "
                "they keep their row, and their embedding will be NaN"
            )
