"""Perturbation screens and their ranking."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankcell import jobs
from rankcell.errors import SettingsError
from rankcell.progress import progress
from rankcell.vocab import Vocabulary
from rankcell.wording import python_verb

if TYPE_CHECKING:
    import pandas as pd


@python_verb()
def perturb(
    adata: Any,
    model: Any = None,
    *,
    kind: str = "delete",
    genes: Any = "all",
    group: bool = False,
    any: bool = False,
    pairs: bool = False,
    anchor: str | None = None,
    sets: Any = None,
    quarters: int | None = None,
    to_rank: int | None = None,
    refill: bool = False,
    start: Any = None,
    toward: Any = (),
    states: Any = None,
    distance: str = "cos",
    readout: str | Sequence[str] = ("genes", "cell", "cls"),
    readout_compat: str = "rankcell",
    layer: Any = -2,
    cells: int | None = None,
    seed: int | None = None,
    obs: str | Sequence[str] = (),
    affected: bool = False,
    affected_top: int | None = None,
    affected_raw: bool = False,
    method: str = "exact",
    audit: float | None = None,
    verify_top: int | None = None,
    verify_screen: int | None = None,
    verify_by: str | None = None,
    splits: int | str | None = None,
    projections: int | str | None = None,
    min_recall: float | None = None,
    epistasis: int | None = None,
    verify_pairs: int | None = None,
    only: str | os.PathLike | Sequence[str] | None = None,
    skip_unknown: bool = False,
    out: str | os.PathLike | None = None,
    vocab: str | os.PathLike | Vocabulary | None = None,
    vocab_mismatch_ok: bool = False,
    counts_layer: str | None = None,
    raw: bool = False,
    gene_column: str | None = None,
    genome: str | None = None,
    allow_non_counts: bool = False,
    device: str = "auto",
    precision: str = "auto",
    tokens_per_batch: int | None = None,
    tokens_per_unit: int | None = None,
) -> "pd.DataFrame":
    """Perturb genes in every cell and measure how far the model's states move.

    adata
        An AnnData with raw counts (a part of one too: `adata[adata.obs.cell_type == "B"]`), a TokenSet, or the path of either.
    model
        As for rc.tl.embed; None: the one that made the embeddings of `adata`, as its `uns["rankcell"]` says.
    kind
        `delete` (the gene is removed and the rest closes up), `overexpress` (moved to the front, inserted if absent), `inhibit`
        and `activate` (down and up by `quarters` of the cell's genes), `mask` (the mask token in its place), `move` (to `to_rank`).
    genes
        `all` or None (every gene that a cell shows, one by one), or names (Ensembl ids, symbols): one by one, all together with
        `group`, each two with `pairs`, each with `anchor`. With `any`, also where a cell shows only some of a group.
    sets
        Named sets of genes, each perturbed together, in place of `genes`: {name: genes}, or a file (GMT, JSON, or a table of
        name and gene).
    quarters, to_rank, refill
        Of inhibit and activate (1 to 4); of move (0 = top); of delete: the next genes of the uncropped cell enter.
    start
        `COL=STATE`, (COL, STATE) or {COL: STATE}, a boolean mask of the cells, or their ids: perturb only these cells.
    toward
        `COL=STATE`, {COL: STATE} or several: also measure the movement toward the mean embedding of all cells of that state, cells that are
        perturbed included: name others with `start`.
    states
        Further states: the DataFrame of rc.tl.state_embeddings, or a file (`rankcell.perturb.read_states` says which).
    distance
        `euclidean` adds distances to the cosines.
    readout
        Which of `genes`, `cell` and `cls` are scored; `cls` alone is faster.
    readout_compat
        `geneformer` keeps the perturbed gene in the cell readout of `toward`, as Geneformer does.
    layer
        Model layer whose states are compared.
    cells, seed
        Only the first `cells` cells, or that many drawn with `seed`.
    obs
        Cell columns to keep with the results (`rc.get.screen_df(out, obs=True)`), beside those of `start` and `toward`.
    method
        `exact` runs every edit; `fast` predicts them from a few passes a cell and runs some, which correct the prediction and judge
        it. The table then also says of each value whether it was run: `exact`, `exact_in_place`.
    audit, verify_top, verify_screen, verify_by
        Of `fast`: the share of the edits that is drawn at random and run (0.02); how many of those predicted largest are run too, of
        each cell and of the whole screen (0, 0), by which score (None: the first movement toward a state, else the first cosine).
    splits, projections, min_recall
        Of `fast`: how many edits of a cell are drawn at least (16), projections from which sizes of shift are estimated (32).
        With `min_recall`, the cheapest of these that reach that recall of the top tenth, and a warning when cells fall short of it.
    epistasis, verify_pairs
        Of `fast` deletions, with `out`: all pairs among the so many largest genes of each cell, what both do beyond the sum of each
        (`rankcell.perturb.read_screen(out).epistasis()`), and how many of them are run (10).
    only
        Perturb only these cells: their ids, or a file of them, one a line.
    skip_unknown
        Go on without genes that the vocabulary lacks; a warning names them.
    affected, affected_top, affected_raw, out
        `out` keeps the results in a folder, resumable; the others add tables per affected gene to it (rc.get.affected_df).

    Returns a DataFrame, one row per cell and edit (see rc.get.screen_df): `cell_id`, `edit`, `kind`, `genes`, `rank`, `n_tokens`, then scores.
    `cos_genes`: mean cosine, before and after, of the states of all non-perturbed genes; `cos_cell`: cosine of the mean of
    those states; `cos_cls`: of the CLS states. `toward_<state>_<readout>`: cos(after, state) - cos(before, state). Each
    score of a deletion also comes `_in_place`: the gene is not attended to and the others keep their positions; the part
    that is due to positions is `shift_..._position`, the part due to refill `shift_..._refill`. With `distance="euclidean"`
    also `euclidean_...`. `attrs["symbols"]` maps `genes` to symbols.
    """
    options = {k: v for k, v in locals().items() if k not in ("adata", "out")}  # the others are the job's own
    from rankcell.get import screen_df

    if (affected or affected_top is not None or affected_raw) and out is None:
        raise SettingsError("affected genes are a table of their own: give `out` and read it with rc.get.affected_df(out)")
    if epistasis is not None and out is None:
        raise SettingsError(
            "pairs of genes are a table of their own: give `out` and read it with rankcell.perturb.read_screen(out).epistasis()"
        )
    with tempfile.TemporaryDirectory() as folder:
        where = Path(out) if out is not None else Path(folder) / "screen"
        with progress("perturb") as tick:
            jobs.perturb(adata, where, **options, progress=tick)
        return screen_df(where)


@python_verb(score="by")
def rank_edits(
    table: Any,
    *,
    by: str | None = None,
    mode: str | Sequence[str] = "matched",
    donor: str | None = None,
    cells: Any = None,
    controls: str | Sequence[str] | None = None,
    against: Any = None,
    min_cells: int | None = None,
    seed: int = 0,
) -> "pd.DataFrame":
    """One row per edit of a screen, strongest effect first, tested; tutorials/STATISTICS.md has the formulas and their calibration.

    table
        What rc.tl.perturb or rc.get.screen_df gives, or a results folder (of which only the needed columns are read).
    by
        The score to rank by; None: `cos_genes_in_place` where there is one, else `cos_genes`. The effect of a cosine is its
        shift, 1 - cosine; that of any other score is the score itself.
    mode
        One or several of `matched` (against genes alike in rank and detection), `control` (against `controls`), `toward` (a
        movement against zero and against matched genes), `mixture` (two Gaussian components, impact or none) and `vs` (row by
        row against another screen, `against`).
    donor, cells
        The column that names the donors of cells, in `table` or in `cells` (a DataFrame with `cell_id`, its file, or the AnnData;
        None: the folder's own). Donors are then the replicates: means are over donors, p over signs of donors.
    controls
        Ensembl ids, symbols or edit ids.
    min_cells
        Leave out edits in fewer cells; None: 3, or fewer where no edit is in 3. The mean of one or two can stand anywhere.

    Returns a DataFrame: `edit`, `kind`, `genes`, `symbols`, `n_cells`, `n_absent` (cells that lacked the gene: overexpression
    inserts it), `mean_rank` (over the others), `effect` (mean over all, or over donors' means), `sem` (its standard error; null
    for one cell), for an in-place score `plain_effect` (the same with the shift of positions), `n_donors`, `ci_low` and
    `ci_high` (95 %, Student's t), `detection` (share of the screened cells) and `expression` (where the screen has it). Then by
    mode: `matched_diff` (from what genes of that rank do), `matched_z`, `matched_p`, `matched_fdr`, with donors also
    `matched_p_peers`, `matched_fdr_peers` and `matched_p_donors`, of which `matched_p` is the larger; `control_diff`, `control_n`,
    `is_control`, `control_p_mean`, `control_p_spread`, `control_p` (the larger), `control_fdr`; `zero_p`, `zero_fdr`;
    `impact_posterior`, `impact`; `vs_effect`, `vs_diff`, `vs_n`, `vs_p`, `vs_fdr`. Below five cells (donors) a p is null, but for
    those of signs of donors, and every false discovery rate is over the edits that have a p.
    `attrs` holds `by`, and `rank_spearman` and `plain_rank_spearman`: the median over cells of the Spearman correlation of
    the effect with the gene's rank (NaN when no cell has ten edits); `predictors`: over edits, the effect's `spearman` and
    `partial` correlation with mean rank, detection and expression; `edits`, `min_cells`, `left_out` and `in_no_cell`: how many
    edits there are, and were left out; `without_p`: how many are in too few cells for a p; `screened_cells`, and in `screened_cells_from` whether the screen says their number or the
    table has to do, of which no one knows what cells without an edit there were (`detection` is then the share of its own cells).
    CellError when two cells have one id.
    """
    from rankcell.jobs import named_genes
    from rankcell.stats import rank_edits as rank

    controls = None if controls is None else named_genes(controls)
    return rank(table, by=by, mode=mode, donor=donor, cells=cells, controls=controls, against=against, min_cells=min_cells, seed=seed)


@python_verb()
def rank_affected(table: Any, *, edits: Any = None, min_cells: int | None = None, direction: str = "more") -> "pd.DataFrame":
    """One row per perturbation and affected gene: which perturbation moves a gene more than other perturbations move it.

    table
        What rc.get.affected_df gives, or the results folder. Values in place are used where it has them (deletions), so that the
        change of positions is in nothing.
    edits
        What rc.tl.rank_edits gives: a perturbation is then compared with those whose genes stand at like ranks. None: as the
        folder says where one is given, else every perturbation with all others.
    min_cells
        Leave out pairs seen in fewer cells; None: 5.
    direction
        `more`: pairs that move more than expected, most first; `less`: those that move less, least first; `both`.

    Returns a DataFrame: `edit`, `genes`, `symbols`, `affected`, `affected_symbol`, `n`, `direction`, `effect` (1 - mean cosine), `sd`,
    `expected` (what the 50 perturbations nearest in mean rank do to that gene), `n_others` and `z`, the smaller of two: on the log
    scale (effect - expected) / sqrt(spread^2 + v / n), v the squared coefficient of variation between cells, pooled over the
    perturbations of that gene, spread^2 the variance between its other perturbations; and effect - expected over its standard error
    between the pair's own cells, so that one cell alone makes no finding. z is NaN, and `direction` empty, where fewer than ten others touch
    the gene; such pairs stand last. Cells are the replicates: the table has no donors. z orders pairs: its tails are heavier
    than those of a known distribution, so that there is no p and no false discovery rate (tutorials/STATISTICS.md).
    """
    from rankcell.stats import rank_affected as rank

    return rank(table, edits=edits, min_cells=min_cells, direction=direction)
