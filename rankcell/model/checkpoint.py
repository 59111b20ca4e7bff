"""Checkpoint: weights + config + vocabulary in one folder; a bare one (Geneformer's) is completed by a vocabulary."""

import dataclasses
import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from rankcell.errors import ModelError, VocabularyError
from rankcell.hub import parse_name
from rankcell.model.download import CONFIG, VOCABULARY, download_checkpoint
from rankcell.model.weights import WEIGHTS, find_weight_files, refuse_adapter
from rankcell.tokens.spec import TokenSpec
from rankcell.vocab import Vocabulary, find_vocabulary
from rankcell.vocab.recipes import recognize_weights
from rankcell.wording import note

_PADDING = 128  # some models round their number of tokens up
_NEEDED = {"num_hidden_layers": int, "hidden_size": int, "max_position_embeddings": int, "vocab_size": int, "model_type": str}
_OFFSET = ("roberta", "xlm-roberta", "camembert")  # their first token stands at position pad + 1
_READ = ("bert", "electra", *_OFFSET)


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
        """How many tokens a row may have."""
        positions = int(self.config["max_position_embeddings"])
        if self.config["model_type"] not in _OFFSET:
            return positions
        pad = self.config.get("pad_token_id")
        return positions - (1 if pad is None else int(pad)) - 1

    @property
    def max_len(self) -> int:
        """The longest row that both the vocabulary and the positions allow."""
        return min(self.vocab.max_len, self.max_positions)

    @functools.cached_property
    def weight_files(self) -> list[Path]:
        """The files that are read: safetensors where there are any, else pickled tensors; ModelError when there are none."""
        return find_weight_files(self.folder)

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
            note(
                f"layer {layer} of model '{self.name}', which has one block, is its embedding layer, where no token has "
                "seen another: -1 is the output of the last block, 0 says the embedding layer without this note"
            )
        return layer if layer >= 0 else n + 1 + layer

    def require(self, spec: TokenSpec, longest: int) -> None:
        """Raise unless rows of `spec`, the longest of `longest` tokens, belong to this model."""
        from rankcell.errors import TokensError

        where = self.folder / VOCABULARY
        spec.require(self.vocab, what=f"the model '{self.name}'", again=str(where) if where.is_dir() and self.name != "demo" else None)
        if longest > self.max_positions:
            raise TokensError(
                f"rows have up to {longest:,} tokens, but model '{self.name}' has {self.max_positions:,} positions: "
                f"tokenize again with --max-len {self.max_positions}"
            )


def demo_folder() -> Path:
    """The folder of the checkpoint that ships with the package."""
    return Path(__file__).resolve().parent.parent / "checkpoints" / "demo"


def open_checkpoint(model: str | os.PathLike | Checkpoint, *, vocab: str | os.PathLike | Vocabulary | None = None) -> Checkpoint:
    """Look at a checkpoint: a folder, `demo`, or a hub name.

    model
        A hub name is `owner/repo` or `owner/repo/sub/folder`, either with `@revision`, of which no folder stands here. It is
        downloaded into the cache of huggingface_hub, once.
    vocab
        A checkpoint without a vocabulary needs it; one that has its own refuses another.

    Raises ModelError when a part is missing or unreadable or the model is of a kind that is not read, VocabularyError when
    vocabularies disagree or do not fit the model, InputError when a download fails.
    """
    if isinstance(model, Checkpoint):
        return model
    if not isinstance(model, (str, os.PathLike)) or not str(model):
        raise ModelError(f"model is {model!r}; a checkpoint folder, a hub name (owner/repo/folder), or demo")
    name, folder = _locate(model)
    config = _config(folder)
    _require_kind(config, name)
    own = Vocabulary.load(folder / VOCABULARY) if (folder / VOCABULARY).is_dir() else None
    given = find_vocabulary(vocab) if vocab is not None else None
    if own is None and given is None:
        raise ModelError(f"checkpoint '{name}' carries no vocabulary: pass it with --vocab{_known(folder)}")
    if own is not None and given is not None and own != given:
        raise VocabularyError(
            f"checkpoint '{name}' carries vocabulary '{own.name}' ({own.hash[:12]}), but --vocab is '{given.name}' ({given.hash[:12]}): "
            "leave out --vocab, or choose the model that belongs to it"
        )
    _require_vocabulary(config, name, own or given, is_own=own is not None)
    return Checkpoint(name, folder, config, own or given)


def _locate(model: str | os.PathLike) -> tuple[str, Path]:
    """The checkpoint's name and its folder."""
    folder = Path(model)
    if str(model) == "demo" and not folder.is_dir():
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


def _known(folder: Path) -> str:
    """What to say of the vocabulary when the weights are those of a published model."""
    weights = folder / WEIGHTS
    found = recognize_weights(weights) if weights.is_file() else None
    return f"; it is {found.name}: --vocab {found.recipe} (rankcell vocab fetch {found.recipe} brings it)" if found else ""


def _config(folder: Path) -> dict[str, Any]:
    refuse_adapter(folder)
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ModelError(f"{folder} is not a checkpoint: it has no {CONFIG}") from None
    except (OSError, ValueError) as e:
        raise ModelError(f"{path} cannot be read: {e}") from e
    config = config if isinstance(config, dict) else {}
    lacking = [k for k, kind in _NEEDED.items() if not isinstance(config.get(k), kind)]
    if lacking:
        raise ModelError(f"{path} does not say {', '.join(lacking)}: only encoder models with learned positions (BERT) are read")
    return config


def _require_kind(config: dict[str, Any], name: str) -> None:
    """ModelError unless the config is of an encoder built like BERT, with absolute learned positions."""
    positions = config.get("position_embedding_type") or "absolute"
    if config["model_type"] not in _READ:
        raise ModelError(_unread(config["model_type"], name))
    if positions != "absolute":
        raise ModelError(f"model '{name}' has {positions} positions (position_embedding_type in its {CONFIG}): only absolute ones are read")
    if config.get("is_decoder"):
        raise ModelError(f"model '{name}' is a decoder (is_decoder in its {CONFIG}), whose tokens see only earlier ones: encoders are read")


def _unread(kind: str, name: str) -> str:
    """Why a model_type is not read, as far as transformers knows it."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    read = f"only {', '.join(_READ)} are read"
    if kind not in CONFIG_MAPPING_NAMES:
        return f"model '{name}' has an unknown model_type '{kind}': {read}"
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return f"no encoder built like BERT can be made from the config of model '{name}', a {kind}: {read}"
    return f"model '{name}' is a {kind}: only encoders built like BERT are read ({', '.join(_READ)})"


def _require_vocabulary(config: dict[str, Any], name: str, vocab: Vocabulary, *, is_own: bool) -> None:
    """VocabularyError unless the model has a row for each token, not many more, and the same padding token."""
    known, pad = int(config["vocab_size"]), config.get("pad_token_id")
    if vocab.n_ids > known:
        raise VocabularyError(
            f"vocabulary '{vocab.name}' has tokens up to {vocab.n_ids - 1}, but model '{name}' knows {known} tokens: they do not belong together"
        )
    if not is_own and known - vocab.n_ids >= _PADDING:
        raise VocabularyError(
            f"model '{name}' knows {known} tokens, but vocabulary '{vocab.name}' has tokens up to {vocab.n_ids - 1}: "
            "they do not belong together; give the vocabulary that the model was trained with"
        )
    if pad is not None and pad != vocab.pad:
        raise VocabularyError(
            f"model '{name}' has padding token {pad} (pad_token_id in its {CONFIG}), but that of vocabulary '{vocab.name}' is {vocab.pad}: "
            "they do not belong together"
        )
