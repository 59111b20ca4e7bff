"""rankcell annotate"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rankcell.assess.options import LabelMapping
from rankcell.cli.flags import flat
from rankcell.cli.progress import progress
from rankcell.cli.shared import ComputeOnOne, Force, In
from rankcell.counts.options import Counts
from rankcell.embed.options import KEY
from rankcell.model.options import Model
from rankcell.options import Help

if TYPE_CHECKING:
    from rankcell.assess.annotate import Annotation

_REFERENCE = "Cells with labels: a count file or a token set folder, or an h5ad that holds the embedding."
_OUT = "OUT.csv, .tsv or .parquet (a row per cell), or OUT.h5ad (a copy of an h5ad IN with the labels in obs)."


@flat
def annotate(
    source: In,
    reference: Annotated[Path, Help(_REFERENCE, "REF")],
    label: Annotated[str, Help("The cell column of the reference to carry over.", "COL")],
    out: Annotated[Path, Help(_OUT, "OUT", flags=("--out", "-o"))],
    model: Model,
    mapping: LabelMapping,
    counts: Counts,
    compute: ComputeOnOne,
    key: Annotated[str, Help("The embedding in obsm, where both h5ad files hold one and no model is named.", "KEY")] = KEY,
    pool: Annotated[str | None, Help("The pooling (default: that of an embedding which is there, else mean).", "KIND")] = None,
    layer: Annotated[int | None, Help("The layer (default: that of an embedding which is there, else -2).", "N")] = None,
    key_added: Annotated[str | None, Help("Name of the new column (default: COL_mapped).", "NAME")] = None,
    force: Force = False,
) -> None:
    """Carry labels over from reference cells: the majority of the nearest ones, or 'unsure' where they disagree or are far."""
    from rankcell.assess.annotate import annotate as annotate_cells

    options = {"key": key, "pool": pool, "layer": layer, "mapping": mapping, "key_added": key_added, "counts": counts, "compute": compute}
    with progress("annotate") as tick:
        annotation = annotate_cells(source, reference, out, label=label, model=model, **options, force=force, progress=tick)
    for line in label_lines(annotation):
        typer.echo(line)
    typer.echo(f"{annotation.path}: {len(annotation.table):,} cells")


def label_lines(annotation: "Annotation") -> list[str]:
    """Summary lines of an annotation: cells per label, and cells without one."""
    from rankcell.assess.label_tables import UNSURE

    labels = annotation.table[annotation.column]
    n, counts = len(labels), labels.value_counts()
    unsure, missing = int(counts.get(UNSURE, 0)), int(labels.isna().sum())
    sure = counts.drop(UNSURE, errors="ignore")
    top = ", ".join(f"{label} {count:,}" for label, count in sure[sure > 0].head(6).items()) or "none"
    more = ", ..." if (sure > 0).sum() > 6 else ""
    lines = [f"{n - unsure - missing:,} of {n:,} cells labelled from {annotation.n_reference:,} reference cells: {top}{more}"]
    lines.append(f"{unsure:,} {UNSURE}")
    return lines + ([f"{missing:,} without a known gene, and without a label"] if missing else [])
