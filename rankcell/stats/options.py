"""How the edits of a screen are ranked and tested, as options. No pandas."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from rankcell.options import Help, Options, at_least
from rankcell.perturb.edits.gene_lists import named_genes


def _modes(value: Any) -> tuple[str, ...]:
    """Modes: of one name, of several with commas, of a list."""
    names = [value] if isinstance(value, str) else list(value)
    return tuple(m.strip() for name in names for m in str(name).split(",") if m.strip())


@dataclass(frozen=True)
class RankOptions(Options):
    """How the edits of a screen are ranked and tested; tutorials/STATISTICS.md has the formulas and their calibration."""

    score: Annotated[str | None, Help("The score to rank and test (default: cos_genes_in_place, else cos_genes).")] = None
    mode: Annotated[
        str | Sequence[str],
        Help(
            "matched (against genes alike in rank and detection), control, toward, mixture, vs, affected; may be repeated. "
            "With {compat} geneformer: goal_state_shift, vs_null, mixture_model, aggregate_data or aggregate_gene_shifts.",
            parse=_modes,
            cli=list[str],
        ),
    ] = ("matched",)
    donor: Annotated[str | None, Help("The cell column that names donors: they are then the replicates.", "COL")] = None
    cells: Annotated[Any, Help("A table of cell_id and {donor} (default: the screen's cells.parquet).", "TABLE", cli=str)] = None
    controls: Annotated[
        Any, Help("Control genes of mode control.", "A,B|@FILE", parse=lambda value: named_genes(value, "controls"), cli=str)
    ] = None
    against: Annotated[Any, Help("The other screen of modes vs and vs_null.", "DIR", cli=str)] = None
    min_cells: Annotated[
        int | None, Help("Leave out edits in fewer cells (default: 3, or fewer where no edit is in 3; affected: 5).", "N", check=at_least(0))
    ] = None
    seed: Annotated[int, Help("For what is drawn (signs of many donors, starts of the mixture).", check=at_least(0))] = 0
