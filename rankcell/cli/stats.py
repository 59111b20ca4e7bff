"""rankcell stats"""

from pathlib import Path
from typing import Annotated

import typer

from rankcell.cli.flags import flat
from rankcell.cli.shared import Force, Results
from rankcell.cli.verb import warn_of_model
from rankcell.options import Help
from rankcell.stats.options import RankOptions


@flat
def stats(
    source: Results,
    out: Annotated[Path, Help("The table to write: .tsv, .csv or .parquet (and OUT.json).", "OUT", flags=("--out", "-o"))],
    options: RankOptions,
    direction: Annotated[str | None, Help("affected: pairs that move more than expected (default), less, or both.")] = None,
    compat: Annotated[str, Help("'geneformer' gives Geneformer's own tables, slips included.")] = "rankcell",
    force: Force = False,
) -> None:
    """Rank the edits of a screen and test them, with the trivial predictors beside every effect."""
    from rankcell.cli.statistics_lines import statistics_lines
    from rankcell.stats.screen_statistics import write_statistics

    written = write_statistics(source, out, options, direction=direction, compat=compat, force=force)
    warn_of_model(written.ranking.facts)
    for line in statistics_lines(written.ranking):
        typer.echo(line)
    typer.echo(f"{written.path}: {len(written.ranking):,} rows; {written.path}.json: settings and correlations")
