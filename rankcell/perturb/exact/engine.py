"""The engine: edits of a few cells -> score columns. Baseline states once per cell, edits in batches, reductions on the device."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rankcell.model import Batch, Encoder, Packed
from rankcell.perturb.edits.plan import EditPlan, RowEdits
from rankcell.perturb.exact import sharing
from rankcell.perturb.exact.affected import AffectedRows, AffectedSums
from rankcell.perturb.exact.baseline import Baseline
from rankcell.perturb.exact.options import Measure
from rankcell.perturb.exact.pieces import EditedRows, Piece, Sheet
from rankcell.perturb.exact.scored import Scored
from rankcell.perturb.exact.sharing import FirstBlock, Vanished
from rankcell.perturb.exact.shifts import Compared, readout_scores
from rankcell.perturb.exact.states import StateEmbeddings
from rankcell.scores import COS, EUCLIDEAN, IN_PLACE, POSITION, READOUTS, REFILL, TOWARD, UNFILLED, Score, score_name
from rankcell.wording import note

_SHARED = "first blocks"  # of rankcell.model.device_memory.Memory.most


@dataclass(frozen=True)
class Engine:
    """Scores edits exactly: the settings of a screen with its model.

    encoder, plan, n_blocks, states, tokens_per_batch
        The model, the plan of the edits, the layer as a number of blocks, the states of `toward`, and most tokens at once.
    keep_perturbed
        The cell readout of `toward` keeps the perturbed gene, as Geneformer's goal-state mode does.
    euclidean
        Distances beside cosines.
    readouts
        Which of "genes", "cell" and "cls" are scored. With "cls" alone the last block computes one token of each row.
    """

    encoder: Encoder
    plan: EditPlan
    n_blocks: int
    states: StateEmbeddings
    tokens_per_batch: int
    keep_perturbed: bool = False
    euclidean: bool = False
    readouts: tuple[str, ...] = READOUTS

    @classmethod
    def measuring(
        cls, measure: Measure, encoder: Encoder | None, plan: EditPlan, n_blocks: int, states: StateEmbeddings, tokens_per_batch: int
    ) -> "Engine":
        """The engine of a screen; `encoder` None: without a model."""
        is_euclidean = measure.distance == "euclidean"
        return cls(
            encoder, plan, n_blocks, states, tokens_per_batch, keep_perturbed=measure.keeps_perturbed, euclidean=is_euclidean, readouts=measure.readout
        )

    @property
    def scored(self) -> list[str]:
        """The readouts that there are: CLS only where rows have one."""
        return [r for r in READOUTS if r in self.readouts and (r != "cls" or self.plan.frame.has_cls)]

    @property
    def plain_names(self) -> list[str]:
        """Scores of one pass: cosines, then those toward states, then the same by distance."""
        directions = [(r, s) for s in self.states.names for r in self.scored if (s, r) in self.states.vectors]
        names = [*(score_name(COS, r) for r in self.scored), *(score_name(TOWARD, r, s) for r, s in directions)]
        if self.euclidean:
            names += [*(score_name(EUCLIDEAN, r) for r in self.scored), *(score_name(EUCLIDEAN, r, s) for r, s in directions)]
        return names

    @property
    def score_names(self) -> list[str]:
        """Score columns in their order: all cosines, all cosines in place, their parts; then each other score with its own."""
        if IN_PLACE not in self.plan.passes:
            return self.plain_names
        parts = ["", IN_PLACE, POSITION, *([REFILL] if UNFILLED in self.plan.passes else [])]
        plain = [Score.parse(name) for name in self.plain_names]
        cosines = [score.with_part(part) for part in parts for score in plain if score.is_cosine]
        return [*map(str, cosines), *(str(score.with_part(part)) for score in plain if not score.is_cosine for part in parts)]

    @property
    def reads_cls_alone(self) -> bool:
        return self.scored == ["cls"]

    def states_of(self, batch: Batch | Packed, first: tuple[Any, Any] | None = None) -> Any:
        """float32 [tokens, width] of the layer; [rows, width] where only CLS is read."""
        only = [0] if self.reads_cls_alone else None
        ((_, states),) = self.encoder.walk(batch, [self.n_blocks], only=only, first=first)
        return states.float().to(self.encoder.wide_device)

    def run(
        self,
        rows: Sequence[np.ndarray],
        uncropped: Sequence[np.ndarray] | None = None,
        *,
        most: int | None = None,
        sums: AffectedSums | AffectedRows | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Scored:
        """All edits of `rows` and their scores.

        uncropped
            The genes of the same cells before they were cropped, for refill.
        most
            So many edits of each row at most, evenly drawn; None: all.
        sums
            Takes in the shifts of the affected genes.
        progress
            Called with the tokens of each batch.
        """
        edits = [self.plan.of_row(row, None if uncropped is None else uncropped[i]) for i, row in enumerate(rows)]
        return self.run_edits(rows, edits if most is None else [e.subsample(most) for e in edits], sums=sums, progress=progress)

    def run_edits(
        self,
        rows: Sequence[np.ndarray],
        edits: Sequence[RowEdits],
        *,
        passes: Sequence[str] | None = None,
        sums: AffectedSums | AffectedRows | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Scored:
        """These edits of each of `rows`, and of the plan's passes only these (None: all): what another pass would give is NaN."""
        counts = np.array([len(e) for e in edits], np.int64)
        unit = _Unit(self, rows, edits, np.cumsum(counts) - counts, self.plan.passes if passes is None else passes, sums, progress)
        with self.encoder.pinned():
            unit.run_cells(np.flatnonzero(counts))
        cell = np.repeat(np.arange(len(rows)), counts)
        target, rank = (np.concatenate([np.empty(0, np.int64), *(getattr(e, name) for e in edits)]) for name in ("target", "rank"))
        n_tokens = np.array([len(r) for r in rows], np.int64)[cell]
        return Scored(cell, target, rank, n_tokens, self.with_parts(unit.fetch_scores()))

    def with_parts(self, scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Split each plain score into its parts by positions and by refill: {score: float64 [edits]}, in the order of `score_names`."""
        if IN_PLACE in self.plan.passes:
            for n in self.plain_names:
                score = Score.parse(n)
                sign = -1 if score.is_cosine else 1  # a shift is 1 - cosine
                total = scores.pop(n + UNFILLED, scores[n])
                scores[str(score.with_part(POSITION))] = sign * (total - scores[n + IN_PLACE])
                scores[str(score.with_part(REFILL))] = sign * (scores[n] - total)
        return {name: scores[name] for name in self.score_names}


class _Unit:
    """The cells of one call, and the scores of their edits so far."""

    def __init__(
        self,
        engine: Engine,
        rows: Sequence[np.ndarray],
        edits: Sequence[RowEdits],
        first_edit: np.ndarray,
        passes: Sequence[str],
        sums: AffectedSums | AffectedRows | None,
        progress: Callable[[int], None] | None,
    ):
        self.engine, self.rows, self.edits, self.first_edit, self.sums, self.progress = engine, rows, edits, first_edit, sums, progress
        self.passes = [which for which in engine.plan.passes if which in passes]
        self._done: list[_BatchScores] = []
        self._batches = functools.partial(engine.encoder.memory.batches, tokens_per_batch=engine.tokens_per_batch)

    @functools.cached_property
    def states(self) -> dict[tuple[str, str], Any]:
        """The states' vectors on the device."""
        return {k: self.engine.encoder.wide_tensor(v) for k, v in self.engine.states.vectors.items()}

    def fetch_scores(self) -> dict[str, np.ndarray]:
        """{score and pass: float64 [edits]}, NaN where nothing was run."""
        total, names = sum(map(len, self.edits)), self.engine.plain_names
        columns = {n + which: np.full(total, np.nan) for which in self.engine.plan.passes for n in names}
        for which in self.passes:
            batches = [batch for batch in self._done if batch.which == which]
            if batches:
                number = np.concatenate([batch.number for batch in batches])
                scores = self.engine.encoder.memory.joined([batch.scores for batch in batches], 1)
                for name, values in zip(names, scores, strict=True):
                    columns[name + which][number] = values
        return columns

    def run_cells(self, cells: np.ndarray) -> None:
        """All passes of some cells, as many at a time as have their rows in one batch."""
        for at, base in self._batches([len(self.rows[i]) for i in cells], lambda at: self._baseline(cells[at])):
            self._run_edits(base, cells[at])
            del base  # before the next one is made

    def _baseline(self, cells: np.ndarray) -> Baseline:
        return Baseline.of(self.engine, [self.rows[i] for i in cells], cells)

    def _run_edits(self, base: Baseline, cells: np.ndarray) -> None:
        shared: dict[int, FirstBlock | None] = {}
        cell = np.repeat(cells, [len(self.edits[i]) for i in cells])
        edit = np.concatenate([np.arange(len(self.edits[i])) for i in cells])
        order = self._order(cell)
        for which in self.passes:
            length = np.concatenate([self.edits[i].length_in(which) for i in cells])
            n_attended = length - np.concatenate([self.edits[i].n_perturbed for i in cells]) if which == IN_PLACE else length
            can_run = order[n_attended[order] > 0]  # a token is left to attend to
            run = functools.partial(self._run_batch, base, which, cell[can_run], edit[can_run], shared)
            for _, done in self._batches(length[can_run], run, give_back=shared.clear):
                self._keep(done)

    def _keep(self, done: "_BatchScores") -> None:
        """Add a complete batch to the results."""
        for part in done.collected:
            self.sums.keep(part)
        self._done.append(dataclasses.replace(done, collected=[]))
        if self.progress:
            self.progress(done.n_tokens)

    def _order(self, cell: np.ndarray) -> np.ndarray:
        """Order the edits so that neighbours are applied and share at once: by cell, number of perturbed genes and of genes, and place."""
        row_edits = [self.edits[i] for i in dict.fromkeys(cell.tolist())]
        n_perturbed, n_genes = (np.concatenate([getattr(e, n) for e in row_edits]) for n in ("n_perturbed", "n_genes"))
        last = np.concatenate([e.where.max(1) for e in row_edits])
        _, at = np.unique(cell, return_inverse=True)
        return np.lexsort((last, n_genes, n_perturbed, at))

    def _pieces(self, cell: np.ndarray, edit: np.ndarray) -> Iterator[Piece]:
        """Cut the edits of a batch into those of one cell and shape, which are applied at once."""
        for part in np.split(np.arange(len(cell)), np.flatnonzero(np.diff(cell)) + 1):
            row_edits = self.edits[cell[part[0]]]
            yield from (Piece(int(cell[part[0]]), row_edits, group) for group in row_edits.group_by_shape(edit[part]))

    def _shared(self, cell: int) -> FirstBlock | None:
        """The first block of a cell of which enough single genes are deleted for it to be worth it: never on a GPU, which computes it
        anew in less time than its sums take."""
        engine, edits = self.engine, self.edits[cell]
        if engine.encoder.device.type not in sharing.DEVICES:
            return None
        at_first = engine.n_blocks == 0 or (engine.n_blocks == 1 and engine.reads_cls_alone)
        if engine.plan.kind != "delete" or at_first or len(edits) < sharing.LEAST_EDITS or len(edits.row) < sharing.LEAST_TOKENS:
            return None
        return FirstBlock(engine.encoder, edits.row)

    def _first_within_memory(self, which: str, pieces: list[Piece], shared: dict[int, FirstBlock | None]) -> tuple[Any, Any] | None:
        """As `_first`; no more of it in this run where the memory does not hold what is shared."""
        memory = self.engine.encoder.memory
        if not memory.limit(_SHARED, 1):
            return None
        first, lack = memory.attempt(functools.partial(self._first, which, pieces, shared))
        if lack is not None:
            shared.clear()
            memory.most[_SHARED] = 0
            note("out of memory for what the deletions of a cell share: going on without it, to the same numbers")
        return first

    def _first(self, which: str, pieces: list[Piece], shared: dict[int, FirstBlock | None]) -> tuple[Any, Any] | None:
        """The first block of a batch, where all of it is shared."""
        if (which == "" and self.engine.plan.options.refill) or any((p.row_edits.n_perturbed[p.edit] != 1).any() for p in pieces):
            return None
        cells = {p.cell for p in pieces}
        for done in shared.keys() - cells:
            del shared[done]
        shared |= {c: self._shared(c) for c in cells - shared.keys()}
        if any(shared[c] is None for c in cells):
            return None
        where = [p.row_edits.where[p.edit].max(1) for p in pieces]
        try:
            first_blocks = [shared[p.cell].run(w, in_place=which == IN_PLACE) for p, w in zip(pieces, where, strict=True)]
        except Vanished:
            return None
        return tuple(torch.cat(x) for x in zip(*first_blocks, strict=True))

    def _run_batch(
        self, base: Baseline, which: str, cell: np.ndarray, edit: np.ndarray, shared: dict[int, FirstBlock | None], at: np.ndarray
    ) -> "_BatchScores":
        """The scores of the edits `at` in one pass; nothing is kept but what cells share, which may go at any time."""
        engine = self.engine
        pieces = list(self._pieces(cell[at], edit[at]))
        edited = EditedRows.of(pieces, which, base, engine.encoder)
        states = engine.states_of(edited.packed, self._first_within_memory(which, pieces, shared))
        start, scores, collected = 0, [], []
        with torch.inference_mode():
            for sheet in edited.sheets(engine.encoder.wide_tensor):
                n = len(sheet.length)
                after = states[start : start + n, None] if engine.reads_cls_alone else sheet.lines(states)
                values, shifts = self._score(base, which, sheet, after)
                scores.append(values)
                if shifts is not None and self.sums is not None and which != UNFILLED:
                    collected.append(self._collect(base, which, sheet, shifts))
                start += n
            number = self.first_edit[edited.cell] + edited.edit
            return _BatchScores(which, number, torch.cat(scores, 1), collected, int(edited.packed.lengths.sum()))

    def _collect(self, base: Baseline, which: str, sheet: Sheet, shifts: Any) -> Any:
        """Collect the shifts of affected genes of a sheet."""
        came_from = sheet.came_from.cpu().numpy()
        tokens = base.ids[base.starts_of(sheet.cell)[:, None] + np.maximum(came_from, 0)]
        return self.sums.collect(self.first_edit[sheet.cell] + sheet.edit, sheet.target, tokens, shifts, came_from >= 0, which)

    def _score(self, base: Baseline, which: str, sheet: Sheet, after: Any) -> tuple[Any, Any]:
        """Scores of a sheet, float64 [scores, edits], and the shift of each gene, [edits, longest]; None where no gene is read.

        after
            float32 [edits, longest, width].
        """
        engine = self.engine
        starts = engine.encoder.wide_tensor(base.starts_of(sheet.cell))
        scores, shifts = ({}, None) if engine.reads_cls_alone else self._score_genes(base, starts, which, sheet, after)
        if "cls" in engine.scored:
            before = base.states[starts]
            scores |= readout_scores("cls", before.double(), after[:, 0].double(), self.states, euclidean=engine.euclidean)
        return torch.stack([scores[name] for name in engine.plain_names]), shifts

    def _score_genes(self, base: Baseline, starts: Any, which: str, sheet: Sheet, after: Any) -> tuple[dict[str, Any], Any]:
        """Scores of the gene and cell readouts, and the shift of each gene."""
        engine = self.engine
        before = base.states[starts[:, None] + sheet.came_from.clamp(min=0)]
        compared = Compared(after - before, before, sheet.came_from >= 0)
        shifts = compared.gene_shifts()
        scores = {score_name(COS, "genes"): 1 - compared.mean(shifts)}
        if engine.euclidean:
            scores[score_name(EUCLIDEAN, "genes")] = compared.mean(compared.gene_distances())
        means = compared.mean_states()
        scores |= readout_scores("cell", *means, self.states, euclidean=engine.euclidean)
        if engine.keep_perturbed:
            ends = (base.body_means(sheet.cell, engine.plan.frame), means[1] if which == IN_PLACE else self._body_means(sheet, after))
            toward_scores = readout_scores("cell", *ends, self.states, euclidean=engine.euclidean)
            scores |= {n: v for n, v in toward_scores.items() if Score.parse(n).is_toward}
        return scores, shifts

    def _body_means(self, sheet: Sheet, after: Any) -> Any:
        """float64 [edits, width]: mean over all genes of each edit."""
        first, last = zip(*map(self.engine.plan.frame.span, sheet.length.tolist()), strict=True)
        if sheet.places is None:
            return after[:, first[0] : last[0]].double().mean(1)
        place = np.arange(after.shape[1])
        is_gene = self.engine.encoder.wide_tensor((place >= first[0]) & (place < np.array(last)[:, None]))
        return torch.where(is_gene[:, :, None], after.double(), 0).sum(1) / is_gene.sum(1, keepdim=True)


@dataclass(frozen=True)
class _BatchScores:
    """Scores of one batch.

    which, number, n_tokens
        The pass, the number of each edit in its unit (int64 [edits]), and the tokens that went through the model.
    scores
        float64 [plain scores, edits], on the device.
    collected
        Its parts of the tables of affected genes.
    """

    which: str
    number: np.ndarray
    scores: Any
    collected: list[Any]
    n_tokens: int
