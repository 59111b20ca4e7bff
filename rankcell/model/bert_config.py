"""config.json of a checkpoint: read, its values checked for type and range, and what of it shapes the encoder."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankcell.errors import ModelError
from rankcell.wording import shortened

CONFIG = "config.json"
NEEDED = ("num_hidden_layers", "hidden_size", "max_position_embeddings", "vocab_size", "model_type")
OFFSET = ("roberta", "xlm-roberta", "camembert")  # their first token stands at position pad + 1
_READ = ("bert", "electra", *OFFSET)
_HEADS = 12  # num_attention_heads of a config that does not say it
_PLAIN_ACTIVATIONS = ("relu", "gelu", "gelu_new", "silu", "tanh")
_LARGEST = 1_000_000


@dataclass(frozen=True)
class _Rule:
    """What the value of a key has to be."""

    expected: str
    is_met: Callable[[Any], bool]


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _integer(low: int, high: int) -> _Rule:
    return _Rule(f"a whole number from {low:,} to {high:,}", lambda v: _is_integer(v) and low <= v <= high)


def _maybe(rule: _Rule) -> _Rule:
    return _Rule(f"{rule.expected}, or null", lambda v: v is None or rule.is_met(v))


_TEXT = _Rule("a name", lambda v: isinstance(v, str) and v.isprintable() and 0 < len(v) <= 100)
_FLAG = _Rule("true or false", lambda v: isinstance(v, bool))
_SHARE = _Rule("a number from 0 to 1", lambda v: _is_number(v) and 0 <= v <= 1)
_TOKEN = _maybe(_integer(0, 100 * _LARGEST))
_TOKENS = _Rule("a token number, a list of them, or null", lambda v: _TOKEN.is_met(v) or (isinstance(v, list) and all(map(_is_integer, v))))
_SHAPE = {  # keys that the encoder is built from
    "model_type": _TEXT,
    "num_hidden_layers": _integer(1, 1_000),
    "hidden_size": _integer(1, 100_000),
    "embedding_size": _integer(1, 100_000),
    "num_attention_heads": _integer(1, 10_000),
    "intermediate_size": _integer(1, _LARGEST),
    "max_position_embeddings": _integer(1, 10 * _LARGEST),
    "vocab_size": _integer(1, 100 * _LARGEST),
    "type_vocab_size": _integer(1, _LARGEST),
    "layer_norm_eps": _Rule("a number from 0 to 1", lambda v: _is_number(v) and 0 <= v <= 1),
    "hidden_act": _TEXT,
    "hidden_dropout_prob": _SHARE,
    "attention_probs_dropout_prob": _SHARE,
    "initializer_range": _Rule("a number of at least 0", lambda v: _is_number(v) and v >= 0),
    "pad_token_id": _TOKEN,
}
_OTHER = {
    "position_embedding_type": _maybe(_TEXT),
    "is_decoder": _maybe(_FLAG),
    "dtype": _maybe(_TEXT),
    "torch_dtype": _maybe(_TEXT),
    **dict.fromkeys(("bos_token_id", "cls_token_id", "eos_token_id", "sep_token_id", "mask_token_id"), _TOKENS),
}


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """The config of the checkpoint `name` in `folder`. ModelError names the file, the key and its value where one cannot be."""
    path = folder / CONFIG
    config = read_json_object(path, missing=f"{folder} is not a checkpoint: it has no {CONFIG}")
    lacking = [key for key in NEEDED if config.get(key) is None]
    if lacking:
        raise ModelError(f"{path} does not say {', '.join(lacking)}: only encoder models with learned positions (BERT) are read")
    for key, rule in (_SHAPE | _OTHER).items():
        if key in config and not rule.is_met(config[key]):
            raise ModelError(f"{path}: {key} is {shortened(config[key])}; expected {rule.expected}")
    _require_kind(config, name)
    _require_together(config, path)
    return config


def read_json_object(path: Path, *, missing: str) -> dict[str, Any]:
    """The JSON object in a file of a checkpoint. ModelError, with the text `missing` where there is no such file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ModelError(missing) from None
    except (OSError, ValueError, RecursionError) as e:
        raise ModelError(f"{path} cannot be read: {' '.join(str(e).split())[:200]}") from e
    if not isinstance(value, dict):
        raise ModelError(f'{path} holds {shortened(value)}; expected a JSON object {{"key": value, ...}}')
    return value


def shape_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config builds the encoder; nothing else is given to transformers (`auto_map`, `quantization_config`, ...)."""
    return {key: config[key] for key in _SHAPE if key in config}


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


def _require_together(config: dict[str, Any], path: Path) -> None:
    """ModelError where values that are possible one by one contradict each other, or name an activation that is not known."""
    width, heads = config["hidden_size"], config.get("num_attention_heads", _HEADS)
    pad = config.get("pad_token_id")
    if width % heads:
        raise ModelError(f"{path}: hidden_size is {width:,}, which is not a multiple of num_attention_heads, {heads}")
    if pad is not None and pad >= config["vocab_size"]:
        raise ModelError(f"{path}: pad_token_id is {pad:,}, but vocab_size is {config['vocab_size']:,}: there is no such token")
    if max_positions(config) < 1:
        raise ModelError(
            f"{path}: max_position_embeddings is {config['max_position_embeddings']}, of which no position is left for a token"
        )
    require_activation(config.get("hidden_act", "gelu"), f"{path}: hidden_act is")


def require_activation(activation: str, described: str) -> None:
    """ModelError unless transformers knows the activation; `described` begins the message."""
    if activation in _PLAIN_ACTIVATIONS:
        return
    from transformers.activations import ACT2FN

    if activation not in ACT2FN:
        raise ModelError(
            f"{described} {shortened(activation)}, which transformers does not know; one of {', '.join(_PLAIN_ACTIVATIONS)}, ..."
        )


def max_positions(config: Mapping[str, Any]) -> int:
    """How many tokens a row may have."""
    positions, pad = config["max_position_embeddings"], config.get("pad_token_id")
    if config["model_type"] not in OFFSET:
        return positions
    return positions - (1 if pad is None else pad) - 1
