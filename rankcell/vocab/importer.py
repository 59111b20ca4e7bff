"""Geneformer's dictionary pickles -> Vocabulary, read by an unpickler that cannot run code.

Only plain containers, strings, numbers and numpy scalars come through; every other global is refused before it is
looked up, so nothing of the pickle runs. Source of the layout: Geneformer's tokenizer (gene -> id, gene -> median,
any id -> Ensembl id, symbol -> Ensembl id).
"""

import contextlib
import hashlib
import io
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rankcell.errors import VocabularyError
from rankcell.vocab.vocabulary import CLS, PAD, SPECIALS, Vocabulary

_LARGEST = 256 * 2**20
_SCALARS = {
    "bool",
    "bool_",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "str_",
}


def _scalar(dtype: Any, raw: Any = None) -> Any:
    """A numpy scalar from its dtype and bytes, as numpy's own reducer would make it, for numbers and strings only."""
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biufU" or not isinstance(raw, bytes):
        raise pickle.UnpicklingError("a numpy scalar that is not a number or a string")
    return np.frombuffer(raw, dtype)[0]


def _encode(text: Any, codec: Any = "latin1") -> bytes:
    """Stands in for _codecs.encode, by which old pickle protocols spell the bytes of a scalar."""
    if not isinstance(text, str) or codec != "latin1":
        raise pickle.UnpicklingError(f"bytes in the codec {codec!r}")
    return text.encode(codec)


class _Dtype:
    """Stands in for numpy.dtype: makes only dtypes of numbers and strings."""

    def __new__(cls, code: Any = "f8", *_: Any) -> Any:
        if not isinstance(code, str) or code.lstrip("<>=|")[:1] not in set("biufU?"):
            raise pickle.UnpicklingError(f"a numpy dtype {code!r}")
        return np.dtype(code)


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in {"numpy.core.multiarray", "numpy._core.multiarray"} and name == "scalar":
            return _scalar
        if module == "numpy" and name == "dtype":
            return _Dtype
        if (module, name) == ("_codecs", "encode"):
            return _encode
        if module == "numpy" and name in _SCALARS:
            return getattr(np, name)
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside itself")


def read_plain_pickle(path: str | os.PathLike) -> Any:
    """The content of a pickle of plain values. VocabularyError when it holds anything else; none of it runs."""
    path = Path(path)
    if not path.is_file():
        raise VocabularyError(f"no file {path}")
    if path.stat().st_size > _LARGEST:
        raise VocabularyError(f"{path} has {path.stat().st_size:,} bytes; a gene dictionary has at most {_LARGEST:,}")
    raw = path.read_bytes()
    if raw.startswith(b"version https://git-lfs"):
        raise VocabularyError(f"{path} is a git-lfs pointer, not the dictionary: run 'git lfs pull' where it came from")
    try:
        return _PlainUnpickler(io.BytesIO(raw)).load()
    except pickle.UnpicklingError as e:
        raise VocabularyError(f"{path} was refused and nothing of it was run: {e}, and only plain values are read") from None
    except RecursionError:
        raise VocabularyError(f"{path} was refused: it is nested too deeply") from None
    except Exception as e:
        raise VocabularyError(f"{path} is not a readable pickle ({type(e).__name__}: {e})") from None


def _dictionary(path: str | os.PathLike, role: str, value_type: type) -> dict[str, Any]:
    content = read_plain_pickle(path)
    if not isinstance(content, dict) or not content:
        raise VocabularyError(f"{path} holds a {type(content).__name__}; the {role} dictionary is a dict")
    out = {}
    for key, value in content.items():
        good = isinstance(key, str)
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            out[key] = value_type(value)
            good = good and (value_type is not int or out[key] == value)
        if not good or key not in out:
            raise VocabularyError(f"{path}: entry {key!r}: {value!r} does not belong in a {role} dictionary")
    return out


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
    token_of = _dictionary(tokens, "token", int)
    median_of = _dictionary(medians, "median", float)
    special = {k: v for k, v in token_of.items() if k.startswith("<") and k.endswith(">")}
    if PAD not in special:
        raise VocabularyError(f"{tokens} has no <pad> entry: it is not a token dictionary")
    odd = sorted(set(special) - set(SPECIALS))
    if odd:
        raise VocabularyError(f"{tokens} has special tokens that are not known here: {', '.join(odd[:3])}")
    genes = sorted((g for g in token_of if g not in special), key=token_of.__getitem__)
    lacking = [g for g in genes if g not in median_of]
    if lacking:
        raise VocabularyError(f"{len(lacking):,} of {len(genes):,} genes have no median in {medians} (such as {lacking[0]})")
    called = _symbol_of(_dictionary(symbols, "symbol", str), genes) if symbols else {}
    aliases = _aliases(_dictionary(mapping, "mapping", str), set(genes)) if mapping else {}
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
