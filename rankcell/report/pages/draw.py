"""A screen -> a picture, or a page with all of them, in a file."""

import os
from pathlib import Path
from typing import Any

from rankcell.errors import OutputError, SettingsError
from rankcell.report.drawing import REPORT, Drawing
from rankcell.report.pages.screen_page import write_page
from rankcell.report.pictures.screen_pictures import picture_of, write_picture
from rankcell.report.screen_view import open_tables
from rankcell.stats.ranked_tables import read_statistics
from rankcell.wording import option


def draw(source: Any, out: str | os.PathLike, drawing: Drawing = Drawing(), *, force: bool = False) -> Path:
    """Draw a screen (a results folder, a Screen or its table) into `out`: a page as html, a picture as png, svg or pdf. Returns its path."""
    out, name = Path(out), drawing.what
    if name != REPORT:
        picture_of(name)
    _check(out, name)
    statistics = None if drawing.statistics is None else read_statistics(drawing.statistics, drawing.score)
    if name == REPORT:
        unused = [option(k) for k in ("edit", "cell", "groupby") if getattr(drawing, k) is not None]
        if unused:
            raise SettingsError(f"a report takes no {unused[0]}: it shows the strongest; name one picture with {option('what')} to choose")
        return write_page(
            open_tables(source), out, score=drawing.score, n=drawing.n, min_cells=drawing.min_cells, statistics=statistics, force=force
        )
    options = {key: value for key, value in drawing.settings().items() if key not in ("what", "statistics")}
    return write_picture(name, open_tables(source), out, force=force, statistics=statistics, **options)


def _check(out: Path, name: str) -> None:
    is_page = out.suffix.lower() in (".html", ".htm")
    if is_page != (name == REPORT):
        wanted = f"an .html file (name a picture with {option('what')})" if name == REPORT else "written as .png, .svg or .pdf"
        raise OutputError(f"{out.name}: {option('what', name)} is {wanted}")
