"""Perturbation screens and their ranking."""

import functools
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rankcell.counts.options import Counts
from rankcell.errors import SettingsError
from rankcell.model.options import Compute, ModelLike
from rankcell.perturb.edits.options import Delete, Perturbation
from rankcell.perturb.exact.options import Exact, Measure
from rankcell.perturb.fast.options import Fast
from rankcell.perturb.run.screen_config import ScreenConfig, Subset
from rankcell.progress import progress
from rankcell.screen import Screen
from rankcell.stats.options import RankOptions
from rankcell.wording import python_verb, shortened

if TYPE_CHECKING:
    import pandas as pd

    from rankcell.perturb.run.estimate import Estimate
    from rankcell.store.parts import PartDone


@python_verb()
def perturb(
    adata: Any,
    edit: Perturbation = Delete(),
    model: ModelLike = None,
    *,
    start: Any = None,
    toward: Any = (),
    states: Any = None,
    subset: Subset = Subset(),
    obs: str | Sequence[str] = (),
    measure: Measure = Measure(),
    method: Exact | Fast = Exact(),
    out: str | os.PathLike | None = None,
    counts: Counts = Counts(),
    compute: Compute = Compute(),
    force: bool = False,
) -> Screen:
    """Perturb genes in every cell and measure how far the model's states move.

    Parameters
    ----------
    adata
        An AnnData with raw counts (a part of one too: `adata[adata.obs.cell_type == "B"]`), a TokenSet, or the path of either.
    edit
        `rc.Delete(genes)` (the rest closes up), `rc.Overexpress` (moved to the front, inserted if absent), `rc.Inhibit` and
        `rc.Activate` (down and up by `quarters` of the cell's genes), `rc.Mask` (the mask token in its place), `rc.Move` (to
        `to_rank`). Without genes every gene that a cell shows is perturbed, one by one; see help(rc.Delete) for groups, pairs and sets.
    model
        A checkpoint folder, a hub name (`owner/repo/folder`), `demo`, or rc.Model of one with the vocabulary that completes it. None:
        the one that made the embeddings of `adata`, as its `uns["rankcell"]` says.
    start
        `COL=STATE`, (COL, STATE) or {COL: STATE}, a boolean mask of the cells, or their ids: perturb only these cells.
    toward
        `COL=STATE`, {COL: STATE} or several: also measure the movement toward the mean embedding of all cells of that state, cells that
        are perturbed included: name others with `start`.
    states
        Further states: the DataFrame of rc.tl.state_embeddings, or a file (`rankcell.perturb.read_states` says which).
    subset
        Fewer cells: `rc.Subset(cells=100, seed=0)`.
    obs
        Cell columns to keep with the results (`screen.df(obs=True)`), beside those of `start` and `toward`.
    measure
        The layer, readouts and distances that are compared, and tables of affected genes: `rc.Measure(affected=True)`.
    method
        `rc.Exact()` runs every edit, `rc.Fast()` predicts them from a few passes a cell and runs some.
    out
        Keeps the results in a folder, in which the same call goes on where it was stopped; without it they go with the Screen.
    counts
        Where the counts are (`rc.Counts`).
    compute
        The device, precision and batch of the model (`rc.Compute`).
    force
        Begin anew where `out` holds another screen.

    Returns
    -------
    Screen
        `screen.df()` has one row per cell and edit: `cell_id`, `edit`, `kind`, `genes`, `rank`, `n_tokens`, then the scores of the notes.

    Raises
    ------
    SettingsError
        For what contradicts itself, before the model is loaded.

    Notes
    -----
    `cos_genes`: mean cosine, before and after, of the states of all non-perturbed genes; `cos_cell`: cosine of the mean of
    those states; `cos_cls`: of the CLS states. `toward_<state>_<readout>`: cos(after, state) - cos(before, state). Each
    score of a deletion also comes `_in_place`: the gene is not attended to and the others keep their positions; the part
    that is due to positions is `shift_..._position`, the part due to refill `shift_..._refill`. With `distance="euclidean"`
    also `euclidean_...`.
    """
    from rankcell.perturb.run.screen_cells import ScreenInput, perturb_cells

    config = ScreenConfig(edit, None, toward, subset, measure, method).starting_at(start, adata)
    cells = ScreenInput(adata, model, counts, obs, states)
    with progress("perturb") as tick:
        run = functools.partial(perturb_cells, cells, config=config, compute=compute, force=force, progress=tick)
        return Screen.temporary(run) if out is None else Screen(run(out).folder)


@python_verb()
def estimate_perturb(
    adata: Any,
    edit: Perturbation = Delete(),
    model: ModelLike = None,
    *,
    start: Any = None,
    toward: Any = (),
    states: Any = None,
    subset: Subset = Subset(),
    measure: Measure = Measure(),
    method: Exact | Fast = Exact(),
    out: str | os.PathLike | None = None,
    counts: Counts = Counts(),
    compute: Compute = Compute(),
) -> "Estimate":
    """Estimate the cost of a screen (cells, edits, tokens, time, memory and disk) by timing some batches.

    Parameters
    ----------
    adata, edit, model, start, toward, states, subset, measure, method, out, counts, compute
        As for rc.tl.perturb. Nothing is written.

    Returns
    -------
    Estimate
        `n_cells`, `n_edits`, `n_tokens` (through the model), `n_units`, `tokens_per_second`, `seconds`, `bytes_finished`,
        `bytes_running`; `lines()` says them in words.
    """
    from rankcell.perturb.run.screen_cells import ScreenInput, estimate_cells

    config = ScreenConfig(edit, None, toward, subset, measure, method).starting_at(start, adata)
    return estimate_cells(ScreenInput(adata, model, counts, states=states), out, config, compute)


@python_verb(shard="part")
def run_part(
    adata: Any,
    edit: Perturbation = Delete(),
    model: ModelLike = None,
    *,
    part: str,
    out: str | os.PathLike,
    start: Any = None,
    toward: Any = (),
    states: Any = None,
    subset: Subset = Subset(),
    obs: str | Sequence[str] = (),
    measure: Measure = Measure(),
    method: Exact | Fast = Exact(),
    counts: Counts = Counts(),
    compute: Compute = Compute(),
) -> "PartDone":
    """Run one part of a screen, for several machines; rc.tl.merge puts the parts together.

    Parameters
    ----------
    adata, edit, model
        As for rc.tl.perturb.
    part
        `i/n`: the i-th of n parts.
    out
        A folder that all parts share, or one of its own.
    start, toward, states, subset, obs, measure, method, counts, compute
        As for rc.tl.perturb.

    Returns
    -------
    PartDone
        `folder`, `part`, and how many of `n_units` units are `done`.
    """
    from rankcell.perturb.run.screen_cells import ScreenInput, perturb_part

    config = ScreenConfig(edit, None, toward, subset, measure, method).starting_at(start, adata)
    with progress("perturb") as tick:
        return perturb_part(ScreenInput(adata, model, counts, obs, states), out, config, compute, shard=part, progress=tick)


@python_verb()
def merge(parts: str | os.PathLike | Sequence[str | os.PathLike], out: str | os.PathLike, *, compute: Compute = Compute(), force: bool = False) -> Screen:
    """Merge the parts of a screen into one.

    Parameters
    ----------
    parts
        The results folder that all parts were run in, or those of each.
    out
        A new results folder, or one of the parts.
    compute
        Of its device: where the largest predictions of a whole fast screen are run, if `verify_screen` was asked for.
    force
        Replace a finished screen in `out`.

    Returns
    -------
    Screen
        That of all parts, in `out`.

    Raises
    ------
    OutputError
        When the parts are not of one screen, or a unit of work is in none of them, or in two.
    """
    from rankcell.perturb.run import merge as merging

    folders = [parts] if isinstance(parts, (str, os.PathLike)) else list(parts) if isinstance(parts, Iterable) else [None]
    if not all(isinstance(folder, (str, os.PathLike)) for folder in folders):
        raise SettingsError(f"parts is {shortened(parts)}; the results folder that all parts share, or those of each")
    merging.merge(folders, out, device=compute.device, force=force)
    return Screen(out)


@python_verb()
def rank_edits(
    table: Any,
    *,
    score: str | None = RankOptions.score,
    mode: str | Sequence[str] = RankOptions.mode,
    donor: str | None = RankOptions.donor,
    cells: Any = RankOptions.cells,
    controls: str | Sequence[str] | None = RankOptions.controls,
    against: Any = RankOptions.against,
    min_cells: int | None = RankOptions.min_cells,
    seed: int = RankOptions.seed,
) -> "pd.DataFrame":
    """Rank the edits of a screen by their mean effect and test them.

    Parameters
    ----------
    table
        A Screen, the table of `screen.df()` or rc.get.screen_df, or a results folder (of which only the needed columns are read).
    score
        The score to rank by; None: `cos_genes_in_place` where there is one, else `cos_genes`. The effect of a cosine is its
        shift, 1 - cosine; that of any other score is the score itself.
    mode
        One or several of `matched` (against genes alike in rank and detection), `control` (against `controls`), `toward` (a
        movement against zero and against matched genes), `mixture` (two Gaussian components, impact or none) and `vs` (row by
        row against another screen, `against`).
    donor
        The column that names the donors of cells, in `table` or in `cells`. Donors are then the replicates: means are over donors, p
        over signs of donors.
    cells
        Where `donor` is: a DataFrame with `cell_id`, its file, or the AnnData; None: the folder's own.
    controls
        Ensembl ids, symbols or edit ids.
    against
        The other screen of mode `vs`.
    min_cells
        Leave out edits in fewer cells; None: 3, or fewer where no edit is in 3. The mean of one or two can stand anywhere.
    seed
        For what is drawn (signs of many donors, starts of the mixture).

    Returns
    -------
    DataFrame
        `edit`, `kind`, `genes`, `symbols`, `n_cells`, `n_absent` (cells that lacked the gene: overexpression inserts it), `mean_rank`
        (over the others), `effect` (mean over all, or over donors' means), `sem` (its standard error; null for one cell), for an
        in-place score `plain_effect` (the same with the shift of positions), `n_donors`, `ci_low` and `ci_high` (95 %, Student's t),
        `detection` (share of the screened cells) and `expression` (where the screen has it). Then by mode: `matched_diff` (from what
        genes of that rank do), `matched_z`, `matched_p`, `matched_fdr`, with donors also `matched_p_peers`, `matched_fdr_peers` and
        `matched_p_donors`, of which `matched_p` is the larger; `control_diff`, `control_n`, `is_control`, `control_p_mean`,
        `control_p_spread`, `control_p` (the larger), `control_fdr`; `zero_p`, `zero_fdr`; `impact_posterior`, `impact`; `vs_effect`,
        `vs_diff`, `vs_n`, `vs_p`, `vs_fdr`.

    Raises
    ------
    CellError
        When two cells have one id.

    Notes
    -----
    tutorials/STATISTICS.md has the formulas and their calibration. Below five cells (donors) a p is null, but for those of signs of
    donors, and every false discovery rate is over the edits that have a p.

    `attrs` holds `by`, and `rank_spearman` and `plain_rank_spearman`: the median over cells of the Spearman correlation of
    the effect with the gene's rank (NaN when no cell has ten edits); `predictors`: over edits, the effect's `spearman` and
    `partial` correlation with mean rank, detection and expression; `edits`, `min_cells`, `left_out` and `in_no_cell`: how many
    edits there are, and were left out; `without_p`: how many are in too few cells for a p; `screened_cells`, and in
    `screened_cells_from` whether the screen says their number or the table has to do, of which no one knows what cells without an edit
    there were (`detection` is then the share of its own cells).
    """
    from rankcell.stats.rank import edit_ranking

    return edit_ranking(table, RankOptions(score, mode, donor, cells, controls, against, min_cells, seed)).df()


@python_verb()
def rank_affected(table: Any, *, edits: Any = None, min_cells: int | None = None, direction: str = "more") -> "pd.DataFrame":
    """Rank pairs of perturbation and affected gene by how far the gene's shift exceeds that under other perturbations.

    Parameters
    ----------
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

    Returns
    -------
    DataFrame
        `edit`, `genes`, `symbols`, `affected`, `affected_symbol`, `n`, `direction`, `effect` (1 - mean cosine), `sd`, `expected` (what the
        50 perturbations nearest in mean rank do to that gene), `n_others` and `z`. z is NaN, and `direction` empty, where fewer than ten
        others touch the gene; such pairs stand last.

    Notes
    -----
    z is the smaller of two: on the log scale (effect - expected) / sqrt(spread^2 + v / n), v the squared coefficient of variation between
    cells, pooled over the perturbations of that gene, spread^2 the variance between its other perturbations; and effect - expected over
    its standard error between the pair's own cells, so that one cell alone makes no finding. Cells are the replicates: the table has no
    donors. z orders pairs: its tails are heavier than those of a known distribution, so that there is no p and no false discovery rate
    (tutorials/STATISTICS.md).
    """
    from rankcell.stats import rank_affected as rank

    return rank(table, edits=edits, min_cells=min_cells, direction=direction)
