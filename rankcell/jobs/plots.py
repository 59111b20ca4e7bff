"""A results folder -> a picture, or a page with all of them."""

import os
from pathlib import Path
from typing import Any

from rankcell.errors import InputError, OutputError, SettingsError
from rankcell.stats.ranking import Ranking
from rankcell.store import read_json
from rankcell.wording import option


def plot(
    source: Any,
    out: str | os.PathLike,
    *,
    what: str = "report",
    edit: str | None = None,
    cell: str | None = None,
    score: str | None = None,
    n: int | None = None,
    groupby: str | None = None,
    min_cells: int | None = None,
    statistics: Any = None,
    force: bool = False,
) -> Path:
    """Draw a screen into `out`; returns its path.

    what
        `report` (a page, html), or one picture (png, svg, pdf): `volcano`, `ranked`, `heatmap`, `affected`, `rank`,
        `decomposition`, `explain`. They are those of rc.pl.
    edit, cell
        Whose affected genes; the cell to explain.
    score
        Default: `cos_genes_in_place` where there is one.
    n, min_cells
        How many edits to draw or name; leave out edits in fewer cells (default 3, or fewer where no edit is in three).
    groupby
        Of the heatmap: a column of the cells, in place of the states.
    statistics
        The table of `rankcell stats` (csv, tsv, parquet, or a DataFrame) to draw a volcano or the ranked edits from; None: those
        of rc.tl.rank_edits, without donors.
    """
    from rankcell.report.pictures.screen_pictures import picture_of, write_picture
    from rankcell.report.screen_view import open_tables

    out = Path(out)
    options = {"edit": edit, "cell": cell, "score": score, "n": n, "groupby": groupby, "min_cells": min_cells}
    if what != "report":
        picture_of(what)
    _check(out, what, n, min_cells)
    given = None if statistics is None else read_statistics(statistics, score)
    if what == "report":
        from rankcell.report.pages.screen_page import write_page

        unused = [option(k) for k in ("edit", "cell", "groupby") if options[k] is not None]
        if unused:
            raise SettingsError(f"a report takes no {unused[0]}: it shows the strongest; name one picture with {option('what')} to choose")
        return write_page(open_tables(source), out, score=score, n=n, min_cells=min_cells, statistics=given, force=force)
    return write_picture(what, open_tables(source), out, force=force, statistics=given, **options)


def _check(out: Path, what: str, n: int | None, min_cells: int | None) -> None:
    is_page = out.suffix.lower() in (".html", ".htm")
    if is_page != (what == "report"):
        wanted = f"an .html file (name a picture with {option('what')})" if what == "report" else "written as .png, .svg or .pdf"
        raise OutputError(f"{out.name}: {option('what', what)} is {wanted}")
    if n is not None and n < 1:
        raise SettingsError(f"n is {n}; at least 1")
    if min_cells is not None and min_cells < 0:
        raise SettingsError(f"min_cells is {min_cells}; at least 0")


def read_statistics(source: Any, score: str | None) -> Ranking:
    """The table of rankcell stats, and what stands beside it. InputError when it is none."""
    import pandas as pd

    from rankcell.stats.screen_rows import is_table

    if is_table(source):
        missing = [c for c in ("edit", "symbols", "effect") if c not in source]
        if missing:
            raise SettingsError(
                f"this is not a ranking (it has no column '{missing[0]}'): give what rc.tl.rank_edits(table) returns, or a screen"
            )
        return Ranking.of(source)
    wanted = "a ranking (what rc.tl.rank_edits gives, or the table of rankcell stats)"
    if not isinstance(source, (str, os.PathLike)):
        raise InputError(f"expected {wanted}, found {type(source).__name__}")
    path = Path(source)
    if path.is_dir():
        raise InputError(f"expected {wanted}, found the folder {path}: rank a screen first, with rc.tl.rank_edits or rankcell stats")
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    try:
        table = pd.read_parquet(path) if path.suffix.lower() == ".parquet" else pd.read_csv(path, sep=None, engine="python")
    except (ValueError, OSError, pd.errors.ParserError) as e:
        raise InputError(f"{path} is not a table (csv, tsv or parquet): {e}") from e
    missing = [c for c in ("edit", "symbols", "effect") if c not in table]
    if missing:
        raise InputError(f"{path} has no column '{missing[0]}': give the table that 'rankcell stats' writes")
    beside = path.with_name(f"{path.name}.json")  # rankcell stats says there what the table cannot
    facts = read_json(beside) if beside.is_file() else {}
    if "affected" in table:
        raise InputError(
            f"{path} has a row per perturbation and affected gene: these pictures draw edits (rankcell stats without --mode affected)"
        )
    by = facts.get("by")
    if score is not None and by is not None and by != score:
        raise SettingsError(
            f"{path} ranks by {by}, and {option('score', score)} was given: leave it out, or make that table with rankcell stats"
        )
    return Ranking(table, facts if score is None else facts | {"by": score})
