"""Genes and sets of genes in the forms that people give them -> lists of names: text with commas, `@file`, lists, GMT, JSON, tables."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from rankcell.errors import InputError, SettingsError
from rankcell.wording import option

ALL = "all"


def named_genes(genes: Any, name: str = "genes") -> Any:
    """Parse a list of genes: "all", or a tuple of names of `A,B`, `@file` (a name a line), a list, or a set (sorted). SettingsError for None.

    name
        Of the option, for messages.
    """
    if genes is None:
        raise SettingsError(f"{name} is None; names of genes, or leave it out{' for all genes' if name == 'genes' else ''}")
    if isinstance(genes, str) and genes == ALL:
        return ALL
    if isinstance(genes, str):
        return tuple(_names_in_file(genes, name) if genes.startswith("@") else _split(genes))
    if isinstance(genes, Mapping):
        raise SettingsError(f"{name} is {genes!r}; 'all', a name or a list of names (sets takes {{name: genes}})")
    if isinstance(genes, bytes) or hasattr(genes, "obs_names") or not isinstance(genes, Iterable):
        kind = f"a {type(genes).__name__}" if isinstance(genes, bytes) or hasattr(genes, "obs_names") else repr(genes)
        raise SettingsError(f"{name} is {kind}; 'all', a name or a list of names")
    names = sorted(genes, key=str) if isinstance(genes, AbstractSet) else list(genes)
    wrong = next((n for n in names if not isinstance(n, str)), None)
    if wrong is not None or any(not n for n in names):
        raise SettingsError(f"{name} holds {wrong!r}; names of genes" if wrong is not None else f"{name} holds an empty name")
    return tuple(str(n) for n in names)


def _names_in_file(genes: str, name: str) -> list[str]:
    from rankcell.store import read_lines

    lines = read_lines(genes[1:], "a list of genes", option=option(name, genes))
    return [g for line in lines for g in line.split("#")[0].replace(",", " ").split()]


def _split(text: str) -> list[str]:
    return [g.strip() for g in text.split(",") if g.strip()]


def named_sets(sets: Any) -> dict[str, list[str]] | None:
    """Named sets as {name: genes}: of a mapping, in which the genes of a set may be one text with commas, or of a file.

    GMT (`.gmt`: name, description, genes, with tabs), JSON (`.json`: {name: [genes]}), else a table of two columns, name and
    gene, with a tab between (lines that begin with # are left out).
    """
    if sets is None:
        return None
    if isinstance(sets, (str, os.PathLike)):
        return _sets_in_file(Path(sets))
    if not isinstance(sets, Mapping):
        raise SettingsError(f"sets is a {type(sets).__name__}; {{name: genes}}, or a file of sets")
    return {str(name): _genes_of_set(genes, name) for name, genes in sets.items()}


def _genes_of_set(genes: Any, name: Any) -> list[str]:
    if isinstance(genes, str):
        return _split(genes)
    if genes is None or isinstance(genes, Mapping) or not isinstance(genes, Iterable):
        raise SettingsError(f"the set '{name}' is {genes!r}; a list of genes")
    return list(named_genes(genes))


def _sets_in_file(path: Path) -> dict[str, list[str]]:
    from rankcell.store import read_text

    text = read_text(path, "gene sets", option=option("sets", path))
    try:
        sets = _READERS.get(path.suffix.lower(), _sets_of_table)(text)
    except (ValueError, TypeError, AttributeError) as e:
        raise InputError(f"{path} is not a file of gene sets (GMT, JSON, or name<TAB>gene): {e}") from e
    if not sets:
        raise InputError(f"{path} holds no set of genes")
    empty = next((name for name, genes in sets.items() if not genes), None)
    if empty is not None:
        raise InputError(f"the set '{empty}' in {path} has no genes")
    return sets


def _sets_of_json(text: str) -> dict[str, list[str]]:
    sets = json.loads(text)
    if not isinstance(sets, dict) or not all(isinstance(g, list) and all(isinstance(x, str) for x in g) for g in sets.values()):
        raise ValueError("expected {name: [genes]}")
    return sets


def _sets_of_gmt(text: str) -> dict[str, list[str]]:
    sets: dict[str, list[str]] = {}
    for number, fields in _fields(text):
        if len(fields) < 2:
            raise ValueError(f"line {number} has no tab")
        if fields[0] in sets:
            raise ValueError(f"line {number}: the set '{fields[0]}' stands in it twice")
        sets[fields[0]] = [g for g in fields[2:] if g]
    return sets


def _sets_of_table(text: str) -> dict[str, list[str]]:
    sets: dict[str, list[str]] = {}
    for number, fields in _fields(text):
        if len(fields) != 2 or not all(fields):
            raise ValueError(f"line {number} has {len(fields)} columns and not a name, a tab and a gene")
        sets.setdefault(fields[0], []).append(fields[1])
    return sets


def _fields(text: str) -> Iterator[tuple[int, list[str]]]:
    """(number from 1, its fields) of every line that is neither blank nor a comment."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            yield number, [field.strip() for field in line.split("\t")]


_READERS: dict[str, Callable[[str], dict[str, list[str]]]] = {".json": _sets_of_json, ".gmt": _sets_of_gmt}
