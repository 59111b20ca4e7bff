"""rankcell tokenize"""

from pathlib import Path
from typing import Annotated

import typer

from rankcell.cli import options as o
from rankcell.cli.progress import progress


def tokenize(
    source: o.Counts,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT.dataset", help="The token set folder to write.")],
    vocab: Annotated[str, typer.Option(help="A vocabulary folder, or the name of a shipped one.")] = "demo",
    max_len: Annotated[int | None, typer.Option(help="Longest row, special tokens included (default: the vocabulary's).")] = None,
    cls: Annotated[
        bool | None, typer.Option("--cls/--no-cls", help="With or without CLS and EOS (default: as the vocabulary says).")
    ] = None,
    layer: o.CountsLayer = None,
    raw: o.Raw = False,
    gene_column: o.GeneColumn = None,
    obs: Annotated[list[str], typer.Option(metavar="COL", help="A cell column to carry along; may be repeated.")] = [],
    allow_non_counts: o.AllowNonCounts = False,
    workers: Annotated[int | None, typer.Option(help="Threads (default: all processors); the result does not depend on it.")] = None,
    force: o.Force = False,
) -> None:
    """Counts to rank-value gene tokens: a `datasets` folder with cell ids."""
    options = dict(locals())  # every option is a parameter of the job
    from rankcell import jobs

    with progress("cells tokenized") as tick:
        tokens = jobs.tokenize(**options, progress=tick)
    facts = tokens.spec.source
    share = facts["genes_known"] / facts["genes"]
    doubt = f" ({share:.0%}: is this the right vocabulary?)" if share < 0.1 else ""
    typer.echo(
        f"{out}: {len(tokens):,} cells, {facts['genes_known']:,} of {facts['genes']:,} genes known{doubt} to vocabulary "
        f"'{tokens.spec.vocabulary}' by {facts['gene_column']}, median {int(_median(tokens.n_genes))} genes a cell"
    )


def _median(values) -> float:
    import numpy as np

    return float(np.median(values))
