"""Whether a model and a vocabulary belong together: as many tokens, and the same special tokens wherever the model's files say them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rankcell.errors import VocabularyError
from rankcell.model.bert_config import CONFIG, OFFSET
from rankcell.vocab import Vocabulary
from rankcell.vocab.recipes import PublishedSeries, published_series
from rankcell.vocab.vocabulary import CLS, EOS, MASK, PAD
from rankcell.wording import command, offers, option

_MULTIPLES = (8, 16, 32, 64, 128)  # to which programs round a number of tokens up
_ROLES = {  # special token -> what config.json and tokenizer files call it, the more telling name first
    PAD: ("pad",),
    MASK: ("mask",),
    CLS: ("cls", "bos"),
    EOS: ("eos", "sep"),
}
_BY_DEFAULT = {"bos_token_id": 0, "eos_token_id": 2}  # in any config of the roberta family, whatever its tokens are
_LARGEST = 2**25  # bytes of a tokenizer file
_ROLE_FILES = ("special_tokens_map.json", "tokenizer_config.json")


def require_fit(config: Mapping[str, Any], folder: Path, name: str, vocab: Vocabulary, *, mismatch_ok: bool = False) -> str | None:
    """VocabularyError unless the model has one row for each token of `vocab`, and the special tokens that its files say.

    mismatch_ok
        Let differences pass that do not make it impossible to run; returns them in a sentence then, and otherwise None.
    """
    n_ids, known = vocab.n_ids, config["vocab_size"]
    remedy = _remedy(config, folder, name, vocab)
    if n_ids > known:
        raise VocabularyError(
            f"vocabulary '{vocab.name}' has {n_ids:,} tokens, but model '{name}' has {known:,} (vocab_size in its {CONFIG}): "
            f"they do not belong together; {remedy}"
        )
    differences = [*_other_number(known, n_ids), *_other_special(config, folder, vocab)]
    if not differences:
        return None
    text = f"model '{name}' and vocabulary '{vocab.name}' differ: {'; '.join(differences)}"
    if mismatch_ok:
        return text
    unless = f", or pass {option('vocab_mismatch_ok', True)} if you know that they do" if offers("vocab_mismatch_ok") else ""
    raise VocabularyError(f"{text}: do they belong together? {remedy}{unless}")


def _other_number(known: int, n_ids: int) -> list[str]:
    if known == n_ids:
        return []
    multiple = max((m for m in _MULTIPLES if known % m == 0 and known - n_ids < m), default=0)
    padded = f" ({known:,} is {n_ids:,} rounded up to a multiple of {multiple}, as some training programs do)" if multiple else ""
    return [f"the model has {known:,} tokens (vocab_size in its {CONFIG}), the vocabulary {n_ids:,}{padded}"]


def _other_special(config: Mapping[str, Any], folder: Path, vocab: Vocabulary) -> Iterator[str]:
    """Special tokens that the model's files give another number than the vocabulary does."""
    stated = _special_in_tokenizer(folder) | _special_in_config(config)
    for special, (token, where) in stated.items():
        if vocab.special.get(special) != token:
            own = (
                f"is {vocab.special[special]}"
                if special in vocab.special
                else f"is not there (token {token} is {vocab.describe_token(token)})"
            )
            yield f"{special} is token {token} of the model ({where}), and in the vocabulary it {own}"


def _special_in_config(config: Mapping[str, Any]) -> dict[str, tuple[int, str]]:
    """{special token: (its number, key and file)}."""
    special_tokens = {}
    for special, roles in _ROLES.items():
        for role in roles:
            key = f"{role}_token_id"
            value = config.get(key)
            silent = config["model_type"] in OFFSET and _BY_DEFAULT.get(key) == value
            if isinstance(value, int) and not silent:
                special_tokens[special] = (value, f"{key} in its {CONFIG}")
                break
    return special_tokens


def _special_in_tokenizer(folder: Path) -> dict[str, tuple[int, str]]:
    """The same, of the files that transformers writes for a tokenizer; what of these cannot be read says nothing."""
    texts = {}
    for file in _ROLE_FILES:
        texts |= {role: (_content(value), file) for role, value in _object(folder / file).items() if _content(value)}
    numbers = _token_numbers(folder)
    special_tokens = {}
    for special, roles in _ROLES.items():
        for role in roles:
            text, file = texts.get(f"{role}_token", ("", ""))
            if text in numbers:
                special_tokens[special] = (numbers[text], f"{role}_token {text} in its {file}")
                break
    return special_tokens


def _token_numbers(folder: Path) -> dict[str, int]:
    """Text of a token -> its number, as far as the tokenizer's files say it."""
    tokenizer, config = _object(folder / "tokenizer.json"), _object(folder / "tokenizer_config.json")
    numbers: dict[Any, Any] = dict(_object(folder / "vocab.json"))
    model = tokenizer.get("model")
    numbers |= model.get("vocab") if isinstance(model, dict) and isinstance(model.get("vocab"), dict) else {}
    added = tokenizer.get("added_tokens")
    numbers |= {t.get("content"): t.get("id") for t in added if isinstance(t, dict)} if isinstance(added, list) else {}
    decoder = config.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        numbers |= {_content(value): int(number) for number, value in decoder.items() if str(number).isdecimal()}
    numbers |= _object(folder / "added_tokens.json")
    return {text: n for text, n in numbers.items() if isinstance(text, str) and isinstance(n, int) and not isinstance(n, bool)}


def _content(value: Any) -> str:
    """The text of a token, which stands there as it is or in an object."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else ""


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig")) if path.stat().st_size <= _LARGEST else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


# Which published model it may be


def series_of(config: Mapping[str, Any], folder: Path, name: str) -> tuple[PublishedSeries, str] | None:
    """The published series that a model belongs to by its number of tokens or by the names that it goes by, and by which; or None."""
    every = published_series()
    names = [str(config.get("_name_or_path") or ""), folder.resolve().name, name]
    for series in every:
        if config["vocab_size"] == series.n_tokens:
            return series, f"{series.n_tokens:,} tokens"
    for series in every:
        matching_name = next((part for part in series.names for n in names if part.lower() in n.lower()), None)
        if matching_name is not None:
            return series, f"the name {matching_name}"
    return None


def _remedy(config: Mapping[str, Any], folder: Path, name: str, vocab: Vocabulary) -> str:
    recognised = series_of(config, folder, name)
    if recognised is None:
        return "give the vocabulary that the model was trained with"
    series, by = recognised
    if vocab.n_ids == series.n_tokens and config["vocab_size"] != series.n_tokens:
        return f"the vocabulary is as large as that of {series.title}, as which {by} names the model, but its {CONFIG} or weights are not {series.title}'s"
    return (
        f"{by}: {series.title}, whose vocabulary is {series.recipe}, of {series.n_tokens:,} tokens "
        f"({option('vocab', series.recipe)}; {command('vocab fetch', series.recipe)} brings it)"
    )
