"""Lines for the terminal on a vocabulary."""

from collections.abc import Iterator
from typing import Any

from rankcell.vocab import Vocabulary


def vocabulary_lines(v: Vocabulary) -> list[str]:
    """Summary lines of a vocabulary: genes, special tokens, hash, provenance."""
    special = ", ".join(f"{name}={token}" for name, token in v.special.items())
    frame = f"head {list(v.frame.head)}, tail {list(v.frame.tail)}"
    n_symbols = sum(map(bool, v.symbols))
    lines = [
        f"name        {v.name}",
        f"species     {v.species or 'not said'}",
        f"genes       {len(v):,} ({sum(g.startswith('ENS') for g in v.genes):,} with an Ensembl id, {n_symbols:,} with a symbol)",
        f"such as     {v.examples()}",
        f"aliases     {len(v.aliases):,}",
        f"special     {special}",
        f"frame       {frame}",
        f"max_len     {v.max_len}",
        f"target_sum  {v.target_sum:g}",
        f"hash        {v.hash}",
    ]
    return lines + (["provenance", *_spelled(v.provenance, "  ")] if v.provenance else [])


def _spelled(value: Any, indent: str) -> Iterator[str]:
    """Plain JSON as indented lines: what holds no further dicts or lists stands in one line."""
    width = max((len(str(key)) for key in value), default=0) if isinstance(value, dict) else 0
    for key, inner in value.items() if isinstance(value, dict) else (("-", inner) for inner in value):
        if isinstance(inner, (dict, list)) and any(
            isinstance(x, (dict, list)) for x in (inner.values() if isinstance(inner, dict) else inner)
        ):
            yield f"{indent}{key}"
            yield from _spelled(inner, indent + "  ")
        else:
            yield f"{indent}{key:<{width}} {_in_a_line(inner)}".rstrip()


def _in_a_line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_in_a_line(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_in_a_line, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
