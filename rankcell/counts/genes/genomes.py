"""Genomes: names with a genome in front (GRCh38_CD3D), and inputs that hold the genes of several."""

from collections import Counter

import numpy as np

from rankcell.counts.genes.features import ColumnKind, keep_columns
from rankcell.counts.genes.ids import GENOME
from rankcell.counts.source import CountSource, first_names
from rankcell.errors import GeneError
from rankcell.vocab import Vocabulary
from rankcell.wording import offers, option

_COMMON = 0.5  # of the names: a genome in front of so many is one
_LOOKED_AT = 500  # names: where none of these has a genome in front, most have none
_PART = 0.05  # of the columns: a genome of fewer is no part of a mixture


def without_genome(names: list[str]) -> list[str]:
    """Remove genome prefixes from names."""
    return [name[prefix.end() :] if (prefix := GENOME.match(name)) else name for name in names]


def prefixes(names: list[str]) -> list[str]:
    """The genome prefixes of names, such as ["GRCh38_", "mm10___"], the most frequent first; [] where most names have none."""
    if not any(GENOME.match(name) for name in names[:: len(names) // _LOOKED_AT + 1]):
        return []
    counts = Counter(match[0] for name in names if (match := GENOME.match(name)))
    return [p for p, n in counts.most_common() if n >= _PART * len(names)] if sum(counts.values()) > _COMMON * len(names) else []


def strip_genome(source: CountSource) -> None:
    """Remove the genome prefix from the names of a source, where most share one."""
    front = {column: prefixes(values) for column, values in source.var.items()}
    for column, genomes in front.items():
        if len(genomes) == 1:
            source.var[column] = without_genome(source.var[column])
    if taken := sorted({genomes[0] for genomes in front.values() if len(genomes) == 1}):
        source.remarks.append(f"names begin with {first_names(taken)}, which is taken off")


def genome_of_columns(source: CountSource) -> list[str] | None:
    """The genome that each column is of, "" where none is said: by the var column `genome`, else by what is in front of the names."""
    stated = next((values for column, values in source.var.items() if column.lower() in ("genome", "genomes")), None)
    if stated is not None and any(_stated(v) for v in stated):
        return [_stated(v) for v in stated]
    for values in source.var.values():
        if prefixes(values):
            return [match[1] if (match := GENOME.match(v)) else "" for v in values]
    return None


def _stated(value: str) -> str:
    return "" if value.strip().lower() in ("", "nan", "na", "none", "<na>") else value.strip()


def keep_genome(source: CountSource, genome: str | None, vocab: Vocabulary | None) -> None:
    """Leave the columns of all genomes but one out of a source: of all but `genome`, else, in a mixture, of all but the one that
    the vocabulary knows. GeneError when there is no such genome.
    """
    genomes = genome_of_columns(source)
    if genome is None:
        genome_read = _known_genome(source, genomes, vocab) if genomes and vocab is not None else None
    elif genomes is None:
        if (source.key.layer or "").lower() == genome.lower():
            return
        raise GeneError(f"{source.name} does not say of which genome its genes are: leave out {option('genome')}")
    else:
        genome_read = _requested_genome(source, genomes, genome)
    if genome_read is None:
        return
    other_genomes = Counter(g for g in genomes if g and g != genome_read)
    if not other_genomes:
        return
    keep_columns(source, np.array([g in ("", genome_read) for g in genomes]), {ColumnKind(g, is_genome=True): n for g, n in other_genomes.items()})
    if genome is None:
        choose = f"; {option('genome')} names another" if offers("genome") else ""
        source.remarks.append(f"of {first_names([genome_read, *other_genomes])} the vocabulary '{vocab.name}' knows {genome_read}: its genes are read{choose}")


def _requested_genome(source: CountSource, genomes: list[str], genome: str) -> str:
    known = list(dict.fromkeys(g for g in genomes if g))
    matches = [g for g in known if g.lower() == genome.lower()] or [g for g in known if g.lower().startswith(genome.lower())]
    if len(matches) != 1:
        raise GeneError(f"{source.name} has no genome '{genome}'; it has {first_names(known)}")
    return matches[0]


def _known_genome(source: CountSource, genomes: list[str], vocab: Vocabulary) -> str | None:
    """The one genome of a mixture that the vocabulary knows; None where there is no mixture, or it knows several or none."""
    sizes = Counter(g for g in genomes if g)
    parts = [g for g, n in sizes.items() if n >= _PART * len(genomes)]
    if len(parts) < 2:
        return None
    of = np.array(genomes)
    best = np.zeros(len(parts))
    for values in source.var.values():
        as_they_are, without = (vocab.lookup(v) >= 0 for v in (values, without_genome(values)))
        if as_they_are.sum() > without.sum():
            without = as_they_are
        best = np.maximum(best, [without[of == g].mean() for g in parts])
    order = np.argsort(-best)
    return parts[order[0]] if best[order[0]] > 4 * best[order[1]] else None
