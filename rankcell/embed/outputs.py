"""Where embeddings are written: one entry per file suffix."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rankcell.embed.embedder import Embeddings
from rankcell.errors import SettingsError
from rankcell.store import atomic_path, require_new
from rankcell.tokens.tokenset import TokenSet


def _parquet(part: Path, e: Embeddings, tokens: TokenSet, source: Path | None) -> None:
    import pyarrow.parquet as pq

    columns = {"cell_id": pa.array(e.cell_ids, pa.string())}
    for name, values in e.columns.items():
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    table = pa.table(columns).replace_schema_metadata({"rankcell": json.dumps(e.meta, sort_keys=True)})
    pq.write_table(table, part)


def _npz(part: Path, e: Embeddings, tokens: TokenSet, source: Path | None) -> None:
    with open(part, "wb") as f:
        np.savez(f, cell_id=np.array(e.cell_ids), meta=np.array(json.dumps(e.meta, sort_keys=True)), **e.columns)


def _h5ad(part: Path, e: Embeddings, tokens: TokenSet, source: Path | None) -> None:
    """A copy of the count file with obsm and uns added; from tokens alone, an AnnData with their annotations."""
    import anndata as ad
    import h5py
    import pandas as pd

    if source is not None and source.suffix.lower() == ".h5ad":
        shutil.copyfile(source, part)
        with h5py.File(part, "r+") as f:
            for group in ("obsm", "uns"):
                if group not in f:
                    ad.io.write_elem(f, group, {})
            for key, values in e.obsm().items():
                _replace(f["obsm"], key, values)
            _replace(f["uns"], "rankcell", uns_entry(e))
        return
    obs = pd.DataFrame({c: tokens.obs(c) for c in tokens.obs_columns}, index=pd.Index(e.cell_ids, name="cell_id"))
    for column in obs.select_dtypes(object):
        obs[column] = obs[column].astype("category")
    ad.AnnData(obs=obs, obsm=e.obsm(), uns={"rankcell": uns_entry(e)}).write_h5ad(part)


def _replace(group: Any, key: str, value: Any) -> None:
    import anndata as ad

    if key in group:
        del group[key]
    ad.io.write_elem(group, key, value)


def uns_entry(e: Embeddings, key: str = "X_rankcell") -> dict[str, Any]:
    """What stands in `uns["rankcell"]`: the meta, with the pool and layer of each obsm key."""
    keys = dict(zip(e.obsm(key), e.meta["outputs"].values(), strict=True))
    return e.meta | {"outputs": keys, "frame": json.dumps(e.meta["frame"])}


WRITERS: dict[str, Callable[[Path, Embeddings, TokenSet, Path | None], None]] = {
    ".h5ad": _h5ad,
    ".npz": _npz,
    ".parquet": _parquet,
}


def check_output(out: str | os.PathLike, *, force: bool = False) -> Path:
    """`out` when it can be written; raised before any work is done: OutputError, or SettingsError for an unknown suffix."""
    out = Path(out)
    if out.suffix.lower() not in WRITERS:
        raise SettingsError(f"{out}: embeddings are written as {', '.join(WRITERS)}; give the output one of these endings")
    return require_new(out, force=force)


def write_embeddings(
    e: Embeddings, out: str | os.PathLike, *, tokens: TokenSet, source: str | os.PathLike | None = None, force: bool = False
) -> None:
    """Write `e` in the format of `out`'s suffix, atomically. `source`: the count file that an h5ad is to be a copy of."""
    out = check_output(out, force=force)
    with atomic_path(out, force=force) as part:
        WRITERS[out.suffix.lower()](part, e, tokens, None if source is None else Path(source))
