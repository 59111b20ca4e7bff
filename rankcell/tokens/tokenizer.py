"""Tokenizer: a count source -> a TokenSet, in memory or streamed to a folder."""

import itertools
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from rankcell.counts import CountBlock, CountSource, GeneMap, match_genes, open_counts
from rankcell.errors import CellError, RankcellWarning, SettingsError
from rankcell.store import require_new
from rankcell.tokens.spec import TokenSpec
from rankcell.tokens.tokenset import SPEC_FILE, TokenSet, dataset_folder, make_batch, obs_array
from rankcell.vocab import Vocabulary, find_vocabulary

_RESERVED = ("input_ids", "length", "cell_id")


class Tokenizer:
    """Rank-value encoding of cells with one vocabulary.

    vocab
        A Vocabulary, a vocabulary folder, or the name of a shipped one.
    max_len
        Longest row, special tokens included; None: what the vocabulary says.
    cls
        Whether rows carry `<cls>` (and `<eos>` where the vocabulary has one); None: as the vocabulary says.
    """

    def __init__(self, vocab: str | os.PathLike | Vocabulary = "demo", *, max_len: int | None = None, cls: bool | None = None):
        self.vocab = find_vocabulary(vocab)
        self.frame = self.vocab.frame if cls is None else self.vocab.make_frame(cls=cls)
        self.max_len = self.vocab.max_len if max_len is None else int(max_len)
        if self.max_len <= len(self.frame):
            raise SettingsError(
                f"max_len is {self.max_len}, with {len(self.frame)} special tokens no gene fits: give at least {len(self.frame) + 1}"
            )

    def tokenize(
        self,
        source: Any,
        *,
        obs: Sequence[str] = (),
        layer: str | None = None,
        raw: bool = False,
        gene_column: str | None = None,
        allow_non_counts: bool = False,
        workers: int | None = None,
        rows_per_block: int | None = None,
    ) -> TokenSet:
        """The cells of an h5ad file or AnnData as a TokenSet in memory, a row per cell in its order.

        obs
            Cell columns to carry along.
        layer, raw
            Which matrix holds the counts (default X).
        gene_column
            The var column that names the genes; None: the one that the vocabulary knows best.
        allow_non_counts
            Rank values that are not counts; entries that are not above zero are left out.
        workers
            Threads; None: all processors. The result does not depend on it, nor on `rows_per_block`.

        Cells without any known gene keep their row (without genes) and are counted in one RankcellWarning.
        """
        with open_counts(source, layer=layer, raw=raw) as counts:
            job = _Job(self, counts, obs, gene_column)
            run = job.batches(allow_non_counts=allow_non_counts, workers=workers, rows_per_block=rows_per_block)
            table = pa.Table.from_batches(list(run), schema=job.schema)
            job.warn_empty()
            return TokenSet(table, job.spec)

    def write(
        self,
        source: Any,
        out: str | os.PathLike,
        *,
        obs: Sequence[str] = (),
        layer: str | None = None,
        raw: bool = False,
        gene_column: str | None = None,
        allow_non_counts: bool = False,
        workers: int | None = None,
        rows_per_block: int | None = None,
        force: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> TokenSet:
        """The same into a folder, block by block, and open it. `progress(cells_done, cells)` is called after each block."""
        require_new(out, force=force, marker=SPEC_FILE)
        with open_counts(source, layer=layer, raw=raw) as counts:
            job = _Job(self, counts, obs, gene_column)
            done = 0
            with dataset_folder(out, job.schema, force=force) as sink:
                for batch in job.batches(allow_non_counts=allow_non_counts, workers=workers, rows_per_block=rows_per_block):
                    sink.write(batch)
                    done += len(batch)
                    if progress:
                        progress(done, counts.n_cells)
                sink.spec = job.spec
            job.warn_empty()
        return TokenSet.open(out)


class _Job:
    """One source with one tokenizer: the gene map, the columns to carry, and what was met on the way."""

    def __init__(self, tokenizer: Tokenizer, source: CountSource, obs: Sequence[str], gene_column: str | None):
        self.tokenizer = tokenizer
        self.source = source
        taken = [c for c in obs if c in _RESERVED]
        if taken:
            raise SettingsError(f"the cell column '{taken[0]}' has a name that tokens use themselves: rename it first")
        self.obs = {c: _plain(source.require_obs(c), c) for c in dict.fromkeys(obs)}
        self.genes = match_genes(source, tokenizer.vocab, gene_column=gene_column)
        self.n_empty = 0
        self._rank = _Ranker(tokenizer, self.genes)
        self.spec = TokenSpec.of(
            tokenizer.vocab,
            frame=tokenizer.frame,
            max_len=tokenizer.max_len,
            source={
                "name": os.path.basename(source.name),
                "matrix": source.matrix,
                "gene_column": self.genes.column,
                "genes_known": self.genes.n_known,
                "genes": source.n_genes,
                "n_counts": "obs n_counts" if "n_counts" in source.obs_columns else "row sum",
                "cell_ids": "given" if source.has_cell_ids else "row numbers",
            },
        )
        self.schema = self._batch(0, np.empty(0, np.int32), np.empty(0, np.int64)).schema

    def batches(self, *, allow_non_counts: bool, workers: int | None, rows_per_block: int | None) -> Iterator[pa.RecordBatch]:
        if workers is not None and workers < 1:
            raise SettingsError(f"workers is {workers}; at least 1")
        n = workers or _processors()
        with ThreadPoolExecutor(n, "rank") as pool:
            for block in self.source.blocks(rows_per_block=rows_per_block, allow_non_counts=allow_non_counts):
                values, lengths = self._rank(block, pool, n)
                self.n_empty += int((lengths == len(self.tokenizer.frame)).sum())
                yield self._batch(block.start, values, lengths)

    def _batch(self, start: int, values: np.ndarray, lengths: np.ndarray) -> pa.RecordBatch:
        at = slice(start, start + len(lengths))
        return make_batch(values, lengths, self.source.cell_ids[at], {k: v[at] for k, v in self.obs.items()})

    def warn_empty(self) -> None:
        if self.n_empty:
            warnings.warn(
                f"{self.n_empty:,} of {self.source.n_cells:,} cells have no gene that vocabulary '{self.tokenizer.vocab.name}' knows: "
                "they keep their row, and their embedding will be NaN",
                RankcellWarning,
                stacklevel=3,
            )


def _processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Ranker:
    """Runs the kernel on blocks, rows shared out among threads."""

    def __init__(self, tokenizer: Tokenizer, genes: GeneMap):
        vocab, frame = tokenizer.vocab, tokenizer.frame
        self.slot_of_column = genes.slot_of_column
        self.inv_median = 1.0 / vocab.medians[genes.gene_of_slot]
        self.token_of_slot = vocab.tokens[genes.gene_of_slot]
        self.target_sum = vocab.target_sum
        self.max_genes = tokenizer.max_len - len(frame)
        self.head, self.tail = np.array(frame.head, np.int32), np.array(frame.tail, np.int32)

    def __call__(self, block: CountBlock, pool: ThreadPoolExecutor, n_threads: int) -> tuple[np.ndarray, np.ndarray]:
        """Framed rows end to end (int32) and their lengths (int64)."""
        from rankcell.tokens.kernel import product_type, rank_rows

        kind = product_type(block.data.dtype, block.n_counts.dtype)
        totals = block.n_counts  # the reciprocal is taken in their own type, and only then cast to the product's
        reciprocal = np.divide(1, totals, out=np.zeros_like(totals), where=totals != 0)
        n = len(block)
        room = np.minimum(np.diff(block.indptr), self.max_genes) + len(self.head) + len(self.tail)
        start = np.concatenate([[0], np.cumsum(room)]).astype(np.int64)
        out, lengths = np.empty(start[-1], np.int32), np.empty(n, np.int64)
        shared = (
            block.indptr.astype(np.int64, copy=False),
            block.indices.astype(np.int32, copy=False),
            block.data.astype(kind, copy=False),
            reciprocal.astype(kind, copy=False),
            kind.type(self.target_sum),
            self.slot_of_column,
            self.inv_median,
            self.token_of_slot,
            self.max_genes,
            self.head,
            self.tail,
            out,
            start,
            lengths,
        )
        edges = np.linspace(0, n, min(n, 4 * n_threads) + 1).astype(int)
        for done in [pool.submit(rank_rows, a, b, *shared) for a, b in itertools.pairwise(edges)]:
            done.result()
        if (lengths == room).all():
            return out, lengths
        keep = np.repeat(lengths, room) > (np.arange(start[-1]) - np.repeat(start[:-1], room))
        return out[keep], lengths


def _plain(column: Any, name: str) -> pa.Array:
    """A cell column that can be sliced by position."""
    try:
        return obs_array(column)
    except pa.ArrowException as e:
        raise CellError(
            f"the cell column '{name}' cannot be carried along, it holds values of several kinds ({e}): make it text first"
        ) from e
