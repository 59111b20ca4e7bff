"""The untrained twin of a checkpoint: its shape with random weights, to tell what is due to training."""

import os
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel

from rankcell.model.bert_config import shape_of
from rankcell.model.checkpoint import Checkpoint
from rankcell.model.heads import save_masked_lm


def random_twin(checkpoint: Checkpoint, folder: str | os.PathLike, *, seed: int = 0) -> Checkpoint:
    """A checkpoint in the new folder `folder`: the same config and vocabulary, weights as transformers initialises them from `seed`."""
    folder = Path(folder)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs too
        model = AutoModel.from_config(AutoConfig.for_model(**shape_of(checkpoint.config)))
    save_masked_lm(model.float(), folder, checkpoint.vocab)
    return Checkpoint(f"{checkpoint.name} (random weights, seed {seed})", folder, checkpoint.config, checkpoint.vocab)
