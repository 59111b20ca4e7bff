"""Checkpoint: weights + config + vocabulary in one folder; a bare one (Geneformer's) is completed by a vocabulary."""

import dataclasses
import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from rankcell.errors import ModelError, SettingsError, TokensError, VocabularyError
from rankcell.hub import parse_name, sha256_of
from rankcell.model.bert_config import CONFIG, max_positions, read_config
from rankcell.model.download import VOCABULARY, download_checkpoint
from rankcell.model.fit import require_fit, series_of
from rankcell.model.seal import Seal, read_seal, require_intact
from rankcell.model.weight_files import WEIGHTS, find_weight_files, refuse_adapter
from rankcell.tokens.spec import TokenSpec
from rankcell.vocab import Vocabulary, find_vocabulary
from rankcell.vocab.recipes import recognize_weights
from rankcell.wording import command, note, option

MODEL_FORMS = "a checkpoint folder, a name on the Hugging Face hub (OWNER/REPO/FOLDER), or 'demo'"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model folder that was looked at but not loaded.

    name, folder, config, vocab
        What it is called, its folder, its config (plain dict), and its Vocabulary.
    source
        How it was named: a folder, a hub name, `demo`.
    vocab_mismatch
        In what it and its vocabulary differ, where that was let pass.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    vocab: Vocabulary
    source: str = ""
    vocab_mismatch: str | None = None

    @property
    def n_layers(self) -> int:
        return int(self.config["num_hidden_layers"])

    @property
    def width(self) -> int:
        return int(self.config["hidden_size"])

    @property
    def max_positions(self) -> int:
        """How many tokens a row may have."""
        return max_positions(self.config)

    @property
    def max_len(self) -> int:
        """The longest row that both the vocabulary and the positions allow."""
        return min(self.vocab.max_len, self.max_positions)

    @functools.cached_property
    def weight_files(self) -> list[Path]:
        """The files that are read: safetensors where there are any, else pickled tensors; ModelError when there are none."""
        return find_weight_files(self.folder)

    @functools.cached_property
    def seal(self) -> Seal | None:
        """What a checkpoint made here says of itself."""
        return read_seal(self.folder)

    @functools.cached_property
    def weight_hashes(self) -> dict[str, str]:
        """File -> sha256 of its content. ModelError when one is not what the checkpoint was saved with."""
        hashes = {path.name: sha256_of(path) for path in self.weight_files}
        require_intact(self.seal, self.folder, hashes)
        return hashes

    @functools.cached_property
    def hash(self) -> str:
        """sha256 of the weights and what of the config shapes the model; the folder's place and name do not count."""
        h = hashlib.sha256(json.dumps({k: v for k, v in sorted(self.config.items()) if not k.startswith("_")}, sort_keys=True).encode())
        for digest in self.weight_hashes.values():
            h.update(bytes.fromhex(digest))
        return h.hexdigest()

    @property
    def remarks(self) -> dict[str, str]:
        """What every result of the model is to say of it: `model_note`, `vocab_mismatch`, as far as there is something to say."""
        remarks = {"model_note": self.seal.note if self.seal else "", "vocab_mismatch": self.vocab_mismatch}
        return {key: text for key, text in remarks.items() if text}

    def resolve_layer(self, layer: int) -> int:
        """The number of blocks to run for `layer` as typed (-1 the last block's output, 0 the embedding layer's)."""
        n = self.n_layers
        if not -n - 1 <= layer <= n:
            raise SettingsError(
                f"layer {layer} is out of range: model '{self.name}' has {n} blocks, so layers {-n - 1} to {n} (0: embedding layer)"
            )
        noted = self.__dict__.setdefault("_noted", set())  # a run asks more than once
        if n == 1 and layer == -2 and layer not in noted:  # the default, which means the block before the last
            noted.add(layer)
            note(
                f"layer {layer} of model '{self.name}', which has one block, is its embedding layer, where no token has "
                "seen another: -1 is the output of the last block, 0 says the embedding layer without this note"
            )
        return layer if layer >= 0 else n + 1 + layer

    def require(self, spec: TokenSpec, longest: int) -> None:
        """Raise unless rows of `spec`, the longest of `longest` tokens, belong to this model."""
        where = self.folder / VOCABULARY
        spec.require(self.vocab, owner=f"the model '{self.name}'", again=str(where) if where.is_dir() and self.name != "demo" else None)
        if longest > self.max_positions:
            raise TokensError(
                f"rows have up to {longest:,} tokens, but model '{self.name}' has {self.max_positions:,} positions: "
                f"tokenize again with {option('max_len', self.max_positions)}"
            )


def demo_folder() -> Path:
    """The folder of the checkpoint that ships with the package."""
    return Path(__file__).resolve().parent.parent / "checkpoints" / "demo"


def open_checkpoint(
    model: str | os.PathLike | Checkpoint | None,
    *,
    vocab: str | os.PathLike | Vocabulary | None = None,
    vocab_mismatch_ok: bool = False,
) -> Checkpoint:
    """Look at a checkpoint: a folder, `demo`, or a hub name.

    model
        A hub name is `owner/repo` or `owner/repo/sub/folder`, either with `@revision`, of which no folder stands here. It is
        downloaded into the cache of huggingface_hub, once.
    vocab
        A checkpoint without a vocabulary needs it; one that has its own refuses another.
    vocab_mismatch_ok
        Take a vocabulary with fewer tokens than the model has, or with other special tokens than its files say.

    Raises ModelError when a part is missing or unreadable or the model is of a kind that is not read, VocabularyError when
    vocabularies disagree or do not fit the model, InputError when a download fails.
    """
    if isinstance(model, Checkpoint):
        return model
    if model is None:
        raise ModelError(f"no model was named: {option('model', placeholder='MODEL')} takes {MODEL_FORMS} ({read_seal(demo_folder()).note})")
    if not isinstance(model, (str, os.PathLike)) or not str(model):
        raise ModelError(f"model is {model!r}; expected {MODEL_FORMS}")
    name, folder = _locate(model)
    refuse_adapter(folder)
    config = read_config(folder, name)
    own = Vocabulary.load(folder / VOCABULARY) if (folder / VOCABULARY).is_dir() else None
    provided = find_vocabulary(vocab) if vocab is not None else None
    if own is None and provided is None:
        raise ModelError(f"checkpoint '{name}' carries no vocabulary: {_which_vocabulary(config, folder, name)}")
    if own is not None and provided is not None and own != provided:
        raise VocabularyError(
            f"checkpoint '{name}' carries vocabulary '{own.name}' ({own.hash[:12]}), but {option('vocab')} is "
            f"'{provided.name}' ({provided.hash[:12]}): leave out {option('vocab')}, or choose the model that belongs to it"
        )
    mismatch = require_fit(config, folder, name, own or provided, mismatch_ok=vocab_mismatch_ok)
    return Checkpoint(name, folder, config, own or provided, str(model), mismatch)


def _locate(model: str | os.PathLike) -> tuple[str, Path]:
    """The checkpoint's name and its folder."""
    folder = Path(model)
    if str(model) == "demo" and not (folder / CONFIG).is_file():  # `rankcell demo` makes a folder of this name, without a model
        return "demo", demo_folder()
    if folder.is_dir():
        return folder.resolve().name, folder
    hub_name = parse_name(model) if isinstance(model, str) else None
    if hub_name is None or os.path.lexists(folder.parts[0]):  # a slip in the name of a folder is not asked of the hub
        raise ModelError(
            f"no checkpoint folder '{model}': give a folder with {CONFIG} and {WEIGHTS}, or 'demo', or a name on the Hugging Face hub "
            "such as ctheodoris/Geneformer/Geneformer-V2-104M (owner/repository/folder, @revision may follow)"
        )
    return hub_name.name, download_checkpoint(hub_name)


def _which_vocabulary(config: dict[str, Any], folder: Path, name: str) -> str:
    """What to pass as the vocabulary of a bare model: that of the published one that its weights, size or name tell."""
    weights = folder / WEIGHTS
    published = recognize_weights(weights) if weights.is_file() else None
    series = series_of(config, folder, name)
    if published is None and series is None:
        return (
            f"pass {option('vocab', placeholder='FOLDER')}, the one that it was trained with ({command('vocab fetch')} brings Geneformer's, "
            f"{command('vocab import')} makes one of dictionary pickles)"
        )
    if published is not None:
        recipe, known = published.recipe, f"it is {published.name}"
    else:
        recipe, known = series[0].recipe, f"by {series[1]} it looks like {series[0].title}"
    return f"{known}: pass {option('vocab', recipe)} ({command('vocab fetch', recipe)} brings it)"
