"""Checkpoint: weights + config + vocabulary in one folder; a bare one (Geneformer's) is completed by a vocabulary."""

import dataclasses
import functools
import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

from rankcell.errors import ModelError, RankcellWarning, VocabularyError
from rankcell.tokens.spec import TokenSpec
from rankcell.vocab import Vocabulary, find_vocabulary

CONFIG, WEIGHTS, VOCABULARY = "config.json", "model.safetensors", "vocabulary"
_INDEX = "model.safetensors.index.json"
_PADDING = 128  # some models round their number of tokens up
_NEEDED = {"num_hidden_layers": int, "hidden_size": int, "max_position_embeddings": int, "vocab_size": int, "model_type": str}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model folder that was looked at but not loaded: `name`, `folder`, `config` (plain dict) and its Vocabulary."""

    name: str
    folder: Path
    config: dict[str, Any]
    vocab: Vocabulary

    @property
    def n_layers(self) -> int:
        return int(self.config["num_hidden_layers"])

    @property
    def width(self) -> int:
        return int(self.config["hidden_size"])

    @property
    def max_positions(self) -> int:
        return int(self.config["max_position_embeddings"])

    @property
    def max_len(self) -> int:
        """The longest row that both the vocabulary and the positions allow."""
        return min(self.vocab.max_len, self.max_positions)

    @functools.cached_property
    def weight_files(self) -> list[Path]:
        """The safetensors files; ModelError when there are none."""
        index = self.folder / _INDEX
        if (self.folder / WEIGHTS).exists():
            return [self.folder / WEIGHTS]
        if index.exists():
            return _indexed_files(index)
        extra = "; pickled weights (pytorch_model.bin) are not read: save them with safe_serialization=True"
        raise ModelError(f"{self.folder} has no {WEIGHTS}{extra if (self.folder / 'pytorch_model.bin').exists() else ''}")

    @functools.cached_property
    def hash(self) -> str:
        """sha256 of the weights and what of the config shapes the model; the folder's place and name do not count."""
        h = hashlib.sha256(json.dumps({k: v for k, v in sorted(self.config.items()) if not k.startswith("_")}, sort_keys=True).encode())
        for path in self.weight_files:
            with open(path, "rb") as f:
                h.update(hashlib.file_digest(f, "sha256").digest())
        return h.hexdigest()

    def resolve_layer(self, layer: int) -> int:
        """The number of blocks to run for `layer` as typed (-1 the last block's output, 0 the embedding layer's)."""
        from rankcell.errors import SettingsError

        n = self.n_layers
        if not -n - 1 <= layer <= n:
            raise SettingsError(
                f"layer {layer} is out of range: model '{self.name}' has {n} blocks, so layers {-n - 1} to {n} (0: embedding layer)"
            )
        if n == 1 and layer == -2:  # the default, which means the block before the last
            warnings.warn(
                f"layer {layer} of model '{self.name}', which has one block, is its embedding layer, where no token has "
                "seen another: -1 is the output of the last block, 0 says the embedding layer without this note",
                RankcellWarning,
                stacklevel=3,
            )
        return layer if layer >= 0 else n + 1 + layer

    def require(self, spec: TokenSpec, longest: int) -> None:
        """Raise unless rows of `spec`, the longest of `longest` tokens, belong to this model."""
        from rankcell.errors import TokensError

        spec.require(self.vocab, what=f"the model '{self.name}'")
        if longest > self.max_positions:
            raise TokensError(
                f"rows have up to {longest:,} tokens, but model '{self.name}' has {self.max_positions:,} positions: "
                f"tokenize again with --max-len {self.max_positions}"
            )


def demo_folder() -> Path:
    """The folder of the checkpoint that ships with the package."""
    return Path(__file__).resolve().parent.parent / "checkpoints" / "demo"


def open_checkpoint(model: str | os.PathLike | Checkpoint, *, vocab: str | os.PathLike | Vocabulary | None = None) -> Checkpoint:
    """Look at a checkpoint folder, or `demo`.

    A folder without a vocabulary needs `vocab`; one that has its own refuses another. Raises ModelError when a part
    is missing or unreadable, VocabularyError when vocabularies disagree or do not fit the model.
    """
    if isinstance(model, Checkpoint):
        return model
    is_demo = str(model) == "demo" and not Path("demo").is_dir()
    folder = demo_folder() if is_demo else Path(model)
    if not folder.is_dir():
        raise ModelError(f"no checkpoint folder '{model}': give a folder with {CONFIG} and {WEIGHTS}, or 'demo'")
    name = "demo" if is_demo else folder.resolve().name
    config = _config(folder)
    own = Vocabulary.load(folder / VOCABULARY) if (folder / VOCABULARY).is_dir() else None
    given = find_vocabulary(vocab) if vocab is not None else None
    if own is None and given is None:
        raise ModelError(f"checkpoint '{name}' carries no vocabulary: pass it with --vocab")
    if own is not None and given is not None and own != given:
        raise VocabularyError(
            f"checkpoint '{name}' carries vocabulary '{own.name}' ({own.hash[:12]}), but --vocab is '{given.name}' ({given.hash[:12]}): "
            "leave out --vocab, or choose the model that belongs to it"
        )
    chosen = own or given
    if chosen.n_ids > int(config["vocab_size"]):
        raise VocabularyError(
            f"vocabulary '{chosen.name}' has tokens up to {chosen.n_ids - 1}, but model '{name}' knows {config['vocab_size']} tokens: they do not belong together"
        )
    if own is None and int(config["vocab_size"]) - chosen.n_ids >= _PADDING:
        raise VocabularyError(
            f"model '{name}' knows {config['vocab_size']} tokens, but vocabulary '{chosen.name}' has tokens up to {chosen.n_ids - 1}: "
            "they do not belong together; give the vocabulary that the model was trained with"
        )
    return Checkpoint(name, folder, config, chosen)


def _indexed_files(index: Path) -> list[Path]:
    """The files of a checkpoint in parts, all there."""
    try:
        files = [index.parent / f for f in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise ModelError(f"{index} cannot be read: {e}") from e
    for file in files:
        if not file.exists():
            raise ModelError(f"{file} is not there, though {index.name} names it")
    return files


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelError(f"{folder} is not a checkpoint: it has no {CONFIG}") from None
    except ValueError as e:
        raise ModelError(f"{path} cannot be read: {e}") from e
    config = config if isinstance(config, dict) else {}
    lacking = [k for k, kind in _NEEDED.items() if not isinstance(config.get(k), kind)]
    if lacking:
        raise ModelError(f"{path} does not say {', '.join(lacking)}: only encoder models with learned positions (BERT) are read")
    return config
