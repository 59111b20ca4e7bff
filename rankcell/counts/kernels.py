"""Compiled loops over entries: are they counts, their sums, dense blocks to rows, entries to the rows they belong to."""

import numpy as np

from rankcell.compiled import compiled


@compiled
def all_counts(data):
    """Whether every entry is a whole number from zero up and below infinity."""
    odd = False
    for i in range(len(data)):
        x = data[i]
        odd |= not ((x >= 0) & (np.floor(x) == x) & (x < np.inf))
    return not odd


@compiled
def sum_rows(indptr, data, total):
    """total[i]: the entries of row i summed in float64, in their order."""
    for i in range(len(total)):
        at = 0.0
        for k in range(indptr[i], indptr[i + 1]):
            at += np.float64(data[k])
        total[i] = at


@compiled
def count_rows(x, indptr):
    """indptr of the non-zero entries of a block of cells x genes."""
    for i in range(x.shape[0]):
        n = 0
        for j in range(x.shape[1]):
            n += x[i, j] != 0
        indptr[i + 1] = indptr[i] + n


@compiled
def fill_rows(x, indptr, indices, data):
    for i in range(x.shape[0]):
        k = indptr[i]
        for j in range(x.shape[1]):
            if x[i, j] != 0:
                indices[k] = j
                data[k] = x[i, j]
                k += 1


@compiled
def count_columns(x, n):
    """n[i + 1]: the non-zero entries of column i of a block of genes x cells."""
    for g in range(x.shape[0]):
        for i in range(x.shape[1]):
            n[i + 1] += x[g, i] != 0


@compiled
def fill_columns(x, at, indices, data):
    """The entries of each column from at[i] on, genes rising."""
    for g in range(x.shape[0]):
        for i in range(x.shape[1]):
            if x[g, i] != 0:
                indices[at[i]] = g
                data[at[i]] = x[g, i]
                at[i] += 1


@compiled
def place(rows, columns, values, at, indices, data):
    """Entries to their rows, in the order in which they come; at[i]: where the next one of row i goes."""
    for k in range(len(rows)):
        i = at[rows[k]]
        indices[i] = columns[k]
        data[i] = values[k]
        at[rows[k]] = i + 1


@compiled
def add_ones(rows, n):
    """n[r] += 1 for every entry's row."""
    for k in range(len(rows)):
        n[rows[k]] += 1


@compiled
def count_buckets(bucket_of_row, rows, n):
    """n[b] += 1 for the bucket of every entry's row."""
    for k in range(len(rows)):
        n[bucket_of_row[rows[k]]] += 1


@compiled
def to_buckets(bucket_of_row, rows, columns, values, at, to_rows, to_columns, to_values):
    """Entries to the buckets of their rows, in the order in which they come; at[b]: where the next one of bucket b goes."""
    for k in range(len(rows)):
        b = bucket_of_row[rows[k]]
        i = at[b]
        to_rows[i] = rows[k]
        to_columns[i] = columns[k]
        to_values[i] = values[k]
        at[b] = i + 1


@compiled
def take_genes(x, mask, gene, n_genes, lo, hi, shift, rows, columns, values, start):
    """Entries that are not zero of chunks of genes x cells (x[chunk, gene, cell], as bits), appended from `start` on; where they end.

    Only the cells `lo` to `hi` and genes below `n_genes`; the first row of x is gene `gene`, the cell c goes to row c + shift.
    There must be room for one more entry than x has. `mask`: the bits that make a value other than zero.
    """
    n = np.uint64(start)  # unsigned: no look for indices from the end
    for k in range(x.shape[0]):
        for g in range(x.shape[1]):
            column = gene + k * x.shape[1] + g
            if column >= n_genes:
                return n
            line = x[k, g, lo:hi]
            bits = mask ^ mask
            for i in range(len(line)):
                bits |= line[i]
            if bits & mask:
                for i in range(len(line)):
                    rows[n] = i + lo + shift
                    columns[n] = column
                    values[n] = line[i]
                    n += np.uint64((line[i] & mask) != 0)
    return n


@compiled
def take_cells(x, mask, gene, n_genes, lo, hi, shift, rows, columns, values, start):
    """`take_genes` for chunks of cells x genes: x[chunk, cell, gene]."""
    n = np.uint64(start)
    for k in range(x.shape[0]):
        first = gene + k * x.shape[2]
        width = min(x.shape[2], n_genes - first)
        for c in range(lo, hi):
            for at in range(0, width, 32):
                line = x[k, c, at : min(at + 32, width)]
                bits = mask ^ mask
                for i in range(len(line)):
                    bits |= line[i]
                if bits & mask:
                    for i in range(len(line)):
                        rows[n] = c + shift
                        columns[n] = first + at + i
                        values[n] = line[i]
                        n += np.uint64((line[i] & mask) != 0)
    return n


@compiled
def heap_is_walkable(raw):
    """Whether the objects of a global heap collection (its bytes, header first) lead to its end; see rankcell.counts.io.heaps."""
    at, end = 16, len(raw)
    while at + 16 <= end:
        index = np.int64(raw[at]) + (np.int64(raw[at + 1]) << 8)
        size = np.int64(0)
        for i in range(7):
            size += np.int64(raw[at + 8 + i]) << (8 * i)
        step = size if index == 0 else 16 + (size + 7) // 8 * 8
        if step < 16 or at + step > end or raw[at + 15] != 0:
            return False
        at += step
    return True
