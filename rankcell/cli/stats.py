"""rankcell stats"""

from pathlib import Path
from typing import Annotated

import typer

from rankcell.cli.flags import flat
from rankcell.cli.shared import Force, Results
from rankcell.cli.verb import say_remarks


@flat
def stats(
    source: Results,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="The table to write: .tsv, .csv or .parquet (and OUT.json).")],
    score: Annotated[str | None, typer.Option(help="The score to rank and test (default: cos_genes_in_place, else cos_genes).")] = None,
    mode: Annotated[
        list[str],
        typer.Option(
            help="matched (against genes alike in rank and detection), control, toward, mixture, vs, affected; may be repeated. "
            "With --compat geneformer: goal_state_shift, vs_null, mixture_model, aggregate_data or aggregate_gene_shifts."
        ),
    ] = ["matched"],
    donor: Annotated[
        str | None, typer.Option(metavar="COL", help="The cell column that names donors: they are then the replicates.")
    ] = None,
    cells: Annotated[
        Path | None, typer.Option(metavar="TABLE", help="A table of cell_id and --donor (default: the screen's cells.parquet).")
    ] = None,
    controls: Annotated[str | None, typer.Option(metavar="A,B|@FILE", help="Control genes of --mode control.")] = None,
    against: Annotated[Path | None, typer.Option(metavar="DIR", help="The other screen of --mode vs and vs_null.")] = None,
    min_cells: Annotated[
        int | None,
        typer.Option(metavar="N", help="Leave out edits in fewer cells (default: 3, or fewer where no edit is in 3; affected: 5)."),
    ] = None,
    direction: Annotated[str | None, typer.Option(help="affected: pairs that move more than expected (default), less, or both.")] = None,
    seed: Annotated[int, typer.Option(help="For what is drawn (signs of many donors, starts of the mixture).")] = 0,
    compat: Annotated[str, typer.Option(help="'geneformer' gives Geneformer's own tables, slips included.")] = "rankcell",
    force: Force = False,
) -> None:
    """Rank the edits of a screen and test them, with the trivial predictors beside every effect."""
    options = dict(locals())  # every option is a parameter of the job
    from rankcell import jobs

    found = jobs.stats(**options)
    say_remarks(found.facts)
    for line in found.lines:
        typer.echo(line)
    typer.echo(f"{found.path}: {len(found.table):,} rows; {found.path}.json: settings and correlations")
