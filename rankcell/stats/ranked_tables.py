"""Tables read from and written to tsv, csv or parquet."""

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rankcell.errors import InputError, OutputError, SettingsError
from rankcell.stats.ranking import Ranking
from rankcell.store import atomic_path, read_json, read_text, require_new
from rankcell.wording import option, visible

SUFFIXES = (".tsv", ".csv", ".parquet")
_BY = "written_by"  # the key in PATH.json that tells it from somebody else's
_SEPARATORS = {".tsv": "\t", ".txt": "\t", ".csv": ","}


def read_table(path: str | os.PathLike) -> Any:
    """A DataFrame of a table of cells: csv, tsv or parquet with a column `cell_id`, else the first column is that."""
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            text = io.StringIO(read_text(path, "a table of cells"))
            table = pd.read_csv(text, sep=_SEPARATORS.get(path.suffix, ","), dtype={0: str, "cell_id": str})
    except (OSError, ValueError) as e:
        raise InputError(f"{path} cannot be read as a table: {e}") from e
    if "cell_id" in table:
        return table.astype({"cell_id": str})
    if not len(table.columns):
        raise InputError(f"{path} holds no columns")
    first = table.columns[0]
    return (
        table.reset_index(names="cell_id")
        if path.suffix == ".parquet" and table.index.dtype == object
        else table.rename(columns={first: "cell_id"}).astype({"cell_id": str})
    )


def check_out(path: str | os.PathLike, *, force: bool = False) -> None:
    """Whether `write_ranked` can write there. OutputError for another suffix, and see rankcell.store.require_new."""
    if Path(path).suffix not in SUFFIXES:
        raise OutputError(f"{path}: the suffix says how the table is written, one of {', '.join(SUFFIXES)}")
    require_new(path, force=force)
    require_new(_beside(Path(path)), force=True, wrote=_is_facts)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _is_facts(path: Path) -> bool:
    """Whether rankcell wrote this file beside a table."""
    try:
        return str(read_json(path)[_BY]).startswith("rankcell")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_ranked(table: Any, path: str | os.PathLike, *, facts: Mapping[str, Any], force: bool = False) -> Path:
    """Write a table, and what it is of beside it as PATH.json: each whole or not at all, the table last.

    A file PATH.json that rankcell did not write is never replaced: OutputError.
    """
    from rankcell import __version__

    path = Path(path)
    beside = _beside(path)
    with atomic_path(path, force=force) as part:
        if path.suffix == ".parquet":
            table = table.copy(deep=False)
            table.attrs = dict(facts)  # pandas keeps them in the file
            table.to_parquet(part, index=False)
        else:
            one_line_texts(table).to_csv(part, sep=_SEPARATORS[path.suffix], index=False)
        with atomic_path(beside, force=True, wrote=_is_facts) as part:
            known = _plain(dict(facts)) | {_BY: f"rankcell {__version__}"}
            part.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return beside


def one_line_texts(table: Any) -> Any:
    """The table with line ends, tabs and other control characters of its texts and column names written out (`\\x0a`, `\\x09`): a row is
    a line for every reader. Names that begin with = + - @ stay as they are, since ids must match: in a spreadsheet, import such columns as text.
    """
    import pandas as pd

    def written(values: Any) -> Any:
        texts = values.astype(object)
        return texts.map(lambda v: visible(v) if isinstance(v, str) else v) if texts.map(lambda v: isinstance(v, str)).any() else values

    changed = {c: written(table[c]) for c in table if not pd.api.types.is_numeric_dtype(table[c])}
    return table.assign(**changed).rename(columns=lambda c: visible(str(c)))


def _plain(value: Any) -> Any:
    """JSON without NaN, which is no JSON."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value


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
            f"{path} has a row per perturbation and affected gene: these pictures draw edits (leave out {option('mode', 'affected')})"
        )
    by = facts.get("by")
    if score is not None and by is not None and by != score:
        raise SettingsError(
            f"{path} ranks by {by}, and {option('score', score)} was given: leave it out, or make that table with rankcell stats"
        )
    return Ranking(table, facts if score is None else facts | {"by": score})
