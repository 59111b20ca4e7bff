"""rankcell check"""

from dataclasses import dataclass
from typing import Annotated

import typer

from rankcell.cli.flags import flat
from rankcell.cli.progress import progress
from rankcell.cli.shared import Carried, CountFiles
from rankcell.counts.options import CountsPlace
from rankcell.options import Help
from rankcell.tokens.options import RowOptions
from rankcell.wording import visible

_MODEL = "The model that the cells are for (a checkpoint folder, a hub name, 'demo'): its vocabulary, and what it will not read."
_VOCAB = "A vocabulary folder or name (default: those at hand are compared, and the best is taken)."


@dataclass(frozen=True)
class FoundCounts(CountsPlace):
    """Where the counts are; looked for where nothing is named."""

    counts_layer: Annotated[str | None, Help("The layer that holds the counts (default: where counts are found).", hidden=("layer",))] = None
    raw: Annotated[bool, Help("The counts are in raw (default: where counts are found).")] = False


@flat
def check(
    source: CountFiles,
    model: Annotated[str | None, Help(_MODEL)] = None,
    vocab: Annotated[str | None, Help(_VOCAB)] = None,
    rows: RowOptions = RowOptions(),
    counts: FoundCounts = FoundCounts(),
    obs: Carried = [],
) -> None:
    """What is in count files, what would go wrong, and the tokenize command that will work (exit code 0; 2 when none will)."""
    from rankcell.cli.check_report import check as check_inputs

    with progress("check", lines=False) as tick:  # the page is all that is printed elsewhere
        report = check_inputs(source, model=model, vocab=vocab, rows=rows, counts=counts, obs=obs, progress=tick)
    for line in report.lines():
        typer.echo(visible(line))
    raise typer.Exit(0 if report.ok else 2)
