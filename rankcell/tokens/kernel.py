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
will be cropped: what lies beyond is never moved. An insertion pass over the exact values then finishes the few that share a bucket.
"""

import numpy as np

from rankcell.counts.compiled import compiled

_CROWDED = 48
_MOST_BUCKETS = 16384


def product_type(data_dtype: np.dtype, n_counts_dtype: np.dtype) -> np.dtype:
    """float32 where numpy promotes the two to it, else float64."""
    common = np.result_type(data_dtype, n_counts_dtype)
    return np.dtype(np.float32 if common in (np.float16, np.float32) else np.float64)


@compiled
def _gather(indices, data, start, stop, r, target, inv_median, value, column):
    """Known entries above zero of one row as (value, column), when its columns rise strictly; -1 when they do not."""
    n = 0
    last = -1
    rising = True
    for k in range(start, stop):
        c = indices[k]
        x = data[k]
        w = inv_median[c]
        rising &= c > last
        last = c
        value[n] = np.float64(x * r * target) * w
        column[n] = c
        n += (w > 0.0) & (x > 0)
    return n if rising else -1


@compiled
def _gather_summed(indices, data, start, stop, r, target, inv_median, first_column, value, column, total, touched):
    """The same for rows in any column order, entries of one gene summed (float64, then the product type)."""
    m = 0
    for k in range(start, stop):
        c = first_column[indices[k]]
        if c < 0 or data[k] == 0:
            continue
        if not touched[c]:
            touched[c] = True
            column[m] = c
            m += 1
        total[c] += np.float64(data[k])
    n = 0
    for i in range(m):
        c = column[i]
        x = data.dtype.type(total[c])
        total[c] = 0.0
        touched[c] = False
        if x > 0:
            value[n] = np.float64(x * r * target) * inv_median[c]
            column[n] = c
            n += 1
    return n


@compiled
def _merge_sort(value, column, n, spare_value, spare_column):
    """value[:n] from high to low, equal ones by column; for rows whose buckets are crowded."""
    width = 1
    while width < n:
        for lo in range(0, n, 2 * width):
            mid = min(lo + width, n)
            hi = min(lo + 2 * width, n)
            i, j = lo, mid
            for k in range(lo, hi):
                left = j >= hi
                if not left and i < mid:
                    left = value[i] > value[j] or (value[i] == value[j] and column[i] < column[j])
                if left:
                    spare_value[k], spare_column[k] = value[i], column[i]
                    i += 1
                else:
                    spare_value[k], spare_column[k] = value[j], column[j]
                    j += 1
        value[:n] = spare_value[:n]
        column[:n] = spare_column[:n]
        width *= 2


@compiled
def _first(value, column, n, most, key, bins, out_value, out_column):
    """The first min(n, most) genes in order of rank, to out_value and out_column; their number.

    `key`: room for n float32; `bins`: for _MOST_BUCKETS.
    """
    if n == 0:
        return 0
    bits = key.view(np.uint32)
    for i in range(n):
        key[i] = np.float32(value[i])
    low = bits[0]
    high = bits[0]
    for i in range(n):
        low = min(low, bits[i])
        high = max(high, bits[i])
    n_bins = 64
    while n_bins < 4 * n and n_bins < _MOST_BUCKETS:
        n_bins *= 2
    shift = np.uint32(0)
    while ((high - low) >> shift) >= n_bins:
        shift += np.uint32(1)
    bins[:n_bins] = 0
    for i in range(n):
        bins[(high - bits[i]) >> shift] += 1
    at = 0
    largest = 0
    for b in range(n_bins):  # kept free of branches: it runs four times as often as there are genes
        size = bins[b]
        bins[b] = at
        at += size
        largest = max(largest, size)
    limit = n
    if n > most:  # where the first bucket begins that is cropped away
        b = 0
        while b < n_bins and bins[b] < most:
            b += 1
        limit = bins[b] if b < n_bins else n
    for i in range(n):
        b = (high - bits[i]) >> shift
        p = bins[b]
        if p < limit:
            out_value[p] = value[i]
            out_column[p] = column[i]
            bins[b] = p + 1
    if largest > _CROWDED:
        _merge_sort(out_value, out_column, limit, value, column)
    for i in range(1, limit):
        v = out_value[i]
        if out_value[i - 1] > v:
            continue
        c = out_column[i]
        j = i
        while j > 0 and (out_value[j - 1] < v or (out_value[j - 1] == v and out_column[j - 1] > c)):
            out_value[j] = out_value[j - 1]
            out_column[j] = out_column[j - 1]
            j -= 1
        out_value[j] = v
        out_column[j] = c
    return min(n, most)


@compiled
def rank_rows(
    rows,
    indptr,
    indices,
    data,
    reciprocal,
    target,
    inv_median,
    first_column,
    one_column_each,
    token,
    median,
    most,
    head,
    tail,
    out,
    lengths,
    scaled,
    uncropped,
    n_genes,
):
    """Framed token rows, end to end in `out`, their lengths in `lengths`, a row for each of `rows` of a block.

    data, reciprocal and target share the product type. Per column: `inv_median` (0 where the vocabulary does not know it),
    `first_column` of its gene (-1 likewise), `token` and `median`. `one_column_each`: no gene has two columns.
    `scaled` takes value * median of each token (0 at special ones) beside `out`, and `uncropped` all genes of each row, their
    numbers in `n_genes`; each is left alone when it has no room at all. Returns the number of tokens written.
    """
    widest = 1
    for row in rows:
        widest = max(widest, indptr[row + 1] - indptr[row])
    value, ranked_value = np.empty(widest + 1, np.float64), np.empty(widest + 1, np.float64)
    column, ranked = np.empty(widest + 1, np.int32), np.empty(widest + 1, np.int32)
    key = np.empty(widest + 1, np.float32)
    bins = np.empty(_MOST_BUCKETS, np.int32)
    total = np.zeros(len(inv_median), np.float64)
    touched = np.zeros(len(inv_median), np.bool_)
    all_genes = len(uncropped) > 0
    at = 0
    at_uncropped = 0
    for i in range(len(rows)):
        a, b, r = indptr[rows[i]], indptr[rows[i] + 1], reciprocal[rows[i]]
        n = _gather(indices, data, a, b, r, target, inv_median, value, column) if one_column_each else -1
        if n < 0:
            n = _gather_summed(indices, data, a, b, r, target, inv_median, first_column, value, column, total, touched)
        n_first = _first(value, column, n, n if all_genes else most, key, bins, ranked_value, ranked)
        kept = min(n, most)
        out[at : at + len(head)] = head
        at += len(head)
        for k in range(kept):
            out[at + k] = token[ranked[k]]
        if len(scaled):
            scaled[at - len(head) : at] = 0
            for k in range(kept):
                scaled[at + k] = ranked_value[k] * median[ranked[k]]
            scaled[at + kept : at + kept + len(tail)] = 0
        at += kept
        out[at : at + len(tail)] = tail
        at += len(tail)
        lengths[i] = kept + len(head) + len(tail)
        if all_genes:
            for k in range(n_first):
                uncropped[at_uncropped + k] = token[ranked[k]]
            at_uncropped += n_first
            n_genes[i] = n_first
    return at
