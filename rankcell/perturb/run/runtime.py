"""What one screen computes with: the model as it is loaded, its precision and its budget of tokens, settled for this screen alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rankcell.embed import Embedder
from rankcell.model import Checkpoint, Encoder
from rankcell.model.devices import choose_device
from rankcell.model.options import Compute
from rankcell.model.precisions import faster_precisions
from rankcell.perturb.exact import shift_precision as precisions
from rankcell.perturb.exact.engine import Engine


@dataclass
class Runtime:
    """Made for each screen anew of what a rankcell.Perturber was constructed with; what is settled here, no other screen inherits.

    embedder
        The model that the screen runs: with "auto" in fp32, until a precision is settled or an earlier start's is gone on with.
    model
        How any process opens the checkpoint.
    devices
        Which share the work.
    precision
        As asked for.
    """

    embedder: Embedder
    model: str
    devices: Sequence[str]
    precision: str

    @property
    def checkpoint(self) -> Checkpoint:
        return self.embedder.checkpoint

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that belong to this machine, and the precision."""
        return {"tokens_per_batch": self.embedder.planned_tokens_per_batch} | self.embedder.description

    def restore(self, settings: Mapping[str, Any]) -> bool:
        """Restore precision and tokens per batch of an earlier start, where the options leave them open; returns whether there was one."""
        if not {"precision", "tokens_per_batch"} <= settings.keys():
            return False  # none, or another job's
        if self.precision == "auto" and settings["precision"] != self.embedder.encoder.precision:
            self._replace(self._embedder(settings["precision"]))
        if self.embedder.requested_tokens_per_batch is None:
            self.embedder.restore_budget(settings["tokens_per_batch"])
        return True

    def settle_precision(
        self, engine_of: Callable[[Encoder], Engine], rows: Sequence[np.ndarray], uncropped: Sequence[np.ndarray] | None
    ) -> dict[str, Any] | None:
        """Settle the precision of "auto" for a screen, the one place where that is decided; None where there is nothing to decide."""
        faster = [] if self.precision != "auto" else faster_precisions(choose_device(self.devices[0]), self.checkpoint.width)
        if not faster:
            return None
        embedders = {"fp32": self.embedder}

        def engine(precision: str) -> Engine:
            if precision not in embedders:
                embedders[precision] = self._embedder(precision)
            return engine_of(embedders[precision].encoder)

        check = precisions.settle(engine, faster, rows, uncropped)
        self._replace(embedders[check["precision"]])
        precisions.note_choice(check)
        return check

    def _replace(self, embedder: Embedder) -> None:
        if embedder is not self.embedder:
            self.embedder.release()
            self.embedder = embedder

    def _embedder(self, precision: str) -> Embedder:
        budget = self.embedder.requested_tokens_per_batch
        return Embedder(self.checkpoint, Compute(self.devices[0], precision, budget))
