"""The vocabulary folder: plain text that a person can read and a diff can show."""

import csv
import errno
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rankcell.errors import InputError, VocabularyError
from rankcell.store import atomic_path, read_json, read_lines
from rankcell.wording import shortened

HEAD, GENES, ALIASES = "vocabulary.json", "genes.tsv", "aliases.tsv"
FILES = (HEAD, GENES, ALIASES)  # all that such a folder holds
_COLUMNS = ["token", "ensembl_id", "symbol", "median"]


def save_folder(v: Any, folder: str | os.PathLike, *, force: bool = False) -> None:
    import json

    head = {
        "format": "rankcell-vocabulary-1",
        "name": v.name,
        "species": v.species,
        "n_genes": len(v),
        "special_tokens": dict(v.special),
        "max_len": v.max_len,
        "target_sum": v.target_sum,
        "hash": v.hash,
        "provenance": dict(v.provenance),
    }
    rows = []
    for gene, symbol, token, median in zip(v.genes, v.symbols, v.tokens.tolist(), v.medians.tolist(), strict=True):
        ensembl = "" if gene == symbol else gene
        rows.append((token, ensembl, symbol, repr(median)))
    with atomic_path(folder, force=force, marker=HEAD, own=FILES) as part:
        part.mkdir()
        (part / HEAD).write_text(json.dumps(head, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        _write_tsv(part / GENES, _COLUMNS, rows)
        if v.aliases:
            _write_tsv(part / ALIASES, ["alias", "gene"], sorted(v.aliases.items()))


def load_folder(folder: str | os.PathLike, make: Callable[..., Any]) -> Any:
    """The vocabulary in `folder`, made by `make` (the Vocabulary class); VocabularyError when it cannot be."""
    folder = Path(folder)
    try:
        head = _head(folder / HEAD)
        rows = read_tsv(folder / GENES, _COLUMNS)
        aliases = folder / ALIASES
        v = make(
            name=head["name"],
            species=head.get("species", ""),
            genes=tuple(ensembl or symbol for _, ensembl, symbol, _ in rows),
            symbols=tuple(r[2] for r in rows),
            tokens=_numbers(int, rows, 0),
            medians=_numbers(float, rows, 3),
            special=head["special_tokens"],
            aliases=dict(read_tsv(aliases, ["alias", "gene"])) if aliases.exists() else {},
            max_len=head["max_len"],
            target_sum=float(head["target_sum"]),
            provenance=head.get("provenance", {}),
        )
    except FileNotFoundError as e:
        by_name = "" if Path(folder).is_dir() else f"; rankcell.vocab.find_vocabulary('{folder}') takes names"
        raise VocabularyError(f"{folder} is not a vocabulary folder: {Path(e.filename).name} is missing{by_name}") from None
    except InputError as e:
        raise VocabularyError(str(e)) from e
    except VocabularyError as e:
        raise VocabularyError(f"{e} (in {folder})") from e
    except (ValueError, OSError) as e:
        raise VocabularyError(f"the vocabulary in {folder} cannot be read: {' '.join(str(e).split())[:300]}") from e
    if v.hash != head.get("hash"):
        raise VocabularyError(
            f"the vocabulary in {folder} was changed by hand: its content hash is {v.hash[:12]}, its vocabulary.json "
            f"says {str(head.get('hash'))[:12]}; build or import it again, or correct the hash there if you mean it"
        )
    return v


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


_EXPECTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "name": ("a name", lambda v: isinstance(v, str)),
    "species": ("a name", lambda v: isinstance(v, str)),
    "special_tokens": ("names and token numbers", lambda v: isinstance(v, dict) and all(map(_is_integer, v.values()))),
    "max_len": ("a whole number", _is_integer),
    "target_sum": ("a number", _is_number),
    "provenance": ("a JSON object", lambda v: isinstance(v, dict)),
}
_MAY_LACK = ("species", "provenance")


def _head(path: Path) -> dict[str, Any]:
    """The content of vocabulary.json; ValueError names the key and the value that cannot be."""
    try:
        head = read_json(path)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{path.name} is no JSON: {e}") from e
    if not isinstance(head, dict):
        raise ValueError(f"{path.name} holds {shortened(head)}; expected a JSON object")
    for key, (expected, is_met) in _EXPECTED.items():
        if (key in head or key not in _MAY_LACK) and not is_met(head.get(key)):
            raise ValueError(f"{path.name}: {key} is {shortened(head.get(key))}; expected {expected}")
    return head


def _numbers(kind: type, rows: list[list[str]], column: int) -> list[Any]:
    """One column of genes.tsv as numbers; ValueError names the line and the text that is none."""
    numbers = []
    for line, row in enumerate(rows, 2):
        try:
            number = kind(row[column])
        except ValueError:
            number = None
        if number is None or (kind is int and not _is_integer(number)):
            expected = "a whole number" if kind is int else "a number"
            raise ValueError(f"{GENES} line {line}: {_COLUMNS[column]} is {shortened(row[column])}; expected {expected}") from None
        numbers.append(number)
    return numbers


def read_tsv(path: Path, columns: list[str]) -> list[list[str]]:
    """The rows of a tab-separated file with exactly these columns (ValueError otherwise)."""
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    rows = [line.split("\t") for line in read_lines(path, f"a table of {', '.join(columns)}", nul=True) if line.strip()]
    if not rows or rows[0] != columns:
        raise ValueError(f"{path.name} has columns {rows[0] if rows else 'none'}; expected {columns}")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(columns):
            raise ValueError(f"{path.name} line {number} has {len(row)} fields; expected {len(columns)}")
    return rows[1:]


def _write_tsv(path: Path, columns: list[str], rows: list[tuple]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as f:
        out = csv.writer(f, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None)
        out.writerow(columns)
        out.writerows(rows)
