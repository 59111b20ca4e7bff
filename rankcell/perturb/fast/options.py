"""The fast method as options. No torch."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, ClassVar

from rankcell.errors import SettingsError
from rankcell.options import Choice, Help, at_least, integer_or, share
from rankcell.perturb.exact.options import Exact, MethodOptions
from rankcell.wording import option

AUTO = "auto"
AUDIT, SPLITS, PROJECTIONS, PAIRS = 0.02, 16, 32, 10


def _integer_or_auto(value: Any) -> Any:
    """A number given as text too; what is none is left for the check to refuse."""
    try:
        return value if value == AUTO or isinstance(value, bool) or float(value) != int(value) else int(value)
    except (TypeError, ValueError, OverflowError):
        return value


def _effort(text: str, placeholder: str, *, at_least: int) -> Help:
    """The help of a setting of effort: a whole number from `at_least` on, or "auto"."""
    return Help(text, f"{placeholder}|{AUTO}", check=integer_or(AUTO, at_least), parse=_integer_or_auto, cli=str)


@dataclass(frozen=True)
class Fast(MethodOptions):
    """Predict all edits of a cell from a few passes, and run some exactly, which correct the prediction and judge it."""

    method: ClassVar[str] = "fast"

    _: KW_ONLY
    audit: Annotated[float, Help("Share of each cell's edits drawn at random and run exactly.", "SHARE", check=share)] = AUDIT
    verify_top: Annotated[int, Help("Also run exactly the N edits of each cell predicted to be largest.", "N", check=at_least(0))] = 0
    verify_screen: Annotated[int, Help("At the end, run exactly the N predicted to be largest of the whole screen.", "N", check=at_least(0))] = 0
    verify_by: Annotated[str | None, Help("By this score (default: the first toward a state, else the first cosine).", "SCORE")] = None
    splits: Annotated[
        int | str | None,
        _effort(f"At least so many edits of each cell are drawn and run (default {SPLITS}; auto with {{min_recall}}).", "N", at_least=2),
    ] = None
    projections: Annotated[
        int | str | None,
        _effort(
            f"Random projections that sizes of shift are estimated from (default {PROJECTIONS}; auto with {{min_recall}}; 0: no sizes, toward states alone).",
            "K",
            at_least=0,
        ),
    ] = None
    min_recall: Annotated[
        float | None, Help("The recall of the top tenth to reach at least cost; cells that fall short are named.", "R", check=share)
    ] = None
    epistasis: Annotated[
        int | None,
        Help("Deletions: also all pairs among the N largest genes of each cell, what both do beyond the sum.", "N", check=at_least(2)),
    ] = None
    verify_pairs: Annotated[
        int | None, Help(f"Run the M pairs of each cell predicted to interact most (default {PAIRS}).", "M", check=at_least(0))
    ] = None

    def check(self) -> None:
        if self.verify_pairs is not None and self.epistasis is None:
            raise SettingsError(
                f"{option('verify_pairs')} is of the pairs of {option('epistasis', placeholder='N')}, which is not asked for"
            )
        if AUTO in (self.splits, self.projections) and self.min_recall is None:
            name = "splits" if self.splits == AUTO else "projections"
            raise SettingsError(f"{option(name, AUTO)} needs the recall that is to be reached: add {option('min_recall')}")

    @property
    def effort(self) -> dict[str, int | str]:
        """Splits and projections: as given, else "auto" with a recall to reach, else the default."""
        unset = {"splits": SPLITS, "projections": PROJECTIONS} if self.min_recall is None else {"splits": AUTO, "projections": AUTO}
        return {name: default if getattr(self, name) is None else getattr(self, name) for name, default in unset.items()}

    @property
    def pairs_run(self) -> int:
        return PAIRS if self.verify_pairs is None else self.verify_pairs

    def settings(self) -> dict[str, Any]:
        """All but `verify_by`, which the scores decide, and efforts that are "auto", which the first cells decide."""
        others = ("verify_by", "splits", "projections", "epistasis", "verify_pairs", "tokens_per_unit")
        plain = {name: value for name, value in super().settings().items() if name not in others}
        pairs = {} if self.epistasis is None else {"epistasis": self.epistasis, "verify_pairs": self.pairs_run}
        return plain | pairs | {name: value for name, value in self.effort.items() if value != AUTO}


METHOD_CHOICE = Choice(
    "method",
    Help("exact, or fast: predict all edits of a cell at once, and run some exactly to correct and to judge it."),
    {"exact": Exact, "fast": Fast},
)
