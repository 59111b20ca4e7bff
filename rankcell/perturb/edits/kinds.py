"""Kinds of edit: what becomes of a row, for many edits of it at once, on indices alone.

Each kind says which token stands at every place after the edit, and where a gene that was not perturbed stood before. To add
one, write its function and register it in KINDS.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rankcell.errors import SettingsError


@dataclass(frozen=True)
class KindOptions:
    """Options of the kinds.

    quarters
        Of inhibit and activate: by how many quarters of the cell's genes they move (1 to 4).
    to_rank
        Of move: the rank at which the first gene stands afterwards (0 = top).
    refill
        Of delete: the next genes of an uncropped cell enter at the end.
    """

    quarters: int = 1
    to_rank: int = 0
    refill: bool = False


class Site(NamedTuple):
    """Edits of one row that perturb equally many of its genes.

    row
        Token numbers, special tokens included.
    first, last
        The genes stand from `first` to before `last`.
    positions
        int64 [edits, perturbed]: positions of the perturbed genes, ascending.
    positions_by_name
        int64 [edits, perturbed]: the same positions in the order in which the genes were named.
    genes
        int64 [edits, genes]: the tokens that were named, in order, whether or not the row has them.
    truncated_genes
        Genes of the uncropped cell that did not fit the row, in order.
    room
        Most genes that a row may have.
    mask
        The mask token, or -1.
    options
        See KindOptions.
    """

    row: np.ndarray
    first: int
    last: int
    positions: np.ndarray
    positions_by_name: np.ndarray
    genes: np.ndarray
    truncated_genes: np.ndarray
    room: int
    mask: int
    options: KindOptions

    def other_positions(self) -> np.ndarray:
        """int64 [edits, genes]: positions of the genes that are not perturbed, ascending."""
        n = self.last - self.first
        is_other = np.ones((len(self.positions), n), bool)
        np.put_along_axis(is_other, self.positions - self.first, False, axis=1)
        return self.first + np.nonzero(is_other)[1].reshape(len(self.positions), n - self.positions.shape[1])

    def framed(self, body: np.ndarray, came_from: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Add the special tokens of the row to the genes after an edit, and -1 for each to their positions before."""
        head, tail = self.row[: self.first], self.row[self.last :]
        e = len(body)
        ids = np.concatenate([np.tile(head, (e, 1)), body, np.tile(tail, (e, 1))], axis=1)
        no_positions = [np.full((e, len(part)), -1, np.int64) for part in (head, tail)]
        return ids, np.concatenate([no_positions[0], came_from, no_positions[1]], axis=1)


class Size(NamedTuple):
    """Numbers of genes: in the row, perturbed, named in the edit, truncated from the row, and most that a row may have (numbers or arrays)."""

    n: Any
    perturbed: Any
    n_genes: Any
    truncated: Any
    room: int
    options: KindOptions


def _size_unchanged(size: Size) -> Any:
    return size.n + 0 * size.perturbed


Apply = Callable[[Site], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Kind:
    """A kind of edit.

    name
        What it is called.
    apply
        Site -> tokens after the edit [edits, length] and, for each gene that was not perturbed, its position before, else -1.
    is_noop
        Site -> bool [edits]: whether the edit would change nothing (such edits are left out).
    size
        Size -> number of genes after the edit.
    inserts
        Whether a cell without the gene is edited too.
    in_place
        Whether its scores come `_in_place` as well, where no token attends to the gene and all keep their positions.
    """

    name: str
    apply: Apply
    is_noop: Callable[[Site], np.ndarray] | None = None
    size: Callable[[Size], Any] = _size_unchanged
    inserts: bool = False
    in_place: bool = False


def _delete(site: Site) -> tuple[np.ndarray, np.ndarray]:
    """The perturbed genes are removed and the rest closes up; with refill, the next genes of the cell enter at the end."""
    others = site.other_positions()
    body, came_from = site.row[others], others
    if site.options.refill:
        entering = np.tile(site.truncated_genes[: site.positions.shape[1]].astype(body.dtype), (len(others), 1))
        body = np.concatenate([body, entering], axis=1)
        came_from = np.concatenate([others, np.full(entering.shape, -1, np.int64)], axis=1)
    return site.framed(body, came_from)


def _size_after_delete(size: Size) -> Any:
    entering = np.minimum(size.perturbed, size.truncated) if size.options.refill else 0
    return size.n - size.perturbed + entering


def _overexpress(site: Site) -> tuple[np.ndarray, np.ndarray]:
    """The genes come first, in the order named, whether or not the cell had them; what no longer fits falls off the end."""
    room = site.room - site.genes.shape[1]
    if room < 0:
        length = site.room + site.first + len(site.row) - site.last
        raise SettingsError(f"{site.genes.shape[1]} genes to overexpress do not fit a row of {length} tokens")
    others = site.other_positions()[:, :room]
    body = np.concatenate([site.genes.astype(site.row.dtype), site.row[others]], axis=1)
    return site.framed(body, np.concatenate([np.full(site.genes.shape, -1, np.int64), others], axis=1))


def _size_after_overexpress(size: Size) -> Any:
    return np.minimum(size.n - size.perturbed + size.n_genes, size.room)


def _leads_already(site: Site) -> np.ndarray:
    """Whether the genes are the row's first, in the order named."""
    n = site.genes.shape[1]
    if site.positions.shape[1] != n or site.last - site.first < n:  # a gene is lacking, or stands there again
        return np.zeros(len(site.positions), bool)
    return (site.row[site.first : site.first + n] == site.genes).all(1)


def _mask(site: Site) -> tuple[np.ndarray, np.ndarray]:
    """The mask token takes the genes' places; everything keeps its position."""
    ids = np.tile(site.row, (len(site.positions), 1))
    came_from = np.full(ids.shape, -1, np.int64)
    came_from[:, site.first : site.last] = np.arange(site.first, site.last)
    np.put_along_axis(ids, site.positions, site.mask, axis=1)
    np.put_along_axis(came_from, site.positions, -1, axis=1)
    return ids, came_from


def _to_slots(slots_of: Callable[[Site], tuple[np.ndarray, np.ndarray]]) -> tuple[Apply, Callable[[Site], np.ndarray]]:
    """(apply, is_noop) of a kind that moves genes to other ranks; `slots_of`: their new ranks, ascending, and which gene goes to each."""

    def apply(site: Site) -> tuple[np.ndarray, np.ndarray]:
        slots, movers = slots_of(site)
        e, n = len(slots), site.last - site.first
        is_slot = np.zeros((e, n), bool)
        np.put_along_axis(is_slot, slots, True, axis=1)
        came_from = np.empty((e, n), np.int64)
        came_from[~is_slot] = site.other_positions().ravel()
        came_from[is_slot] = movers.ravel()
        body = site.row[came_from]
        came_from[is_slot] = -1
        return site.framed(body, came_from)

    def is_noop(site: Site) -> np.ndarray:
        slots, movers = slots_of(site)
        return (slots + site.first == movers).all(1)

    return apply, is_noop


def _shifted(direction: int) -> Callable[[Site], tuple[np.ndarray, np.ndarray]]:
    def slots_of(site: Site) -> tuple[np.ndarray, np.ndarray]:
        """Each gene a number of quarters of the cell's genes up or down; those that meet keep their order."""
        n = site.last - site.first
        step = site.options.quarters * n // 4
        slots = np.clip(site.positions - site.first + direction * step, 0, n - 1)
        place = np.arange(slots.shape[1])
        slots = np.maximum.accumulate(slots - place, axis=1) + place
        return np.minimum(slots, n - slots.shape[1] + place), site.positions

    return slots_of


def _moved(site: Site) -> tuple[np.ndarray, np.ndarray]:
    """The genes stand together from rank `to_rank` on, in the order named; at the end where the cell has no such rank."""
    k = site.positions.shape[1]
    start = min(site.options.to_rank, site.last - site.first - k)
    return np.tile(start + np.arange(k), (len(site.positions), 1)), site.positions_by_name


_inhibit, _stays_low = _to_slots(_shifted(+1))
_activate, _stays_high = _to_slots(_shifted(-1))
_move, _stays = _to_slots(_moved)

KINDS: dict[str, Kind] = {
    k.name: k
    for k in (
        Kind("delete", _delete, size=_size_after_delete, in_place=True),
        Kind("overexpress", _overexpress, _leads_already, _size_after_overexpress, inserts=True),
        Kind("inhibit", _inhibit, _stays_low),
        Kind("activate", _activate, _stays_high),
        Kind("mask", _mask),
        Kind("move", _move, _stays),
    )
}
