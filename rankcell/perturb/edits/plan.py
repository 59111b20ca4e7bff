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
    perturbed_positions
        Positions of the perturbed genes in `baseline`.
    target
        Which of the plan's targets this is.
    rank
        Rank of the target's first gene before the edit (0 = top), None when the cell lacks it.
    """

    baseline: np.ndarray
    edited: np.ndarray
    pairs: np.ndarray
    perturbed_positions: np.ndarray
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
        Options of the kind.
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
        common = {"frame": frame, "max_len": max_len, "need_all": not edit.any, "options": options}
        common["mask"] = -1 if vocab.mask is None else int(vocab.mask)
        if edit.sets is not None:
            targets = targets_of_sets(vocab, edit.sets, partial=edit.any)
            return cls(edit.kind, tuple(targets.values()), set_names=tuple(targets), **common)
        if edit.genes != ALL:
            return cls(edit.kind, targets_of(vocab, list(edit.genes), edit.group, edit.pairs, edit.anchor), **common)
        targets = [(int(t),) for t in vocab.tokens]
        if edit.anchor is not None:
            first = token_of(vocab, edit.anchor)
            targets = [(first, t) for (t,) in targets if t != first]
            common["need_all"] = True  # a pair of which one gene is there would be that gene alone, over and over
        return cls(edit.kind, tuple(targets), every_gene=True, **common)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON that `from_json` makes the same plan of, with the same vocabulary."""
        anchor = self.targets[0][0] if self.every_gene and len(self.targets[0]) > 1 else None
        content = {"kind": self.kind, "every_gene": self.every_gene, "anchor": anchor}
        content["targets"] = None if self.every_gene else [list(t) for t in self.targets]
        content |= {"set_names": list(self.set_names), "frame": self.frame.to_json(), "max_len": self.max_len}
        return content | {"need_all": self.need_all, "mask": self.mask, "options": asdict(self.options)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], vocab: Vocabulary) -> "EditPlan":
        if value["every_gene"]:
            anchor = value["anchor"]
            targets = [(int(t),) if anchor is None else (anchor, int(t)) for t in vocab.tokens if t != anchor]
        else:
            targets = [tuple(t) for t in value["targets"]]
        names, frame, options = tuple(value["set_names"]), Frame.from_json(value["frame"]), KindOptions(**value["options"])
        settings = {k: value[k] for k in ("max_len", "need_all", "every_gene", "mask")}
        return cls(value["kind"], tuple(targets), frame, set_names=names, options=options, **settings)

    def of_row(self, row: np.ndarray, uncropped: np.ndarray | None = None) -> "RowEdits":
        """The edits of one row, in the order of the targets (every gene: in the order of the row's genes).

        uncropped
            The genes of the same cell before it was cropped, for `refill`.
        """
        return RowEdits.of(self, np.asarray(row), uncropped)

    def edits(self, row: np.ndarray, uncropped: np.ndarray | None = None) -> Iterator[Edit]:
        """Iterate over the edits of one row, as Edit values, in the order of `of_row`."""
        row_edits = self.of_row(row, uncropped)
        for i in range(len(row_edits)):
            ids, came_from = row_edits.apply(np.array([i]))
            after = np.flatnonzero(came_from[0] >= 0)
            pairs = np.stack([came_from[0][after], after], axis=1)
            rank = int(row_edits.rank[i])
            yield Edit(row_edits.row, ids[0], pairs[np.argsort(pairs[:, 0])], row_edits.perturbed_positions(i), int(row_edits.target[i]), None if rank < 0 else rank)

    def count(self, row: np.ndarray) -> int:
        """How many edits a row has."""
        return len(self.of_row(row))

    def cost(self, row: np.ndarray, uncropped: np.ndarray | None = None) -> int:
        """Tokens that go through the model for the edits of a row, in all passes."""
        row_edits = self.of_row(row, uncropped)
        return sum(int(row_edits.length_in(p).sum()) for p in self.passes)

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

    def n_shown(self, tokens: np.ndarray) -> np.ndarray:
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
    truncated_genes: np.ndarray
    target: np.ndarray
    rank: np.ndarray
    where: np.ndarray

    @classmethod
    def of(cls, plan: EditPlan, row: np.ndarray, uncropped: np.ndarray | None) -> "RowEdits":
        first, last = plan.frame.span(len(row))
        body = row[first:last].astype(np.int64)
        truncated_genes = np.empty(0, row.dtype) if uncropped is None else np.asarray(uncropped)[len(body) :]
        position = np.full(int(max(body.max(initial=0), plan.last_token)) + 2, -1, np.int64)
        position[body[::-1]] = np.arange(last - 1, first - 1, -1)  # of a gene that stands there twice, the first place
        target = _targets_in(plan, body) if plan.every_gene else np.arange(len(plan.targets))
        if not KINDS[plan.kind].inserts and not plan.every_gene:
            n_shown = plan.n_shown(np.unique(body))
            target = np.flatnonzero(n_shown == plan.sizes if plan.need_all else n_shown > 0)
        genes = plan.genes[target]
        where = position[genes]  # -1 stands at the end of the table, which is never a gene's
        if not KINDS[plan.kind].inserts and plan.every_gene:  # with an anchor, which the row may lack
            is_shown = ((where >= 0) == (genes >= 0)).all(1) if plan.need_all else (where >= 0).any(1)
            target, genes, where = target[is_shown], genes[is_shown], where[is_shown]
        rank = np.where(where[:, 0] >= 0, where[:, 0] - first, -1) if len(where) else np.empty(0, np.int64)
        row_edits = cls(plan, row, truncated_genes, target, rank, _with_copies(where, genes, body, first))
        changes = row_edits._changes()
        return row_edits if changes.all() else cls(plan, row, truncated_genes, target[changes], rank[changes], row_edits.where[changes])

    def __len__(self) -> int:
        return len(self.target)

    def subsample(self, most: int) -> "RowEdits":
        """Subsample the edits: at most `most`, evenly spaced."""
        if len(self) <= most:
            return self
        return self.chosen(np.linspace(0, len(self) - 1, most).astype(np.int64))

    def chosen(self, at: np.ndarray) -> "RowEdits":
        """Select edits by their numbers."""
        return RowEdits(self.plan, self.row, self.truncated_genes, self.target[at], self.rank[at], self.where[at])

    def perturbed_positions(self, edit: int) -> np.ndarray:
        """Positions of an edit's perturbed genes, ascending."""
        where = self.where[edit]
        return np.sort(where[where >= 0])

    @functools.cached_property
    def n_perturbed(self) -> np.ndarray:
        """int64 [edits]: how many positions are perturbed."""
        return (self.where >= 0).sum(1)

    @functools.cached_property
    def n_genes(self) -> np.ndarray:
        """int64 [edits]: how many genes were named, in the row or not."""
        return self.plan.sizes[self.target]

    @functools.cached_property
    def n_truncated(self) -> np.ndarray:
        """int64 [edits]: genes of the cell that did not fit its row and are not perturbed."""
        if not len(self.truncated_genes):
            return np.zeros(len(self), np.int64)
        return len(self.truncated_genes) - np.isin(self.plan.genes[self.target], self.truncated_genes).sum(1)

    @functools.cached_property
    def length(self) -> np.ndarray:
        """int64 [edits]: tokens of each row after its edit."""
        return self._length(self.plan.options)

    def length_in(self, which: str) -> np.ndarray:
        """int64 [edits]: tokens of each row in one of the plan's passes."""
        if which == IN_PLACE:
            return np.full(len(self), len(self.row))
        return self.length if which == "" else self._length(KindOptions())

    def _length(self, options: KindOptions) -> np.ndarray:
        plan, n = self.plan, len(self.row) - len(self.plan.frame)
        size = Size(n, self.n_perturbed, self.n_genes, self.n_truncated, plan.max_len - len(plan.frame), options)
        return len(plan.frame) + np.asarray(KINDS[plan.kind].size(size), np.int64)

    def apply(self, chosen: np.ndarray, options: KindOptions | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Tokens [edits, length] of the chosen edits, which must have one length and perturb equally many positions, and where
        each gene that was not perturbed stood before (-1: nowhere)."""
        return KINDS[self.plan.kind].apply(self._site(chosen, options))

    def group_by_shape(self, chosen: np.ndarray) -> Iterator[np.ndarray]:
        """`chosen` cut into groups of one shape, as `apply` takes them."""
        n_genes = self.n_genes[chosen]
        alone = (self.n_truncated[chosen] < len(self.truncated_genes)) & self.plan.options.refill  # what may enter is not the same
        key = np.stack([self.length[chosen], self.n_perturbed[chosen], n_genes, np.where(alone, np.arange(len(chosen)), -1)])
        edges = np.flatnonzero((np.diff(key) != 0).any(0)) + 1
        yield from np.split(chosen, edges)

    def _site(self, chosen: np.ndarray, options: KindOptions | None = None) -> Site:
        plan = self.plan
        first, last = plan.frame.span(len(self.row))
        where = self.where[chosen]
        positions = where[where >= 0].reshape(len(chosen), -1)
        genes = plan.genes[self.target[chosen]]
        genes = genes[genes >= 0].reshape(len(chosen), -1)
        options = plan.options if options is None else options
        truncated_genes = self.truncated_genes
        if options.refill:
            truncated_genes = truncated_genes[~np.isin(truncated_genes, genes)]
        room = plan.max_len - len(plan.frame)
        return Site(self.row, first, last, np.sort(positions, axis=1), positions, genes, truncated_genes, room, plan.mask, options)

    def _changes(self) -> np.ndarray:
        """bool [edits]: whether the edit changes the row."""
        is_noop = KINDS[self.plan.kind].is_noop
        changes = np.ones(len(self), bool)
        if is_noop is not None and len(self):
            for part in self.group_by_shape(np.lexsort((self.n_perturbed, self.length))):
                changes[part] = ~is_noop(self._site(part))
        return changes


def _targets_in(plan: EditPlan, body: np.ndarray) -> np.ndarray:
    """The targets of a row's genes, from the top, each once."""
    table = plan.target_of_token
    known = body[body < len(table)]
    targets = table[known]
    targets = targets[targets >= 0]
    _, at = np.unique(targets, return_index=True)
    return targets[np.sort(at)]


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
