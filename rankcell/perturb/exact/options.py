"""What a screen measures, and the exact method, as options. No torch."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, ClassVar

from rankcell.arguments import one_layer
from rankcell.errors import SettingsError
from rankcell.options import Help, Options, at_least, one_of
from rankcell.scores import READOUTS
from rankcell.wording import option


def _readouts(value: Any) -> tuple[str, ...]:
    """Readouts in their own order: of one name, of several with commas, of a list."""
    names = [name.strip() for part in ([value] if isinstance(value, str) else list(value)) for name in str(part).split(",")]
    return (*(r for r in READOUTS if r in names), *(r for r in names if r not in READOUTS))


@dataclass(frozen=True)
class Measure(Options):
    """What is compared before and after an edit, and which tables of affected genes are kept."""

    readout: Annotated[
        str | Sequence[str],
        Help(
            "genes, cell, cls: which are scored; several with commas. cls alone is faster.", "READOUT", check=one_of(*READOUTS), parse=_readouts, cli=list[str]
        ),
    ] = READOUTS
    _: KW_ONLY
    layer: Annotated[int, Help("Model layer whose states are compared (-1: output of the last block).", parse=one_layer, cli=int)] = -2
    distance: Annotated[str, Help("cos, or euclidean: distances beside the cosines.", check=one_of("cos", "euclidean"))] = "cos"
    readout_compat: Annotated[
        str, Help("'geneformer' keeps the perturbed gene in the cell readout of {toward}.", check=one_of("rankcell", "geneformer"))
    ] = "rankcell"
    affected: Annotated[bool, Help("Also a table per affected gene: mean over cells.")] = False
    affected_top: Annotated[int | None, Help("Also the K genes that each edit of a cell moves most, cell by cell.", "K", check=at_least(1))] = None
    affected_raw: Annotated[bool, Help("Also every affected gene, cell by cell (large).")] = False

    def check(self) -> None:
        if self.collects and "genes" not in self.readout:
            raise SettingsError(f"affected genes need the readout of genes, and only {', '.join(self.readout)} is asked for")
        if self.affected_top is not None and self.affected_raw:
            raise SettingsError(f"{option('affected_top')} is a part of {option('affected_raw')}: leave one out")

    @property
    def collects(self) -> list[str]:
        """The tables of affected genes: "mean", "top", "raw"."""
        tables = {"mean": self.affected, "top": self.affected_top is not None, "raw": self.affected_raw}
        return [name for name, is_collected in tables.items() if is_collected]

    @property
    def keeps_perturbed(self) -> bool:
        """Whether the perturbed gene stays in the cell readout of movements toward states, as in Geneformer."""
        return self.readout_compat == "geneformer"

    def settings(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in ("layer", "distance", "readout_compat", "affected_top")},
            "readouts": list(self.readout),
            "affected": self.collects,
        }

    @classmethod
    def of_settings(cls, settings: Any) -> "Measure":
        tables: dict[str, Any] = {f"affected{'' if name == 'mean' else '_' + name}": True for name in settings["affected"] if name != "top"}
        return cls(settings["readouts"], **{n: settings[n] for n in ("layer", "distance", "readout_compat", "affected_top")}, **tables)


@dataclass(frozen=True)
class MethodOptions(Options):
    """Base of the methods: how the edits of a screen are run, and saved."""

    method: ClassVar[str] = ""

    _: KW_ONLY
    tokens_per_unit: Annotated[
        int | None,
        Help(
            "Save whenever whole cells of about so many edited tokens are done (default: 250000; on a GPU, unless with {shard}, eight full batches).",
            check=at_least(1),
        ),
    ] = None


@dataclass(frozen=True)
class Exact(MethodOptions):
    """Run every edit."""

    method: ClassVar[str] = "exact"
