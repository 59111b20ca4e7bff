"""How embeddings are scored, and labels carried over, as options. No numpy."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from rankcell.embed.options import several
from rankcell.errors import SettingsError
from rankcell.options import Help, Options, at_least, one_of
from rankcell.wording import option, shortened

K, FOLDS, METRIC = 15, 5, "cosine"
COMPARED_LAYERS, N_RANDOM = (-1, -2), 1
RANK_EDITS = ("drop", "shuffle", "mask")


def _resolutions(value: Any) -> tuple[float, ...]:
    """One resolution or several as numbers; 0, None and an empty list are none. SettingsError when one makes no sense."""
    try:
        resolutions = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value or 0]
        if any(type(r).__name__ in ("bool", "bool_") for r in resolutions):
            raise TypeError
        values = tuple(float(r) for r in resolutions)
    except (TypeError, ValueError):
        raise SettingsError(f"{option('resolution')} is {shortened(value)}; a number above 0, or several (0 leaves clusters out)") from None
    if values == (0.0,):
        return ()
    if wrong := [r for r in values if not 0 < r < float("inf")]:
        raise SettingsError(f"{option('resolution')} is {wrong[0]:g}; a number above 0, or 0 alone, which leaves clusters out")
    return values


def _share(value: float) -> str | None:
    return None if 0 <= value <= 1 else "a share, 0 to 1"


@dataclass(frozen=True)
class Scoring(Options):
    """How an embedding is scored against labels."""

    k: Annotated[int, Help("Nearest neighbours.", check=at_least(1))] = K
    folds: Annotated[int, Help("Folds of the cross-validation.", check=at_least(2))] = FOLDS
    resolution: Annotated[
        float | Sequence[float] | None,
        Help("A Leiden resolution to try; may be repeated (needs igraph; 0: no clusters).", "R", parse=_resolutions, cli=list[float]),
    ] = (0.2, 0.5, 1.0)
    seed: Annotated[int, Help("Of folds, clusters, samples and random models.")] = 0


@dataclass(frozen=True)
class LabelMapping(Options):
    """How labels are carried over from the nearest reference cells."""

    k: Annotated[int, Help("Nearest reference cells that vote.", check=at_least(1))] = K
    metric: Annotated[str, Help("cosine or euclidean.", check=one_of("cosine", "euclidean"))] = METRIC
    min_confidence: Annotated[float, Help("A label with a smaller share of the votes is 'unsure'.", "SHARE", check=_share)] = 0.5
    # at 0.95 about 5 % of cells like the reference are unsure for their distance
    max_distance: Annotated[
        float, Help("So is that of a cell farther away than this share of the reference is from itself.", "SHARE", check=_share)
    ] = 0.95


@dataclass(frozen=True)
class RankBins(Options):
    """Which genes of a cell are edited to see what a pooling looks at."""

    how: Annotated[
        str | Sequence[str],
        Help(
            "`drop` (the genes are removed and the rest closes up, so that dropping the top decile also moves every later gene to another "
            "position, and dropping the last none), `shuffle` (the genes change places among themselves) and `mask` (the mask token stands "
            "in their place, is attended to and counts in the means; all positions are kept).",
            check=one_of(*RANK_EDITS),
            parse=several,
        ),
    ] = RANK_EDITS
    n_bins: Annotated[
        int,
        Help(
            "Into how many runs, equal to within one gene, a cell's ranked genes are cut. Cells with fewer genes are left out, with a "
            "warning and in `attrs`.",
            check=at_least(2),
        ),
    ] = 10
    cells: Annotated[int | None, Help("How many cells, drawn with {seed}; None: all.", check=at_least(1))] = 200
    seed: Annotated[int, Help("It also draws the shuffles and the random genes.")] = 0
