"""The vocabulary folder: plain text that a person can read and a diff can show."""

import csv
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rankcell.errors import InputError, VocabularyError
from rankcell.store import atomic_path, read_json, read_lines

HEAD = "vocabulary.json"
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
    with atomic_path(folder, force=force, marker=HEAD) as part:
        part.mkdir()
        (part / HEAD).write_text(json.dumps(head, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        _write_tsv(part / "genes.tsv", _COLUMNS, rows)
        if v.aliases:
            _write_tsv(part / "aliases.tsv", ["alias", "gene"], sorted(v.aliases.items()))


def load_folder(folder: str | os.PathLike, make: Callable[..., Any]) -> Any:
    """The vocabulary in `folder`, made by `make` (the Vocabulary class); VocabularyError when it cannot be."""
    folder = Path(folder)
    try:
        head = read_json(folder / HEAD)
        rows = read_tsv(folder / "genes.tsv", _COLUMNS)
        aliases = folder / "aliases.tsv"
        v = make(
            name=head["name"],
            species=head.get("species", ""),
            genes=tuple(ensembl or symbol for _, ensembl, symbol, _ in rows),
            symbols=tuple(r[2] for r in rows),
            tokens=[int(r[0]) for r in rows],
            medians=[float(r[3]) for r in rows],
            special=head["special_tokens"],
            aliases=dict(read_tsv(aliases, ["alias", "gene"])) if aliases.exists() else {},
            max_len=int(head["max_len"]),
            target_sum=float(head["target_sum"]),
            provenance=head.get("provenance", {}),
        )
    except FileNotFoundError as e:
        raise VocabularyError(f"{folder} is not a vocabulary folder: {Path(e.filename).name} is missing") from None
    except InputError as e:
        raise VocabularyError(str(e)) from e
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as e:
        raise VocabularyError(f"the vocabulary in {folder} cannot be read: {type(e).__name__} {e}") from e
    if v.hash != head.get("hash"):
        raise VocabularyError(
            f"the vocabulary in {folder} was changed by hand: its content hash is {v.hash[:12]}, its vocabulary.json "
            f"says {str(head.get('hash'))[:12]}; build or import it again, or correct the hash there if you mean it"
        )
    return v


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
