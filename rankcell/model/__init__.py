"""Checkpoints, the encoder, and batches. The only room that imports transformers and chooses a device."""

from rankcell.model.batches import Batch, Packed, collate, plan_batches
from rankcell.model.checkpoint import Checkpoint, open_checkpoint
from rankcell.model.encoder import Encoder

__all__ = ["Batch", "Checkpoint", "Encoder", "Packed", "collate", "open_checkpoint", "plan_batches"]
