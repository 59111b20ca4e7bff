"""Masked-language models: a new one, one from a checkpoint, and saving one with its vocabulary."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM
from transformers.utils import logging

from rankcell.errors import SettingsError
from rankcell.model.bert_config import CONFIG, require_activation
from rankcell.model.checkpoint import VOCABULARY, Checkpoint
from rankcell.model.seal import SEAL, write_seal
from rankcell.model.weight_files import INDEX, WEIGHTS
from rankcell.store import inside
from rankcell.vocab import Vocabulary
from rankcell.vocab.folder import FILES
from rankcell.wording import option

_SHARDS = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
CHECKPOINT_FILES = (  # all that save_masked_lm writes
    *(CONFIG, "generation_config.json", WEIGHTS, f"{WEIGHTS}{INDEX}", _SHARDS, SEAL),
    *inside(VOCABULARY, FILES),
)


def new_masked_lm(
    vocab: Vocabulary, *, layers: int, width: int, heads: int, intermediate: int, positions: int, dropout: float, activation: str
) -> Any:
    """A BertForMaskedLM of this shape with random weights, drawn from torch's generator."""
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
    _ = checkpoint.weight_hashes  # the files are the ones that were saved
    with _quiet():
        return AutoModelForMaskedLM.from_pretrained(checkpoint.folder, attn_implementation="sdpa", trust_remote_code=False).float()


def save_masked_lm(model: Any, folder: Path, vocab: Vocabulary) -> None:
    """Write weights (safetensors) with their sha256, config and vocabulary into a new folder."""
    with _quiet():
        model.save_pretrained(folder)
    write_seal(folder, sorted(folder.glob("*.safetensors")))
    vocab.save(folder / VOCABULARY)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own messages and bars."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
