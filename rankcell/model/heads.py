"""Masked-language models: a new one, one from a checkpoint, and saving one with its vocabulary."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rankcell.errors import SettingsError
from rankcell.model.checkpoint import VOCABULARY, Checkpoint
from rankcell.model.config import require_activation
from rankcell.model.seal import write_seal
from rankcell.vocab import Vocabulary
from rankcell.wording import option


def new_masked_lm(
    vocab: Vocabulary, *, layers: int, width: int, heads: int, intermediate: int, positions: int, dropout: float, activation: str = "relu"
) -> Any:
    """A BertForMaskedLM of this shape with random weights, drawn from torch's generator."""
    from transformers import BertConfig, BertForMaskedLM

    if width % heads:
        raise SettingsError(f"width {width} is not a multiple of {heads} heads")
    require_activation(activation, f"{option('activation')} is")
    config = BertConfig(
        vocab_size=vocab.n_ids,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        max_position_embeddings=positions,
        type_vocab_size=1,
        hidden_act=activation,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        pad_token_id=vocab.pad,
        attn_implementation="sdpa",
    )
    return BertForMaskedLM(config)


def load_masked_lm(checkpoint: Checkpoint) -> Any:
    """The checkpoint with its language-model head, in float32 on the CPU."""
    from transformers import AutoModelForMaskedLM

    _ = checkpoint.weight_hashes  # the files are the ones that were saved
    with _quiet():
        return AutoModelForMaskedLM.from_pretrained(checkpoint.folder, attn_implementation="sdpa", trust_remote_code=False).float()


def save_masked_lm(model: Any, folder: Path, vocab: Vocabulary) -> None:
    """Write weights (safetensors) with their sha256, config and vocabulary into a new folder."""
    with _quiet():
        model.save_pretrained(folder)
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        file.chmod(0o644)  # safetensors writes files that only their owner can read
    write_seal(folder, files)
    vocab.save(folder / VOCABULARY)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own messages and bars."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
