"""The numbers of a ranking in words: `rankcell stats`, the closing lines of `rankcell perturb` and the report say the same."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rankcell.stats.ranking import Ranking
from rankcell.stats.replicates import LEAST_REPLICATES

LEVEL = 0.05  # of the false discovery rate below which an edit is called


def edits_sentence(counts: Mapping[str, Any]) -> str:
    """How many edits there are, and how many are in enough cells; `counts`: facts of a ranking, or `edit_counts`."""
    total, n_dropped, floor = (counts[k] for k in ("edits", "left_out", "min_cells"))
    if not n_dropped:
        return f"{total:,} edit{'s' * (total != 1)}" + (f", all in {floor:,} cells or more" if floor > 1 else "")
    none = counts["in_no_cell"]
    where = "" if not none else ", all of them in none" if none == n_dropped else f", {none:,} of them in none"
    return f"{total - n_dropped:,} of {total:,} edits are in {floor:,} cell{'s' * (floor != 1)} or more; {n_dropped:,} in fewer{where} are left out"


def edit_counts(screen: Any) -> dict[str, int]:
    """The numbers of `edits_sentence` for a finished screen by its default score, without ranking it."""
    from rankcell.perturb.results.screen_tables import EDITS, SCREEN
    from rankcell.stats.screen_rows import choose_score, least_cells

    score = choose_score(screen.columns(), None)
    table = screen.read(SCREEN, ["edit", score], read_dictionary=["edit"])
    counts = table.filter(table[score].is_valid())["edit"].value_counts()
    n = counts.field("counts").to_numpy()
    tried = set(screen.edits()["edit"].to_pylist()) if screen.has(EDITS) else set()
    tried |= set(table["edit"].unique().to_pylist())
    n_cells = np.concatenate([n, np.zeros(len(tried) - len(n), np.int64)])
    floor = least_cells(n_cells, None)
    return {
        "edits": len(tried),
        "min_cells": floor,
        "left_out": int((n_cells < floor).sum()),
        "in_no_cell": int((n_cells == 0).sum()),
    }


def without_p_sentence(ranking: Ranking) -> str:
    """How many edits have no p for being in too few cells, or donors; empty where none is."""
    n, over = ranking.facts.get("without_p", 0), "donors" if "n_donors" in ranking.table else "cells"
    return f"{n:,} of {len(ranking):,} edits are in fewer than {LEAST_REPLICATES} {over}: no p rests on so few" if n else ""


def calls(ranked: Any) -> dict[str, tuple[int, int]]:
    """{column of a false discovery rate: (edits below LEVEL, edits tested)}."""
    names = [c for c in ranked.columns if c == "fdr" or c.endswith("_fdr")]
    return {c: (int((ranked[c] < LEVEL).sum()), int(ranked[c].notna().sum())) for c in names}


def calls_sentence(name: str, called: int, tested: int) -> str:
    return f"{name} < {LEVEL:g}: {called:,} of {tested:,} edits tested"
