"""Geneformer's dictionary pickles -> Vocabulary. Nothing of a pickle runs: see rankcell.vocab.plain_pickle.

Source of the layout: Geneformer's tokenizer (gene -> id, gene -> median, any id -> Ensembl id, symbol -> Ensembl id).
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rankcell.errors import VocabularyError
from rankcell.vocab.plain_pickle import LARGEST, RefusedError, read_plain_dict, short
from rankcell.vocab.vocabulary import CLS, PAD, SPECIALS, Vocabulary

_BELONGS = {
    "token": "a gene and a whole number",
    "median": "a gene and a number",
    "mapping": "a name and a gene id",
    "symbol": "a symbol and a gene id",
}


def read_plain_pickle(path: str | os.PathLike) -> dict[Any, Any]:
    """The dictionary of plain values in a pickle. VocabularyError when it holds anything else; none of it runs."""
    path = Path(path)
    if path.is_dir():
        raise VocabularyError(f"{path} is a folder, not a dictionary pickle")
    if not path.is_file():
        raise VocabularyError(f"no file {path}")
    try:
        if path.stat().st_size > LARGEST:
            raise VocabularyError(f"{path} has {path.stat().st_size:,} bytes; a gene dictionary has at most {LARGEST:,}")
        raw = path.read_bytes()
    except OSError as e:
        raise VocabularyError(f"{path} cannot be read: {e.strerror}") from e
    if raw.startswith(b"version https://git-lfs"):
        raise VocabularyError(f"{path} is a git-lfs pointer, not the dictionary: run 'git lfs pull' where it came from")
    try:
        return read_plain_dict(raw)
    except (RefusedError, ValueError, OverflowError) as e:
        if _is_table(raw):
            raise VocabularyError(f"{path} is a table or other text, and no dictionary pickle (a .pkl file of Geneformer, say)") from None
        if not isinstance(e, RefusedError):
            raise VocabularyError(f"{path} is not a readable pickle ({' '.join(str(e).split())[:200]})") from None
        raise VocabularyError(
            f"{path} was refused and nothing of it was run: {e}; only a dict of plain strings and numbers is read"
        ) from None


def _is_table(raw: bytes) -> bool:
    """Whether data that are no readable pickle are text of several words or columns a line."""
    first = raw[:500].splitlines()[0] if raw else b""
    return first[:1] != b"\x80" and first.decode("utf-8", "replace").isprintable() and any(c in first for c in (b",", b"\t", b" ", b";"))


def _dictionary(path: str | os.PathLike, role: str) -> dict[str, Any]:
    """The entries of one dictionary, each of the type that its role asks for."""
    content = read_plain_pickle(path)
    if not content:
        raise VocabularyError(f"{path} holds an empty dict; the {role} dictionary has entries")
    out = {}
    for key, value in content.items():
        if role in ("mapping", "symbol") and (_is_missing(key) or _is_missing(value)):
            continue
        if not isinstance(key, str) or not _fits(value, role):
            raise VocabularyError(
                f"{path}: entry {short(key)}: {short(value)} does not belong in a {role} dictionary, which holds {_BELONGS[role]} an entry"
            )
        out[key] = int(value) if role == "token" else float(value) if role == "median" else value
    return out


def _fits(value: Any, role: str) -> bool:
    if role in ("mapping", "symbol"):
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, (int, float)):  # True would pass for token 1
        return False
    return role == "median" or (isinstance(value, int) or value.is_integer())


def _plainly(name: str) -> str:
    """A name for a message, as it is where that is possible."""
    return name if name.isprintable() and len(name) <= 40 else short(name)


def _is_missing(value: Any) -> bool:
    return value is None or value != value


def import_geneformer(
    tokens: str | os.PathLike,
    medians: str | os.PathLike,
    *,
    mapping: str | os.PathLike | None = None,
    symbols: str | os.PathLike | None = None,
    name: str | None = None,
    species: str = "human",
    max_len: int | None = None,
) -> Vocabulary:
    """Make a Vocabulary of Geneformer's dictionary pickles.

    tokens, medians
        gene -> token number (special tokens `<...>` among them), and gene -> median.
    mapping, symbols
        any id -> Ensembl id, and symbol -> Ensembl id; entries of unknown genes are left out.
    max_len
        None: 2048 without `<cls>`, else 4096.

    Raises VocabularyError when a file is not what it should be, or genes with a token have no median.
    """
    token_of = _dictionary(tokens, "token")
    median_of = _dictionary(medians, "median")
    special = {k: v for k, v in token_of.items() if k.startswith("<") and k.endswith(">")}
    if PAD not in special:
        raise VocabularyError(f"{tokens} has no <pad> entry: it is not a token dictionary")
    odd = sorted(set(special) - set(SPECIALS))
    if odd:
        raise VocabularyError(f"{tokens} has special tokens that are not known here: {', '.join(map(_plainly, odd[:3]))}")
    genes = sorted((g for g in token_of if g not in special), key=token_of.__getitem__)
    lacking = [g for g in genes if g not in median_of]
    if lacking:
        raise VocabularyError(f"{len(lacking):,} of {len(genes):,} genes have no median in {medians} (such as {_plainly(lacking[0])})")
    called = _symbol_of(_dictionary(symbols, "symbol"), genes) if symbols else {}
    aliases = _aliases(_dictionary(mapping, "mapping"), set(genes)) if mapping else {}
    files = {"tokens": tokens, "medians": medians, "mapping": mapping, "symbols": symbols}
    return Vocabulary(
        name=name or Path(tokens).stem,
        species=species,
        genes=tuple(genes),
        symbols=tuple(called.get(g, "") for g in genes),
        tokens=[token_of[g] for g in genes],
        medians=[median_of[g] for g in genes],
        special=special,
        aliases=aliases,
        max_len=max_len or (4096 if CLS in special else 2048),
        provenance={"imported_from": {role: _file_facts(path) for role, path in files.items() if path}},
    )


def _symbol_of(id_of_symbol: Mapping[str, str], genes: list[str]) -> dict[str, str]:
    """Gene -> symbol; the first symbol in the alphabet where a gene has several."""
    known = set(genes)
    out: dict[str, str] = {}
    for symbol in sorted(id_of_symbol, reverse=True):
        if id_of_symbol[symbol] in known:
            out[id_of_symbol[symbol]] = symbol
    return out


def _aliases(mapping: Mapping[str, str], known: set[str]) -> dict[str, str]:
    return {k: v for k, v in mapping.items() if v in known and k != v}


def _file_facts(path: str | os.PathLike) -> dict[str, Any]:
    raw = Path(path).read_bytes()
    return {"file": Path(path).name, "bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
