"""rankcell perturb"""

import re
from pathlib import Path
from typing import Annotated

import typer

from rankcell.cli.flags import flat
from rankcell.cli.progress import AGAIN, progress
from rankcell.cli.shared import Force
from rankcell.cli.verb import warn_of_model
from rankcell.counts.options import Counts
from rankcell.errors import SettingsError
from rankcell.model.options import Compute, Model
from rankcell.options import Help
from rankcell.perturb.run.screen_config import ScreenConfig
from rankcell.wording import one_line, option

_IN = "A count file (h5ad, loom, zarr, 10x) or a token set folder; with --merge the results folders of the parts."


@flat
def perturb(
    source: Annotated[list[Path], typer.Argument(metavar="IN...", help=_IN)],
    out: Annotated[Path, Help("The results folder; the same command goes on in it.", "DIR", flags=("--out", "-o"))],
    config: ScreenConfig,
    model: Model,
    states: Annotated[
        Path | None, Help("Further states: what embed --include state wrote, or a table of state, readout, embedding.", "FILE")
    ] = None,
    obs: Annotated[list[str], Help("A cell column to carry into cells.parquet (a donor, say); may be repeated.", "COL")] = [],
    explain: Annotated[str | None, Help("Also draw this cell: shift against rank, total and in place (explain-CELL.png).", "CELL")] = None,
    shard: Annotated[str | None, Help("Only the I-th of N parts, for several machines.", "I/N")] = None,
    merge: Annotated[bool, Help("Put the parts IN... together in DIR (which may be the one that they share).")] = False,
    dry_run: Annotated[bool, Help("Write nothing: say how many cells, edits, tokens, how long, how large.")] = False,
    counts: Counts = Counts(),
    compute: Compute = Compute(),
    force: Force = False,
) -> None:
    """Perturb genes in every cell and measure how far the model's states move.

    Saved part by part in DIR: stopped at any moment, the same command goes on.
    """
    from rankcell.cli.part_lines import part_lines
    from rankcell.perturb.run import merge as merging
    from rankcell.perturb.run.screen_cells import ScreenInput, estimate_cells, one_input, perturb_cells, perturb_part

    _require_one_mode(shard=shard, merge=merge, dry_run=dry_run, explain=explain)
    with progress("perturb", stopped=lambda: _resume_hint(out)) as tick:
        if merge:
            screen = merging.merge(source, out, device=compute.device, force=force)
        else:
            cells = ScreenInput(one_input(source), model, counts, obs, states, explain)
            if dry_run:
                lines = estimate_cells(cells, out, config, compute, force=force).lines()
            elif shard is not None:
                lines = part_lines(perturb_part(cells, out, config, compute, shard=shard, force=force, progress=tick))
            else:
                screen = perturb_cells(cells, out, config, compute, force=force, progress=tick)
        if explain is not None:
            from rankcell.report.pictures.screen_pictures import explain_cell

            explain_cell(screen, explain, out / f"explain-{re.sub(r'[^0-9A-Za-z._+-]', '_', explain)}.png")
    if dry_run or shard is not None:
        for line in lines:
            typer.echo(line)
    else:
        _report(screen)


def _require_one_mode(*, shard: str | None, merge: bool, dry_run: bool, explain: str | None) -> None:
    """SettingsError for modes that exclude each other."""
    modes = [option(name) for name, wanted in (("shard", shard is not None), ("merge", merge), ("dry_run", dry_run)) if wanted]
    if len(modes) > 1:
        raise SettingsError(f"{modes[0]} and {modes[1]} exclude each other: leave one out")
    if explain is not None and modes and not merge:
        raise SettingsError(f"{option('explain')} is of a finished screen: leave out {modes[0]}")


def _resume_hint(out: Path) -> str:
    """The closing line of a screen that is stopped: where its parts are, and how it goes on."""
    n = len(list(out.glob("shards/screen-*.parquet")))
    if not n:
        return f"no part is finished in {out} yet, the same command starts again there" if out.is_dir() else AGAIN
    return f"{n:,} finished part{'s are' if n > 1 else ' is'} kept in {out}, the same command goes on from there"


def _report(screen) -> None:
    from rankcell.stats.screen_lines import rank_lines, screen_lines

    warn_of_model(screen.manifest["settings"])
    lines, notes = rank_lines(screen)
    for line in [*screen_lines(screen), *lines]:
        typer.echo(line)
    for note in notes:
        typer.echo(f"rankcell: note: {one_line(note)}", err=True)
