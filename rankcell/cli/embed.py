"""rankcell embed"""

from pathlib import Path
from typing import Annotated

import typer

from rankcell.cli import options as o


def embed(
    source: o.In,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="OUT.h5ad (obsm), OUT.parquet or OUT.npz.")],
    model: o.Model = "demo",
    vocab: o.ModelVocab = None,
    pool: Annotated[list[str] | None, typer.Option(metavar="KIND", help="cls, first or mean (default); may be repeated.")] = None,
    layer: Annotated[
        list[int] | None, typer.Option(metavar="N", help="-1: output of the last block, 0: embedding layer (default -2); may be repeated.")
    ] = None,
    counts_layer: o.CountsLayer = None,
    raw: o.Raw = False,
    gene_column: o.GeneColumn = None,
    allow_non_counts: o.AllowNonCounts = False,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
    tokens_per_batch: o.TokensPerBatch = 16_384,
    force: o.Force = False,
) -> None:
    """Counts or tokens to one vector per cell, in the order and with the ids of the input."""
    from rankcell import jobs
    from rankcell.cli.main import progress

    with progress("cells embedded") as tick:
        found = jobs.embed(
            source,
            out,
            model=model,
            vocab=vocab,
            pool=pool or "mean",
            layer=layer or -2,
            counts_layer=counts_layer,
            raw=raw,
            gene_column=gene_column,
            allow_non_counts=allow_non_counts,
            device=device,
            precision=precision,
            tokens_per_batch=tokens_per_batch,
            force=force,
            progress=tick,
        )
    shapes = ", ".join(f"{name} ({v.shape[1]} wide)" for name, v in found.columns.items())
    typer.echo(f"{out}: {len(found.cell_ids):,} cells: {shapes}")
