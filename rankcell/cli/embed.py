"""rankcell embed"""

from pathlib import Path
from typing import Annotated

import typer

from rankcell.cli import options as o
from rankcell.cli.progress import progress


def embed(
    source: o.In,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="OUT", help="OUT.h5ad (obsm X_rankcell, or X_rankcell_POOL_layerN when several), OUT.parquet or OUT.npz."
        ),
    ],
    model: o.Model = "demo",
    vocab: o.ModelVocab = None,
    pool: Annotated[list[str], typer.Option(metavar="KIND", help="cls, first or mean; may be repeated.")] = ["mean"],
    layer: Annotated[list[int], typer.Option(metavar="N", help="-1: output of the last block, 0: embedding layer; may be repeated.")] = [
        -2
    ],
    counts_layer: o.CountsLayer = None,
    raw: o.Raw = False,
    gene_column: o.GeneColumn = None,
    allow_non_counts: o.AllowNonCounts = False,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
    tokens_per_batch: o.TokensPerBatch = None,
    force: o.Force = False,
) -> None:
    """Counts or tokens to one vector per cell, in the order and with the ids of the input."""
    options = dict(locals())  # every option is a parameter of the job
    from rankcell import jobs

    with progress("cells embedded") as tick:
        found = jobs.embed(**options, progress=tick)
    columns = {f"obsm['{key}']": x for key, x in found.obsm().items()} if out.suffix.lower() == ".h5ad" else found.columns
    shapes = ", ".join(f"{name} ({v.shape[1]} wide)" for name, v in columns.items())
    typer.echo(f"{out}: {len(found.cell_ids):,} cells: {shapes}")
