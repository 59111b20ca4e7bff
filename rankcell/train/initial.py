"""Initial values that know what rank tokens are: smooth positions, and genes that keep company placed near each other.

A few hundred cells are too few to find both from noise in an hour on a processor (the model card has the figures).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

CELLS_READ = 1_000  # the decomposition of so many is done in seconds


def smooth_features(x: np.ndarray, width: int, *, longest: float = 2000.0) -> np.ndarray:
    """Sines and cosines of `x` at geometric wavelengths, float64 [len(x), width] (as Vaswani et al. 2017 do for positions)."""
    rate = np.exp(-math.log(longest) * np.arange(width // 2) / (width // 2))
    angle = np.asarray(x, float)[:, None] * rate
    return np.concatenate([np.sin(angle), np.cos(angle), np.zeros((len(angle), width % 2))], axis=1)


def gene_features(genes: Sequence[np.ndarray], n_ids: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Vectors [n_ids, width] of unit variance from the cells' gene rows.

    Half of the variance is the singular value decomposition of the gene x cell matrix of relative ranks (1 at the top, 0
    where absent, gene means removed; at most 64 components, turned by a random rotation), half is noise. More than CELLS_READ
    cells are a random sample of so many.
    """
    if len(genes) > CELLS_READ:
        genes = [genes[i] for i in np.sort(rng.choice(len(genes), CELLS_READ, replace=False))]
    weight = np.zeros((n_ids, len(genes)))
    seen = np.zeros(n_ids, bool)
    for cell, row in enumerate(genes):
        weight[row, cell] = 1 - np.arange(len(row)) / max(1, len(row))
        seen[row] = True
    u, s, _ = np.linalg.svd(weight - weight.mean(1, keepdims=True), full_matrices=False)
    k = min(width // 2, 64, len(s))
    company = np.zeros((n_ids, width))
    company[:, :k] = u[:, :k] * s[:k]
    company = company @ np.linalg.qr(rng.normal(size=(width, width)))[0]
    noise = rng.normal(size=(n_ids, width))
    mixed = (company / max(company[seen].std(), 1e-12) + noise) / math.sqrt(2)
    return np.where(seen[:, None], mixed, noise)


def log_shares(genes: Sequence[np.ndarray], n_ids: int) -> np.ndarray:
    """Logarithm of each token's share of the rows' tokens, each counted once more than it comes; float64 [n_ids]."""
    times = np.bincount(np.concatenate(genes), minlength=n_ids) + 1.0
    return np.log(times / times.sum())


def set_initial_values(model: Any, genes: Sequence[np.ndarray], *, rng: np.random.Generator) -> None:
    """Set the position and token embeddings of a BERT masked-language model, at its own scale, and its output bias, from the training cells.

    The output bias of a gene is the logarithm of its share of all genes shown (each counted once more than it comes, so that none
    has a share of zero): the model starts where guessing by frequency ends.
    """
    e = model.bert.embeddings
    scale = model.config.initializer_range
    n_ids, width = e.word_embeddings.weight.shape
    positions = smooth_features(np.arange(len(e.position_embeddings.weight)), width)
    tokens = gene_features(genes, n_ids, width, rng)
    with torch.no_grad():
        e.position_embeddings.weight.copy_(torch.from_numpy(positions / positions.std() * scale))
        e.word_embeddings.weight.copy_(torch.from_numpy(tokens * scale))
        e.word_embeddings.weight[model.config.pad_token_id] = 0
        model.cls.predictions.bias.copy_(torch.from_numpy(log_shares(genes, n_ids)))
