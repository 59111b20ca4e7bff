"""rankcell embed"""

from pathlib import Path
from typing import Annotated

import typer

from rankcell.cli import options as o
from rankcell.cli.progress import progress
from rankcell.cli.verb import say_remarks


def embed(
    source: o.In,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="OUT",
            help="OUT.h5ad or OUT.zarr (obsm X_rankcell, or X_rankcell_POOL_layerN when several), OUT.parquet, .npz, .npy, .safetensors or .sqlite.",
        ),
    ],
    model: o.Model = None,
    vocab: o.ModelVocab = None,
    vocab_mismatch_ok: o.MismatchOk = False,
    pool: Annotated[
        list[str],
        typer.Option(
            metavar="KIND",
            help="mean, max, min, std, var, median, norm, parti (over genes), mean_all (special tokens too), cls, first, position0; "
            "A+B puts several side by side; may be repeated.",
        ),
    ] = ["mean"],
    layer: Annotated[list[int], typer.Option(metavar="N", help="-1: output of the last block, 0: embedding layer; may be repeated.")] = [
        -2
    ],
    include: Annotated[
        list[str],
        typer.Option(
            metavar="WHAT",
            help="cell; gene (the state of each gene in each cell); gene_mean (n, mean and sd over cells); state (of each category of --by); "
            "several with commas, or repeated.",
        ),
    ] = ["cell"],
    by: Annotated[str | None, typer.Option(metavar="COL", help="The cell column whose categories state and gene_mean are for.")] = None,
    statistic: Annotated[str, typer.Option(help="Of states: mean, or the exact median.")] = "mean",
    dtype: Annotated[str, typer.Option(help="What numbers are stored as: float16, float32 or float64.")] = "float32",
    counts_layer: o.CountsLayer = None,
    raw: o.Raw = False,
    gene_column: o.GeneColumn = None,
    genome: o.Genome = None,
    allow_non_counts: o.AllowNonCounts = False,
    device: o.Devices = "auto",
    precision: o.Precision = "auto",
    tokens_per_batch: o.TokensPerBatch = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Only the I-th of N parts, for several machines; the same command without it puts them together."),
    ] = None,
    force: o.Force = False,
) -> None:
    """Counts or tokens to one vector per cell (and per gene, and per state), in the order and with the ids of the input.

    Saved part by part in OUT.run, about 500,000 tokens at a time (on a GPU eight full batches): stopped at any moment, the same command goes on after the last part.
    """
    options = dict(locals())  # every option is a parameter of the job
    from rankcell import jobs
    from rankcell.embed.store_run import run_folder

    def kept() -> str:
        there = run_folder(out).is_dir()
        return (
            f"what is done is kept in {run_folder(out)}, the same command goes on from there" if there else "the same command starts again"
        )

    with progress("embed", stopped=kept) as tick:
        written = jobs.embed(**options, progress=tick)
    if shard is not None:
        typer.echo(f"{written.folder}: part {written.part} is done, {written.done:,} of {written.n_units:,} units are there; when all parts are done: the same command without --shard")
        return
    say_remarks(written.meta)
    check = written.meta.get("precision_check")
    if check:
        typer.echo(
            f"precision {check['kept']}: on {check['cells']:,} cells the smallest cosine of {check['tried']} with fp32 was {check['least_cosine']:.6f} ({check['output']})"
        )
    for table, columns in written.columns.items():
        shapes = ", ".join(f"{name} ({width} wide)" for name, width in columns.items())
        typer.echo(f"{out}: {written.rows[table]:,} {table.replace('_', ' ')}: {shapes}")
