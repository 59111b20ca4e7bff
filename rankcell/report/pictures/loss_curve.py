"""Losses and accuracies of a training over its epochs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rankcell.report.pictures.axes import plain_axes
from rankcell.report.pictures.colours import DOWN, GREY, UP
from rankcell.report.pictures.figures import new_figure, save


def draw_curve(curve: Sequence[Mapping[str, float]], path: Path) -> None:
    """Training and held-out loss, and held-out accuracies, over epochs."""
    figure = new_figure(8.4, 3.4)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    epoch = [row["epoch"] for row in curve]
    for key, colour, label in (("train_loss", GREY, "training"), ("heldout_loss", UP, "held out")):
        loss_axes.plot(epoch, [row[key] for row in curve], color=colour, label=label)
    loss_axes.set_ylabel("masked-gene cross entropy (nats)", fontsize=9, parse_math=False)
    for key, colour, label in (("heldout_top10", DOWN, "top 10"), ("heldout_top1", UP, "top 1")):
        accuracy_axes.plot(epoch, [row[key] for row in curve], color=colour, label=label)
    accuracy_axes.set_ylabel("held-out masked-gene accuracy", fontsize=9, parse_math=False)
    accuracy_axes.set_ylim(bottom=0)
    for ax in (loss_axes, accuracy_axes):
        ax.set_xlabel("epoch", fontsize=9, parse_math=False)
        ax.legend(frameon=False, fontsize=9)
        plain_axes(ax)
    save(figure, path)
