"""The recipe of a model: its shape, and how it is trained. No torch, no numpy."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from rankcell.errors import SettingsError
from rankcell.options import Help, Options, at_least
from rankcell.wording import option

if TYPE_CHECKING:
    import numpy as np

TOKENS_READ = 5_000_000
TOKENS_PER_STEP = 2_048


def _finite(expected: str, holds: Callable[[float], bool]) -> Callable[[float], str | None]:
    """A check of finite numbers."""
    return lambda value: "a finite number" if not math.isfinite(value) else None if holds(value) else expected


_not_negative = _finite("at least 0", lambda value: value >= 0)
_positive = _finite("above 0", lambda value: value > 0)
_inner_share = _finite("above 0 and below 1", lambda value: 0 < value < 1)
_share_below_1 = _finite("at least 0 and below 1", lambda value: 0 <= value < 1)
_count = at_least(1)


@dataclass(frozen=True)
class Recipe(Options):
    """How a model is shaped and trained.

    The learning rate of AdamW rises over the share `warmup` of the training and falls as a cosine to zero, by steps or by `max_minutes`,
    whichever comes first. The cell objective: position 0 (CLS where there is one), the mean over genes, the first gene and one gene drawn
    at random each must name, through the language-model head, the genes of the cell that the row does not show.
    """

    layers: Annotated[int, Help("Blocks.", check=_count)] = 3
    width: Annotated[int, Help("Width of a state.", check=_count)] = 128
    heads: Annotated[int, Help("Attention heads.", check=_count)] = 4
    intermediate: Annotated[int, Help("Width inside a block.", check=_count)] = 256
    positions: Annotated[
        int | None, Help("Longest row (default: room for every gene of the vocabulary, at most the max_len of the tokens).")
    ] = None
    activation: Annotated[str, Help("relu or gelu.")] = "relu"
    dropout: Annotated[float, Help("Of states and attention.", check=_share_below_1)] = 0.0
    epochs: Annotated[
        int | None, Help("Passes over the training cells (default: as many as read 5 million tokens, 3 to 100).", check=_count)
    ] = None
    max_minutes: Annotated[
        float | None,
        Help("End after so many minutes with the best state so far (the learning rate falls in time).", "M", check=_positive),
    ] = None
    batch_size: Annotated[
        int | None, Help("Cells per step, of like length (default: as many as read about 2,048 tokens, 4 to 16).", check=_count)
    ] = None
    row_genes: Annotated[
        int,
        Help("Of longer rows N genes are read in a step, drawn anew each time, at their own positions (0: all).", "N", check=_not_negative),
    ] = 256
    lr: Annotated[float, Help("Highest learning rate of AdamW.", check=_positive)] = 2e-3
    warmup: Annotated[float, Help("Share of steps in which it rises; then cosine decay.", check=_share_below_1)] = 0.05
    weight_decay: Annotated[float, Help("Of matrices.", check=_not_negative)] = 0.01
    clip: Annotated[float, Help("Largest gradient norm.", check=_positive)] = 1.0
    average: Annotated[
        float, Help("Decay of the running average of weights that is kept (0: the last weights).", check=_share_below_1)
    ] = 0.0
    mask_rate: Annotated[float, Help("Share of genes masked.", check=_inner_share)] = 0.15
    drop: Annotated[float, Help("Highest share of genes taken out of a row, drawn anew each time.", check=_share_below_1)] = 0.0
    cell_weight: Annotated[float, Help("Weight of the cell objective (readouts must name the genes not shown).", check=_not_negative)] = 0.0
    cell_layer: Annotated[int, Help("The layer that the cell objective reads.")] = -2
    smart_start: Annotated[bool, Help("Begin from smooth positions and gene company, or from noise.")] = True
    holdout: Annotated[float, Help("Share of cells kept out of training.", check=_inner_share)] = 0.1
    seed: Annotated[int, Help("Of everything drawn.")] = 0

    def check(self) -> None:
        if not -self.layers - 1 <= self.cell_layer <= self.layers:
            raise SettingsError(f"{option('cell_layer')} {self.cell_layer} is out of range for {self.layers} blocks")

    def fitted(self, lengths: "np.ndarray") -> "Recipe":
        """The recipe with the number of epochs and cells per step that suit training cells of these lengths, where they are None."""
        import numpy as np

        read = lengths if not self.row_genes else np.minimum(lengths, self.row_genes)
        epochs = math.ceil(TOKENS_READ / int(read.sum()))
        cells = round(TOKENS_PER_STEP / float(read.mean()))
        return dataclasses.replace(
            self,
            epochs=self.epochs or min(100, max(3, epochs)),
            batch_size=self.batch_size or min(16, max(4, cells)),
        )
