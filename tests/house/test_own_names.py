"""Cell columns that are called as a table's own columns (`length`, `cell_id`, `counts`) are carried under another name, not lost."""

import warnings

import anndata as ad
import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from builders import make_adata, make_vocab
from count_files import store_zarr
from flat_options import call, screen_cells

import rankcell as rc
from rankcell.counts.columns import carried_names
from rankcell.embed.embed_cells import embed_to_file
from rankcell.errors import CellError, RankcellWarning
from rankcell.tokens import Tokenizer, TokenSet, TokenSpec
from rankcell.tokens.tokenset import OWN_COLUMNS
from rankcell.vocab import Frame

VOCAB = make_vocab()
NAMES = {"cell_id": ["p", "q", "r"], "length": [10, 20, 30], "counts": [1.5, 2.5, 3.5], "input_ids": ["x", "x", "y"]}
COUNTS = [[i + 1] * 12 for i in range(3)]


def said(function, *args, **kwargs):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RankcellWarning)
        result = function(*args, **kwargs)
    return result, [str(w.message) for w in caught if issubclass(w.category, RankcellWarning)]


def loom(path):
    with h5py.File(path, "w") as f:
        f["matrix"] = np.array(COUNTS, "f4").T
        f["row_attrs/Gene"] = np.array(VOCAB.symbols, "S")
        f["col_attrs/CellID"] = np.array(["a", "b", "c"], "S")
        for name, values in NAMES.items():
            f[f"col_attrs/{name}"] = np.array(values, "S" if isinstance(values[0], str) else None)
        f.create_group("layers")
    return path


def with_names(adata):
    for name, values in NAMES.items():
        adata.obs[name] = values
    return adata


def written(kind, folder):
    adata = with_names(make_adata(COUNTS))
    if kind == "loom":
        return loom(folder / "x.loom")
    if kind == "h5ad":
        adata.write_h5ad(folder / "x.h5ad")
    if kind == "zarr":
        store_zarr(adata, folder / "x.zarr", version=3)
    return folder / f"x.{kind}" if kind != "AnnData" else adata


@pytest.mark.parametrize("kind", ["AnnData", "h5ad", "zarr", "loom"])
def test_tokens_carry_them_in_every_format(kind, tmp_path):
    tokens, notes = said(Tokenizer(VOCAB).write, written(kind, tmp_path), tmp_path / "t.dataset", obs=list(NAMES))
    assert len(notes) == 1 and "'cell_id' as 'obs_cell_id'" in notes[0] and "'counts' as 'obs_counts'" in notes[0]
    for again in (tokens, TokenSet.open(tmp_path / "t.dataset")):
        assert again.obs_columns == [f"obs_{name}" for name in NAMES] and again.lengths.tolist() == [14, 14, 14]
        assert again.cell_ids == (["a", "b", "c"] if kind == "loom" else ["cell0", "cell1", "cell2"])
        for name, values in NAMES.items():
            assert again.obs(name).tolist() == again.obs(f"obs_{name}").tolist() == again.obs_df()[f"obs_{name}"].tolist() == values


@pytest.mark.parametrize("out", ["e.h5ad", "e.zarr"])
def test_an_embedding_of_a_loom_has_them(small, tmp_path, out):
    _, notes = said(call, embed_to_file, loom(tmp_path / "x.loom"), tmp_path / out, model=small[1])
    obs = (ad.read_h5ad if out.endswith("h5ad") else ad.read_zarr)(tmp_path / out).obs
    assert {name: obs[f"obs_{name}"].tolist() for name in NAMES} == NAMES and list(obs.index) == ["a", "b", "c"]
    assert len(notes) == 1 and "left out" not in notes[0]


def test_a_copy_keeps_them_as_they_are(small, tmp_path):
    _, notes = said(call, embed_to_file, written("h5ad", tmp_path), tmp_path / "e.h5ad", model=small[1])
    obs = ad.read_h5ad(tmp_path / "e.h5ad").obs
    assert {name: obs[name].tolist() for name in NAMES} == NAMES and set(obs.columns) == set(NAMES) and not notes


@pytest.mark.filterwarnings("ignore:cell columns that are called:rankcell.errors.RankcellWarning")  # meant
def test_they_can_be_named_by_their_own_name(small, tmp_path):
    path = loom(tmp_path / "x.loom")
    screen = screen_cells(path, tmp_path / "s", model=small[1], genes="G1,G2", start="length=20", toward=["input_ids=y"], obs=["counts"])
    cells = pq.read_table(screen.folder / "cells.parquet").to_pydict()
    assert cells["cell_id"] == ["b"] and cells["obs_length"] == [20] and cells["obs_counts"] == [2.5] and cells["obs_input_ids"] == ["x"]
    assert "toward_y_cell" in screen.columns()
    call(embed_to_file, path, tmp_path / "e.parquet", model=small[1], include="state", by="input_ids")
    assert list(rc.get.read_embeddings(tmp_path / "e.parquet").tables["states"]["state"]) == ["x", "y"]


def test_the_source_of_several_inputs(tmp_path):
    (tmp_path / "in").mkdir()
    for n in range(2):
        make_adata([[n + 1] * 12], source=[f"lab{n}"]).write_h5ad(tmp_path / "in" / f"{n}.h5ad")
    tokens, notes = said(rc.pp.tokenize, tmp_path / "in", VOCAB, obs=["source"])
    assert tokens.table["source"].to_pylist() == ["0", "1"] and tokens.obs("source").tolist() == ["lab0", "lab1"]
    assert len(notes) == 1 and "'source' as 'obs_source'" in notes[0]
    one, notes = said(rc.pp.tokenize, tmp_path / "in" / "0.h5ad", VOCAB, obs=["source"])
    assert one.obs_columns == ["source"] and not notes


def test_a_column_of_the_other_name_too():
    adata = with_names(make_adata(COUNTS, obs_length=[7, 8, 9]))
    tokens, _ = said(rc.pp.tokenize, adata, VOCAB, obs=["obs_length", "length"])
    assert tokens.obs_columns == ["obs_length", "obs_obs_length"]
    assert tokens.obs("length").tolist() == [10, 20, 30] and tokens.obs("obs_length").tolist() == [7, 8, 9]
    tokens = rc.pp.tokenize(adata, VOCAB, obs=["obs_length"])
    with pytest.raises(CellError, match="no cell column 'length'"):
        tokens.obs("length")


def test_rows_in_memory_keep_their_own_columns():
    spec = TokenSpec.of(VOCAB, frame=Frame(), max_len=12)
    tokens = TokenSet.from_rows([[5, 7, 4], [6]], spec, cell_ids=["a", "b"], obs={"length": [9, 8], "cell_id": ["x", "y"], "kind": ["u", "v"]})
    assert tokens.cell_ids == ["a", "b"] and tokens.table["length"].to_pylist() == [3, 1]
    assert tokens.obs("length").tolist() == [9, 8] and tokens.obs("cell_id").tolist() == ["x", "y"] and tokens.obs("kind").tolist() == ["u", "v"]


def test_names():
    columns = ["length", "kind", "obs_length", "obs_obs_length"]
    names = carried_names(columns, OWN_COLUMNS)
    assert list(names.values()) == columns and len(names) == 4 and not {*names} & {*OWN_COLUMNS} and names["kind"] == "kind"
