"""rankcell tokenize"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rankcell.cli.flags import flat
from rankcell.cli.progress import progress
from rankcell.cli.shared import Carried, CountFiles, Force
from rankcell.counts.options import Counts
from rankcell.options import Help
from rankcell.tokens.options import Tokenizing

if TYPE_CHECKING:
    from rankcell.tokens.tokenset import TokenSet

_VOCAB = "A vocabulary folder, or the name of a shipped or fetched one (default: that of vocab list which knows at least half of the genes)."


@flat
def tokenize(
    source: CountFiles,
    out: Annotated[Path, Help("The token set folder to write.", "OUT.dataset", flags=("--out", "-o"))],
    vocab: Annotated[str | None, Help(_VOCAB)] = None,
    tokenizing: Tokenizing = Tokenizing(),
    counts: Counts = Counts(),
    obs: Carried = [],
    force: Force = False,
) -> None:
    """Counts to rank-value gene tokens: a `datasets` folder with cell ids."""
    from rankcell.tokens.cells import tokenize_cells

    with progress("tokenize") as tick:
        tokens = tokenize_cells(source, vocab, obs=obs, tokenizing=tokenizing, counts=counts, out=out, force=force, progress=tick)
    for line in token_lines(tokens):
        typer.echo(f"{out}: {line}")


def token_lines(tokens: "TokenSet") -> list[str]:
    """Summary lines of a TokenSet of counts: its cells, known genes, and cells that the filter leaves out."""
    import numpy as np

    files = tokens.spec.source.get("files", [tokens.spec.source])
    shares = [f["genes_known"] / max(1, f["genes"]) for f in files]
    least = files[int(np.argmin(shares))]
    doubt = f" ({min(shares):.0%}: is this the right vocabulary?)" if min(shares) < 0.1 else ""
    known = f"{least['genes_known']:,} of {least['genes']:,} genes known{doubt} to vocabulary '{tokens.spec.vocabulary}'"
    where = f"by {least['gene_column']}" if len(files) == 1 else f"in that of {len(files)} inputs which has the fewest"
    n_genes = tokens.n_genes
    middle = f", median {int(np.median(n_genes))} genes a cell" if len(n_genes) else ""
    lines = [f"{len(tokens):,} cells, {known} {where}{middle}"]
    n_filtered = sum(f.get("cells_left_out", 0) for f in files)
    return lines + ([f"{n_filtered:,} cells left out by the filter {files[0]['filter']}"] if n_filtered else [])
