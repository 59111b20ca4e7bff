"""The spec of rows that came without one (Geneformer's folders): ids checked against a vocabulary, the frame read from all rows."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from rankcell.errors import TokensError
from rankcell.tokens.spec import TokenSpec
from rankcell.vocab import Frame, Vocabulary
from rankcell.wording import option

Chunks = Iterable[tuple[np.ndarray, np.ndarray]]

_ROWS = 10_000
_ENOUGH = 5  # rows that begin and end alike by more than chance


@dataclass
class _RowFacts:
    """Row statistics so far: with the frame, without it, with special tokens among the genes (`odd`: the first row, token)."""

    framed: int = 0
    other: int = 0
    mixed: int = 0
    longest: int = 0
    rows: int = 0
    ends: set[tuple[int, int]] = field(default_factory=set)
    odd: tuple[int, int] | None = None

    def example(self, vocab: Vocabulary) -> str:
        """A special token among genes, in words."""
        return f" (such as {vocab.describe_token(self.odd[1])} in row {self.odd[0]})" if self.odd else ""


def spec_of_plain(table: pa.Table, chunks: Chunks, vocab: Vocabulary, folder: Path) -> TokenSpec:
    """The TokenSpec of rows given as (offsets, values) of each chunk. TokensError when they do not fit `vocab`."""
    facts = _scan(chunks, vocab, vocab.frame, str(folder))
    if len(facts.ends) == 1 and facts.rows >= _ENOUGH and not facts.framed:
        first, last = (vocab.describe_token(t) for t in next(iter(facts.ends)))
        raise TokensError(
            f"{folder}: all {facts.rows:,} rows begin with one token and end with one, which are the genes {first} and {last} in vocabulary "
            f"'{vocab.name}' but look like another vocabulary's <cls> and <eos>: give the right {option('vocab')}"
        )
    if facts.mixed or (facts.framed and facts.other):
        raise TokensError(
            f"{folder}: {facts.framed:,} rows have the special tokens of vocabulary '{vocab.name}' around them, {facts.other:,} have not, "
            f"and {facts.mixed:,} have special tokens among the genes{facts.example(vocab)}: one set has one frame; is this the right {option('vocab')}?"
        )
    frame = vocab.frame if facts.framed else Frame()
    source = {"folder": folder.name, "cell_ids": "cell_id" if "cell_id" in table.column_names else "row numbers"}
    return TokenSpec.of(vocab, frame=frame, max_len=max(facts.longest, vocab.max_len), source=source)


def check_rows(chunks: Chunks, vocab: Vocabulary, frame: Frame, where: str) -> None:
    """TokensError unless every row is `frame` around genes of `vocab`."""
    facts = _scan(chunks, vocab, frame, where)
    unframed = facts.other if len(frame) else 0
    if unframed or facts.mixed:
        special_tokens = ", ".join(vocab.describe_token(t) for t in (*frame.head, *frame.tail)) or "none"
        raise TokensError(
            f"{where}: {unframed:,} of {facts.rows:,} rows lack the special tokens that the set says stand around the genes ({special_tokens}), and "
            f"{facts.mixed:,} have special tokens among the genes{facts.example(vocab)}: tokenize again"
        )


def _scan(chunks: Chunks, vocab: Vocabulary, frame: Frame, where: str) -> _RowFacts:
    facts = _RowFacts()
    try:
        for offsets, values in chunks:
            for a in range(0, len(offsets) - 1, _ROWS):
                ends = offsets[a : a + _ROWS + 1].astype(np.int64)
                _update(ends - ends[0], values[ends[0] : ends[-1]], vocab, frame, facts)
    except ValueError as e:
        raise TokensError(f"{where}: {e}: give the right {option('vocab')}, or tokenize again") from None
    return facts


def _update(ends: np.ndarray, values: np.ndarray, vocab: Vocabulary, frame: Frame, facts: _RowFacts) -> None:
    """Update the statistics with rows; ValueError at a token that the vocabulary does not have."""
    lengths = np.diff(ends)

    def refuse(at: int, fault: str) -> None:
        row = facts.rows + int(np.searchsorted(ends, at, side="right")) - 1
        raise ValueError(f"token {values[at]} of row {row} {fault}")

    outside = np.flatnonzero((values < 0) | (values >= vocab.n_ids))
    if len(outside):
        refuse(int(outside[0]), f"is not in vocabulary '{vocab.name}' (highest {vocab.n_ids - 1})")
    special = np.flatnonzero(vocab.gene_of_token[values] < 0)
    unknown = special[~np.isin(values[special], list(vocab.special.values()))]
    if len(unknown):
        refuse(int(unknown[0]), f"stands for nothing in vocabulary '{vocab.name}'")
    is_framed = np.full(len(lengths), len(frame) > 0) & (lengths >= len(frame))
    rows = np.flatnonzero(is_framed)
    for k, token in enumerate(frame.head):
        rows = rows[values[ends[rows] + k] == token]
    for k, token in enumerate(reversed(frame.tail)):
        rows = rows[values[ends[rows + 1] - 1 - k] == token]
    n_special = np.bincount(np.searchsorted(ends, special, side="right") - 1, minlength=len(lengths))
    n_special[rows] -= len(frame)
    if len(facts.ends) < 2:
        nonempty = np.flatnonzero(lengths > 1)
        facts.ends |= set(zip(values[ends[nonempty]].tolist(), values[ends[nonempty + 1] - 1].tolist(), strict=True))
    facts.framed += len(rows)
    facts.other += len(lengths) - len(rows)
    mixed = np.flatnonzero(n_special > 0)
    if len(mixed) and facts.odd is None:
        row = int(mixed[0])
        inside = special[(special >= ends[row]) & (special < ends[row + 1])]
        facts.odd = facts.rows + row, int(values[inside[len(inside) // 2]])
    facts.mixed += len(mixed)
    facts.longest = max(facts.longest, int(lengths.max(initial=0)))
    facts.rows += len(lengths)
