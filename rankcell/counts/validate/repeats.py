"""Whether several inputs hold the same cells, which would count twice.

Cell ids alone do not tell: different 10x runs draw their barcodes from one list, and many files number their cells from 0. Two
inputs hold the same cells when a part of their ids is the same (SHARED of the smaller one's; chance gives two filtered 10x
runs a hundredth) and, of up to CELLS of the shared ids that have counts in both, at least half have the same counts: the same
number at SAME of the genes that either shows, among those that both inputs name. Rows that were filtered by gene, or corrected
for background, are so the same cells too; other cells under the same id are not. Other inputs than these are not read.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rankcell.counts.source import CountSource
from rankcell.errors import InputError
from rankcell.wording import offers, option

SHARED = 0.1
CELLS, TRIES = 16, 256
SAME = 0.8


@dataclass(frozen=True)
class Listed:
    """An input that was opened: its name, hashes of its cell ids (int64, in their order), and how to open it again."""

    name: str
    hashes: np.ndarray
    opener: Callable[[], CountSource]

    @classmethod
    def of(cls, source: CountSource, opener: Callable[[], CountSource]) -> "Listed":
        hashes = np.fromiter(map(hash, source.ids.to_pylist()), np.int64, source.n_cells)
        return cls(source.name, hashes, opener)


def refuse_repeated_cells(inputs: Sequence[Listed]) -> None:
    """InputError when two of the inputs hold the same cells."""
    for i, j, n in _sharing(inputs):
        if _have_equal_counts(inputs[i], inputs[j]):
            raise repeated_cells(inputs[i].name, inputs[j].name, f"{n:,} cell ids are in both, with the same counts")


def repeated_cells(one: str, other: str, why: str = "") -> InputError:
    """The InputError for two inputs with the same cells."""
    remedy = f", or pass {option('allow_repeated_cells', True)} to take them all" if offers("allow_repeated_cells") else ""
    because = f" ({why})" if why else ""
    return InputError(f"{one} and {other} hold the same cells{because}, which would count twice: leave one of them out{remedy}")


def _sharing(inputs: Sequence[Listed]) -> Iterator[tuple[int, int, int]]:
    """(an input, a later one, number of ids in both) where that is a good part; each id is looked at in neighbours that have it."""
    if len(inputs) < 2:
        return
    keys = np.concatenate([one.hashes for one in inputs])
    owner = np.repeat(np.arange(len(inputs), dtype=np.int64), [len(one.hashes) for one in inputs])
    order = np.argsort(keys, kind="stable")
    keys, owner = keys[order], owner[order]
    repeats = np.flatnonzero(keys[1:] == keys[:-1])
    pairs, n = np.unique(owner[repeats] * len(inputs) + owner[repeats + 1], return_counts=True)
    for pair, shared in zip(pairs.tolist(), n.tolist(), strict=True):
        i, j = divmod(pair, len(inputs))
        if i != j and shared >= SHARED * min(len(inputs[i].hashes), len(inputs[j].hashes)):
            yield i, j, shared


def _have_equal_counts(one: Listed, other: Listed) -> bool:
    """Whether at least half of the shared ids that are looked at, and have counts in both, have the same counts."""
    _, at, there = np.intersect1d(one.hashes, other.hashes, return_indices=True)
    order = np.argsort(at)
    take = order[np.unique(np.linspace(0, len(order) - 1, TRIES).astype(np.int64))]
    stride = np.argsort(np.arange(len(take)) % max(1, len(take) // CELLS), kind="stable")  # spread over all from the start
    with one.opener() as a, other.opener() as b:
        genes = _common_genes(a, b)
        if genes is None:
            return False
        row_a, row_b = _Rows(a, genes[0], genes[2]), _Rows(b, genes[1], genes[2])
        n_compared = n_equal = 0
        for k in take[stride].tolist():
            x, y = row_a(int(at[k])), row_b(int(there[k]))
            if x.any() and y.any():
                n_compared += 1
                n_equal += int(np.count_nonzero((x == y) & (x != 0)) >= SAME * np.count_nonzero((x != 0) | (y != 0)))
            if n_compared == CELLS:
                break
    return n_compared > 0 and 2 * n_equal >= n_compared


def _common_genes(a: CountSource, b: CountSource) -> tuple[np.ndarray, np.ndarray, int] | None:
    """(slot of each column of `a`, of `b`, number of slots): by the columns of var that share most names; -1 for what is not shared."""
    sets = [{name: set(values) for name, values in source.var.items()} for source in (a, b)]
    pairs = [(len(u & v), x, y) for x, u in sets[0].items() for y, v in sets[1].items()]
    n, x, y = max(pairs, key=lambda p: p[0])
    if n < 2 and n < min(a.n_genes, b.n_genes):
        return None
    slots = {name: i for i, name in enumerate(sorted(sets[0][x] & sets[1][y]))}
    return _slots(a.var[x], slots), _slots(b.var[y], slots), len(slots)


def _slots(names: Sequence[str], slots: dict[str, int]) -> np.ndarray:
    return np.array([slots.get(name, -1) for name in names], np.int64)


class _Rows:
    """Rows of a source as dense counts over the shared genes."""

    def __init__(self, source: CountSource, slot_of_column: np.ndarray, n: int):
        self._source, self._slots, self._n = source, slot_of_column, n

    def __call__(self, row: int) -> np.ndarray:
        _, columns, values = self._source.stored(row, row + 1)
        slots = self._slots[columns]
        known = slots >= 0
        return np.bincount(slots[known], values[known].astype(np.float64), minlength=self._n)
