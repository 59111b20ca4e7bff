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
    """What kinds can be told.

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
    where
        int64 [edits, perturbed]: positions of the perturbed genes, ascending.
    named
        int64 [edits, perturbed]: the same positions in the order in which the genes were named.
    genes
        int64 [edits, named]: the tokens that were named, in order, whether or not the row has them.
    beyond
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
    where: np.ndarray
    named: np.ndarray
    genes: np.ndarray
    beyond: np.ndarray
    room: int
    mask: int
    options: KindOptions

    def rest(self) -> np.ndarray:
        """int64 [edits, the other genes]: their positions, ascending."""
        n = self.last - self.first
        kept = np.ones((len(self.where), n), bool)
        np.put_along_axis(kept, self.where - self.first, False, axis=1)
        return self.first + np.nonzero(kept)[1].reshape(len(self.where), n - self.where.shape[1])

    def framed(self, body: np.ndarray, came_from: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Genes and where they were -> the same with the row's special tokens, which came from nowhere."""
        head, tail = self.row[: self.first], self.row[self.last :]
        e = len(body)
        ids = np.concatenate([np.tile(head, (e, 1)), body, np.tile(tail, (e, 1))], axis=1)
        nowhere = [np.full((e, len(part)), -1, np.int64) for part in (head, tail)]
        return ids, np.concatenate([nowhere[0], came_from, nowhere[1]], axis=1)


class Size(NamedTuple):
    """Numbers of genes: in the row, perturbed, named, beyond the row, and most that a row may have (numbers or arrays)."""

    n: Any
    perturbed: Any
    named: Any
    beyond: Any
    room: int
    options: KindOptions


def _as_before(size: Size) -> Any:
    return size.n + 0 * size.perturbed


Make = Callable[[Site], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Kind:
    """A kind of edit.

    name
        What it is called.
    make
        Site -> tokens after the edit [edits, length] and, for each gene that was not perturbed, its position before, else -1.
    same
        Site -> bool [edits]: whether the edit would change nothing (such edits are left out).
    size
        Size -> number of genes after the edit.
    inserts
        Whether a cell without the gene is edited too.
    in_place
        Whether its scores come `_in_place` as well, where no token attends to the gene and all keep their positions.
    """

    name: str
    make: Make
    same: Callable[[Site], np.ndarray] | None = None
    size: Callable[[Size], Any] = _as_before
    inserts: bool = False
    in_place: bool = False


def _delete(site: Site) -> tuple[np.ndarray, np.ndarray]:
    """The perturbed genes are removed and the rest closes up; with refill, the next genes of the cell enter at the end."""
    rest = site.rest()
    body, came_from = site.row[rest], rest
    if site.options.refill:
        entering = np.tile(site.beyond[: site.where.shape[1]].astype(body.dtype), (len(rest), 1))
        body = np.concatenate([body, entering], axis=1)
        came_from = np.concatenate([rest, np.full(entering.shape, -1, np.int64)], axis=1)
    return site.framed(body, came_from)


def _left(size: Size) -> Any:
    entering = np.minimum(size.perturbed, size.beyond) if size.options.refill else 0
    return size.n - size.perturbed + entering


def _overexpress(site: Site) -> tuple[np.ndarray, np.ndarray]:
    """The genes come first, in the order named, whether or not the cell had them; what no longer fits falls off the end."""
    room = site.room - site.genes.shape[1]
    if room < 0:
        length = site.room + site.first + len(site.row) - site.last
        raise SettingsError(f"{site.genes.shape[1]} genes to overexpress do not fit a row of {length} tokens")
    rest = site.rest()[:, :room]
    body = np.concatenate([site.genes.astype(site.row.dtype), site.row[rest]], axis=1)
    return site.framed(body, np.concatenate([np.full(site.genes.shape, -1, np.int64), rest], axis=1))


def _filled(size: Size) -> Any:
    return np.minimum(size.n - size.perturbed + size.named, size.room)


def _leads_already(site: Site) -> np.ndarray:
    """Whether the genes are the row's first, in the order named."""
    n = site.genes.shape[1]
    if site.where.shape[1] != n or site.last - site.first < n:  # a gene is lacking, or stands there again
        return np.zeros(len(site.where), bool)
    return (site.row[site.first : site.first + n] == site.genes).all(1)


def _mask(site: Site) -> tuple[np.ndarray, np.ndarray]:
    """The mask token takes the genes' places; everything keeps its position."""
    ids = np.tile(site.row, (len(site.where), 1))
    came_from = np.full(ids.shape, -1, np.int64)
    came_from[:, site.first : site.last] = np.arange(site.first, site.last)
    np.put_along_axis(ids, site.where, site.mask, axis=1)
    np.put_along_axis(came_from, site.where, -1, axis=1)
    return ids, came_from


def _to_slots(slots_of: Callable[[Site], tuple[np.ndarray, np.ndarray]]) -> tuple[Make, Callable[[Site], np.ndarray]]:
    """(make, same) of a kind that moves genes to other ranks; `slots_of`: their new ranks, ascending, and which gene goes to each."""

    def make(site: Site) -> tuple[np.ndarray, np.ndarray]:
        slots, movers = slots_of(site)
        e, n = len(slots), site.last - site.first
        held = np.zeros((e, n), bool)
        np.put_along_axis(held, slots, True, axis=1)
        came_from = np.empty((e, n), np.int64)
        came_from[~held] = site.rest().ravel()
        came_from[held] = movers.ravel()
        body = site.row[came_from]
        came_from[held] = -1
        return site.framed(body, came_from)

    def same(site: Site) -> np.ndarray:
        slots, movers = slots_of(site)
        return (slots + site.first == movers).all(1)

    return make, same


def _shifted(direction: int) -> Callable[[Site], tuple[np.ndarray, np.ndarray]]:
    def slots_of(site: Site) -> tuple[np.ndarray, np.ndarray]:
        """Each gene a number of quarters of the cell's genes up or down; those that meet keep their order."""
        n = site.last - site.first
        step = site.options.quarters * n // 4
        slots = np.clip(site.where - site.first + direction * step, 0, n - 1)
        place = np.arange(slots.shape[1])
        slots = np.maximum.accumulate(slots - place, axis=1) + place
        return np.minimum(slots, n - slots.shape[1] + place), site.where

    return slots_of


def _moved(site: Site) -> tuple[np.ndarray, np.ndarray]:
    """The genes stand together from rank `to_rank` on, in the order named; at the end where the cell has no such rank."""
    k = site.where.shape[1]
    start = min(site.options.to_rank, site.last - site.first - k)
    return np.tile(start + np.arange(k), (len(site.where), 1)), site.named


_inhibit, _stays_low = _to_slots(_shifted(+1))
_activate, _stays_high = _to_slots(_shifted(-1))
_move, _stays = _to_slots(_moved)

KINDS: dict[str, Kind] = {
    k.name: k
    for k in (
        Kind("delete", _delete, size=_left, in_place=True),
        Kind("overexpress", _overexpress, _leads_already, _filled, inserts=True),
        Kind("inhibit", _inhibit, _stays_low),
        Kind("activate", _activate, _stays_high),
        Kind("mask", _mask),
        Kind("move", _move, _stays),
    )
}
