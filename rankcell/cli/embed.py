"""rankcell embed"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rankcell.cli.flags import flat
from rankcell.cli.progress import progress
from rankcell.cli.shared import Force, In
from rankcell.cli.verb import warn_of_model
from rankcell.counts.options import Counts
from rankcell.embed.options import EmbedConfig
from rankcell.model.options import Compute, Model
from rankcell.options import Help

if TYPE_CHECKING:
    from rankcell.embed.store_run import Written

_OUT = "OUT.h5ad or OUT.zarr (obsm X_rankcell, or X_rankcell_POOL_layerN when several), OUT.parquet, .npz, .npy, .safetensors or .sqlite."
_SHARD = "Only the I-th of N parts, for several machines; the same command without it puts them together."


@flat
def embed(
    source: In,
    out: Annotated[Path, Help(_OUT, "OUT", flags=("--out", "-o"))],
    model: Model,
    config: EmbedConfig,
    counts: Counts,
    compute: Compute,
    shard: Annotated[str | None, Help(_SHARD, "I/N")] = None,
    force: Force = False,
) -> None:
    """Counts or tokens to one vector per cell (and per gene, and per state), in the order and with the ids of the input.

    Saved part by part in OUT.run, about 500,000 tokens at a time (on a GPU eight full batches): stopped at any moment, the same command goes on after the last part.
    """
    from rankcell.embed.embed_cells import embed_part, embed_to_file

    with progress("embed", stopped=lambda: _resume_hint(out)) as tick:
        options = {"model": model, "counts": counts, "compute": compute, "force": force, "progress": tick}
        if shard is None:
            written = embed_to_file(source, out, config, **options)
        else:
            done = embed_part(source, out, config, shard=shard, **options)
    if shard is None:
        _report(out, written)
    else:
        typer.echo(
            f"{done.folder}: part {done.part} is done, {done.done:,} of {done.n_units:,} units are there; "
            "when all parts are done: the same command without --shard"
        )


def _resume_hint(out: Path) -> str:
    """The closing line of a run that is stopped: where its parts are, and how it goes on."""
    from rankcell.embed.store_run import run_folder

    folder = run_folder(out)
    return f"what is done is kept in {folder}, the same command goes on from there" if folder.is_dir() else "the same command starts again"


def _report(out: Path, written: "Written") -> None:
    warn_of_model(written.meta)
    check = written.meta.get("precision_check")
    if check:
        typer.echo(
            f"precision {check['kept']}: on {check['cells']:,} cells the smallest cosine of {check['tried']} with fp32 was {check['least_cosine']:.6f} ({check['output']})"
        )
    for table, columns in written.columns.items():
        shapes = ", ".join(f"{name} ({width} wide)" for name, width in columns.items())
        typer.echo(f"{out}: {written.rows[table]:,} {table.replace('_', ' ')}: {shapes}")
