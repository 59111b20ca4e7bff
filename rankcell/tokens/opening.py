"""Opening of cell inputs: counts, a TokenSet, or a token folder -> a TokenSet."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rankcell.counts.options import Counts
from rankcell.errors import InputError, SettingsError
from rankcell.store import remove_folder, require_unshared
from rankcell.tokens.cropping import note_cropping
from rankcell.tokens.options import Tokenizing
from rankcell.tokens.token_folder import DATASET_FILES
from rankcell.tokens.tokenizer import Tokenizer
from rankcell.tokens.tokenset import TokenSet
from rankcell.vocab import Vocabulary
from rankcell.wording import note, option

_IN_MEMORY = 2**29  # bytes of a count file whose tokens are kept in memory
FEW = 0.1  # of the genes of a file: a smaller share that is known looks like the wrong vocabulary


class Reader(Protocol):
    """The reader of token rows, such as a model's Checkpoint: its vocabulary, and its longest row."""

    @property
    def vocab(self) -> Vocabulary: ...
    @property
    def max_len(self) -> int: ...


@dataclass(frozen=True)
class TokenNeeds:
    """What tokens made of counts are to carry: cell columns, counts, and the genes beyond the model's rows."""

    obs: Sequence[str] = ()
    keep_counts: bool = False
    keep_uncropped: bool = False


def is_token_folder(source: Any) -> bool:
    """Whether `source` is the path of a `datasets` folder, or of one that lacks a part or holds several datasets."""
    names = ("state.json", "dataset_dict.json", "rankcell.json")
    return isinstance(source, (str, os.PathLike)) and any((Path(source) / name).exists() for name in names)


def is_tokens(source: Any) -> bool:
    """Whether `source` is a TokenSet or the path of a token folder."""
    return isinstance(source, TokenSet) or is_token_folder(source)


def require_no_counts_options(source: Any, counts: Counts) -> None:
    """SettingsError for options of counts where `source` holds tokens."""
    if options := [name for name in counts.non_defaults() if name != "allow_non_counts"]:
        raise SettingsError(f"{source} holds tokens: {' and '.join(option(name) for name in options)} {'is' if len(options) == 1 else 'are'} for counts")


def tokens_of(source: Any, model: Reader, *, counts: Counts = Counts(), needs: TokenNeeds = TokenNeeds()) -> TokenSet:
    """Open or make the token rows that a model is run on: a TokenSet as it is, a token folder, or counts tokenized with the model's vocabulary."""
    if is_tokens(source):
        require_no_counts_options(source, counts)
    if isinstance(source, TokenSet):
        return source
    if is_token_folder(source):
        has_spec = (Path(source) / "rankcell.json").exists()
        tokens = TokenSet.open(source, vocab=None if has_spec else model.vocab)
        note_cropping(tokens.spec)
        return tokens
    tokens = _tokenizer(model, needs).run(source, obs=needs.obs, counts=counts, note_empty=False)  # embedding and screens name cells without genes themselves
    warn_of_few_genes(tokens)
    return tokens


def _tokenizer(model: Reader, needs: TokenNeeds) -> Tokenizer:
    return Tokenizer(model.vocab, Tokenizing(max_len=model.max_len, keep_counts=needs.keep_counts, keep_uncropped=needs.keep_uncropped))


@contextlib.contextmanager
def tokens_on_disk(
    source: Any, model: Reader, *, beside: str | os.PathLike, counts: Counts = Counts(), needs: TokenNeeds = TokenNeeds()
) -> Iterator[TokenSet]:
    """`tokens_of` in bounded memory: the tokens of a large count file lie in a hidden folder beside an output while they are used."""
    if not isinstance(source, (str, os.PathLike)) or is_token_folder(source) or _size(Path(source)) < _IN_MEMORY:
        yield tokens_of(source, model, counts=counts, needs=needs)
        return
    beside = Path(beside)
    folder = beside.with_name(f".{beside.name}.tokens")
    require_unshared(folder)
    tokens = _tokenizer(model, needs).run(source, folder, obs=needs.obs, counts=counts, force=True, note_empty=False)
    try:
        warn_of_few_genes(tokens)
        yield tokens
    finally:
        remove_folder(folder, DATASET_FILES)


def warn_of_few_genes(tokens: TokenSet) -> None:
    """Warn where counts were tokenized with a vocabulary that knows few of their genes, and no larger share of all counts."""
    for facts in tokens.spec.source.get("files", [tokens.spec.source]):
        known, n = facts.get("genes_known", 0), facts.get("genes", 0)
        if n and known < FEW * n:
            note(
                f"{known:,} of {n:,} genes are known ({known / n:.0%}) to vocabulary '{tokens.spec.vocabulary}', and the model sees no others: "
                "is this the right model for these cells?"
            )
            return


def _size(path: Path) -> int:
    """Bytes of a file or folder; 0 where there is none."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(f.stat().st_size for f in files if f.is_file())


def require_there(source: Any) -> None:
    """InputError when `source` is a path and nothing is there."""
    if isinstance(source, (str, os.PathLike)) and not os.path.exists(source):
        raise InputError(f"no such file: {source}")
