"""rankcell perturb"""

from pathlib import Path
from typing import Annotated

import typer

from rankcell.cli import options as o
from rankcell.cli.progress import progress


def perturb(
    source: o.In,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The results folder; the same command goes on in it.")],
    model: o.Model = "demo",
    vocab: o.ModelVocab = None,
    layer: Annotated[int, typer.Option(help="Model layer whose states are compared (-1: output of the last block).")] = -2,
    kind: Annotated[str, typer.Option(help="delete or overexpress.")] = "delete",
    genes: Annotated[
        str, typer.Option(metavar="all|A,B|@FILE", help="Genes, one by one: all that a cell shows, names, or a file of names.")
    ] = "all",
    group: Annotated[bool, typer.Option("--group", help="Perturb the named genes together.")] = False,
    any: Annotated[bool, typer.Option("--any", help="Delete a group also where a cell shows only some of it.")] = False,
    start: Annotated[str | None, typer.Option(metavar="COL=STATE", help="Perturb only these cells.")] = None,
    toward: Annotated[
        list[str], typer.Option(metavar="COL=STATE", help="Also score the movement toward these cells; may be repeated.")
    ] = [],
    states: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Further states: what embed --include state wrote, or a table of state, readout, embedding."),
    ] = None,
    affected: Annotated[bool, typer.Option("--affected", help="Also a table per affected gene.")] = False,
    readout_compat: Annotated[
        str, typer.Option(help="'geneformer' keeps the perturbed gene in the cell readout of --toward.")
    ] = "rankcell",
    cells: Annotated[int | None, typer.Option(metavar="N", help="Only the first N cells (with --seed: N drawn).")] = None,
    seed: Annotated[int | None, typer.Option(help="Draw --cells with this seed.")] = None,
    counts_layer: o.CountsLayer = None,
    raw: o.Raw = False,
    gene_column: o.GeneColumn = None,
    allow_non_counts: o.AllowNonCounts = False,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
    tokens_per_batch: o.TokensPerBatch = None,
    tokens_per_unit: Annotated[int, typer.Option(help="Save whenever whole cells of about so many edited tokens are done.")] = 250_000,
    force: o.Force = False,
) -> None:
    """Delete or overexpress genes in every cell and measure how far the model's states move."""
    options = dict(locals())  # every option is a parameter of the job
    from rankcell import jobs

    def kept() -> str:
        n = len(list(out.glob("shards/screen-*.parquet")))
        return f"{n:,} finished parts are kept in {out}, the same command goes on from there"

    with progress("tokens screened", stopped=kept) as tick:
        screen = jobs.perturb(**options, progress=tick)
    skipped = screen.manifest["n_skipped"]
    left_out = f"; {skipped:,} pairs of cell and target have no row (the cell lacks the gene, or nothing would change)" if skipped else ""
    typer.echo(f"{out}/screen.parquet: {screen.manifest['n_rows']:,} rows for {screen.manifest['n_cells']:,} cells{left_out}")
