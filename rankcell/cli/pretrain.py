"""rankcell pretrain"""

from pathlib import Path
from typing import Annotated, Any

import typer

from rankcell.cli.flags import flat
from rankcell.cli.progress import progress
from rankcell.cli.shared import Force
from rankcell.model.options import Device
from rankcell.options import Help
from rankcell.train.recipe import Recipe

LITTLE_LEARNED = 0.05  # nats a masked gene: a model of smaller gain over gene frequencies is no use


@flat
def pretrain(
    source: Annotated[Path, typer.Argument(metavar="TOKENS", help="A token set folder.")],
    out: Annotated[Path, Help("The checkpoint folder to write.", "DIR", flags=("--out", "-o"))],
    recipe: Recipe,
    compute: Device,
    vocab: Annotated[str | None, Help("The tokens' vocabulary (default: found among the shipped ones).")] = None,
    force: Force = False,
) -> None:
    """Train a masked-language model on tokens: a checkpoint with its vocabulary, held-out accuracies and a loss curve."""
    from rankcell.train.pretraining import pretrain as train

    def resume_hint() -> str:
        return f"the best state so far is in {out}" if is_new() else "no state was good enough to keep yet: the same command starts again"

    before = out.stat().st_ino if out.exists() else None

    def is_new() -> bool:
        return out.exists() and out.stat().st_ino != before

    with progress("pretrain", stopped=resume_hint) as tick:
        facts = train(source, out, recipe, vocab=vocab, compute=compute, force=force, progress=tick)
    if facts["ended_by"] == "time":
        typer.echo(f"ended after {recipe.max_minutes:g} minutes: {facts['steps']:,} of {facts['planned_steps']:,} steps")
    for line in training_lines(facts):
        typer.echo(f"{out}: {line}")


def training_lines(facts: dict[str, Any]) -> list[str]:
    """The outcome of training in a line or two: held-out loss and accuracy beside guessing by gene frequency."""
    model, frequent = facts["heldout_excluding_shown"], facts["baselines"]["frequent"]
    gain = frequent["loss"] - model["loss"]
    lines = [
        f"held-out masked genes: loss {model['loss']:.3f} (by gene frequency {frequent['loss']:.3f}), top 10 {model['top10']:.3f} "
        f"({frequent['top10']:.3f}); {facts['n_train']:,} cells, {facts['steps']:,} steps, {facts['minutes']} minutes"
    ]
    if gain < LITTLE_LEARNED:
        lines.append(
            f"the model has learned little more than gene frequencies (gain {gain:.3f} nats a gene): it needs more steps, cells, or a "
            "vocabulary of fewer genes (rankcell vocab build --min-cells N)"
        )
    return lines
