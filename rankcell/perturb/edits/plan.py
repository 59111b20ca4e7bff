"""Edits, planned on indices before torch is touched: a row before, a row after, and which positions hold the same gene."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from rankcell.errors import SettingsError
from rankcell.perturb.edits.gene_lists import ALL
from rankcell.perturb.edits.kinds import KINDS, KindOptions, Site, Size
from rankcell.perturb.edits.options import Perturbation
from rankcell.perturb.edits.targets import targets_of, targets_of_sets, token_of
from rankcell.scores import IN_PLACE, UNFILLED
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


@dataclass(frozen=True)
class EditPlan:
    """What to do to every row.

    kind
        A name in KINDS.
    targets
        The genes (token numbers) of each edit. Where `every_gene`, a row is given those that it holds.
    frame, max_len
        Of the rows.
    need_all
        Whether a row must hold all genes of a target (kinds that insert need none).
    every_gene
        Whether the targets are the genes that a row holds, whatever they are ("all"), each alone or with the anchor.
    set_names
        Names of the targets where they have any.
    mask
        The vocabulary's mask token, -1 without.
    options
        What the kind is told.
    """

    kind: str
    targets: tuple[tuple[int, ...], ...]
    frame: Frame
    max_len: int
    need_all: bool = True
    every_gene: bool = False
    set_names: tuple[str, ...] = ()
    mask: int = -1
    options: KindOptions = field(default_factory=KindOptions)

    @classmethod
    def make(cls, vocab: Vocabulary, edit: Perturbation, *, frame: Frame, max_len: int) -> "EditPlan":
        """The plan of a perturbation, with the tokens of a vocabulary. SettingsError for genes that are unknown or contradict each other."""
        if edit.kind == "mask" and vocab.mask is None:
            raise SettingsError(f"vocabulary '{vocab.name}' has no mask token")
        settings = edit.settings()
        options = KindOptions(**{f.name: settings[f.name] for f in fields(KindOptions) if f.name in settings})
        rest = {"frame": frame, "max_len": max_len, "need_all": not edit.any, "options": options}
        rest["mask"] = -1 if vocab.mask is None else int(vocab.mask)
        if edit.sets is not None:
            targets = targets_of_sets(vocab, edit.sets, some=edit.any)
            return cls(edit.kind, tuple(targets.values()), set_names=tuple(targets), **rest)
        if edit.genes != ALL:
            return cls(edit.kind, targets_of(vocab, list(edit.genes), edit.group, edit.pairs, edit.anchor), **rest)
        targets = [(int(t),) for t in vocab.tokens]
        if edit.anchor is not None:
            first = token_of(vocab, edit.anchor)
            targets = [(first, t) for (t,) in targets if t != first]
            rest["need_all"] = True  # a pair of which one gene is there would be that gene alone, over and over
        return cls(edit.kind, tuple(targets), every_gene=True, **rest)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON that `from_json` makes the same plan of, with the same vocabulary."""
        anchor = self.targets[0][0] if self.every_gene and len(self.targets[0]) > 1 else None
        held = {"kind": self.kind, "every_gene": self.every_gene, "anchor": anchor}
        held["targets"] = None if self.every_gene else [list(t) for t in self.targets]
        held |= {"set_names": list(self.set_names), "frame": self.frame.to_json(), "max_len": self.max_len}
        return held | {"need_all": self.need_all, "mask": self.mask, "options": asdict(self.options)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], vocab: Vocabulary) -> "EditPlan":
        if value["every_gene"]:
            anchor = value["anchor"]
            targets = [(int(t),) if anchor is None else (anchor, int(t)) for t in vocab.tokens if t != anchor]
        else:
            targets = [tuple(t) for t in value["targets"]]
        names, frame, options = tuple(value["set_names"]), Frame.from_json(value["frame"]), KindOptions(**value["options"])
        how = {k: value[k] for k in ("max_len", "need_all", "every_gene", "mask")}
        return cls(value["kind"], tuple(targets), frame, set_names=names, options=options, **how)

    def of_row(self, row: np.ndarray, longer: np.ndarray | None = None) -> "RowEdits":
        """The edits of one row, in the order of the targets (every gene: in the order of the row's genes).

        longer
            The genes of the same cell before it was cropped, for `refill`.
        """
        return RowEdits.of(self, np.asarray(row), longer)

    def edits(self, row: np.ndarray, longer: np.ndarray | None = None) -> Iterator[Edit]:
        """The same one by one."""
        found = self.of_row(row, longer)
        for i in range(len(found)):
            ids, came_from = found.made(np.array([i]))
            after = np.flatnonzero(came_from[0] >= 0)
            pairs = np.stack([came_from[0][after], after], axis=1)
            rank = int(found.rank[i])
            yield Edit(found.row, ids[0], pairs[np.argsort(pairs[:, 0])], found.gone(i), int(found.target[i]), None if rank < 0 else rank)

    def count(self, row: np.ndarray) -> int:
        """How many edits a row has."""
        return len(self.of_row(row))

    def cost(self, row: np.ndarray, longer: np.ndarray | None = None) -> int:
        """Tokens that go through the model for the edits of a row, in all passes."""
        found = self.of_row(row, longer)
        return sum(int(found.length_in(p).sum()) for p in self.passes)

    @property
    def passes(self) -> tuple[str, ...]:
        """What is run for each edit, by the ends of its scores' names: "" the edit, "_in_place", and "_unfilled" without refill."""
        in_place = (IN_PLACE,) if KINDS[self.kind].in_place else ()
        return ("", *in_place, *((UNFILLED,) if self.options.refill else ()))

    @functools.cached_property
    def genes(self) -> np.ndarray:
        """int64 [targets, most genes of one]: the targets' tokens, -1 where a target has fewer."""
        table = np.full((len(self.targets), max(map(len, self.targets))), -1, np.int64)
        for n in {len(t) for t in self.targets}:
            rows = [i for i, t in enumerate(self.targets) if len(t) == n]
            table[rows, :n] = [self.targets[i] for i in rows]
        return table

    @functools.cached_property
    def last_token(self) -> int:
        """The largest token of any target."""
        return int(self.genes.max())

    @functools.cached_property
    def sizes(self) -> np.ndarray:
        """int64 [targets]: genes of each target."""
        return (self.genes >= 0).sum(1)

    @functools.cached_property
    def _targets_of_tokens(self) -> tuple[np.ndarray, np.ndarray]:
        """The targets that each token is in, end to end by token, and where those of a token begin."""
        target, column = np.nonzero(self.genes >= 0)
        token = self.genes[target, column]
        order = np.argsort(token, kind="stable")
        return target[order], np.searchsorted(token[order], np.arange(self.last_token + 2))

    def held(self, tokens: np.ndarray) -> np.ndarray:
        """int64 [targets]: how many of its genes are among `tokens`, each of which is given once."""
        targets, begin = self._targets_of_tokens
        tokens = tokens[tokens < len(begin) - 1]
        n = begin[tokens + 1] - begin[tokens]
        at = np.repeat(begin[tokens] - (np.cumsum(n) - n), n) + np.arange(n.sum())
        return np.bincount(targets[at], minlength=len(self.targets))

    @functools.cached_property
    def target_of_token(self) -> np.ndarray:
        """int64 [tokens]: where `every_gene`, the target that a token stands for, or -1."""
        last = np.array([t[-1] for t in self.targets])
        table = np.full(self.last_token + 1, -1, np.int64)
        table[last] = np.arange(len(last))
        return table

    def names(self, vocab: Vocabulary) -> list[str]:
        """The gene ids of each target, joined by + in the order given."""
        return ["+".join(vocab.describe_token(t) for t in genes) for genes in self.targets]

    def labels(self, vocab: Vocabulary) -> list[str]:
        """The symbols of each target, joined by +."""
        return ["+".join(vocab.label(int(vocab.gene_of_token[t])) for t in genes) for genes in self.targets]

    def ids(self, vocab: Vocabulary) -> list[str]:
        """What each edit is called in results: the kind, and the name of its set or its genes."""
        return [f"{self.kind}:{name}" for name in self.set_names or self.names(vocab)]


@dataclass(frozen=True)
class RowEdits:
    """All edits of one row.

    target, rank
        int64 [edits]: which of the plan's targets, and the rank of its first gene before (0 = top), -1 where the row lacks it.
    where
        int64 [edits, most perturbed]: positions of the perturbed genes in the order named, -1 where there are fewer.
    """

    plan: EditPlan
    row: np.ndarray
    beyond: np.ndarray
    target: np.ndarray
    rank: np.ndarray
    where: np.ndarray

    @classmethod
    def of(cls, plan: EditPlan, row: np.ndarray, longer: np.ndarray | None) -> "RowEdits":
        first, last = plan.frame.span(len(row))
        body = row[first:last].astype(np.int64)
        beyond = np.empty(0, row.dtype) if longer is None else np.asarray(longer)[len(body) :]
        position = np.full(int(max(body.max(initial=0), plan.last_token)) + 2, -1, np.int64)
        position[body[::-1]] = np.arange(last - 1, first - 1, -1)  # of a gene that stands there twice, the first place
        target = _targets_in(plan, body) if plan.every_gene else np.arange(len(plan.targets))
        if not KINDS[plan.kind].inserts and not plan.every_gene:
            held = plan.held(np.unique(body))
            target = np.flatnonzero(held == plan.sizes if plan.need_all else held > 0)
        genes = plan.genes[target]
        where = position[genes]  # -1 stands at the end of the table, which is never a gene's
        if not KINDS[plan.kind].inserts and plan.every_gene:  # with an anchor, which the row may lack
            kept = ((where >= 0) == (genes >= 0)).all(1) if plan.need_all else (where >= 0).any(1)
            target, genes, where = target[kept], genes[kept], where[kept]
        rank = np.where(where[:, 0] >= 0, where[:, 0] - first, -1) if len(where) else np.empty(0, np.int64)
        found = cls(plan, row, beyond, target, rank, _with_copies(where, genes, body, first))
        changes = found._changes()
        return found if changes.all() else cls(plan, row, beyond, target[changes], rank[changes], found.where[changes])

    def __len__(self) -> int:
        return len(self.target)

    def some(self, most: int) -> "RowEdits":
        """At most so many of them, evenly drawn."""
        if len(self) <= most:
            return self
        return self.chosen(np.linspace(0, len(self) - 1, most).astype(np.int64))

    def chosen(self, at: np.ndarray) -> "RowEdits":
        """Some of the edits, by their numbers."""
        return RowEdits(self.plan, self.row, self.beyond, self.target[at], self.rank[at], self.where[at])

    def gone(self, edit: int) -> np.ndarray:
        """Positions of an edit's perturbed genes, ascending."""
        where = self.where[edit]
        return np.sort(where[where >= 0])

    @functools.cached_property
    def n_gone(self) -> np.ndarray:
        """int64 [edits]: how many positions are perturbed."""
        return (self.where >= 0).sum(1)

    @functools.cached_property
    def n_named(self) -> np.ndarray:
        """int64 [edits]: how many genes were named, in the row or not."""
        return self.plan.sizes[self.target]

    @functools.cached_property
    def n_beyond(self) -> np.ndarray:
        """int64 [edits]: genes of the cell that did not fit its row and are not perturbed."""
        if not len(self.beyond):
            return np.zeros(len(self), np.int64)
        return len(self.beyond) - np.isin(self.plan.genes[self.target], self.beyond).sum(1)

    @functools.cached_property
    def length(self) -> np.ndarray:
        """int64 [edits]: tokens of each row after its edit."""
        return self._length(self.plan.options)

    def length_in(self, which: str) -> np.ndarray:
        """The same in one of the plan's passes."""
        if which == IN_PLACE:
            return np.full(len(self), len(self.row))
        return self.length if which == "" else self._length(KindOptions())

    def _length(self, options: KindOptions) -> np.ndarray:
        plan, n = self.plan, len(self.row) - len(self.plan.frame)
        size = Size(n, self.n_gone, self.n_named, self.n_beyond, plan.max_len - len(plan.frame), options)
        return len(plan.frame) + np.asarray(KINDS[plan.kind].size(size), np.int64)

    def made(self, chosen: np.ndarray, options: KindOptions | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Tokens [edits, length] of the chosen edits, which must have one length and perturb equally many positions, and where
        each gene that was not perturbed stood before (-1: nowhere)."""
        return KINDS[self.plan.kind].make(self._site(chosen, options))

    def alike(self, chosen: np.ndarray) -> Iterator[np.ndarray]:
        """`chosen` cut into parts for `made`."""
        named = self.n_named[chosen]
        alone = (self.n_beyond[chosen] < len(self.beyond)) & self.plan.options.refill  # what may enter is not the same
        key = np.stack([self.length[chosen], self.n_gone[chosen], named, np.where(alone, np.arange(len(chosen)), -1)])
        edges = np.flatnonzero((np.diff(key) != 0).any(0)) + 1
        yield from np.split(chosen, edges)

    def _site(self, chosen: np.ndarray, options: KindOptions | None = None) -> Site:
        plan = self.plan
        first, last = plan.frame.span(len(self.row))
        where = self.where[chosen]
        named = where[where >= 0].reshape(len(chosen), -1)
        genes = plan.genes[self.target[chosen]]
        genes = genes[genes >= 0].reshape(len(chosen), -1)
        options = plan.options if options is None else options
        beyond = self.beyond
        if options.refill:
            beyond = beyond[~np.isin(beyond, genes)]
        room = plan.max_len - len(plan.frame)
        return Site(self.row, first, last, np.sort(named, axis=1), named, genes, beyond, room, plan.mask, options)

    def _changes(self) -> np.ndarray:
        """bool [edits]: whether the edit changes the row."""
        same = KINDS[self.plan.kind].same
        changes = np.ones(len(self), bool)
        if same is not None and len(self):
            for part in self.alike(np.lexsort((self.n_gone, self.length))):
                changes[part] = ~same(self._site(part))
        return changes


def _targets_in(plan: EditPlan, body: np.ndarray) -> np.ndarray:
    """The targets of a row's genes, from the top, each once."""
    table = plan.target_of_token
    known = body[body < len(table)]
    found = table[known]
    found = found[found >= 0]
    _, at = np.unique(found, return_index=True)
    return found[np.sort(at)]


def _with_copies(where: np.ndarray, genes: np.ndarray, body: np.ndarray, first: int) -> np.ndarray:
    """`where` with columns for the further places of genes that stand in a row more than once (in Geneformer's rows they may)."""
    tokens, counts = np.unique(body, return_counts=True)
    twice = tokens[counts > 1]
    if not len(twice) or not len(where):
        return where
    again = {int(t): (first + np.flatnonzero(body == t)[1:]).tolist() for t in twice}
    extra = {i: [p for t in genes[i].tolist() for p in again.get(t, ())] for i in np.flatnonzero(np.isin(genes, twice).any(1))}
    more = np.full((len(where), max(map(len, extra.values()), default=0)), -1, np.int64)
    for i, places in extra.items():
        more[i, : len(places)] = places
    return np.concatenate([where, more], axis=1)
