"""Features that are no genes (antibodies, guides, peaks): left out of a matrix, of its totals and of the names of its columns.

What a column is, is told by words that people use, in the columns of var that people use for it. Words of another kind (nothing,
a genome, a biotype such as protein_coding) say nothing against a gene.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from rankcell.counts.genes.ids import GENOME
from rankcell.counts.matrix import Matrix, Rows
from rankcell.counts.source import CountSource, first_names
from rankcell.errors import InputError

TYPES = "feature_types"

_COLUMNS = (
    "featuretypes",
    "featuretype",
    "librarytypes",
    "librarytype",
    "modality",
    "modalities",
    "assay",
    "featureclass",
    "types",
    "type",
)
_SURE = _COLUMNS[:6]  # these are about nothing else
_GENES = {
    *("geneexpression", "gex", "rna", "mrna", "rnaexpression", "mrnaexpression", "expression", "transcriptome", "transcriptomics"),
    *("scrna", "snrna", "scrnaseq", "snrnaseq", "rnaseq"),
}
_GENE = {"gene", "genes", "transcript", "transcripts"}
_PROTEINS = {"protein", "proteins", "prot"}  # also said of genes that code for one
_ANTIBODIES = {
    *("antibodycapture", "antibody", "antibodies", "ab", "abs", "adt", "adts", "proteinexpression", "cite", "citeseq", "abseq"),
    *("surfaceprotein", "surfaceproteins", "cellsurfaceprotein", "cellsurfaceproteins", "antibodyderivedtag", "antibodyderivedtags"),
    *("totalseq", "surface", "surfacemarker", "surfacemarkers", "epitope", "epitopes", "isotypecontrol", "isotypecontrols"),
    *("proteomics", "antigen", "antigencapture"),
}
_PEAKS = {
    *("peak", "peaks", "atac", "atacseq", "scatac", "snatac", "scatacseq", "snatacseq", "chromatinaccessibility", "accessibility"),
    *("chromatin", "openchromatin", "atacpeaks"),
}
_GUIDES = {
    *("crisprguidecapture", "crispr", "crisprguide", "crisprguides", "guide", "guides", "guidecapture", "guiderna", "guidernas"),
    *("grna", "grnas", "sgrna", "sgrnas", "pegrna", "pegrnas", "crrna", "crrnas"),
}
_HASHTAGS = {
    *("hto", "htos", "hashtag", "hashtags", "hashtagoligo", "hashtagoligos", "hashtagantibody", "multiplexingcapture", "multiplexing"),
    *("cellhashing", "hashing", "cmo", "cmos", "lmo", "lmos", "sampletag", "sampletags", "cellplex"),
}
_CUSTOM = {
    *("custom", "barcode", "barcodes", "lineagebarcode", "lineagebarcodes", "spikein", "spikeins", "ercc", "erccs", "vdj", "vdjt", "vdjb"),
    *("tcr", "bcr", "unassignedcodeword", "blankcodeword", "deprecatedcodeword", "genomiccontrol"),
}
_NO_GENES = _ANTIBODIES | _PEAKS | _GUIDES | _HASHTAGS | _CUSTOM
_NO_GENES_BEGIN = ("antibodycapture", "antibodyderived", "crisprguide", "multiplexingcapture", "chromatinaccess", "negativecontrol")
_MISSING = {"", "na", "nan", "none", "null", "unknown", "unspecified"}
_BIOTYPES = {"tec", "antisense", "ribozyme", "senseintronic", "senseoverlapping", "processedtranscript", "retainedintron", "artifact"}


@dataclass(frozen=True)
class ColumnKind:
    """A kind of excluded columns: features of a type that is no gene, or the genes of a genome."""

    name: str
    is_genome: bool = False

    def __str__(self) -> str:
        return f"genes of {self.name}" if self.is_genome else self.name


@dataclass(frozen=True)
class FeatureTypes:
    """Classification of the features of an input into genes and other kinds.

    is_gene
        bool, one per feature.
    excluded
        Kind, as it is written -> number of the features that are no genes.
    remark
        What is not known of the others, as a sentence; "" when all is.
    """

    is_gene: np.ndarray
    excluded: dict[str, int]
    remark: str = ""


def feature_types(features: dict[str, list[str]], name: str) -> FeatureTypes:
    """Classify features (columns of var, name -> values) as genes or not. InputError when none is a gene."""
    n = len(next(iter(features.values()), []))
    columns = {c: features[c] for c in sorted(features, key=_priority) if _priority(c) < len(_COLUMNS)}
    kinds = {c: _kinds(set(values)) for c, values in columns.items()}
    telling = [c for c, of in kinds.items() if set(of.values()) - {"unknown", "biotype"}]
    column = next((c for c in telling if "other" in kinds[c].values()), next(iter(telling), None))
    if column is None:
        return FeatureTypes(np.ones(n, bool), {}, _untold(columns, n))
    types, of = features[column], kinds[column]
    strict = "genes" in of.values()
    genes = {
        t for t, kind in of.items() if kind in ("genes", "gene", "biotype") or (kind == "unknown" and (not strict or _says_nothing(t)))
    }
    is_gene = np.array([t in genes for t in types], bool)
    if n and not is_gene.any():
        raise InputError(
            f"{name} holds no gene expression: its features are of the type {first_names(sorted(set(types)))} (in '{column}'; if they are genes, "
            "remove that column)"
        )
    unknown = sum(of[t] == "unknown" for t in types if t in genes)
    remark = f"{unknown:,} columns whose '{column}' says nothing known are taken as genes" if unknown else ""
    return FeatureTypes(is_gene, dict(Counter(t for t in types if t not in genes)), remark)


def _priority(column: str) -> int:
    word = _plain(column)
    return _COLUMNS.index(word) if word in _COLUMNS else len(_COLUMNS)


def _plain(text: str) -> str:
    """Normalise a word: no case, blanks or punctuation."""
    return "".join(c for c in str(text).lower() if c.isalnum())


def _kinds(types: set[str]) -> dict[str, str]:
    """Each type -> genes (said outright), gene, biotype, other (no gene) or unknown."""
    words = {t: _plain(t) for t in types}
    kinds = {t: _kind(word) for t, word in words.items()}
    biotypes = "biotype" in kinds.values() and "genes" not in kinds.values()
    return kinds | {t: "biotype" if biotypes else "other" for t, word in words.items() if word in _PROTEINS}


def _kind(word: str) -> str:
    if word in _GENES or word.startswith("geneexpression"):
        return "genes"
    if word in _GENE:
        return "gene"
    if word in _NO_GENES or word.startswith(_NO_GENES_BEGIN):
        return "other"
    if word in _BIOTYPES or word.startswith("proteincoding") or word.endswith(("rna", "rnas", "gene")) or "pseudogene" in word:
        return "biotype"
    return "unknown"


def _says_nothing(text: str) -> bool:
    """Whether a type is missing or names a genome only."""
    return _plain(text) in _MISSING or bool(GENOME.match(f"{text}_"))


def _untold(columns: dict[str, list[str]], n: int) -> str:
    """The remark on a type column whose values classify no feature; "" without one."""
    for column, values in columns.items():
        if _plain(column) in _SURE and any(values):
            return f"'{column}' ({first_names(list(dict.fromkeys(values)), 3)}) does not say which columns are genes: all {n:,} are taken as genes"
    return ""


def genes_only(features: dict[str, list[str]], name: str) -> tuple[dict[str, list[str]], np.ndarray]:
    """Select the features that are genes: (their columns, the number of each feature among them or -1). InputError when there are none."""
    keep = feature_types(features, name).is_gene
    number = np.where(keep, np.cumsum(keep) - 1, -1).astype(np.int32)
    return {k: [v for v, chosen in zip(values, keep, strict=True) if chosen] for k, values in features.items()}, number


def excluded_features(types: list[str] | None) -> dict[ColumnKind, int]:
    """Count the features that are no genes, by kind."""
    return of_types(feature_types({TYPES: types}, "it").excluded) if types else {}


def of_types(n_of_type: dict[str, int]) -> dict[ColumnKind, int]:
    return {ColumnKind(name): n for name, n in n_of_type.items()}


def exclude_non_genes(source: CountSource) -> None:
    """Exclude the columns that are no genes from a source whose var says so, as 10x files are read everywhere.

    An antibody is often named after its gene: it would be counted as that gene's transcripts.
    """
    source.var = {k: ["" if v is None else v for v in values] if None in values else values for k, values in source.var.items()}
    types = feature_types(source.var, source.name)
    if types.remark:
        source.remarks.append(types.remark)
    if types.excluded:
        keep_columns(source, types.is_gene, of_types(types.excluded))


def keep_columns(source: CountSource, keep: np.ndarray, excluded: dict[ColumnKind, int]) -> None:
    """Select columns of a source in place. `keep`: bool, one per column; `excluded`: kind -> number of those that go."""
    source.var = {k: [v for v, chosen in zip(values, keep, strict=True) if chosen] for k, values in source.var.items()}
    source.excluded = dict(source.excluded) | excluded
    before = np.arange(len(keep)) if source.column_numbers is None else source.column_numbers
    source.column_numbers = before[keep]
    source.x = ChosenColumns(source.x, np.where(keep, np.cumsum(keep) - 1, -1).astype(np.int32))


def remarks_of(source: CountSource) -> list[str]:
    """The remarks of a source: how it is read otherwise than its user may think, and which columns are excluded."""
    return [*source.remarks, *([f"left out: {describe_excluded(source.excluded)}"] if source.excluded else [])]


def describe_excluded(kinds: Mapping[ColumnKind, int]) -> str:
    """How many columns are left out, and of which kinds."""
    n = sum(kinds.values())
    no_genes = " that is no gene" if n == 1 else " that are no genes"
    has_genes = any(kind.is_genome for kind in kinds)
    return f"{n:,} column{'' if n == 1 else 's'}{'' if has_genes else no_genes} ({describe(kinds)})"


def describe(kinds: Mapping[ColumnKind, int]) -> str:
    """Kinds of features, with their numbers when there are several."""
    return str(next(iter(kinds))) if len(kinds) == 1 else ", ".join(f"{n:,} {kind}" for kind, n in kinds.items())


class ChosenColumns(Matrix):
    """A column subset of a matrix. `number`: the new number of each column, -1 for those that are left out."""

    def __init__(self, inner: Matrix, number: np.ndarray):
        self._inner, self._number = inner, number
        self._all = bool((number >= 0).all())
        self.shape = inner.shape[0], int((number >= 0).sum())
        self.dtype = inner.dtype

    def use_rows_at_once(self) -> None:
        self._inner.use_rows_at_once()

    def ranges(self, rows_per_block: int | None = None) -> list[tuple[int, int]]:
        return self._inner.ranges(rows_per_block)

    def rows(self, a: int, b: int) -> Rows:
        indptr, indices, data = self._inner.rows(a, b)
        if self._all:
            return indptr, indices, data
        number = self._number[indices]
        keep = number >= 0
        return np.concatenate([[0], np.cumsum(keep)])[indptr], number[keep], data[keep]

    def head(self) -> np.ndarray:
        return self._inner.head()

    def sample(self) -> Iterator[np.ndarray]:
        return self._inner.sample()

    def close(self) -> None:
        self._inner.close()
