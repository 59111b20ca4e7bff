"""Long result table -> one row per edit: effect, interval, null, p and FDR; covariates (rank, detection, expression) beside every effect."""

from rankcell.lazy import door

_PLACES = {
    "RankOptions": "rankcell.stats.options",
    "effect_of": "rankcell.stats.screen_rows",
    "rank_affected": "rankcell.stats.affected_pairs",
    "rank_edits": "rankcell.stats.rank",
    "rank_spearman": "rankcell.stats.rank",
}
__getattr__, __dir__ = door(__name__, _PLACES)
