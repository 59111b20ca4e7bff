"""Which of the vocabularies at hand knows the genes of an input best."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rankcell.counts import find_inputs, open_at_counts
from rankcell.counts.genes.gene_map import n_known_columns
from rankcell.counts.genes.orientation import require_genes_in_columns
from rankcell.counts.options import CountsPlace
from rankcell.errors import RankcellError
from rankcell.vocab import Vocabulary
from rankcell.vocab.catalog import find_vocabulary, vocabularies_at_hand
from rankcell.wording import note, option

LEAST_KNOWN = 0.5  # of the genes of an input: a vocabulary that knows fewer is not taken unasked


@dataclass(frozen=True)
class Comparison:
    """The vocabularies at hand and the genes of one input: `known`, name -> columns that it knows, of `n_genes`."""

    source: str
    n_genes: int
    known: dict[str, int]
    sizes: dict[str, int]

    @property
    def best(self) -> str:
        """The vocabulary that knows most columns; of equal ones the smaller."""
        return max(self.known, key=lambda name: (self.known[name], -self.sizes[name]))

    def lines(self) -> list[str]:
        lines = [f"No vocabulary was named. Of the {self.n_genes:,} genes of {self.source} are known:"]
        for name in sorted(self.known, key=lambda name: -self.known[name]):
            share = f"{self.known[name]:,} ({self.known[name] / max(1, self.n_genes):.0%})"
            lines.append(f"- to {name} ({self.sizes[name]:,} genes): {share}{', taken below' if name == self.best else ''}")
        return [*lines, ""]


def compare_vocabularies(items: Sequence[Any], place: CountsPlace = CountsPlace()) -> Comparison | None:
    """Compare the vocabularies at hand on the first input that opens; None where none opens (its reader raises the error)."""
    for item in items:
        try:
            with open_at_counts(item, layer=place.counts_layer, raw=place.raw) as counts:
                columns, n_genes, name = dict(counts.var), counts.n_genes, counts.name
                columns = {place.gene_column: columns[place.gene_column]} if place.gene_column in columns else columns
        except RankcellError:
            continue
        vocabularies = {at_hand: find_vocabulary(at_hand) for at_hand in vocabularies_at_hand()}
        known = {at_hand: n_known_columns(vocab, columns) for at_hand, vocab in vocabularies.items()}
        return Comparison(name, n_genes, known, {at_hand: len(vocab) for at_hand, vocab in vocabularies.items()})
    return None


def fitting_vocabulary(items: Sequence[Any], place: CountsPlace) -> tuple[str, list[str]]:
    """(name of the vocabulary that knows the largest number of columns of the first input that opens, lines that compare all).

    Without an input that opens, the first name and no lines.
    """
    comparison = compare_vocabularies(items, place)
    return (next(iter(vocabularies_at_hand())), []) if comparison is None else (comparison.best, comparison.lines())


def require_fitting_vocabulary(source: Any, place: CountsPlace) -> Vocabulary:
    """The vocabulary at hand that knows the genes of `source` best, with a note; VocabularyError where it knows less than half of them."""
    items = find_inputs(source).items
    comparison = compare_vocabularies(items, place)
    if comparison is None or comparison.known[comparison.best] < LEAST_KNOWN * comparison.n_genes:
        with open_at_counts(items[0], layer=place.counts_layer, raw=place.raw) as counts:  # what is wrong with the input is said before a vocabulary is asked for
            require_genes_in_columns(counts)
        return find_vocabulary(None)
    best, n = comparison.best, comparison.known[comparison.best]
    note(
        f"no vocabulary was named: '{best}' is taken, which knows {n:,} of the {comparison.n_genes:,} genes and has "
        f"{comparison.sizes[best]:,}; {option('vocab', placeholder='V')} names another"
    )
    return find_vocabulary(best)
