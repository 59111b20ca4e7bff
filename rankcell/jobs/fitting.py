"""Which of the vocabularies at hand knows the genes of an input best."""

from collections.abc import Sequence
from typing import Any

from rankcell.counts import open_counts
from rankcell.errors import RankcellError
from rankcell.vocab import Vocabulary
from rankcell.vocab.catalog import find_vocabulary, vocabularies_at_hand


def fitting_vocabulary(
    items: Sequence[Any], *, layer: str | None = None, raw: bool = False, gene_column: str | None = None
) -> tuple[str, list[str]]:
    """(name of the vocabulary that knows the largest number of columns of the first input that opens, lines that compare all).

    layer, raw, gene_column
        As for `check`.

    Of equal ones the smaller vocabulary. Without an input that opens, the first name, and no lines: what is wrong with the inputs
    is for others to say.
    """
    vocabularies = {name: find_vocabulary(name) for name in vocabularies_at_hand()}
    for item in items:
        try:
            with open_counts(item, layer=layer, raw=raw) as counts:
                name, columns, n = counts.name, dict(counts.var), counts.n_genes
                columns = {gene_column: columns[gene_column]} if gene_column in columns else columns
        except RankcellError:
            continue
        known = {v: _n_known(vocab, columns) for v, vocab in vocabularies.items()}
        best = max(known, key=lambda v: (known[v], -len(vocabularies[v])))
        lines = [f"No vocabulary was named. Of the {n:,} genes of {name} are known:"]
        for v in sorted(known, key=lambda v: -known[v]):
            lines.append(
                f"- to {v} ({len(vocabularies[v]):,} genes): {known[v]:,} ({known[v] / max(1, n):.0%}){', taken below' if v == best else ''}"
            )
        return best, [*lines, ""]
    return next(iter(vocabularies)), []


def _n_known(vocab: Vocabulary, columns: dict[str, list[str]]) -> int:
    """Columns of the matrix whose gene is known, by the var column that the vocabulary knows best."""
    return max((int((vocab.lookup(values) >= 0).sum()) for values in columns.values()), default=0)
