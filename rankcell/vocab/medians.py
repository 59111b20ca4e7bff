"""Exact medians of any number of values per gene in bounded memory, by reading the input a few times.

The median of n values is the mean of the values of rank (n - 1) // 2 and n // 2. For each gene an interval is kept that holds
the lower of the two. A pass counts the gene's values in equal bins of its interval, which then shrinks to one bin. When
all that lies inside the intervals fits into the budget, a last pass collects it, and the least value above each interval,
which is the upper of the two where that is not inside. Values that are all equal end in an interval of a single value and
need no room. Nothing is rounded on the way: an interval is a range of bit patterns (see rankcell.vocab.tally_kernel).
"""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from rankcell.errors import InputError

KEPT = 4_000_000  # values: input no larger than this is kept and read once
BUDGET = 8_000_000  # values that the last pass may collect
BINS = 32_000_000  # counters of the histogram, all genes together

_BOTTOM = 1  # bits of the least positive value
_TOP = int(np.array(np.inf).view(np.uint64)) + 1

Values = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]


@dataclasses.dataclass(frozen=True)
class Medians:
    """`median` (float64, NaN where there is none) and `n` (int64, number of values) of each slot; `passes` over the input."""

    median: np.ndarray
    n: np.ndarray
    passes: int


def exact_medians(
    values: Values, n_slots: int, *, likely: tuple[float, float], expect: Callable[[int], None] = lambda passes: None
) -> Medians:
    """The median of each slot's values, as np.median gives it.

    values
        Gives the input anew at every call: pairs of slots (int32) and values (positive float64), in any order.
    likely
        A range that holds most values; only the number of passes depends on it.
    expect
        Called with the number of passes that there will be at least, as soon as more are known to come; never with less.

    Memory, however many values there are: 4 bytes for each of BINS counters and 12 for each of KEPT values, later 8 bytes for
    each of BUDGET values instead (176 MB at most), about 100 bytes per slot, and one block of the input.
    """
    few_values, stream = _few_values(values, expect)
    if few_values is not None:
        return _medians_of(*few_values, n_slots)
    state = _Intervals(n_slots, likely)
    state.count(stream)
    passes = 1
    while state.to_collect() > BUDGET:
        expect(passes + 2)
        state.refine()
        state.count(values())
        passes += 1
    return Medians(state.collect(values()), state.n, passes + 1)


def _few_values(values: Values, expect: Callable[[int], None]) -> tuple[tuple[np.ndarray, np.ndarray] | None, Iterable]:
    """Collect up to KEPT values in memory: (all values, or None where there are more; the begun pass, replayed from its beginning)."""
    slots, numbers, total = [], [], 0
    blocks = iter(values())
    for slot, number in blocks:
        slots.append(slot)
        numbers.append(number)
        total += len(slot)
        if total > KEPT:
            expect(2)
            return None, _and_then(slots, numbers, blocks)
    if not slots:
        return (np.empty(0, np.int32), np.empty(0)), ()
    return (np.concatenate(slots), np.concatenate(numbers)), ()


def _and_then(slots: list, numbers: list, blocks: Iterable) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    slots.reverse()
    numbers.reverse()
    while slots:  # what was kept is let go of as it is passed on
        yield slots.pop(), numbers.pop()
    yield from blocks


def _medians_of(slots: np.ndarray, values: np.ndarray, n_slots: int) -> Medians:
    n = np.bincount(slots, minlength=n_slots).astype(np.int64)
    median = np.full(n_slots, np.nan)
    ordered = values[np.argsort(slots, kind="stable")]
    seen = np.flatnonzero(n)
    for slot, end in zip(seen, np.cumsum(n[seen]), strict=True):
        median[slot] = np.median(ordered[end - n[slot] : end])
    return Medians(median, n, 1)


class _Intervals:
    """Per slot: [low, high) in bits, how many values lie `below` and `inside`, and of those seen in all, `n`."""

    def __init__(self, n_slots: int, likely: tuple[float, float]):
        first, last = (int(np.array(x, np.float64).view(np.uint64)) for x in likely)
        self.low = np.full(n_slots, first, np.uint64)
        self.high = np.full(n_slots, last, np.uint64)
        self.below = np.zeros(n_slots, np.int64)
        self.inside = np.zeros(n_slots, np.int64)
        self.n = np.full(n_slots, -1, np.int64)
        self.active = np.arange(n_slots)

    def count(self, blocks: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
        """One pass: count the values of the active slots in bins, and shrink their intervals to one bin each."""
        from rankcell.vocab.tally_kernel import choose_bins, count_into_bins

        n_slots = len(self.n)
        n_bins = min(max(2, BINS // len(self.active)), 65_536)
        width = (self.high - self.low + np.uint64(n_bins - 1)) // np.uint64(n_bins)
        row_of_slot = np.full(n_slots, -1, np.int64)
        row_of_slot[self.active] = np.arange(len(self.active))
        histogram = np.zeros((len(self.active), n_bins), np.uint32)
        seen, below = np.zeros(n_slots, np.int64), np.zeros(n_slots, np.int64)
        for slots, values in blocks:
            count_into_bins(slots, values.view(np.uint64), row_of_slot, self.low, width, histogram, seen, below)
        first = bool((self.n < 0).all())
        if not first and not (np.array_equal(seen, self.n) and np.array_equal(below[self.active], self.below[self.active])):
            raise _changed()
        self.n = seen
        self.below[self.active] = below[self.active]
        choose_bins(
            self.active,
            histogram,
            self._rank(),
            seen,
            self.low,
            self.high,
            width,
            self.below,
            self.inside,
            np.uint64(_BOTTOM),
            np.uint64(_TOP),
        )

    def _rank(self) -> np.ndarray:
        return (self.n - 1) // 2

    def _need(self) -> np.ndarray:
        """The number of values of each slot to collect: none where the interval is a single value."""
        return np.where(self.high - self.low > 1, self.inside, 0)

    def to_collect(self) -> int:
        return int(self._need().sum())

    def refine(self) -> None:
        """Choose the slots for the next pass: those with most values inside, until the others fill half of the budget."""
        need = self._need()
        order = np.argsort(need, kind="stable")
        waiting = np.cumsum(need[order]) <= BUDGET // 2
        self.active = np.sort(order[~waiting])

    def collect(self, blocks: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """The last pass: the medians."""
        from rankcell.vocab.tally_kernel import collect

        need = self._need()
        start = np.where(need > 0, np.cumsum(need) - need, -1)
        out = np.empty(int(need.sum()), np.uint64)
        filled = np.zeros(len(need), np.int64)
        above = np.full(len(need), _TOP, np.uint64)
        for slots, values in blocks:
            if not collect(slots, values.view(np.uint64), self.low, self.high, start, need, filled, out, above):
                raise _changed()
        if not np.array_equal(filled, need):
            raise _changed()
        median = np.full(len(need), np.nan)
        for slot in np.flatnonzero(self.n > 0):
            part = np.sort(out[start[slot] : start[slot] + need[slot]]) if need[slot] else None
            lower, upper = (self._ranked(slot, int(rank), part, above) for rank in ((self.n[slot] - 1) // 2, self.n[slot] // 2))
            median[slot] = lower if lower == upper else (lower + upper) / 2
        return median

    def _ranked(self, slot: int, rank: int, part: np.ndarray | None, above: np.ndarray) -> float:
        """The value of a rank, which lies in the interval or is the first one above it."""
        at = rank - int(self.below[slot])
        bits = above[slot] if at >= self.inside[slot] else self.low[slot] if part is None else part[at]
        return float(bits.view(np.float64))


def _changed() -> InputError:
    return InputError("the input changed while it was read: run again when nothing writes to it")
