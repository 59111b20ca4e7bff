"""What a verb may be given: counts, a token set, names of genes."""

import contextlib
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rankcell.errors import InputError, RankcellWarning, SettingsError
from rankcell.tokens import Tokenizer, TokenSet

_NO_GENE = "[0-9,]+ of [0-9,]+ cells have no gene"
_IN_MEMORY = 2**29  # bytes of a count file whose tokens are kept in memory

Progress = Callable[[int, int], None] | None


def is_token_folder(source: Any) -> bool:
    """Whether `source` is the path of a `datasets` folder."""
    return isinstance(source, (str, os.PathLike)) and (Path(source) / "state.json").exists()


def tokens_of(
    source: Any,
    checkpoint: Any,
    *,
    obs: Sequence[str] = (),
    counts_layer: str | None = None,
    raw: bool = False,
    gene_column: str | None = None,
    allow_non_counts: bool = False,
) -> TokenSet:
    """What a model is to be run on: a TokenSet as it is, a token folder, or counts tokenized with the model's vocabulary."""
    if isinstance(source, TokenSet):
        return source
    if is_token_folder(source):
        if counts_layer or raw or gene_column:
            raise SettingsError(f"{source} holds tokens: --counts-layer, --raw and --gene-column are for counts")
        has_spec = (Path(source) / "rankcell.json").exists()
        return TokenSet.open(source, vocab=None if has_spec else checkpoint.vocab)
    tokenizer = Tokenizer(checkpoint.vocab, max_len=checkpoint.max_len)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _NO_GENE, RankcellWarning)  # said by what comes next
        return tokenizer.tokenize(source, obs=obs, layer=counts_layer, raw=raw, gene_column=gene_column, allow_non_counts=allow_non_counts)


@contextlib.contextmanager
def tokens_on_disk(source: Any, checkpoint: Any, *, beside: str | os.PathLike, obs: Sequence[str] = (), **how: Any) -> Iterator[TokenSet]:
    """The same; the tokens of a large count file are kept in a hidden folder beside an output while they are used."""
    if not isinstance(source, (str, os.PathLike)) or is_token_folder(source) or _size(Path(source)) < _IN_MEMORY:
        yield tokens_of(source, checkpoint, obs=obs, **how)
        return
    beside = Path(beside)
    folder = beside.with_name(f".{beside.name}.tokens")
    tokenizer, layer = Tokenizer(checkpoint.vocab, max_len=checkpoint.max_len), how.pop("counts_layer", None)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", _NO_GENE, RankcellWarning)
            tokens = tokenizer.write(source, folder, obs=obs, layer=layer, force=True, **how)
        yield tokens
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _size(path: Path) -> int:
    """Bytes of a file or folder; 0 where there is none."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(f.stat().st_size for f in files if f.is_file())


def named_genes(genes: str | Sequence[str]) -> str | list[str]:
    """`all`, `A,B` or `@file` (a name a line) -> "all" or a list of names; lists pass."""
    if not isinstance(genes, str):
        return list(genes)
    if genes == "all":
        return genes
    if not genes.startswith("@"):
        return [g.strip() for g in genes.split(",") if g.strip()]
    path = Path(genes[1:])
    if not path.is_file():
        raise InputError(f"no such file: {path} (from --genes {genes})")
    lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [g for line in lines for g in line.replace(",", " ").split()]
