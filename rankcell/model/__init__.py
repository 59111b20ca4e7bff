"""Checkpoints, the encoder, batches and poolings. The only room that imports transformers and chooses a device."""

from rankcell.lazy import door

_PLACES = {
    "Batch": "rankcell.model.batches",
    "Checkpoint": "rankcell.model.checkpoint",
    "Encoder": "rankcell.model.encoder",
    "POOLS": "rankcell.model.pools",
    "Packed": "rankcell.model.batches",
    "Pool": "rankcell.model.pools",
    "collate": "rankcell.model.batches",
    "open_checkpoint": "rankcell.model.checkpoint",
    "plan_batches": "rankcell.model.batches",
}
__getattr__, __dir__ = door(__name__, _PLACES)
