"""The rank kernel: sparse rows of counts -> gene tokens in descending rank value.

value = count / n_counts * target_sum / median, in the arithmetic of Geneformer on sparse input (scipy multiplies by
reciprocals): r = 1 / n_counts and count * r * target_sum in the product type, then times 1 / median in float64. The
product type is float32 when both the matrix and n_counts fit it, else float64. Order matters in the last bit: another
order of the same operations swaps a few ranks in every thousand cells.

Ties keep the order of the genes in the input. Only entries above zero are tokens. A row is computed by itself, so the
result does not depend on block size, thread count or processor.
"""

import numpy as np
from numba import njit

_RADIX = 2048
_SMALL = 48


def product_type(data_dtype: np.dtype, n_counts_dtype: np.dtype) -> np.dtype:
    """float32 where numpy promotes the two to it, else float64."""
    common = np.result_type(data_dtype, n_counts_dtype)
    return np.dtype(np.float32 if common in (np.float16, np.float32) else np.float64)


@njit(nogil=True, cache=True)
def _gather(indices, data, start, stop, r, target, slot_of_column, inv_median, value, slot):
    """Known entries above zero of one row as (value, slot), when their slots rise strictly; -1 when they do not."""
    n = 0
    last = -1
    for k in range(start, stop):
        s = slot_of_column[indices[k]]
        x = data[k]
        if s < 0 or x == 0:
            continue
        if s <= last:
            return -1
        last = s
        if x > 0:
            value[n] = np.float64(x * r * target) * inv_median[s]
            slot[n] = s
            n += 1
    return n


@njit(nogil=True, cache=True)
def _gather_summed(indices, data, start, stop, r, target, slot_of_column, inv_median, value, slot, total, touched):
    """The same for rows in any column order, entries of one slot summed (float64, then the product type)."""
    m = 0
    for k in range(start, stop):
        s = slot_of_column[indices[k]]
        if s < 0 or data[k] == 0:
            continue
        if not touched[s]:
            touched[s] = True
            slot[m] = s
            m += 1
        total[s] += np.float64(data[k])
    slot[:m].sort()
    n = 0
    for i in range(m):
        s = slot[i]
        x = data.dtype.type(total[s])
        total[s] = 0.0
        touched[s] = False
        if x > 0:
            value[n] = np.float64(x * r * target) * inv_median[s]
            slot[n] = s
            n += 1
    return n


@njit(nogil=True, cache=True)
def _descending(value, n, order, spare, key, spare_key, bins):
    """order[:n]: indices of value[:n] from high to low, ties by index.

    A radix sort on the float32 rounding of the values (which never reverses two of them), then an insertion pass on
    the exact values: nearly all are in place by then.
    """
    for i in range(n):
        order[i] = i
    if n > _SMALL:
        as_float = key.view(np.float32)
        for i in range(n):
            as_float[i] = np.float32(value[i])
        for i in range(n):
            key[i] = ~key[i]  # positive floats rise with their bits: the complement sorts them from high to low
        for shift in (0, 11, 22):
            bins[:] = 0
            for i in range(n):
                bins[(key[i] >> np.uint32(shift)) & np.uint32(_RADIX - 1)] += 1
            at = 0
            for b in range(_RADIX):
                count = bins[b]
                bins[b] = at
                at += count
            for i in range(n):
                b = (key[i] >> np.uint32(shift)) & np.uint32(_RADIX - 1)
                spare_key[bins[b]] = key[i]
                spare[bins[b]] = order[i]
                bins[b] += 1
            key[:n] = spare_key[:n]
            order[:n] = spare[:n]
    for i in range(1, n):
        o = order[i]
        v = value[o]
        j = i
        while j > 0 and value[order[j - 1]] < v:
            order[j] = order[j - 1]
            j -= 1
        order[j] = o


@njit(nogil=True, cache=True)
def rank_rows(
    first,
    last,
    indptr,
    indices,
    data,
    reciprocal,
    target,
    slot_of_column,
    inv_median,
    token_of_slot,
    max_genes,
    head,
    tail,
    out,
    out_start,
    lengths,
):
    """Write the framed token rows `first` to `last` of a block into `out` at `out_start[row]`, their lengths to `lengths`.

    data, reciprocal and target share the product type. `out` has room for min(stored, max_genes) + frame tokens a row.
    """
    widest = 0
    for row in range(first, last):
        widest = max(widest, indptr[row + 1] - indptr[row])
    value = np.empty(widest, np.float64)
    slot = np.empty(widest, np.int32)
    order = np.empty(widest, np.int32)
    spare = np.empty(widest, np.int32)
    key = np.empty(widest, np.uint32)
    spare_key = np.empty(widest, np.uint32)
    bins = np.empty(_RADIX, np.int64)
    total = np.zeros(len(inv_median), np.float64)
    touched = np.zeros(len(inv_median), np.bool_)
    for row in range(first, last):
        a, b = indptr[row], indptr[row + 1]
        n = _gather(indices, data, a, b, reciprocal[row], target, slot_of_column, inv_median, value, slot)
        if n < 0:
            n = _gather_summed(indices, data, a, b, reciprocal[row], target, slot_of_column, inv_median, value, slot, total, touched)
        _descending(value, n, order, spare, key, spare_key, bins)
        kept = min(n, max_genes)
        at = out_start[row]
        for i in range(len(head)):
            out[at + i] = head[i]
        at += len(head)
        for i in range(kept):
            out[at + i] = token_of_slot[slot[order[i]]]
        at += kept
        for i in range(len(tail)):
            out[at + i] = tail[i]
        lengths[row] = kept + len(head) + len(tail)
