"""The recipe of a model: its shape, and how it is trained."""

import dataclasses
import math

import numpy as np

from rankcell.errors import SettingsError
from rankcell.wording import option

TOKENS_READ = 5_000_000
TOKENS_PER_STEP = 2_048


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is shaped and trained.

    layers, width, heads, intermediate, positions, activation, dropout
        The BERT; `positions` None: room for every gene of the vocabulary, at most the tokens' max_len.
    epochs, max_minutes
        Passes over the training cells (None: as many as read TOKENS_READ tokens, 3 to 100), and the time after which training ends
        all the same (None: no limit); the learning rate falls to zero by whichever comes first.
    batch_size, row_genes
        Cells per step (None: as many as read about TOKENS_PER_STEP tokens, 4 to 16), and the most genes of a cell that a step
        reads: of longer rows so many are drawn anew each time and stand at their own positions (0: no limit).
    lr, warmup, weight_decay, clip, average
        AdamW's highest rate (linear warm-up over a share `warmup` of the training, then cosine decay to zero), decay of
        matrices, largest gradient norm, and the decay of a running average of the weights that is what is kept (0: the weights
        themselves).
    mask_rate, drop
        Share of genes masked; highest share of genes taken out of a row before (drawn anew for each row, from 0).
    cell_weight, cell_layer
        Weight of the cell objective and the layer it reads: position 0 (CLS where there is one), the mean over genes, the
        first gene and one gene drawn at random each must name, through the language-model head, the genes of the
        cell that the row does not show.
    smart_start
        Begin from smooth positions and the genes' company (rankcell.train.initial) instead of noise.
    holdout
        Share of cells kept out of training, for the curve and the accuracies.
    seed
        Of everything drawn.
    """

    layers: int = 3
    width: int = 128
    heads: int = 4
    intermediate: int = 256
    positions: int | None = None
    activation: str = "relu"
    dropout: float = 0.0
    epochs: int | None = None
    max_minutes: float | None = None
    batch_size: int | None = None
    row_genes: int = 256
    lr: float = 2e-3
    warmup: float = 0.05
    weight_decay: float = 0.01
    clip: float = 1.0
    average: float = 0.0
    mask_rate: float = 0.15
    drop: float = 0.0
    cell_weight: float = 0.0
    cell_layer: int = -2
    smart_start: bool = True
    holdout: float = 0.1
    seed: int = 0

    def check(self) -> None:
        """SettingsError when a value cannot be."""
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise SettingsError(f"{option(name)} is {value}; a finite number")
        for name in ("layers", "width", "heads", "intermediate", "epochs", "batch_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise SettingsError(f"{option(name)} is {getattr(self, name)}; at least 1")
        for name in ("row_genes", "weight_decay", "cell_weight"):
            if getattr(self, name) < 0:
                raise SettingsError(f"{option(name)} is {getattr(self, name)}; at least 0")
        for name in ("lr", "clip", "max_minutes"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise SettingsError(f"{option(name)} is {getattr(self, name)}; above 0")
        for name in ("mask_rate", "holdout"):
            if not 0 < getattr(self, name) < 1:
                raise SettingsError(f"{option(name)} is {getattr(self, name)}; above 0 and below 1")
        for name in ("drop", "dropout", "average", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingsError(f"{option(name)} is {getattr(self, name)}; at least 0 and below 1")
        if not -self.layers - 1 <= self.cell_layer <= self.layers:
            raise SettingsError(f"cell_layer {self.cell_layer} is out of range for {self.layers} blocks")

    def fitted(self, lengths: np.ndarray) -> "Recipe":
        """The recipe with the number of epochs and cells per step that suit training cells of these lengths, where they are None."""
        read = lengths if not self.row_genes else np.minimum(lengths, self.row_genes)
        epochs = math.ceil(TOKENS_READ / int(read.sum()))
        cells = round(TOKENS_PER_STEP / float(read.mean()))
        return dataclasses.replace(
            self,
            epochs=self.epochs or min(100, max(3, epochs)),
            batch_size=self.batch_size or min(16, max(4, cells)),
        )
