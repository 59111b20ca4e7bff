"""Perturbations as options: which genes are perturbed, how they combine, and the one setting that a kind alone has. No numpy, no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, ClassVar

from rankcell.errors import SettingsError
from rankcell.options import Choice, Help, Options, one_of
from rankcell.perturb.edits.gene_lists import ALL, named_genes, named_sets
from rankcell.wording import option


@dataclass(frozen=True)
class Perturbation(Options):
    """Base of the kinds of perturbation: the genes, and how they combine."""

    kind: ClassVar[str] = ""

    genes: Annotated[
        str | Sequence[str],
        Help("Genes, one by one: all that a cell shows, names, or a file of names (@FILE).", "all|A,B|@FILE", parse=named_genes, cli=str),
    ] = ALL
    _: KW_ONLY
    group: Annotated[bool, Help("Perturb the named genes together.")] = False
    any: Annotated[bool, Help("Groups, pairs and sets also where a cell shows only some of their genes.")] = False
    pairs: Annotated[bool, Help("Perturb each two of the named genes together.")] = False
    anchor: Annotated[str | None, Help("Perturb this gene together with each of {genes}.", "G")] = None
    sets: Annotated[
        Mapping[str, Sequence[str]] | None,
        Help("Named sets, each perturbed together: GMT, JSON, or a table NAME<TAB>GENE; in Python also a mapping of names to genes.", "FILE", parse=named_sets, cli=str),
    ] = None
    skip_unknown: Annotated[bool, Help("Go on without genes that the vocabulary lacks; they are named.")] = False

    def check(self) -> None:
        combinations = {"group": self.group, "pairs": self.pairs, "anchor": self.anchor is not None, "sets": self.sets is not None}
        chosen = [name for name, is_chosen in combinations.items() if is_chosen]
        if len(chosen) > 1:
            raise SettingsError(f"{option(chosen[0])} and {option(chosen[1])} exclude each other: leave one out")
        if self.sets is not None and self.genes != ALL:
            raise SettingsError(f"{option('sets')} and {option('genes')} are both given: leave one out")
        if self.genes == ALL and (self.group or self.pairs):
            example = option("genes", placeholder="A,B,C")
            raise SettingsError(f"{'a group needs' if self.group else 'pairs need'} genes that are named: {example} with {option(chosen[0], True)}")

    def settings(self) -> dict[str, Any]:
        """How the genes combine, and what the kind alone has, where it is not the default; the genes themselves are the plan's."""
        return {name: value for name, value in self.non_defaults().items() if name not in ("genes", "sets", "skip_unknown")}


@dataclass(frozen=True)
class Delete(Perturbation):
    """Delete genes: the rest of the cell's ranks closes up. Scores also come `_in_place`, without that shift of positions."""

    kind: ClassVar[str] = "delete"

    refill: Annotated[bool, Help("The next genes of the uncropped cell enter.")] = False


@dataclass(frozen=True)
class Overexpress(Perturbation):
    """Overexpress genes: they move to the front of the ranks; a gene that a cell lacks is inserted."""

    kind: ClassVar[str] = "overexpress"


_QUARTERS = Help("By how many quarters of the cell's genes they move, 1 to 4.", "N", check=one_of(1, 2, 3, 4))


@dataclass(frozen=True)
class Inhibit(Perturbation):
    """Inhibit genes: they move down the ranks."""

    kind: ClassVar[str] = "inhibit"

    quarters: Annotated[int, _QUARTERS] = 1


@dataclass(frozen=True)
class Activate(Perturbation):
    """Activate genes: they move up the ranks."""

    kind: ClassVar[str] = "activate"

    quarters: Annotated[int, _QUARTERS] = 1


@dataclass(frozen=True)
class Mask(Perturbation):
    """Mask genes: the mask token takes their place, and all others keep theirs."""

    kind: ClassVar[str] = "mask"


@dataclass(frozen=True)
class Move(Perturbation):
    """Move genes to a rank of the cell."""

    kind: ClassVar[str] = "move"

    to_rank: Annotated[int | None, Help("The rank to move to (0: top).", "N")] = None

    def check(self) -> None:
        super().check()
        if self.to_rank is None or self.to_rank < 0:
            needed = f"move needs the rank to move to, 0 (the top) or more ({option('to_rank', placeholder='N')})"
            raise SettingsError(needed if self.to_rank is None else f"{needed}; it is {self.to_rank}")


EDIT_CHOICE = Choice(
    "kind",
    Help("delete, overexpress, inhibit, activate, mask or move."),
    {cls.kind: cls for cls in (Delete, Overexpress, Inhibit, Activate, Mask, Move)},
)
