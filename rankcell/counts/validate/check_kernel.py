"""The compiled loop of `rankcell check`: what the stored entries of some rows say about genes and cells."""

import numpy as np

from rankcell.compiled import compiled


@compiled
def tally(rows, indptr, indices, data, slot, n_slots, column_sum, n_known):
    """(explicit zeros, entries that repeat a column of their row) of the given rows of a block.

    Adds the entries above zero of each column to `column_sum`, and puts the number of known genes of the i-th row, that is of
    different slots with an entry above zero, into n_known[i]. `slot`: per column, -1 where the gene is not known.
    """
    row_of_column = np.full(len(slot), -1, np.int64)
    row_of_slot = np.full(n_slots, -1, np.int64)
    zeros = 0
    repeated = 0
    for i in range(len(rows)):
        n = 0
        for k in range(indptr[rows[i]], indptr[rows[i] + 1]):
            c = indices[k]
            x = data[k]
            repeated += row_of_column[c] == i
            row_of_column[c] = i
            zeros += x == 0
            if x > 0 and x < np.inf:
                column_sum[c] += np.float64(x)
                s = slot[c]
                if s >= 0 and row_of_slot[s] != i:
                    row_of_slot[s] = i
                    n += 1
        n_known[i] = n
    return zeros, repeated
