"""rankcell pretrain"""

from pathlib import Path
from typing import Annotated

import typer

from rankcell.cli import options as o
from rankcell.cli.progress import progress


def pretrain(
    source: Annotated[Path, typer.Argument(metavar="TOKENS", help="A token set folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The checkpoint folder to write.")],
    vocab: Annotated[str | None, typer.Option(help="The tokens' vocabulary (default: found among the shipped ones).")] = None,
    layers: Annotated[int, typer.Option(help="Blocks.")] = 3,
    width: Annotated[int, typer.Option(help="Width of a state.")] = 128,
    heads: Annotated[int, typer.Option(help="Attention heads.")] = 4,
    intermediate: Annotated[int, typer.Option(help="Width inside a block.")] = 256,
    positions: Annotated[
        int | None, typer.Option(help="Longest row (default: room for every gene of the vocabulary, at most the max_len of the tokens).")
    ] = None,
    activation: Annotated[str, typer.Option(help="relu or gelu.")] = "relu",
    dropout: Annotated[float, typer.Option(help="Of states and attention.")] = 0.0,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training cells (default: as many as read 5 million tokens, 3 to 100).")
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option(metavar="M", help="End after so many minutes with the best state so far (the learning rate falls in time)."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Cells per step, of like length (default: as many as read about 2,048 tokens, 4 to 16).")
    ] = None,
    row_genes: Annotated[
        int,
        typer.Option(metavar="N", help="Of longer rows N genes are read in a step, drawn anew each time, at their own positions (0: all)."),
    ] = 256,
    lr: Annotated[float, typer.Option(help="Highest learning rate of AdamW.")] = 2e-3,
    warmup: Annotated[float, typer.Option(help="Share of steps in which it rises; then cosine decay.")] = 0.05,
    weight_decay: Annotated[float, typer.Option(help="Of matrices.")] = 0.01,
    clip: Annotated[float, typer.Option(help="Largest gradient norm.")] = 1.0,
    average: Annotated[float, typer.Option(help="Decay of the running average of weights that is kept (0: the last weights).")] = 0.0,
    mask_rate: Annotated[float, typer.Option(help="Share of genes masked.")] = 0.15,
    drop: Annotated[float, typer.Option(help="Highest share of genes taken out of a row, drawn anew each time.")] = 0.0,
    cell_weight: Annotated[float, typer.Option(help="Weight of the cell objective (readouts must name the genes not shown).")] = 0.0,
    cell_layer: Annotated[int, typer.Option(help="The layer that the cell objective reads.")] = -2,
    smart_start: Annotated[
        bool, typer.Option("--smart-start/--no-smart-start", help="Begin from smooth positions and gene company, or from noise.")
    ] = True,
    holdout: Annotated[float, typer.Option(help="Share of cells kept out of training.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of everything drawn.")] = 0,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
    force: o.Force = False,
) -> None:
    """Train a masked-language model on tokens: a checkpoint with its vocabulary, held-out accuracies and a loss curve."""
    options = dict(locals())  # every option is a parameter of the job, or a field of its recipe
    from rankcell import jobs

    def kept() -> str:
        return f"the best state so far is in {out}" if is_new() else "no state was good enough to keep yet: the same command starts again"

    before = out.stat().st_ino if out.exists() else None

    def is_new() -> bool:
        return out.exists() and out.stat().st_ino != before

    with progress("pretrain", stopped=kept) as tick:
        facts = jobs.pretrain(**options, progress=tick)
    if facts["ended_by"] == "time":
        typer.echo(f"ended after {max_minutes:g} minutes: {facts['steps']:,} of {facts['planned_steps']:,} steps")
    for line in jobs.training_report(facts):
        typer.echo(f"{out}: {line}")
