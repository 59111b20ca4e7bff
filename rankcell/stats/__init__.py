"""Long result table -> one row per edit: effect, interval, null, p and FDR; the trivial predictors beside every effect."""

from rankcell.stats.affected import rank_affected
from rankcell.stats.rank import rank_edits, rank_spearman
from rankcell.stats.rows import effect_of

__all__ = ["effect_of", "rank_affected", "rank_edits", "rank_spearman"]
