"""What a screen is: the edits, of which cells, compared with what, by which method. All that can be refused is refused here, without torch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from rankcell.errors import CellError, SettingsError, TokensError
from rankcell.options import Help, Options, at_least
from rankcell.perturb.edits.options import EDIT_CHOICE, Delete, Perturbation
from rankcell.perturb.exact.options import Exact, Measure, MethodOptions
from rankcell.perturb.exact.state_names import split_state, start_state, states_as_text
from rankcell.perturb.fast.options import METHOD_CHOICE
from rankcell.perturb.run.start_cells import parse_cell_ids, start_cells
from rankcell.wording import note, option

if TYPE_CHECKING:
    import numpy as np

    from rankcell.perturb.edits.plan import EditPlan
    from rankcell.tokens.tokenset import TokenSet
    from rankcell.vocab import Vocabulary

TOKENS_PER_UNIT = 250_000  # edited tokens, where nothing else is asked for, at least
_MAX_LISTED = 6  # genes that a manifest's text names


@dataclass(frozen=True)
class Subset(Options):
    """Which cells are perturbed, beside those that `start` names."""

    cells: Annotated[int | None, Help("Only the first N cells (with {seed}: N drawn).", "N", check=at_least(1))] = None
    seed: Annotated[int | None, Help("Draw {cells} with this seed.")] = None
    only: Annotated[
        Sequence[str] | None, Help("Perturb only these cells: a file of their ids, one a line; in Python also a list of them.", "FILE", parse=parse_cell_ids, cli=str)
    ] = None

    def check(self) -> None:
        if self.seed is not None and self.cells is None:
            raise SettingsError(
                f"{option('seed', self.seed)} samples as many cells as {option('cells', placeholder='N')} says, and no {option('cells')} is there: add it, or leave out the seed"
            )


@dataclass(frozen=True)
class ScreenConfig(Options):
    """A perturbation screen: everything that decides its numbers but the model, the cells' tokens and further states."""

    edit: Annotated[Perturbation, EDIT_CHOICE] = Delete()
    start: Annotated[Any, Help("Perturb only these cells.", "COL=STATE", parse=start_state, cli=str)] = None
    toward: Annotated[
        Sequence[str], Help("Also score the movement toward these cells; may be repeated.", "COL=STATE", parse=states_as_text, cli=list[str])
    ] = ()
    subset: Subset = Subset()
    measure: Measure = Measure()
    method: Annotated[MethodOptions, METHOD_CHOICE] = Exact()

    def check(self) -> None:
        if self.toward and not {"cell", "cls"} & set(self.measure.readout):
            raise SettingsError("movement toward a state is read from the cell or the CLS readout, and only genes is asked for")
        ends = {split_state(t, "toward") for t in self.toward}
        if self.start is not None and split_state(self.start, "start") in ends:
            raise SettingsError(
                f"{option('start')} and {option('toward')} are both {self.start}: cells cannot move toward the state that they are in"
            )

    @property
    def state_columns(self) -> list[str]:
        """The cell columns of `toward` and `start`."""
        return [split_state(t, "toward")[0] for t in self.toward] + ([split_state(self.start, "start")[0]] if self.start else [])

    @property
    def state_names(self) -> list[str]:
        """The states of `toward`, without their columns."""
        return [split_state(t, "toward")[1] for t in self.toward]

    def starting_at(self, start: Any, source: Any) -> "ScreenConfig":
        """This screen of the cells that `start` names: a state, or a boolean mask of the cells of `source`, or their ids."""
        state, cells = start_cells(start, source)
        if cells is None:
            return replace(self, start=state)
        if self.subset.only is not None:
            raise SettingsError(f"{option('start')} and {option('only')} both name cells: leave one out")
        return replace(self, subset=replace(self.subset, only=cells))

    # With tokens and a vocabulary

    def plan(self, vocab: "Vocabulary", tokens: "TokenSet", max_len: int) -> "EditPlan":
        """The plan of all edits; SettingsError for what these tokens cannot have, TokensError where refill has nothing to enter."""
        from rankcell.perturb.edits.kinds import KINDS
        from rankcell.perturb.edits.plan import EditPlan

        edit = self.edit
        plan = EditPlan.make(vocab, self._with_known_genes(vocab), frame=tokens.frame, max_len=max_len)
        if self.measure.readout == ("cls",) and not tokens.frame.has_cls:
            raise SettingsError("only the CLS readout is asked for, and these tokens have no CLS")
        room, most = max_len - len(tokens.frame), plan.genes.shape[1]
        if KINDS[edit.kind].inserts and most > room:
            raise SettingsError(f"{most} genes to {edit.kind} do not fit a row of {max_len} tokens")
        if plan.options.refill and not tokens.has_uncropped:
            raise TokensError(
                "refill needs the genes that did not fit a cell's row, and these tokens were made without them: "
                f"tokenize again with {option('keep_uncropped', True)}, or give the count file itself"
            )
        return plan

    def unknown_genes(self, vocab: "Vocabulary") -> list[str]:
        """Genes that the vocabulary lacks and that `skip_unknown` skips."""
        if not self.edit.skip_unknown:
            return []
        gene_names = [] if isinstance(self.edit.genes, str) else self.edit.genes
        return vocab.unknown([*gene_names, *(g for genes in (self.edit.sets or {}).values() for g in genes)])

    def _with_known_genes(self, vocab: "Vocabulary") -> Perturbation:
        """The edit without the unknown genes; SettingsError when none is left, else a note that names them."""
        unknown = self.unknown_genes(vocab)
        if not unknown:
            return self.edit
        unknown_ids, retained = set(unknown), {}
        if self.edit.sets is not None:
            known_sets = {name: [g for g in genes if str(g) not in unknown_ids] for name, genes in self.edit.sets.items()}
            retained["sets"] = {name: genes for name, genes in known_sets.items() if genes}
        if not isinstance(self.edit.genes, str):
            retained["genes"] = [g for g in self.edit.genes if str(g) not in unknown_ids]
        n = len(unknown) + len({str(g) for g in retained.get("genes", [g for genes in retained.get("sets", {}).values() for g in genes])})
        text = vocab.describe_unknown(unknown, n)
        if not any(retained.values()):
            raise SettingsError(f"{text}; no gene is left to perturb")
        note(f"{text}; the screen goes on without")
        return replace(self.edit, **retained)

    def choose(self, tokens: "TokenSet") -> "np.ndarray":
        """int64: the rows to perturb, in the caller's order; cells without genes are left out and counted in a warning."""
        import numpy as np

        from rankcell.perturb.exact.states import cells_of

        rows, subset = np.arange(len(tokens)) if self.start is None else cells_of(tokens, self.start, "start"), self.subset
        if subset.only is not None:
            rows = rows[np.isin(rows, self._rows_of_ids(tokens))]
        if not len(rows):
            names_both = subset.only is not None and self.start is not None
            raise SettingsError(
                "there are no cells to perturb" + (f": none of {option('only')} is among those of {option('start')}" if names_both else "")
            )
        if subset.cells is not None and subset.cells < len(rows):
            chosen = rows if subset.seed is None else np.random.default_rng(subset.seed).choice(rows, subset.cells, replace=False)
            rows = np.sort(chosen[: subset.cells])
        empty = tokens.n_genes[rows] <= 0
        if empty.all():
            raise SettingsError(f"none of the {len(rows):,} cells to perturb has genes: nothing to do")
        if empty.any():
            note(f"{int(empty.sum()):,} of {len(rows):,} cells have no genes and give no rows")
        return rows[~empty]

    def _rows_of_ids(self, tokens: "TokenSet") -> "np.ndarray":
        """The rows of the cells of `only`, ascending."""
        import numpy as np

        selected = set(self.subset.only)
        if not selected:
            raise SettingsError(f"{option('only')} names no cell: give the ids of those to perturb")
        ids = tokens.cell_ids
        rows = [i for i, cell in enumerate(ids) if cell in selected]
        unknown = selected - {ids[i] for i in rows}
        if unknown:
            raise CellError(f"there is no cell '{min(unknown)}' ({option('only')}; {len(ids):,} cells, such as {', '.join(ids[:2])})")
        return np.array(rows, np.int64)

    def settings(self, plan: "EditPlan | None" = None, vocab: "Vocabulary | None" = None) -> dict[str, Any]:
        """Settings of the options for a manifest: plain JSON. `plan_hash` beside it covers genes and sets, of which a few are named."""
        gene_settings = {} if plan is None or vocab is None else _gene_settings(plan, vocab)
        return {"kind": self.edit.kind} | gene_settings | self.edit.settings() | {"start": self.start, "toward": list(self.toward)} | self.measure.settings()


def _gene_settings(plan: "EditPlan", vocab: "Vocabulary") -> dict[str, Any]:
    labels = plan.set_names or plan.labels(vocab)
    genes = "all" if plan.every_gene else ", ".join(labels[:_MAX_LISTED]) + (" ..." if len(labels) > _MAX_LISTED else "")
    return {"genes": genes, "n_targets": len(plan.targets)}


