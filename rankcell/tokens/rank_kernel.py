"""The rank kernel: sparse rows of counts -> gene tokens in descending rank value.

value = count / n_counts * target_sum / median, in the arithmetic of Geneformer on sparse input (scipy multiplies by
reciprocals): r = 1 / n_counts and count * r * target_sum in the product type, then times 1 / median in float64. The
product type is float32 when both the matrix and n_counts fit it, else float64. Order matters in the last bit: another
order of the same operations swaps a few ranks in every thousand cells.

Genes are ordered by value, from high to low, and where two values are equal by the first column of the gene in the input.
That is a total order, so the result does not depend on how entries are stored, nor on block size, threads or processor. Only
entries above zero are tokens.

How it is fast: the values of a cell spread over some orders of magnitude, so the bits of their float32 rounding, which rise with
them, put nearly every gene into a bucket of its own. A histogram of the buckets says where each bucket begins, and where the row
will be cropped: what lies beyond is never moved. What is moved is one 64-bit number a gene, the bits and its place in the row; an
insertion pass puts the few that share a bucket in order, and where two roundings are equal the exact values decide. Numbers that
index are unsigned, because a signed one is checked for being below zero each time.
"""

from typing import NamedTuple

import numpy as np

from rankcell.compiled import compiled

_CROWDED = 48
_MOST_BUCKETS = 16384
_U = np.uint64
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def product_type(data_dtype: np.dtype, n_counts_dtype: np.dtype) -> np.dtype:
    """float32 where numpy promotes the two to it, else float64."""
    common = np.result_type(data_dtype, n_counts_dtype)
    return np.dtype(np.float32 if common in (np.float16, np.float32) else np.float64)


@compiled
def _gather(indices, data, start, stop, r, target, inv_median, value, key, column):
    """Known entries above zero of one row: value, its float32, column; their number, and whether the columns rise strictly."""
    n = _U(0)
    falling = False
    last = np.int64(-1)
    for k in range(start, stop):
        c = indices[k]
        x = data[k]
        w = inv_median[c]
        falling |= np.int64(c) <= last
        last = np.int64(c)
        v = np.float64(x * r * target) * w
        value[n] = v
        key[n] = np.float32(v)
        column[n] = c
        n += _U((w > 0.0) & (x > 0))
    return n, not falling


@compiled
def _gather_summed(indices, data, start, stop, r, target, inv_median, first_column, value, key, column, total, touched):
    """`_gather` for rows in any column order, entries of one gene summed (float64, then the product type)."""
    m = _U(0)
    for k in range(start, stop):
        c = first_column[indices[k]]
        if c < 0 or data[k] == 0:
            continue
        if not touched[c]:
            touched[c] = True
            column[m] = c
            m += _U(1)
        total[c] += np.float64(data[k])
    n = _U(0)
    for i in range(m):
        c = column[i]
        x = data.dtype.type(total[c])
        total[c] = 0.0
        touched[c] = False
        if x > 0:
            v = np.float64(x * r * target) * inv_median[c]
            value[n] = v
            key[n] = np.float32(v)
            column[n] = c
            n += _U(1)
    return n


@compiled
def _before(a, b, value, column):
    """Whether item `a` ranks before item `b`: the higher value, or the earlier column."""
    i, j = a & _LOW, b & _LOW
    return value[i] > value[j] or (value[i] == value[j] and column[i] < column[j])


@compiled
def _sort_exactly(item, start, stop, value, column, spare):
    """Merge sort of a stretch of items by their exact values."""
    width = _U(1)
    while width < stop - start:
        lo = start
        while lo < stop:
            mid, hi = min(lo + width, stop), min(lo + width + width, stop)
            i, j = lo, mid
            for k in range(lo, hi):
                if i < mid and (j >= hi or not _before(item[j], item[i], value, column)):
                    spare[k] = item[i]
                    i += _U(1)
                else:
                    spare[k] = item[j]
                    j += _U(1)
            lo = hi
        for k in range(start, stop):
            item[k] = spare[k]
        width += width


@compiled
def _settle(item, n, value, column, spare):
    """Resolve ties of roundings: sort stretches of equal roundings by the exact values."""
    a = _U(0)
    while a + _U(1) < n:
        b = a + _U(1)
        while b < n and (item[b] >> _HALF) == (item[a] >> _HALF):
            b += _U(1)
        if b - a > _U(1):
            _sort_exactly(item, a, b, value, column, spare)
        a = b


@compiled
def _order(value, key, column, n, most, bins, item, spare):
    """The places of the first min(n, most) genes in order of rank: the lower half of `item`; returns their number.

    `bins`: room for _MOST_BUCKETS; `item`, `spare`: for n.
    """
    if n == _U(0):
        return n
    bits = key.view(np.uint32)
    low = bits[0]
    high = bits[0]
    for i in range(n):
        low = min(low, bits[i])
        high = max(high, bits[i])
    n_bins = _U(64)
    while n_bins < _U(4) * n and n_bins < _U(_MOST_BUCKETS):
        n_bins += n_bins
    shift = np.uint32(0)
    while _U((high - low) >> shift) >= n_bins:
        shift += np.uint32(1)
    bins[:n_bins] = 0
    for i in range(n):
        bins[(high - bits[i]) >> shift] += np.uint32(1)
    at = np.uint32(0)
    largest = np.uint32(0)
    for b in range(n_bins):  # kept free of branches: it runs four times as often as there are genes
        size = bins[b]
        bins[b] = at
        at = np.uint32(at + size)
        largest = max(largest, size)
    limit = n
    if n > most:  # where the first bucket begins that is cropped away
        b = _U(0)
        while b < n_bins and _U(bins[b]) < most:
            b += _U(1)
        limit = _U(bins[b]) if b < n_bins else n
    for i in range(n):
        k = high - bits[i]
        p = bins[k >> shift]
        if p < limit:
            item[p] = (_U(k) << _HALF) | _U(i)
            bins[k >> shift] = np.uint32(p + np.uint32(1))
    if largest > _CROWDED:
        _sort_exactly(item, _U(0), limit, value, column, spare)
        return min(n, most)
    last = item[0]
    for i in range(_U(1), limit):
        v = item[i]
        if v > last:
            last = v
            continue
        j = i
        while j > _U(0) and item[j - _U(1)] > v:
            item[j] = item[j - _U(1)]
            j -= _U(1)
        item[j] = v
    equal = False
    for i in range(_U(1), limit):
        equal |= (item[i] >> _HALF) == (item[i - _U(1)] >> _HALF)
    if equal:
        _settle(item, limit, value, column, spare)
    return min(n, most)


class CellEntries(NamedTuple):
    """Rows of a block of counts: which rows (int64), `indptr`, `indices` (uint32, columns), `data`, and 1 / n_counts of each row of the block.

    data and reciprocal have the product type.
    """

    rows: np.ndarray
    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    reciprocal: np.ndarray


class ColumnGenes(NamedTuple):
    """Per column of a block: 1 / median (0 where the vocabulary does not know it), first column of its gene (-1 likewise), token, median.

    one_column_each
        Whether no gene has two columns.
    """

    inv_median: np.ndarray
    first_column: np.ndarray
    one_column_each: bool
    token: np.ndarray
    median: np.ndarray


class RowShape(NamedTuple):
    """The parameters of a row: target sum (product type), most genes, and the special tokens before and after."""

    target: float
    most: int
    head: np.ndarray
    tail: np.ndarray


class RowsOut(NamedTuple):
    """Output arrays: framed rows end to end, their lengths, value * median of each token (0 at special ones) beside them, all genes of each
    row, and the number of genes of each row before it is cropped. `scaled` and `uncropped` are left alone when they have no room at all."""

    tokens: np.ndarray
    lengths: np.ndarray
    scaled: np.ndarray
    uncropped: np.ndarray
    n_genes: np.ndarray


@compiled
def rank_rows(cells, genes_of, shape, filled):
    """Framed token rows of some cells. CellEntries, ColumnGenes, RowShape and RowsOut -> number of tokens written."""
    rows, indptr, indices, data, reciprocal = cells
    inv_median, first_column, one_column_each, token, median = genes_of
    target, most, head, tail = shape
    out, lengths, scaled, uncropped, n_genes = filled
    widest = 1
    for row in rows:
        widest = max(widest, indptr[row + 1] - indptr[row])
    value, key = np.empty(widest + 1, np.float64), np.empty(widest + 1, np.float32)
    column = np.empty(widest + 1, np.uint32)
    item, spare = np.empty(widest + 1, np.uint64), np.empty(widest + 1, np.uint64)
    bins = np.empty(_MOST_BUCKETS, np.uint32)
    total = np.zeros(len(inv_median), np.float64)
    touched = np.zeros(len(inv_median), np.bool_)
    all_genes = len(uncropped) > 0
    at = 0
    at_uncropped = 0
    for i in range(len(rows)):
        a, b, r = indptr[rows[i]], indptr[rows[i] + 1], reciprocal[rows[i]]
        n, rising = _U(0), False
        if one_column_each:
            n, rising = _gather(indices, data, a, b, r, target, inv_median, value, key, column)
        if not rising:
            n = _gather_summed(indices, data, a, b, r, target, inv_median, first_column, value, key, column, total, touched)
        n_first = _order(value, key, column, n, n if all_genes else _U(most), bins, item, spare)
        n_ranked = min(n_first, _U(most))
        out[at : at + len(head)] = head
        genes = out[at + len(head) :]
        for k in range(n_ranked):
            genes[k] = token[column[item[k] & _LOW]]
        end = at + len(head) + np.int64(n_ranked)
        out[end : end + len(tail)] = tail
        if len(scaled):
            scaled[at : end + len(tail)] = 0
            beside = scaled[at + len(head) :]
            for k in range(n_ranked):
                beside[k] = value[item[k] & _LOW] * median[column[item[k] & _LOW]]
        lengths[i] = end + len(tail) - at
        n_genes[i] = np.int64(n)
        at = end + len(tail)
        if all_genes:
            full_row = uncropped[at_uncropped:]
            for k in range(n_first):
                full_row[k] = token[column[item[k] & _LOW]]
            at_uncropped += np.int64(n_first)
    return at
