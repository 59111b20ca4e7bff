"""Lines for the terminal on a ranking of edits."""

from rankcell.stats.ranking import Ranking
from rankcell.stats.summary import calls, calls_sentence, edits_sentence, without_p_sentence
from rankcell.wording import option


def statistics_lines(ranking: Ranking) -> list[str]:
    """Summary lines of a ranking."""
    table, facts, by, modes = ranking.table, ranking.facts, ranking.by, ranking.facts["mode"]
    if facts.get("compat") == "geneformer":
        n = int(table["Sig"].sum()) if "Sig" in table else None
        return [
            f"{len(table):,} rows as Geneformer's {modes[0]}"
            + (f" on {by}" if by else "")
            + (f"; {n:,} with Sig = 1" if n is not None else "")
        ]
    if modes == ["affected"]:
        return _pairs(ranking)
    top = ", ".join(f"{r.symbols} {r.effect:.2e}" for r in table.head(5).itertuples()) or "none"
    keep = f" ({option('min_cells', 0)} keeps them)" if facts["left_out"] else ""
    lines = [f"{len(table):,} edits by mean effect on {by}; largest: {top}", f"{edits_sentence(facts)}{keep}", *_of_predictions(ranking)]
    for name, (called, tested) in calls(table).items():
        no_peers = name.startswith("matched") and not tested and not table["matched_diff"].notna().any()
        few = ": ten edits alike in rank and detection are needed to compare with" if no_peers else ""
        lines.append(calls_sentence(name, called, tested) + few)
    if calls(table) and without_p_sentence(ranking):
        lines.append(without_p_sentence(ranking))
    if "impact" in table:
        lines.append(f"impact component: {int(table['impact'].sum()):,} edits")
    plain = facts.get("plain_rank_spearman")
    also = f" (with the shift of positions {plain:.2f})" if plain is not None else ""
    if facts["rank_spearman"] == facts["rank_spearman"]:
        lines.append(f"median Spearman with the gene's rank in the cell {facts['rank_spearman']:.2f}{also}")
    else:
        lines.append("Spearman with the gene's rank: unknown, no cell has ten edits of different rank")
    partial = ", ".join(f"{k.replace('_', ' ')} {v['partial']:.2f}" for k, v in facts["predictors"].items())
    return [*lines, f"partial Spearman over edits, each with the others held fixed: {partial}"] if partial else lines


def _pairs(ranking: Ranking) -> list[str]:
    """Summary lines of a table of affected genes."""
    table, a = ranking.table, ranking.facts
    positions = "in place" if a["by"] != "mean_cos" else "with the change of positions, as the screen has no values in place"
    which = {"more": "that move more than expected", "less": "that move less than expected", "both": "by how far they are from expected"}
    first = [f"{r.symbols} -> {r.affected_symbol}" for r in table.head(5).itertuples()]
    line = f"{len(table):,} pairs of perturbation and affected gene {which[a['direction']]}, {positions}"
    return [
        f"{line}; of {a['pairs']:,}, those in {a['min_cells']:,} cells or more; first: {', '.join(first) or 'none'}",
        "a ranking without p or FDR: these are not calibrated for pairs",
    ]


def _of_predictions(ranking: Ranking) -> list[str]:
    """Of a fast screen: how much was run, how far the rest is off, and what the intervals and p hold of it."""
    table, facts = ranking.table, ranking.facts
    if facts.get("method") != "fast":
        return []
    f, n_exact, n = facts["prediction"], int(table["n_exact"].sum()), int(table["n_cells"].sum())
    if n_exact == n:
        return ["fast screen: all values were run, none is predicted"]
    line = f"fast screen: {n_exact:,} of {n:,} values run; the others are off by {f['error']:.1e}"
    line += f" (root mean square of {f['audited']:,} audited, mean {f['bias']:+.1e})"
    if f["common_share"] is None:
        few = f"only {f['edits_audited_twice']:,} edits were audited in two cells, so all of it is taken to be the same in all cells of an edit"
        return [f"{line}; {few}: intervals and p are wider than they need be (perturb with {option('audit', 0.2)}, or more cells, would tell)"]
    return [f"{line}, of which {f['common_share']:.0%} is the same in all cells of an edit: that is in every interval and p"]
