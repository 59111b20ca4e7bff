"""What a vocabulary is built from and how, as options. No numpy."""

from dataclasses import dataclass
from typing import Annotated, Any

from rankcell.counts.options import Counts, RepeatedCells
from rankcell.options import Help, Options, at_least

VocabularyName = Annotated[str | None, Help("Its name (default: the folder's).")]


@dataclass(frozen=True)
class CountsToBuild(Counts):
    """Which counts of its inputs a vocabulary is built from, where no vocabulary knows their genes yet."""

    gene_column: Annotated[
        str | None, Help("The var column that names the genes (default: the one that holds Ensembl ids, else the index).")
    ] = None
    genome: Annotated[str | None, Help("Of an input with genes of several genomes: the one to take (default: all).")] = None
    allow_non_counts: Annotated[
        bool, Help("Take values that are not counts (of Salmon, alevin-fry, RSEM); what is not above zero is left out.")
    ] = False
    allow_repeated_cells: RepeatedCells = False

    def open(self, source: Any) -> Any:
        """A source at them, without the columns of other genomes, and with names without a genome in front."""
        from rankcell.counts import open_at_counts
        from rankcell.counts.genes.genomes import keep_genome, strip_genome

        opened = open_at_counts(source, layer=self.counts_layer, raw=self.raw, genome=self.genome, allow_non_counts=self.allow_non_counts)
        keep_genome(opened, self.genome, None)
        strip_genome(opened)
        return opened


@dataclass(frozen=True)
class NewVocabulary(Options):
    """What a vocabulary that is built from counts is called, and which genes and special tokens it gets."""

    name: VocabularyName = None
    species: Annotated[str, Help("What the genes belong to.")] = ""
    max_len: Annotated[int | None, Help("Longest row, special tokens included (default: 4096).")] = None
    cls: Annotated[bool, Help("With or without CLS and EOS tokens.")] = True
    min_cells: Annotated[int, Help("Leave out genes that fewer cells show.", check=at_least(1))] = 1
