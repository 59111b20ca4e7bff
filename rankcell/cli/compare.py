"""rankcell compare"""

from pathlib import Path
from typing import Annotated

import typer

from rankcell.assess.options import COMPARED_LAYERS, N_RANDOM, Scoring
from rankcell.cli.flags import flat
from rankcell.cli.progress import progress
from rankcell.cli.shared import ComputeOnOne, Force, In
from rankcell.counts.options import Counts
from rankcell.model.options import Model
from rankcell.options import Help

_LABEL = "The cell column of known groups (cell types) that embeddings are to keep together."


@flat
def compare(
    source: In,
    label: Annotated[str, Help(_LABEL, "COL")],
    model: Model,
    scoring: Scoring,
    counts: Counts,
    compute: ComputeOnOne,
    out: Annotated[
        Path | None, Help("Write the whole table: .csv, .tsv or .parquet (default: a summary is printed).", "OUT", flags=("--out", "-o"))
    ] = None,
    pool: Annotated[list[str], Help("A pooling; may be repeated (default: all that fit).", "KIND")] = [],
    layer: Annotated[list[int], Help("A layer, as for embed; may be repeated.", "N", cli=list[int])] = list(COMPARED_LAYERS),
    batch: Annotated[str | None, Help("The cell column of batches: also score how well they are mixed.", "COL")] = None,
    n_random: Annotated[int, Help("Models with random weights to score beside it.")] = N_RANDOM,
    force: Force = False,
) -> None:
    """Which pooling and layer of a model keep known cell types together best, beside PCA and the same model with random weights."""
    from rankcell.assess.compare_cells import compare_cells
    from rankcell.assess.comparison import summary
    from rankcell.stats.ranked_tables import check_out, write_ranked
    from rankcell.store import require_apart

    if out is not None:
        require_apart(out, [source])
        check_out(out, force=force)
    options = {"pool": pool or None, "layer": layer, "batch": batch, "scoring": scoring, "n_random": n_random}
    with progress("compare") as tick:
        table = compare_cells(source, label, model, **options, counts=counts, compute=compute, progress=tick)
        if out is not None:
            write_ranked(table, out, facts=table.attrs, force=force)
    typer.echo(summary(table))
    if out is not None:
        typer.echo(f"{out}: {len(table):,} rows")
