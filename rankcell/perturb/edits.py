"""Edits, planned on indices before torch is touched: a row before, a row after, and which positions hold the same gene."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from rankcell.errors import SettingsError
from rankcell.vocab import Frame, Vocabulary


@dataclass(frozen=True)
class Edit:
    """One perturbation of one row.

    baseline, edited
        Token rows (int32), special tokens included, before and after.
    pairs
        int64 [n, 2]: positions in `baseline` and in `edited` that hold the same non-perturbed gene.
    gone
        Positions of the perturbed genes in `baseline`.
    target
        Which of the plan's targets this is.
    rank
        Rank of the target's first gene before the edit (0 = top), None when the cell lacks it.
    """

    baseline: np.ndarray
    edited: np.ndarray
    pairs: np.ndarray
    gone: np.ndarray
    target: int
    rank: int | None

    @property
    def pairs_in_place(self) -> np.ndarray:
        """The pairs of the same loss in place: every gene that is left, at its own position on both sides."""
        return np.repeat(self.pairs[:, :1], 2, axis=1)


Apply = Callable[[np.ndarray, Frame, np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray] | None]


@dataclass(frozen=True)
class Kind:
    """A kind of edit: its name, `apply(row, frame, genes, where, max_len)` -> (edited, pairs) or None when nothing changes,
    whether a cell without the gene is edited too (`inserts`), and whether its scores come `_in_place` as well."""

    name: str
    apply: Apply
    inserts: bool = False
    in_place: bool = False


def _delete(row: np.ndarray, frame: Frame, genes: np.ndarray, where: np.ndarray, max_len: int) -> tuple[np.ndarray, np.ndarray]:
    """The genes at `where` are removed and the rest closes up."""
    kept = np.delete(np.arange(len(row)), where)
    first, last = frame.span(len(row))
    after = np.flatnonzero((kept >= first) & (kept < last))
    return row[kept], np.stack([kept[after], after], axis=1)


def _overexpress(row: np.ndarray, frame: Frame, genes: np.ndarray, where: np.ndarray, max_len: int) -> tuple[np.ndarray, np.ndarray] | None:
    """`genes` come first, in the order given, whether or not the cell had them; what no longer fits falls off the end."""
    first, last = frame.span(len(row))
    rest = np.setdiff1d(np.arange(first, last), where)
    room = max_len - len(frame) - len(genes)
    if room < 0:
        raise SettingsError(f"{len(genes)} genes to overexpress do not fit a row of {max_len} tokens")
    rest = rest[:room]
    body = np.concatenate([genes.astype(row.dtype), row[rest]])
    edited = np.concatenate([row[:first], body, row[last:]])
    if len(edited) == len(row) and (edited == row).all():
        return None
    return edited, np.stack([rest, first + len(genes) + np.arange(len(rest))], axis=1)


KINDS: dict[str, Kind] = {
    k.name: k
    for k in (
        Kind("delete", _delete, in_place=True),
        Kind("overexpress", _overexpress, inserts=True),
    )
}


@dataclass(frozen=True)
class EditPlan:
    """What to do to every row.

    kind
        A name in KINDS.
    targets
        The genes (token numbers) of each edit; empty for every gene that a row holds, one by one.
    need_all
        Whether a row must hold all genes of a target (kinds that insert need none).
    frame, max_len
        Of the rows.
    """

    kind: str
    targets: tuple[tuple[int, ...], ...]
    frame: Frame
    max_len: int
    need_all: bool = True
    _target_of_token: dict[int, int] = field(default_factory=dict, compare=False)

    @classmethod
    def make(
        cls,
        vocab: Vocabulary,
        *,
        kind: str,
        genes: str | Sequence[str] = "all",
        group: bool = False,
        any: bool = False,
        frame: Frame,
        max_len: int,
    ) -> "EditPlan":
        """A plan from gene names. SettingsError for an unknown kind or gene, or a group of "all"."""
        if kind not in KINDS:
            raise SettingsError(f"unknown kind of edit '{kind}'; one of {', '.join(KINDS)}")
        if isinstance(genes, str) and genes == "all":
            if group:
                raise SettingsError("a group needs its genes named: --genes A,B,C --group")
            targets = tuple((int(t),) for t in vocab.tokens)
            return cls(kind, targets, frame, max_len, _target_of_token={t[0]: i for i, t in enumerate(targets)})
        names = [genes] if isinstance(genes, str) else list(genes)
        tokens = list(dict.fromkeys(int(vocab.tokens[vocab.find(g)]) for g in names))
        if not tokens:
            raise SettingsError("no gene to perturb was named")
        targets = (tuple(tokens),) if group else tuple((t,) for t in tokens)
        return cls(kind, targets, frame, max_len, need_all=not any)

    def edits(self, row: np.ndarray) -> Iterator[Edit]:
        """The edits of one row, in the order of the targets ("all": in the order of the row's genes)."""
        kind = KINDS[self.kind]
        first, last = self.frame.span(len(row))
        body = row[first:last]
        position = dict(zip(body[::-1].tolist(), range(last - 1, first - 1, -1), strict=True))
        numbers = [self._target_of_token[t] for t in position] if self.every_gene else range(len(self.targets))
        if self.every_gene:
            numbers = sorted(numbers, key=lambda n: position[self.targets[n][0]])
        for number in numbers:
            genes = self.targets[number]
            held = [t for t in genes if t in position]
            if not kind.inserts and (not held or (self.need_all and len(held) < len(genes))):
                continue
            where = first + np.flatnonzero(np.isin(body, held)) if len(genes) > 1 else first + np.flatnonzero(body == genes[0])
            done = kind.apply(row, self.frame, np.asarray(genes, row.dtype), where, self.max_len)
            if done is None:
                continue
            rank = position[genes[0]] - first if genes[0] in position else None
            yield Edit(row, done[0], done[1].astype(np.int64), where, number, rank)

    @property
    def every_gene(self) -> bool:
        """Whether the targets are the genes that a row holds, whatever they are ("all")."""
        return bool(self._target_of_token)

    def count(self, row: np.ndarray) -> int:
        """How many edits `edits(row)` gives; for single genes without making them."""
        kind = KINDS[self.kind]
        body = self.frame.body(row)
        if any(len(genes) > 1 for genes in self.targets):
            return sum(1 for _ in self.edits(row))
        held = len(np.unique(body)) if self.every_gene else int(np.isin(self._single_targets, body).sum())
        if not kind.inserts:
            return held
        tried = held if self.every_gene else len(self.targets)
        return tried - int(len(body) > 0 and body[0] in self._single_targets)  # the top gene is there already

    @functools.cached_property
    def _single_targets(self) -> np.ndarray:
        return np.array([genes[0] for genes in self.targets], np.int64)

    def names(self, vocab: Vocabulary) -> list[str]:
        """The gene ids of each target, joined by + in the order given."""
        return ["+".join(vocab.describe_token(t) for t in genes) for genes in self.targets]

    def labels(self, vocab: Vocabulary) -> list[str]:
        """The symbols of each target, joined by +."""
        return ["+".join(vocab.label(int(vocab.gene_of_token[t])) for t in genes) for genes in self.targets]
