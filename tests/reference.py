"""Slow, plain references, written from the rules and sharing no code with the package."""

import numpy as np


def rank_values(cell, n_counts, gene_of_column, medians, *, target_sum=10_000.0):
    """One cell -> [(rank value, column of the gene's first appearance, gene)] of its genes above zero, in column order.

    cell
        [(column, count)] as stored: columns in any order, some perhaps twice; counts are numpy scalars of the matrix' type.
    n_counts
        A numpy scalar (float32 stays float32), or None for the row sum.
    gene_of_column
        Gene number of each matrix column, None where the vocabulary has none.

    The arithmetic of Geneformer on sparse input: numpy promotes as it would there, one operation after the other.
    """
    if n_counts is None:
        total = sum(float(x) for _, x in cell)
        single = all(x.dtype == np.float32 for _, x in cell)
        n_counts = np.float32(total) if single else np.float64(total)
    if n_counts == 0:
        return []
    reciprocal = (np.float32(1) if n_counts.dtype == np.float32 else 1.0) / n_counts
    counts = {}
    for column, x in cell:
        gene = gene_of_column[column]
        if gene is not None:
            counts.setdefault(gene, []).append(x)
    out = []
    for gene, parts in counts.items():
        product = (parts[0] * reciprocal).dtype
        x = parts[0] if len(parts) == 1 else product.type(sum(float(p) for p in parts))
        if x > 0:
            value = x * reciprocal * product.type(target_sum)  # before 2, numpy makes float64 of a float32 and a Python number
            assert value.dtype == product
            out.append((value * (np.float64(1.0) / np.float64(medians[gene])), gene_of_column.index(gene), gene))
    return sorted(out, key=lambda entry: entry[1])


def reference_row(cell, n_counts, gene_of_column, vocab, *, max_len=None, cls=None):
    """The token row of one cell: genes from the highest value down, ties in column order, cropped inside the frame."""
    special = dict(vocab.special)
    framed = "<cls>" in special if cls is None else cls
    head = [special["<cls>"]] if framed else []
    tail = [special["<eos>"]] if framed and "<eos>" in special else []
    values = rank_values(cell, n_counts, gene_of_column, vocab.medians, target_sum=vocab.target_sum)
    ranked = sorted(values, key=lambda entry: -entry[0])  # python's sort is stable
    room = (vocab.max_len if max_len is None else max_len) - len(head) - len(tail)
    return head + [int(vocab.tokens[gene]) for _, _, gene in ranked[:room]] + tail


def stored_cells(matrix):
    """[(column, count)] of every row of a scipy CSR matrix, as it is stored."""
    for a, b in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
        yield [(int(c), x) for c, x in zip(matrix.indices[a:b], matrix.data[a:b], strict=True)]
