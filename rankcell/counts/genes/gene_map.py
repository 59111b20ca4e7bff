"""Which column of var names the genes, and which gene of the vocabulary each matrix column is."""

import re
from dataclasses import dataclass

import numpy as np

from rankcell.counts.genes.genomes import keep_genome, prefixes, without_genome
from rankcell.counts.genes.orientation import require_genes_in_columns
from rankcell.counts.source import CountSource
from rankcell.errors import GeneError
from rankcell.vocab import Vocabulary
from rankcell.wording import offers, option

MIN_KNOWN = 0.1
_TRANSCRIPT = re.compile(r"ENS[A-Z]*T[0-9]{6,}", re.IGNORECASE)


@dataclass(frozen=True)
class GeneMap:
    """The mapping of matrix columns to genes of a vocabulary.

    column
        The var column (or index) that names the genes.
    slot_of_column
        int32 per matrix column: its slot, -1 where the vocabulary does not know the gene. Slots are numbered in the order
        in which genes first come in the input; columns of one gene share one.
    gene_of_slot
        int32 per slot: gene index in the vocabulary.
    prefix
        The genome that was taken from in front of most names, such as "GRCh38_"; "" where none was.
    """

    column: str
    slot_of_column: np.ndarray
    gene_of_slot: np.ndarray
    prefix: str = ""

    @property
    def n_known(self) -> int:
        """Matrix columns that the vocabulary knows."""
        return int((self.slot_of_column >= 0).sum())


def match_genes(
    source: CountSource, vocab: Vocabulary, *, gene_column: str | None = None, genome: str | None = None, min_known: float = MIN_KNOWN
) -> GeneMap:
    """Map matrix columns to genes, by the var column whose entries the vocabulary knows best (or by `gene_column`).

    A genome in front of most names is taken off where the vocabulary then knows more of them. Of an input with the genes of several
    genomes, those of `genome` (None: of the one that the vocabulary knows) are kept, the others are taken out of the source.

    Raises GeneError when fewer than `min_known` of the columns and of the vocabulary's genes are known, or there is no such genome.
    """
    if gene_column is not None and gene_column not in source.var:
        raise GeneError(f"{source.name} has no gene column '{gene_column}'; it has {', '.join(source.var)}")
    keep_genome(source, genome, vocab)
    candidates = {gene_column: source.var[gene_column]} if gene_column is not None else source.var
    matches = {name: _lookup(vocab, values) for name, values in candidates.items()}
    genes_by_column = {name: genes for name, (genes, _) in matches.items()}
    best = max(genes_by_column, key=lambda name: (len(np.unique(genes_by_column[name][genes_by_column[name] >= 0])), _ensembl_share(candidates[name])))
    genes = genes_by_column[best]
    n_known = int((genes >= 0).sum())
    if n_known < min_known * len(genes) and len(np.unique(genes[genes >= 0])) < min_known * len(vocab):
        require_genes_in_columns(source, vocab)
        raise GeneError(_unknown(source, vocab, best, candidates[best], genes, list(candidates)))
    known = genes[genes >= 0]
    _, first = np.unique(known, return_index=True)
    gene_of_slot = known[np.sort(first)]
    slot_of_gene = np.full(len(vocab), -1, np.int32)
    slot_of_gene[gene_of_slot] = np.arange(len(gene_of_slot), dtype=np.int32)
    slots = np.where(genes >= 0, slot_of_gene[genes], -1).astype(np.int32)
    if prefix := matches[best][1]:
        source.remarks.append(f"gene names begin with {prefix}, which is taken off")
    return GeneMap(best, slots, gene_of_slot, prefix)


def n_known_columns(vocab: Vocabulary, columns: dict[str, list[str]]) -> int:
    """Matrix columns whose gene is known, by the var column that the vocabulary knows best."""
    return max((int((_lookup(vocab, values)[0] >= 0).sum()) for values in columns.values()), default=0)


def _lookup(vocab: Vocabulary, values: list[str]) -> tuple[np.ndarray, str]:
    """Look names up with and without a genome prefix: (gene of each name or -1, the prefix that was removed, or "")."""
    genes, front = vocab.lookup(values), prefixes(values)
    if front:
        without = vocab.lookup(without_genome(values))
        if (without >= 0).sum() > (genes >= 0).sum():
            return without, front[0]
    return genes, ""


def _ensembl_share(values: list[str]) -> float:
    return sum(v.upper().startswith("ENS") for v in values) / max(1, len(values))


def _unknown(source: CountSource, vocab: Vocabulary, column: str, values: list[str], genes: np.ndarray, looked_at: list[str]) -> str:
    """The message of the error for too few known genes: how many were known, what they look like, and what to do."""
    n_known = int((genes >= 0).sum())
    unknown = [v for v, g in zip(values, genes, strict=True) if g < 0]
    where = (
        f"var column '{column}'" if len(looked_at) == 1 else f"var columns {', '.join(repr(c) for c in looked_at[:5])} (best: '{column}')"
    )
    return (
        f"{source.name}: only {n_known:,} of {len(values):,} genes are in vocabulary '{vocab.name}' (looked in {where}); the file "
        f"has {', '.join(unknown[:3])}, the vocabulary {vocab.examples()}. {_likely(unknown, vocab)}"
    )


def _likely(unknown: list[str], vocab: Vocabulary) -> str:
    """The likely cause, from the shape of the unknown ids."""
    sample = unknown[:2000]

    def share(test) -> float:
        return sum(map(test, sample)) / max(1, len(sample))

    if share(lambda v: bool(_TRANSCRIPT.match(v))) > 0.5:
        return (
            "These are transcripts (ENST...), and a vocabulary knows genes: sum the counts of each gene's transcripts first (tximport, or "
            "alevin-fry and kallisto with a table of transcripts to genes)."
        )
    if share(lambda v: v.upper().startswith("ENSMUS")) > 0.5 or share(lambda v: v[:1].isupper() and v[1:].islower()) > 0.5:
        return "These look like mouse genes: use a mouse vocabulary, or map them to human orthologues first."
    if share(lambda v: v.upper().startswith("ENS") and not v.upper().startswith("ENSG0")) > 0.5:
        return "These look like Ensembl ids of another species: use a vocabulary of that species."
    if share(str.isdigit) > 0.5:
        return f"These look like row numbers or Entrez ids: name the right column{_with('gene_column')}."
    if not any(vocab.symbols) and share(lambda v: not v.upper().startswith("ENS")) > 0.5:
        return "These look like symbols, and this vocabulary has none: import it with its symbols, or give Ensembl ids."
    if prefixes(sample):
        return f"Names begin with {prefixes(sample)[0]}, and without it the vocabulary does not know them either: is it of another species?"
    right = f", or the right {'vocabulary' if offers('vocab') else 'model'}{_with('vocab' if offers('vocab') else 'model')}"
    return f"Name the right column{_with('gene_column')}{right}."


def _with(name: str) -> str:
    return f" with {option(name)}" if offers(name) else ""
