"""Whether a faster precision agrees with fp32: the cells that are compared, and the cosines of their embeddings."""

import numpy as np

from rankcell.tokens.tokenset import TokenSet


def probe_rows(tokens: TokenSet, budget: int) -> np.ndarray:
    """Cells of all lengths, evenly drawn, of about `budget` tokens."""
    filled = np.flatnonzero(tokens.n_genes > 0)
    ordered = filled[np.argsort(-tokens.lengths[filled], kind="stable")]
    n = max(1, int(budget // max(1.0, tokens.lengths[filled].mean()))) if len(filled) else 0
    return np.sort(ordered[np.unique(np.linspace(0, len(ordered) - 1, min(n, len(ordered)), dtype=np.int64))]) if n else filled


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each row of `a` with the same row of `b`; 1 where both are zero."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    size = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return np.where(size > 0, (a * b).sum(1) / np.where(size > 0, size, 1), (a == b).all(1))


def least_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The smallest cosine of rows; -1 where one is no number."""
    return float(np.nan_to_num(cosines(a, b), nan=-1.0).min())
