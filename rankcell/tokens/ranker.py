"""A block of counts -> its token rows, by the kernel."""

from dataclasses import dataclass

import numpy as np

from rankcell.counts import CountBlock, GeneMap
from rankcell.errors import CountsError
from rankcell.vocab import Frame, Vocabulary


def token_type(vocab: Vocabulary) -> np.dtype:
    """int16 where a vocabulary's numbers fit it (both of Geneformer's do, and its own first series writes it), else int32."""
    return np.dtype(np.int16 if vocab.n_ids <= 2**15 else np.int32)


@dataclass(frozen=True)
class RankedRows:
    """Token rows end to end.

    values, lengths
        tokens (of token_type), special ones included, and int64 tokens per row.
    counts
        float32 beside `values`: count / n_counts * target_sum, 0 at special tokens; None when not asked for.
    n_genes
        int64 known genes per row, before it is cropped.
    uncropped
        gene tokens of whole rows; None when not asked for.
    """

    values: np.ndarray
    lengths: np.ndarray
    n_genes: np.ndarray
    counts: np.ndarray | None = None
    uncropped: np.ndarray | None = None


class Ranker:
    """Ranks the rows of blocks of one source with one vocabulary."""

    def __init__(self, vocab: Vocabulary, frame: Frame, max_len: int, genes: GeneMap):
        slots = genes.slot_of_column
        known = np.flatnonzero(slots >= 0)
        first_of_slot = np.full(len(genes.gene_of_slot), len(slots), np.int64)
        np.minimum.at(first_of_slot, slots[known], known)
        gene = genes.gene_of_slot[slots[known]]
        self.first_column = np.full(len(slots), -1, np.int32)
        self.first_column[known] = first_of_slot[slots[known]]
        self.inv_median, self.median = np.zeros(len(slots)), np.ones(len(slots))
        self.inv_median[known], self.median[known] = 1.0 / vocab.medians[gene], vocab.medians[gene]
        self.type = token_type(vocab)
        self.token = np.zeros(len(slots), self.type)
        self.token[known] = vocab.tokens[gene]
        self.one_column_each = len(genes.gene_of_slot) == len(known)
        self.target_sum = vocab.target_sum
        self.most = max_len - len(frame)
        self.head, self.tail = np.array(frame.head, self.type), np.array(frame.tail, self.type)

    def __call__(
        self, block: CountBlock, rows: np.ndarray | None = None, *, keep_counts: bool = False, keep_uncropped: bool = False
    ) -> RankedRows:
        """The given rows of a block (int64; None: all)."""
        from rankcell.tokens.rank_kernel import CellEntries, ColumnGenes, RowShape, RowsOut, product_type, rank_rows

        rows = np.arange(len(block)) if rows is None else rows
        kind = product_type(block.data.dtype, block.n_counts.dtype)
        totals = block.n_counts  # the reciprocal is taken in their own type, and only then cast to the product's
        with np.errstate(over="ignore"):  # refused below
            reciprocal = np.divide(1, totals, out=np.zeros_like(totals), where=totals != 0)
        self._require_in_range(block, rows, reciprocal.astype(kind))
        stored = np.diff(block.indptr)[rows]
        room = int((np.minimum(stored, self.most) + len(self.head) + len(self.tail)).sum())
        out, lengths = np.empty(room, self.type), np.empty(len(rows), np.int64)
        scaled = np.empty(room if keep_counts else 0, np.float32)
        uncropped = np.empty(max(1, int(stored.sum())) if keep_uncropped else 0, self.type)
        n_genes = np.zeros(len(rows), np.int64)
        data, reciprocal = block.data.astype(kind, copy=False), reciprocal.astype(kind, copy=False)
        n = rank_rows(
            CellEntries(rows, block.indptr, block.indices.view(np.uint32), data, reciprocal),
            ColumnGenes(self.inv_median, self.first_column, self.one_column_each, self.token, self.median),
            RowShape(kind.type(self.target_sum), self.most, self.head, self.tail),
            RowsOut(out, lengths, scaled, uncropped, n_genes),
        )
        return RankedRows(
            out[:n],
            lengths,
            n_genes,
            scaled[:n] if keep_counts else None,
            uncropped[: n_genes.sum()] if keep_uncropped else None,
        )

    def _require_in_range(self, block: CountBlock, rows: np.ndarray, reciprocal: np.ndarray) -> None:
        """CountsError when a cell's n_counts is so small or so large that its rank values are no numbers of the type they are computed in."""
        kind, limits = reciprocal.dtype.type, np.finfo(reciprocal.dtype)
        scale = self.target_sum * max(1.0, float(self.inv_median.max(initial=0)))
        least = limits.tiny / 2  # below, digits are lost
        reciprocals = reciprocal[block.n_counts != 0]
        with np.errstate(over="ignore", invalid="ignore"):
            largest = float(block.data.max(initial=0))
            if least <= reciprocals.min(initial=1) and largest * float(reciprocals.max(initial=0)) * scale <= limits.max:
                return  # whatever count stands in whatever cell
            for i in rows[block.n_counts[rows] != 0]:
                counts = block.data[block.indptr[i] : block.indptr[i + 1]]
                most = kind(counts[np.isfinite(counts)].max(initial=0)) * reciprocal[i] * kind(self.target_sum)
                if reciprocal[i] < least or not np.isfinite(most) or not np.isfinite(float(most) * scale / self.target_sum):
                    raise CountsError(
                        f"row {block.start + i:,} has n_counts {block.n_counts[i]:.3g} and a largest count of {counts.max(initial=0):.3g}: "
                        f"count / n_counts is beyond what {reciprocal.dtype} holds; mend obs n_counts, or leave it out (row sums then serve)"
                    )

    def warm_up(self, data: np.dtype, n_counts: np.dtype) -> None:
        """Compile (or load) the kernel for these types before several threads ask for it."""
        self(CountBlock(0, np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, data), np.empty(0, n_counts)))
