"""Rank bias of a pooling: its shift when a decile of the ranked genes is dropped, shuffled or masked."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rankcell.assess.options import RANK_EDITS, RankBins
from rankcell.embed import Embedder
from rankcell.errors import CellError, SettingsError
from rankcell.progress import Passes, Tick
from rankcell.tokens import TokenSet
from rankcell.wording import note

AT_ONCE = 100  # cells whose edited rows are embedded together
RANDOM = "random"

Edit = Callable[[np.ndarray, np.ndarray, np.random.Generator, int], np.ndarray]


def _drop(genes: np.ndarray, at: np.ndarray, rng: np.random.Generator, mask: int) -> np.ndarray:
    return np.delete(genes, at)


def _shuffle(genes: np.ndarray, at: np.ndarray, rng: np.random.Generator, mask: int) -> np.ndarray:
    edited = genes.copy()
    edited[at] = genes[rng.permutation(at)]
    return edited


def _mask(genes: np.ndarray, at: np.ndarray, rng: np.random.Generator, mask: int) -> np.ndarray:
    edited = genes.copy()
    edited[at] = mask
    return edited


EDITS: dict[str, Edit] = dict(zip(RANK_EDITS, (_drop, _shuffle, _mask), strict=True))


def bins(n: int, n_bins: int) -> list[np.ndarray]:
    """The ranks 0 to n - 1 in `n_bins` runs whose sizes differ by at most one, from the top down."""
    edges = np.arange(n_bins + 1) * n // n_bins
    return [np.arange(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)]


def edited_rows(row: np.ndarray, frame: Any, kind: str, *, n_bins: int, rng: np.random.Generator, mask: int = -1) -> list[np.ndarray]:
    """Edit a row once per bin of its genes, then once with as many genes (n / n_bins, rounded) drawn from all ranks."""
    first, end = frame.span(len(row))
    genes = row[first:end]
    n = len(genes)
    chosen = np.sort(rng.choice(n, size=max(1, round(n / n_bins)), replace=False))
    edit = EDITS[kind]
    return [np.concatenate([row[:first], edit(genes, at, rng, mask), row[end:]]) for at in (*bins(n, n_bins), chosen)]


def require_mask(ranks: RankBins, vocab: Any) -> None:
    """SettingsError where genes are to be masked and the vocabulary has no mask."""
    if "mask" in ranks.how and vocab.mask is None:
        raise SettingsError(f"vocabulary '{vocab.name}' has no <mask> token: pass how=('drop', 'shuffle')")


@dataclass
class _Gathered:
    """Per (column, how, bin): shifts and distances of the cells so far; per column: shifts between two different cells."""

    shift: dict[tuple[str, str, int], list[np.ndarray]] = field(default_factory=dict)
    distance: dict[tuple[str, str, int], list[np.ndarray]] = field(default_factory=dict)
    between: dict[str, list[np.ndarray]] = field(default_factory=dict)


def rank_bias(
    tokens: TokenSet,
    embedder: Embedder,
    *,
    pool: Sequence[str],
    layer: Sequence[int],
    ranks: RankBins,
    progress: Tick | None = None,
) -> Any:
    """See rankcell.tl.rank_bias. `progress`: called with the rows that have been embedded, edited ones and not, and their total."""
    require_mask(ranks, embedder.checkpoint.vocab)
    embedder.check(tokens, pool, layer)
    rows, n_short = chosen_cells(tokens, ranks)
    gathered = _Gathered()
    passes = Passes(progress, len(rows) * (1 + len(ranks.how) * (ranks.n_bins + 1)))
    for part in (rows[i : i + AT_ONCE] for i in range(0, len(rows), AT_ONCE)):
        passes.begin("unedited")
        before = _vectors(embedder, tokens.take(part), pool, layer, passes)
        for name, x in before.items():
            gathered.between.setdefault(name, []).append(shift(x, np.roll(x, 1, axis=0)) if len(x) > 1 else np.empty(0))
        for kind in ranks.how:
            passes.begin(kind)
            after = _vectors(embedder, _edited(tokens, part, kind, embedder.checkpoint.vocab.mask, ranks), pool, layer, passes)
            for name, x in before.items():
                _gather(gathered, name, kind, x, after[name].reshape(len(part), ranks.n_bins + 1, -1))
    table = _table(gathered, pool, layer, ranks)
    table.attrs = {
        "model": embedder.checkpoint.name,
        **embedder.checkpoint.remarks,
        "vocabulary": tokens.spec.vocabulary,
        "n_bins": ranks.n_bins,
        "cells": ranks.cells,
        "seed": ranks.seed,
        "n_cells_with_too_few_genes": n_short,
    }
    return table


def chosen_cells(tokens: TokenSet, ranks: RankBins) -> tuple[np.ndarray, int]:
    """Rows with a gene for every bin, in random order, at most as many as wanted; and how many cells have too few genes."""
    enough = np.flatnonzero(tokens.n_genes >= ranks.n_bins)
    n_short = len(tokens) - len(enough)
    if not len(enough):
        raise CellError(
            f"none of the {len(tokens):,} cells has the {ranks.n_bins} genes that {ranks.n_bins} bins need: pass a smaller n_bins"
        )
    if n_short:
        note(f"{n_short:,} of {len(tokens):,} cells have fewer than {ranks.n_bins} genes: they are left out")
    return np.random.default_rng(ranks.seed).permutation(enough)[: ranks.cells], n_short


def _edited(tokens: TokenSet, rows: np.ndarray, kind: str, mask: int | None, ranks: RankBins) -> TokenSet:
    def edited() -> Iterator[np.ndarray]:
        for i in rows.tolist():
            rng = np.random.default_rng((ranks.seed, i, list(EDITS).index(kind)))
            yield from edited_rows(tokens.row(i), tokens.frame, kind, n_bins=ranks.n_bins, rng=rng, mask=-1 if mask is None else mask)

    return TokenSet.from_rows(edited(), tokens.spec).known_to_fit(tokens.spec.vocabulary_hash)  # masks among the genes are meant


def _vectors(embedder: Embedder, tokens: TokenSet, pool: Sequence[str], layer: Sequence[int], passes: Passes) -> dict[str, np.ndarray]:
    columns = embedder.embed(tokens, pool=list(pool), layer=list(layer), progress=passes.add).columns
    return {name: x.astype(np.float64) for name, x in columns.items()}


def shift(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """1 - cosine along the last axis."""
    size = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return 1 - (a * b).sum(-1) / np.maximum(size, 1e-300)


def _gather(gathered: _Gathered, name: str, kind: str, before: np.ndarray, after: np.ndarray) -> None:
    """Append the shifts and distances between `before` [cells, width] and `after` [cells, bins + 1, width]."""
    moved = shift(before[:, None], after)
    distance = np.linalg.norm(after - before[:, None], axis=-1) / np.maximum(np.linalg.norm(before, axis=-1), 1e-300)[:, None]
    for i in range(after.shape[1]):
        gathered.shift.setdefault((name, kind, i), []).append(moved[:, i])
        gathered.distance.setdefault((name, kind, i), []).append(distance[:, i])


def _table(gathered: _Gathered, pool: Sequence[str], layer: Sequence[int], ranks: RankBins) -> Any:
    import pandas as pd

    rows = []
    for n, p, kind in ((n, p, kind) for n in layer for p in pool for kind in ranks.how):
        name = f"{p}_layer{n}"
        pairs = np.concatenate(gathered.between[name])
        between = float(pairs.mean()) if len(pairs) else float("nan")
        for i in range(ranks.n_bins + 1):
            one = {"pool": p, "layer": n, "how": kind, "decile": None if i == ranks.n_bins else i}
            one["genes"] = RANDOM if i == ranks.n_bins else "decile"
            moved, distance = (np.concatenate(part[name, kind, i]) for part in (gathered.shift, gathered.distance))
            sem = moved.std(ddof=1) / np.sqrt(len(moved)) if len(moved) > 1 else float("nan")
            one |= {"shift": float(moved.mean()), "sem": float(sem), "distance": float(distance.mean())}
            rows.append(one | {"between_cells": between, "n_cells": len(moved)})
    return pd.DataFrame(rows).astype({"decile": "Int64"})
