"""Writers of transferred labels: a table of the cells, or a copy of the h5ad with the labels in obs."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rankcell.embed.added import foreign_columns, require_free
from rankcell.errors import InputError, OutputError, SettingsError
from rankcell.store import atomic_path, require_apart, require_new
from rankcell.tokens.opening import require_there
from rankcell.wording import option, shortened

UNSURE = "unsure"
_TABLES = (".csv", ".tsv", ".parquet")


def check_out(source: Any, reference: Any, out: Path, columns: Sequence[str], *, force: bool) -> Path:
    """Check, before any work, that `out` can be written with these columns, and return it."""
    suffix = out.suffix
    if suffix not in (*_TABLES, ".h5ad"):
        raise OutputError(f"{out}: the suffix says how the labels are written, one of {', '.join((*_TABLES, '.h5ad'))}")
    is_h5ad = isinstance(source, (str, os.PathLike)) and Path(source).suffix.lower() == ".h5ad"
    if suffix == ".h5ad" and not is_h5ad:
        raise OutputError(f"{out}: an h5ad is written as a copy of an h5ad input, and this input is none: write a .csv, .tsv or .parquet")
    for origin in (source, reference):
        require_there(origin)
    require_apart(out, [source, reference])
    if suffix != ".h5ad":
        from rankcell.stats.ranked_tables import check_out as check_table

        require_free(columns, ["cell_id"], f"the table {out}")
        check_table(out, force=force)
        return out
    from rankcell.embed.stores.layout import forbidden_name

    if reason := forbidden_name(columns[0]):
        raise SettingsError(f"the column {shortened(columns[0])} {reason}, so {out} cannot have it: choose another {option('key_added')}")
    require_free(columns, foreign_columns(columns, _obs_columns(source)), f"obs of {source}")
    return require_new(out, force=force)


def _obs_columns(path: str | os.PathLike) -> list[str]:
    """The cell columns of an h5ad and its index; none where it cannot be read, which is said by what reads it whole."""
    import h5py

    try:
        with h5py.File(path, "r") as f:
            return list(f["obs"]) if isinstance(f.get("obs"), h5py.Group) else []
    except OSError:
        return []


def write_labels(table: Any, source: Any, out: Path, *, force: bool) -> None:
    if out.suffix != ".h5ad":
        from rankcell.stats.ranked_tables import write_ranked

        write_ranked(table, out, facts=table.attrs, force=force)
        return
    import h5py
    from anndata.io import write_elem

    with atomic_path(out, force=force) as part:
        shutil.copyfile(source, part)
        with h5py.File(part, "r+") as f:
            obs = f["obs"]
            if "column-order" not in obs.attrs:
                raise InputError(f"{source} was written by an anndata before 0.7: write a .csv, .tsv or .parquet")
            order = [str(c) for c in obs.attrs["column-order"]]
            for name in table.columns[1:]:
                if name in obs:
                    del obs[name]
                write_elem(obs, name, table[name].to_numpy() if table[name].dtype.kind == "f" else table[name].array)
            order = list(dict.fromkeys([*order, *table.columns[1:]]))
            obs.attrs["column-order"] = np.array(order, dtype=h5py.string_dtype())
