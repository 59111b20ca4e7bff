"""Long result table -> one row per edit."""

from rankcell.stats.rank import effect_of, rank_edits, rank_spearman

__all__ = ["effect_of", "rank_edits", "rank_spearman"]
