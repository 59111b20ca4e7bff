"""Cells to train on, and the recipe of a model small enough for tests."""

import numpy as np

from rankcell.tokens import TokenSet, TokenSpec
from rankcell.vocab import Frame

FRAME = Frame((2,), (3,))
SMALL = dict(layers=1, width=16, heads=2, intermediate=16, batch_size=8, device="cpu")
# Everything that draws: rows and masks, dropout, the gene of the cell objective
DRAWS = {"epochs": 1, "drop": 0.2, "dropout": 0.1, "cell_weight": 0.2, "average": 0.9, "seed": 3}


def two_kinds_of_cells(vocab, n=60, seed=0):
    """Cells of two kinds: one shows the first six genes, the other the last six, in nearly fixed order."""
    rng = np.random.default_rng(seed)
    half = np.array_split(vocab.tokens, 2)
    rows = []
    for i in range(n):
        genes = half[i % 2][np.argsort(np.arange(6) + rng.normal(0, 0.4, 6))][: rng.integers(4, 7)]
        rows.append(np.concatenate([[2], genes, [3]]))
    return TokenSet.from_rows(rows, TokenSpec.of(vocab, frame=FRAME, max_len=16))
