"""rankcell tokenize"""

from pathlib import Path
from typing import Annotated

import typer

from rankcell.cli import options as o
from rankcell.cli.progress import progress


def tokenize(
    source: o.Counts,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT.dataset", help="The token set folder to write.")],
    vocab: o.Vocab = None,
    max_len: Annotated[int | None, typer.Option(help="Longest row, special tokens included (default: the vocabulary's).")] = None,
    cls: Annotated[
        bool | None, typer.Option("--cls/--no-cls", help="With or without CLS and EOS (default: as the vocabulary says).")
    ] = None,
    layer: o.CountsLayer = None,
    raw: o.Raw = False,
    gene_column: o.GeneColumn = None,
    genome: o.Genome = None,
    obs: Annotated[list[str], typer.Option(metavar="COL", help="A cell column to carry along; may be repeated.")] = [],
    filter: Annotated[
        str | None,
        typer.Option(metavar="EXPR", help="Only cells for which this is true: \"cell_type == 'B'\", or filter_pass. A pandas expression."),
    ] = None,
    keep_counts: Annotated[bool, typer.Option("--keep-counts", help="Also keep count / n_counts * 10,000 beside each token.")] = False,
    keep_uncropped: Annotated[bool, typer.Option("--keep-uncropped", help="Also keep all genes of each cell, beyond --max-len.")] = False,
    allow_non_counts: o.AllowNonCounts = False,
    allow_repeated_cells: o.AllowRepeatedCells = False,
    workers: Annotated[
        int | None, typer.Option(help="Threads (default: the processors, at most 8); the result does not depend on it.")
    ] = None,
    force: o.Force = False,
) -> None:
    """Counts to rank-value gene tokens: a `datasets` folder with cell ids."""
    options = dict(locals())  # every option is a parameter of the job
    from rankcell import jobs

    with progress("tokenize") as tick:
        tokens = jobs.tokenize(**options, progress=tick)
    for line in jobs.tokenized(tokens):
        typer.echo(f"{out}: {line}")
