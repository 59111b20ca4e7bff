"""rankcell compare"""

from pathlib import Path
from typing import Annotated

import typer

from rankcell.cli import options as o
from rankcell.cli.progress import progress


def compare(
    source: o.In,
    label: Annotated[
        str, typer.Option(metavar="COL", help="The cell column of known groups (cell types) that embeddings are to keep together.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="OUT", help="Write the whole table: .csv, .tsv or .parquet (default: a summary is printed)."),
    ] = None,
    model: o.Model = None,
    pool: Annotated[list[str] | None, typer.Option(metavar="KIND", help="A pooling; may be repeated (default: all that fit).")] = None,
    layer: Annotated[list[int], typer.Option(metavar="N", help="A layer, as for embed; may be repeated.")] = [-1, -2],
    batch: Annotated[
        str | None, typer.Option(metavar="COL", help="The cell column of batches: also score how well they are mixed.")
    ] = None,
    k: Annotated[int, typer.Option(help="Nearest neighbours.")] = 15,
    folds: Annotated[int, typer.Option(help="Folds of the cross-validation.")] = 5,
    resolution: Annotated[
        list[float], typer.Option(metavar="R", help="A Leiden resolution to try; may be repeated (needs igraph; 0: no clusters).")
    ] = [0.2, 0.5, 1.0],
    seed: Annotated[int, typer.Option(help="Of folds, clusters, samples and random models.")] = 0,
    n_random: Annotated[int, typer.Option(help="Models with random weights to score beside it.")] = 1,
    vocab: o.ModelVocab = None,
    vocab_mismatch_ok: o.MismatchOk = False,
    counts_layer: o.CountsLayer = None,
    raw: o.Raw = False,
    gene_column: o.GeneColumn = None,
    genome: o.Genome = None,
    allow_non_counts: o.AllowNonCounts = False,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
    tokens_per_batch: o.TokensPerBatch = None,
    force: o.Force = False,
) -> None:
    """Which pooling and layer of a model keep known cell types together best, beside PCA and the same model with random weights."""
    options = dict(locals())  # every option is a parameter of the job
    from rankcell import jobs

    options |= {"pool": pool or None}
    with progress("compare") as tick:
        comparison = jobs.compare(**options, progress=tick)
    for line in comparison.lines:
        typer.echo(line)
    if comparison.path:
        typer.echo(f"{comparison.path}: {len(comparison.table):,} rows")
