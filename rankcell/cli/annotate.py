"""rankcell annotate"""

from pathlib import Path
from typing import Annotated

import typer

from rankcell.cli import options as o
from rankcell.cli.progress import progress


def annotate(
    source: o.In,
    reference: Annotated[
        Path,
        typer.Option(metavar="REF", help="Cells with labels: a count file or a token set folder, or an h5ad that holds the embedding."),
    ],
    label: Annotated[str, typer.Option(metavar="COL", help="The cell column of the reference to carry over.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="OUT",
            help="OUT.csv, .tsv or .parquet (a row per cell), or OUT.h5ad (a copy of an h5ad IN with the labels in obs).",
        ),
    ],
    model: o.Model = None,
    vocab: o.ModelVocab = None,
    vocab_mismatch_ok: o.MismatchOk = False,
    key: Annotated[
        str, typer.Option(metavar="KEY", help="The embedding in obsm, where both h5ad files hold one and no model is named.")
    ] = "X_rankcell",
    pool: Annotated[
        str | None, typer.Option(metavar="KIND", help="The pooling (default: that of an embedding which is there, else mean).")
    ] = None,
    layer: Annotated[
        int | None, typer.Option(metavar="N", help="The layer (default: that of an embedding which is there, else -2).")
    ] = None,
    k: Annotated[int, typer.Option(help="Nearest reference cells that vote.")] = 15,
    metric: Annotated[str, typer.Option(help="cosine or euclidean.")] = "cosine",
    min_confidence: Annotated[float, typer.Option(metavar="SHARE", help="A label with a smaller share of the votes is 'unsure'.")] = 0.5,
    max_distance: Annotated[
        float,
        typer.Option(metavar="SHARE", help="So is that of a cell farther away than this share of the reference is from itself."),
    ] = 0.95,
    key_added: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the new column (default: COL_mapped).")] = None,
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
    """Carry labels over from reference cells: the majority of the nearest ones, or 'unsure' where they disagree or are far."""
    options = dict(locals())  # every option is a parameter of the job
    from rankcell import jobs

    with progress("annotate") as tick:
        made = jobs.annotate(**options, progress=tick)
    for line in made.lines:
        typer.echo(line)
    typer.echo(f"{made.path}: {len(made.table):,} cells")
