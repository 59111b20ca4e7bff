"""rankcell check"""

from typing import Annotated

import typer

from rankcell.cli import options as o
from rankcell.cli.progress import progress
from rankcell.wording import visible


def check(
    source: o.Counts,
    model: Annotated[
        str | None,
        typer.Option(
            help="The model that the cells are for (a checkpoint folder, a hub name, 'demo'): its vocabulary, and what it will not read."
        ),
    ] = None,
    vocab: Annotated[
        str | None, typer.Option(help="A vocabulary folder or name (default: those at hand are compared, and the best is taken).")
    ] = None,
    max_len: Annotated[int | None, typer.Option(help="Longest row, special tokens included (default: the vocabulary's).")] = None,
    cls: Annotated[
        bool | None, typer.Option("--cls/--no-cls", help="With or without CLS and EOS (default: as the vocabulary says).")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="The layer that holds the counts (default: where counts are found).")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="The counts are in raw (default: where counts are found).")] = False,
    gene_column: o.GeneColumn = None,
    genome: o.Genome = None,
    obs: Annotated[list[str], typer.Option(metavar="COL", help="A cell column that is to be carried along; may be repeated.")] = [],
    filter: Annotated[
        str | None,
        typer.Option(metavar="EXPR", help="Only cells for which this is true: \"cell_type == 'B'\", or filter_pass. A pandas expression."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Threads (default: the processors, at most 8).")] = None,
) -> None:
    """What is in count files, what would go wrong, and the tokenize command that will work (exit code 0; 2 when none will)."""
    options = dict(locals())  # every option is a parameter of the job
    from rankcell import jobs

    with progress("check", lines=False) as tick:  # the page is all that is printed elsewhere
        report = jobs.check(**options, progress=tick)
    for line in report.lines():
        typer.echo(visible(line))
    raise typer.Exit(0 if report.ok else 2)
