"""Loops over values: counts of cells to normalised values per gene, and what the exact selection of medians counts.

Values are positive float64. Their bits, read as unsigned integers, rise with the value: intervals of bits are intervals
of values, and a histogram over them has no rounding at its borders. All unsigned numbers here are uint64 on purpose:
mixed with signed ones, numba would go through float64 and lose bits.
"""

import functools

import numpy as np

from rankcell.compiled import compiled


@functools.partial(compiled, error_model="numpy")
def normalise(indptr, indices, data, n_counts, slot_of_column, n_slots, target_sum, out_slot, out_value):
    """Write every value above zero of a block with its slot; how many there are. A column without a slot (-1) is no gene.

    Columns of one slot are summed within a cell in the order in which they are stored; value = sum / n_counts * target_sum.
    """
    row_of_slot = np.full(n_slots, -1, np.int64)
    place_of_slot = np.empty(n_slots, np.int64)
    n = 0
    for row in range(len(indptr) - 1):
        first = n
        for k in range(indptr[row], indptr[row + 1]):
            slot = slot_of_column[indices[k]]
            if slot < 0:
                continue
            if row_of_slot[slot] == row:
                out_value[place_of_slot[slot]] += data[k]
            else:
                row_of_slot[slot] = row
                place_of_slot[slot] = n
                out_slot[n] = slot
                out_value[n] = data[k]
                n += 1
        n_positive = first
        for k in range(first, n):
            if out_value[k] > 0:
                out_slot[n_positive] = out_slot[k]
                out_value[n_positive] = out_value[k] / n_counts[row] * target_sum
                n_positive += 1
        n = n_positive
    return n


@compiled
def count_into_bins(slots, bits, row_of_slot, low, width, histogram, seen, below):
    """Count each value: in `seen` of its slot, and for slots with a row in `below` or in the bin of the histogram it falls into.

    Bin b of a slot covers the bits from low + b * width, width of them. What lies above the last bin is only in `seen`.
    """
    n_bins = np.uint64(histogram.shape[1])
    for i in range(len(slots)):
        slot = slots[i]
        seen[slot] += 1
        row = row_of_slot[slot]
        if row < 0:
            continue
        if bits[i] < low[slot]:
            below[slot] += 1
            continue
        b = (bits[i] - low[slot]) // width[slot]
        if b < n_bins:
            histogram[row, np.int64(b)] += 1


@compiled
def choose_bins(active, histogram, rank, seen, low, high, width, below, inside, bottom, top):
    """Narrow [low, high) of each active slot to the bin that holds the value of its rank.

    below, inside: how many values lie under the interval and in it. Slots that nothing was seen of are left alone.
    """
    n_bins = histogram.shape[1]
    for row in range(len(active)):
        slot = active[row]
        if seen[slot] == 0:
            continue
        first = low[slot]
        if rank[slot] < below[slot]:
            low[slot], high[slot] = bottom, first
            below[slot], inside[slot] = 0, below[slot]
            continue
        under = below[slot]
        b = 0
        while b < n_bins and rank[slot] >= under + histogram[row, b]:
            under += histogram[row, b]
            b += 1
        low[slot] = first + np.uint64(b) * width[slot]
        high[slot] = top if b == n_bins else low[slot] + width[slot]
        inside[slot] = seen[slot] - under if b == n_bins else histogram[row, b]
        below[slot] = under


@compiled
def collect(slots, bits, low, high, start, room, filled, out, above):
    """Put the values inside [low, high) of the slots with a `start` into `out`, and the least value from `high` on into `above`.

    False when a slot has more values than room: the input is not what it was when they were counted.
    """
    for i in range(len(slots)):
        slot = slots[i]
        if bits[i] >= high[slot]:
            above[slot] = min(above[slot], bits[i])
        elif bits[i] >= low[slot] and start[slot] >= 0:
            if filled[slot] >= room[slot]:
                return False
            out[start[slot] + filled[slot]] = bits[i]
            filled[slot] += 1
    return True
