"""The page of `rankcell check`: facts about count inputs as plain statements."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rankcell.counts.genes.features import describe_excluded
from rankcell.counts.source import first_names
from rankcell.counts.validate.check_counts import FILTER_PASS, Facts
from rankcell.counts.validate.places import COUNTS, MatrixCandidate
from rankcell.tokens.cropping import Cropping
from rankcell.vocab import Vocabulary
from rankcell.wording import option

WIDTH = 100
_LABEL = 12
_MOST_NAMES = 12
_FEW_GENES, _FEW_COUNTS = 0.3, 0.5  # shares that are known, below which there are doubts
_MOSTLY = 0.5  # of the gene columns

Statement = tuple[str, str]  # a label and a sentence; a label "" goes on with the one above


@dataclass(frozen=True)
class InputReport:
    """The report on one input: its label among several, its matrices, the used one, and its facts.

    `by_name`: the user named the matrix to use. `problem`: why it could not be opened or read; there is nothing else then.
    """

    path: str
    label: str
    places: Sequence[MatrixCandidate] = ()
    used: MatrixCandidate | None = None
    facts: Facts | None = None
    by_name: bool = False
    problem: str = ""


@dataclass(frozen=True)
class Rows:
    """The planned token rows: the vocabulary and its species, the frame's length, the most tokens of a row, the model that they are for."""

    vocab: Vocabulary
    species: str
    frame: int
    max_len: int
    model: str = ""

    @property
    def most_genes(self) -> int:
        return self.max_len - self.frame

    def describe(self) -> str:
        special = "with CLS" + (" and EOS" if self.frame > 1 else "") if self.frame else "no CLS"
        of = f", {self.species}" if self.species else ""
        model = f"; as the model {self.model} reads them" if self.model else ""
        return f"{self.vocab.name}: {len(self.vocab):,} genes{of}; rows of up to {self.max_len:,} tokens, {special}{model}"


def set_out(statements: Sequence[Statement]) -> list[str]:
    """Format statements as lines of at most WIDTH columns, labels aligned."""
    lines = []
    for label, text in statements:
        indents = dict(initial_indent=f"{label:<{_LABEL}}", subsequent_indent=" " * _LABEL)
        lines += textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False, **indents)
    return lines


def bullet(text: str) -> list[str]:
    wrapping = dict(initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return textwrap.wrap(text, WIDTH, **wrapping)


def share(n: float, of: float) -> str:
    """A percentage that says 0 and 100 only where it is."""
    if n == of or not of:
        return "100 %" if of else "0 %"
    return f"{min(99.9, max(0.1, 100 * n / of)):.1f} %" if n else "0 %"


def number(x: float) -> str:
    return f"{x:,.1f}".removesuffix(".0") if abs(x) < 1e15 else f"{x:.4g}"


def is_are(n: int, one: str, many: str) -> str:
    """A number with its singular or plural."""
    return f"{n:,} {one if n == 1 else many}"


def full(report: InputReport, rows: Rows) -> list[Statement]:
    """All statements about one input."""
    f = report.facts
    return [
        ("file", report.path),
        *_storage(f, report.used),
        *_matrices(report),
        ("vocabulary", rows.describe()),
        *_gene_ids(f, f.genes.ids.describe()),
        *_known(f, rows.vocab),
        ("species", _species(f, rows)),
        ("n_counts", _totals(f)),
        *_cells(f),
        *_lengths(f, rows),
        *_obs(f),
        *_filter_pass(f),
        *(("warning", text) for text in _warnings(report, rows)),
    ]


def short(report: InputReport, rows: Rows) -> list[Statement]:
    """The statements about one of several inputs."""
    if report.facts is None:
        return [("file", report.path), ("problem", report.problem)]
    f = report.facts
    return [
        ("file", report.path),
        *_storage(f, report.used),
        *_matrices(report),
        *_gene_ids(f, f"{f.genes.ids.describe()}; species {_likely(f)}"),
        *_known(f, rows.vocab),
        ("n_counts", _totals(f)),
        *(_cells(f) if f.n_selected < f.n_cells or not f.has_cell_ids else ()),
        *_lengths(f, rows),
        *_filter_pass(f),
        *(("warning", text) for text in _warnings(report, rows)),
    ]


def total(inputs: Sequence[InputReport], rows: Rows) -> list[Statement]:
    """The statements about all inputs together."""
    read = [one.facts for one in inputs if one.facts is not None]
    n_cells, n_selected = sum(f.n_cells for f in read), sum(f.n_selected for f in read)
    joined = np.concatenate([f.genes_per_cell for f in read]) if read else np.empty(0, np.int32)
    labels = [one.label for one in inputs if one.facts is not None]
    have_totals = ["n_counts" in f.obs for f in read]
    return [
        ("total", f"{is_are(len(inputs), 'input', 'inputs')}, {n_cells:,} cells" + (f", {n_selected:,} kept" if n_selected < n_cells else "")),
        ("vocabulary", rows.describe()),
        *_lengths_of(joined, rows),
        ("cells", f"ids will be <source>:<id>, such as '{inputs[0].label}:...'; a column source says which input a cell is from"),
        *_shared_obs(read, labels),
        *(("warning", text) for text in _differences(read, labels)),
        *([("warning", "n_counts is in the obs of some inputs only: the others use the row sum")] if len(set(have_totals)) > 1 else []),
    ]


def _storage(f: Facts, used: MatrixCandidate) -> Iterator[Statement]:
    stored = f", stored {f.stored}" if f.stored else ""
    yield "format", f"{f.format}; {used.name} holds {f.dtype}{stored}"
    entry_words = is_are(f.n_entries, *(("non-zero entry", "non-zero entries") if f.stored == "dense" else ("stored entry", "stored entries")))
    of_selected = f" in the {f.n_selected:,} cells kept" if f.n_selected < f.n_cells else ""
    entries = f"; {entry_words}{of_selected} ({share(f.n_entries, f.n_selected * f.n_columns)} of the matrix)" if f.n_selected else ""
    yield "size", f"{f.n_cells:,} cells x {f.n_columns:,} gene columns{entries}"
    if f.n_zeros:
        yield "", f"{is_are(f.n_zeros, 'stored entry is', 'stored entries are')} zero: no token comes of these"
    if f.n_repeated:
        yield "", f"{is_are(f.n_repeated, 'entry repeats', 'entries repeat')} a gene column of the same cell: these are summed"
    if f.genes.excluded:
        yield "left out", describe_excluded(f.genes.excluded)


def _matrices(report: InputReport) -> Iterator[Statement]:
    """Each matrix, and which one is used and why."""
    label = "counts"
    for place in report.places:
        yield label, place.describe()
        label = ""
    if len(report.places) > 1:
        yield "", f"used: {report.used.name}, {_why(report)}"
    if odd := report.facts.non_count:
        value = odd.kind if odd.kind == "NaN" else f"{odd.value:.6g}, {odd.kind}"
        yield "", f"{report.used.name} holds a value that is not a count: {value} (cell '{odd.cell}', gene '{odd.gene}')"


def _why(report: InputReport) -> str:
    used = report.used
    able = [p for p in report.places if p.verdict == COUNTS and p != used]
    others = f"{' and '.join(p.name for p in able)} {'holds' if len(able) == 1 else 'hold'} counts"
    too = f"; {others}{' too' if used.verdict == COUNTS else ''}" if able else ""
    if report.by_name:
        return f"as you named it{too}"
    if used.verdict != COUNTS:
        return "as no matrix seems to hold counts"
    if not able:
        return "the only one that holds counts"
    if any(p.key.order() < used.key.order() for p in able):
        return f"as all inputs hold counts there{too}"
    rule = "layers named counts come first" if used.key.layer else "raw comes before layers" if used.key.raw else f"{used.name} comes first"
    return f"as {rule}{too}"


def _gene_ids(f: Facts, id_systems: str) -> Iterator[Statement]:
    g = f.genes
    yield "gene ids", f"'{g.column}' names the genes: {id_systems}"
    if g.ids.genome and not g.prefix:
        yield "", f"most names begin with {g.ids.genome}"
    if g.n_summed:
        yield "", f"{g.n_summed:,} columns share a gene with another column: they are summed"
    if g.n_duplicate_names:
        yield "", f"{is_are(g.n_duplicate_names, 'name comes', 'names come')} again in the index of var"


def _known(f: Facts, vocab: Vocabulary) -> Iterator[Statement]:
    g, are_counts = f.genes, f.non_count is None
    columns = f"{g.n_known:,} of {g.n_columns:,} gene columns ({share(g.n_known, g.n_columns)})"
    if not f.n_selected:
        yield "known", columns
        return
    yield (
        "known",
        f"{columns}, {g.n_detected_known:,} of {g.n_detected:,} with a {'count' if are_counts else 'value above zero'} ({share(g.n_detected_known, g.n_detected)})"
        + (f", {share(g.counts_known, g.counts)} of all counts" if are_counts else ""),
    )
    if g.unknown:
        mostly_known = g.n_known >= _MOSTLY * g.n_columns  # else it is not a name here and there that is misspelt
        meant = [vocab.suggestion(name, similar=False) if mostly_known else "" for name, _ in g.unknown]
        sizes = [share(n, g.counts) if are_counts else "" for _, n in g.unknown]
        notes = ["; ".join(part for part in (size, near.removeprefix("; ")) if part) for size, near in zip(sizes, meant, strict=True)]
        names = [f"{name} ({note})" if note else name for (name, _), note in zip(g.unknown, notes, strict=True)]
        yield "not known", f"the most abundant: {', '.join(names)}" + (" of all counts" if are_counts else "")


def _likely(f: Facts) -> str:
    likely = f.genes.ids.likely_species()
    evidence = "ids" if f.genes.ids.species else "letter case of the symbols"
    return f"{' and '.join(likely)}, by the {evidence}" if likely else "not clear from the gene ids"


def _species(f: Facts, rows: Rows) -> str:
    return f"{_likely(f)}; the vocabulary is of {rows.species or 'a species it does not say'}"


def _totals(f: Facts) -> str:
    t = f.totals
    span = f" ({number(t.low)} to {number(t.high)})" if f.n_selected else ""
    if t.unusable:
        return f"in obs, but not usable: {t.unusable}"
    if not t.in_obs:
        return f"not in obs: the row sum is a cell's total{span}"
    used = f"in obs{span} and used as the cells' totals"
    if f.non_count is not None or not f.n_selected:
        return used
    if not f.genes.counts:
        return f"{used}; nothing is counted in this matrix"
    if not t.n_lower and not t.n_higher:
        return f"in obs{span}, equal to the row sum"
    lower = f"lower in {_cells_of(t.n_lower, f)} (by up to {share(t.most_lower, 1)})"
    if not t.n_higher:
        return f"{used}; the row sums are {lower}, as when genes were left out after counting: fine"
    higher = f"higher in {_cells_of(t.n_higher, f)} (see the warning)"
    return f"{used}; the row sums are {f'{lower} and {higher}' if t.n_lower else higher}"


def _cells_of(n: int, f: Facts) -> str:
    """A number of the selected cells, in words."""
    return f"all {n:,} cells" if n == f.n_selected > 1 else f"{n:,} of {is_are(f.n_selected, 'cell', 'cells')}"


def _cells(f: Facts) -> Iterator[Statement]:
    yield "cells", f"{f.n_cells:,}, " + ("ids given, all different" if f.has_cell_ids else "without ids: they are called by row number")
    if f.n_selected < f.n_cells:
        yield "", f"{f.n_selected:,} kept by the filter, {f.n_cells - f.n_selected:,} left out"


def _lengths(f: Facts, rows: Rows) -> Iterator[Statement]:
    return _lengths_of(f.genes_per_cell, rows)


def _lengths_of(genes: np.ndarray, rows: Rows) -> Iterator[Statement]:
    """Known genes a cell; cells without any; cells that are cropped."""
    if not len(genes):
        return
    yield "per cell", f"known genes: median {int(np.median(genes)):,}, from {genes.min():,} to {genes.max():,}"
    if n := int((genes == 0).sum()):
        keeps = "its row is kept" if n == 1 else "their rows are kept"
        yield "empty", f"{is_are(n, 'cell has', 'cells have')} no known gene ({share(n, len(genes))}): {keeps}, without genes"
    lost = genes[genes > rows.most_genes] - rows.most_genes
    if not len(lost):
        yield "cropped", f"no cell, as none has more than {rows.most_genes:,} known genes"
        return
    lengths = f"{is_are(len(lost), 'cell has', 'cells have')} more than {rows.most_genes:,} known genes ({share(len(lost), len(genes))})"
    yield "cropped", f"{lengths}; genes lost there: median {int(np.median(lost)):,}, at most {lost.max():,}"
    unread = Cropping(rows.most_genes).add(genes.astype(np.int64)).share_unread
    reader = f"the model {rows.model}" if rows.model else "a model"
    yield "", f"{share(unread, 1)} of the known genes detected in all cells will not be read by {reader}"


def _column_list(columns: dict[str, str]) -> str:
    shown = [f"{c} ({kind})" if kind else c for c, kind in list(columns.items())[:_MOST_NAMES]]
    more = len(columns) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")


def _obs(f: Facts) -> Iterator[Statement]:
    yield "obs", _column_list(f.obs) if f.obs else f"no columns (for {option('obs')} and {option('filter')})"


def _shared_obs(read: Sequence[Facts], labels: Sequence[str]) -> Iterator[Statement]:
    """Cell columns that all inputs have, and those that some lack."""
    every = list(dict.fromkeys(c for f in read for c in f.obs))
    kinds = {c: list(dict.fromkeys(f.obs[c] for f in read)) for c in every if all(c in f.obs for f in read)}
    shared = {c: " or ".join(words) if len(words) < 3 else "" for c, words in kinds.items()}
    yield "obs", f"in all inputs: {_column_list(shared)}" if shared else "no column is in all inputs"
    lacking = {c: [n for f, n in zip(read, labels, strict=True) if c not in f.obs] for c in every if c not in shared}
    if lacking:
        yield "", "not in all: " + _column_list({c: f"not in {names[0]}" + (" ..." if len(names) > 1 else "") for c, names in lacking.items()})


def _differences(read: Sequence[Facts], labels: Sequence[str]) -> Iterator[str]:
    """Differences between the genes of the inputs. An input that does not say its species does not differ in it."""
    each = "each input is looked up by its own"
    for property_name, says, then in (
        ("the gene column", [f"'{f.genes.column}'" for f in read], each),
        ("the id system", [f.genes.ids.system for f in read], each),
        ("species", [" and ".join(f.genes.ids.likely_species()) for f in read], "does one vocabulary fit them all?"),
    ):
        labels_of: dict[str, list[str]] = {}
        for value, label in zip(says, labels, strict=True):
            labels_of.setdefault(value, []).append(label)
        labels_of.pop("", None)
        if len(labels_of) > 1:
            yield f"the inputs differ in {property_name}: {'; '.join(f'{v} in {first_names(names, 3)}' for v, names in labels_of.items())} ({then})"


def _filter_pass(f: Facts) -> Iterator[Statement]:
    if f.n_pass is not None:
        yield (
            FILTER_PASS,
            f"in obs: {f.n_pass:,} of {f.n_cells:,} cells pass. Geneformer would leave the others out; here all cells are kept "
            f"unless {option('filter', FILTER_PASS)} is given",
        )


def doubts(f: Facts) -> list[str]:
    """Doubts about tokens that can be made: the vocabulary knows few of the genes or counts."""
    g = f.genes
    if not g.counts and f.n_selected and f.non_count is None:
        return ["nothing is counted: no gene of any cell has a count here, so that all rows will be without genes. Are the counts in another file or matrix?"]
    few_genes, few_counts = g.n_detected_known < _FEW_GENES * g.n_detected, g.counts_known < _FEW_COUNTS * g.counts
    if f.non_count is not None or not g.counts_known or not (few_genes or few_counts):
        return []
    return [
        f"the vocabulary knows only {share(g.n_detected_known, g.n_detected)} of the genes with a count and {share(g.counts_known, g.counts)} of "
        "the counts: tokens will leave out the others. Take a vocabulary that is made for such cells: rankcell vocab build makes one of "
        "these, rankcell vocab fetch gets Geneformer's"
    ]


def _warnings(report: InputReport, rows: Rows) -> Iterator[str]:
    f, used = report.facts, report.used
    g, likely = f.genes, f.genes.ids.likely_species()
    if rows.species and likely and rows.species not in likely:
        yield f"these look like {' and '.join(likely)} genes, and the vocabulary is of {rows.species}"
    elif len(likely) > 1:
        yield f"genes of several species: {' and '.join(likely)}"
    n_columns = f.n_columns + sum(g.excluded.values())
    wider = next((p for p in report.places if p.key.raw and p.verdict == COUNTS and p.shape[1] > n_columns), None)
    if wider and not used.key.raw:
        yield f"raw holds counts of more genes ({wider.shape[1]:,} columns, {used.name} {n_columns:,}): pass {option('raw', True)} to use them all"
    yield from f.remarks
    if f.totals.n_higher and f.non_count is None:
        yield f"n_counts is below the row sum in {_cells_of(f.totals.n_higher, f)}: was it counted otherwise?"
    if not f.n_selected:
        yield "the filter keeps no cell"
