"""Cell columns are held against what an output can hold before the model runs: left out with a note, or refused when named."""

import datetime
import decimal
import warnings

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import make_adata, make_vocab
from flat_options import call, screen_cells

import rankcell as rc
from rankcell.cli.main import main
from rankcell.embed.embed_cells import embed_to_file
from rankcell.embed.stores import STORES, read_embeddings, reasons_against
from rankcell.errors import CellError, RankcellError, RankcellWarning, SettingsError
from rankcell.tokens import Tokenizer, TokenSet, TokenSpec
from rankcell.vocab import Frame

VOCAB = make_vocab()
DAYS = pd.date_range("2020-02-28", periods=3)


def said(function, *args, **kwargs):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RankcellWarning)
        result = function(*args, **kwargs)
    return result, [str(w.message) for w in caught if issubclass(w.category, RankcellWarning)]


def tokens_with(**columns):
    spec = TokenSpec.of(VOCAB, frame=Frame(), max_len=12)
    tokens = TokenSet.from_rows([[5, 7, 4], [6], [9, 8]], spec, cell_ids=["a", "b", "c"])
    for name, values in columns.items():
        tokens.table = tokens.table.append_column(name, values if isinstance(values, pa.Array) else pa.array(values))
    return tokens


HELD = {
    "ints": pa.array([1, 2, 3], pa.int8()),
    "large": pa.array([2**60 + 1, None, 3]),
    "truth": pa.array([True, None, False]),
    "floats": pa.array([1.5, None, 3.0]),
    "halves": pa.array(np.array([1, 2, 3], "f2")),
    "text": pa.array(["ä", None, "=1+1"]),
    "quoted": pa.array(['"x"', "a\nb", "‮x"]),
    "nothing": pa.array([None, None, None]),
    "0": pa.array([1, 2, 3]),
    "Case": pa.array(["x", "y", "z"]),
    "case": pa.array(["1", "2", "3"]),
    "source": pa.array(["s", "s", "t"]),
}
NOT_HELD = {
    "Cell/Type": pa.array(["x", "y", "x"]),
    "_index": pa.array(["x", "y", "z"]),
    "..": pa.array(["x", "y", "z"]),
    "list": pa.array([[1], [2], []]),
    "dict": pa.array([{"a": 1}] * 3),
    "day": pa.array([datetime.date(2020, 1, 1)] * 3),
    "time": pa.array(DAYS),
    "duration": pa.array(DAYS - DAYS[0]),
    "bytes": pa.array([b"a", b"\xff", b""]),
    "decimal": pa.array([decimal.Decimal("1.50")] * 3),
}


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_what_an_anndata_on_disk_can_hold(small, tmp_path, suffix):
    """Every column either comes back as it was, or is named in a note; the other way round nothing fails."""
    out = tmp_path / f"e{suffix}"
    held = {name: column for name, column in HELD.items() if suffix == ".h5ad" or name != "case"}  # file names in a folder
    _, notes = said(call, embed_to_file, tokens_with(**held, **NOT_HELD), out, model=small[1])
    assert len(notes) == 1
    assert notes[0].startswith(f"{len(NOT_HELD)} cell columns are left out of {out}: 'Cell/Type' (has a slash in its name)")
    obs = (ad.read_h5ad if suffix == ".h5ad" else ad.read_zarr)(out).obs
    assert list(obs.columns) == list(held) and list(obs.index) == ["a", "b", "c"]
    for name, column in held.items():
        found = [None if pd.isna(v) else v for v in obs[name].tolist()]
        assert found == column.to_pylist(), name
    assert sorted(p.name for p in tmp_path.iterdir()) == [out.name]


def test_names_that_differ_by_case_are_one_file_name(small, tmp_path):
    tokens = tokens_with(Case=HELD["Case"], case=HELD["case"])
    _, notes = said(call, embed_to_file, tokens, tmp_path / "e.zarr", model=small[1])
    assert "'case' (differs from 'Case' by case alone)" in notes[0] and list(ad.read_zarr(tmp_path / "e.zarr").obs) == ["Case"]


@pytest.mark.parametrize("suffix", sorted(STORES))
@pytest.mark.parametrize("name", sorted(NOT_HELD))
def test_each_store_writes_what_it_says_it_can_hold(small, tmp_path, suffix, name):
    tokens = tokens_with(**{name: NOT_HELD[name]})
    out = tmp_path / f"e{suffix}"
    refused = reasons_against(out, {name: tokens.table[name]})
    assert bool(refused) == STORES[suffix].has_obs
    _, notes = said(call, embed_to_file, tokens, out, model=small[1])
    assert len(notes) == len(refused) and read_embeddings(out).columns["mean_layer-2"].shape == (3, 16)


def test_a_nul_in_text_is_for_zarr_alone(small, tmp_path):
    tokens = tokens_with(label=pa.array(["a\0b", "c", "d"]))
    _, notes = said(call, embed_to_file, tokens, tmp_path / "e.h5ad", model=small[1])
    assert "'label' (holds text with a NUL character)" in notes[0]
    assert said(call, embed_to_file, tokens, tmp_path / "e.zarr", model=small[1])[1] == []
    assert ad.read_zarr(tmp_path / "e.zarr").obs["label"].tolist() == ["a\0b", "c", "d"]


def test_a_named_column_is_refused_before_the_model_runs(small, tmp_path, monkeypatch):
    from rankcell.embed import Embedder

    def never(*_):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(Embedder, "encoder", property(never))
    for suffix in (".h5ad", ".zarr"):
        with pytest.raises(SettingsError, match="'Cell/Type' has a slash in its name") as e:
            call(embed_to_file, tokens_with(**NOT_HELD), tmp_path / f"e{suffix}", model=small[1], include=["cell", "state"], by="Cell/Type")
        assert "\n" not in str(e.value)
    assert list(tmp_path.iterdir()) == []


def test_any_name_of_a_column_is_good_where_none_is_written(small, tmp_path):
    written = call(embed_to_file, tokens_with(**NOT_HELD), tmp_path / "e.parquet", model=small[1], include=["cell", "state"], by="Cell/Type")
    assert written.rows == {"cells": 3, "states": 2}


# Cell ids and the names of states

IDS = ['"; DROP TABLE cells; --', "a\nb", "=1+1", "@x", "+1", "-1", "a\u2028b", "‮abc", "'", "", " a ", "a\tb", "<b>", "żółw 🧬"]


@pytest.mark.parametrize("suffix", sorted(STORES))
def test_cell_ids_come_back_or_are_refused_at_once(small, tmp_path, suffix):
    spec = TokenSpec.of(VOCAB, frame=Frame(), max_len=12)
    for name in [*IDS, "a\0b", "a\0"]:
        tokens, out = TokenSet.from_rows([[5, 7], [6]], spec, cell_ids=[name, "other"]), tmp_path / f"e{suffix}"
        try:
            call(embed_to_file, tokens, out, model=small[1], force=True)
        except CellError as e:
            assert repr(name) in str(e) and "\n" not in str(e)
            broken = suffix == ".npy" and len(name.splitlines()) > 1
            assert broken or (suffix == ".h5ad" and "\0" in name) or (suffix == ".npz" and name.endswith("\0"))
            assert not (tmp_path / f"e{suffix}.run").exists()
        else:
            assert read_embeddings(out).cell_ids == [name, "other"]


@pytest.mark.parametrize("suffix", sorted(set(STORES) - {".npy"}))
def test_names_of_states_come_back_or_are_refused_at_once(small, tmp_path, suffix):
    names = ['"; DROP TABLE states; --', "a\nb", "=1+1", "a/b"]
    spec = TokenSpec.of(VOCAB, frame=Frame(), max_len=12)
    tokens = TokenSet.from_rows([[5, 7]] * 8, spec, obs={"group": names * 2})
    call(embed_to_file, tokens, tmp_path / f"e{suffix}", model=small[1], include="state", by="group")
    assert sorted(read_embeddings(tmp_path / f"e{suffix}").tables["states"]["state"]) == sorted(names)
    nul = TokenSet.from_rows([[5, 7]] * 3, spec, obs={"group": ["a\0", "b", "b"]})
    if suffix in (".h5ad", ".npz"):
        with pytest.raises(RankcellError, match=r"a\\x00|NUL"):
            call(embed_to_file, nul, tmp_path / f"n{suffix}", model=small[1], include="state", by="group")
        assert not any(p.name.startswith("n") for p in tmp_path.iterdir())


# From count files


def loom(path):
    import loompy

    attrs = {
        "CellID": np.array(list("ab")),
        "source": np.array(["lab"] * 2),
        "PCA": np.zeros((2, 5)),
        "length": np.arange(2),
        "kind": np.array(["x", "y"]),
    }
    loompy.create(str(path), np.ones((12, 2), "f4"), {"Gene": np.array(VOCAB.symbols)}, attrs)
    return path


def test_a_loom_with_columns_that_cannot_be_carried(small, tmp_path):
    _, notes = said(call, embed_to_file, loom(tmp_path / "x.loom"), tmp_path / "e.h5ad", model=small[1])
    assert len(notes) == 2 and "1 cell column is" in notes[0] and "'PCA'" in notes[0] and "'length' as 'obs_length'" in notes[1]
    obs = ad.read_h5ad(tmp_path / "e.h5ad").obs
    assert obs["source"].tolist() == ["lab", "lab"] and obs["kind"].tolist() == ["x", "y"] and obs["obs_length"].tolist() == [0, 1]
    assert set(obs.columns) == {"CellID", "source", "kind", "obs_length"}


def test_a_compound_attribute_of_a_loom(small, tmp_path):
    loom(tmp_path / "x.loom")
    with h5py.File(tmp_path / "x.loom", "r+") as f:
        f["col_attrs"]["both"] = np.zeros(2, [("a", "f4"), ("b", "i4")])
    _, notes = said(call, embed_to_file, tmp_path / "x.loom", tmp_path / "e.zarr", model=small[1])
    assert "2 cell columns" in notes[0] and "'both'" in notes[0] and (tmp_path / "e.zarr").is_dir()


def test_several_files_carry_what_all_of_them_have(small, tmp_path):
    (tmp_path / "in").mkdir()
    make_adata([[1] * 12], kind=["x"], odd=[1], own=["z"]).write_h5ad(tmp_path / "in" / "one.h5ad")
    make_adata([[2] * 12], kind=["y"], odd=["text"], source=["s"]).write_h5ad(tmp_path / "in" / "two.h5ad")
    _, notes = said(call, embed_to_file, tmp_path / "in", tmp_path / "e.h5ad", model=small[1])
    obs = ad.read_h5ad(tmp_path / "e.h5ad").obs
    assert obs["kind"].tolist() == ["x", "y"] and obs["source"].tolist() == ["one", "two"] and "odd" not in obs and "obs_source" not in obs
    assert len(notes) == 1 and "'odd'" in notes[0]


def test_a_slash_goes_into_no_zarr_and_is_no_matter_in_a_copy(small, tmp_path, capsys):
    adata = make_adata([[1] * 12, [2] * 12])
    adata.obs["Cell/Type"] = ["x", "y"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.write_h5ad(tmp_path / "x.h5ad")
    assert main(["embed", str(tmp_path / "x.h5ad"), "-o", str(tmp_path / "e.zarr"), "--model", str(small[1])]) == 0
    assert "note: 1 cell column is left out" in capsys.readouterr().err
    assert main(["embed", str(tmp_path / "x.h5ad"), "-o", str(tmp_path / "e.h5ad"), "--model", str(small[1])]) == 0
    assert "left out" not in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e.h5ad", "e.zarr", "x.h5ad"]


# tokenize --obs, and cells.parquet


def with_column(values):
    adata = make_adata([[1, 2], [2, 1], [1, 1]])
    adata.obs["c"] = pd.Series(values, index=adata.obs_names) if not isinstance(values, pd.Series) else values.set_axis(adata.obs_names)
    return adata


CUT = pd.cut(pd.Series([1, 30, 60]), [0, 20, 40, 80])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (CUT, ["(0, 20]", "(20, 40]", "(40, 80]"]),
        (pd.Series(pd.arrays.IntervalArray.from_tuples([(0, 1), None, (2, 3)])), ["(0.0, 1.0]", None, "(2.0, 3.0]"]),
        (pd.Series(pd.PeriodIndex(["2020-01", "2020-02", None], freq="M")), ["2020-01", "2020-02", None]),
        (pd.Series(pd.arrays.SparseArray([0, 1, 0])), [0, 1, 0]),
        (pd.Series([1, None, 2**60 + 1], dtype="Int64"), [1, None, 2**60 + 1]),
        (pd.Series(DAYS), [d.to_pydatetime() for d in DAYS]),
        (pd.Series([datetime.date(2020, 1, 1)] * 3), [datetime.date(2020, 1, 1)] * 3),
        (pd.Series([b"a", b"\xff", b""]), [b"a", b"\xff", b""]),
        (pd.Series([[1], [2, 3], []]), [[1], [2, 3], []]),
        (pd.Series([decimal.Decimal("1.50")] * 3), [decimal.Decimal("1.50")] * 3),
        (pd.Series([None, None, None]), [None] * 3),
    ],
    ids=["cut", "interval", "period", "sparse", "nullable", "timestamp", "date", "bytes", "list", "decimal", "null"],
)
def test_columns_that_a_token_folder_holds(tmp_path, values, expected):
    import datasets

    folder = tmp_path / "t"
    Tokenizer(make_vocab(2)).tokenize(with_column(values), obs=["c"]).save(folder)
    tokens = TokenSet.open(folder)
    assert tokens.table["c"].to_pylist() == expected
    assert datasets.load_from_disk(str(folder))["c"][:] == expected


def test_the_order_of_intervals_stays():
    tokens = rc.pp.tokenize(with_column(CUT), make_vocab(2), obs=["c"])
    assert tokens.obs_df()["c"].cat.ordered and list(tokens.obs_df()["c"].cat.categories) == ["(0, 20]", "(20, 40]", "(40, 80]"]


@pytest.mark.parametrize(
    "values",
    [
        pd.Series([1j, 2j, 3j]),
        pd.Series([{"a": 1}] * 3),
        pd.Series(pd.Categorical([1, "a", 1])),
        pd.Series([1, "a", None]),
        pd.Series([object()] * 3),
        pd.Series([np.zeros((2, 2))] * 3),
    ],
    ids=["complex", "dict", "mixed categories", "mixed", "objects", "matrices"],
)
def test_columns_that_no_token_folder_holds(values, tmp_path):
    for out in (None, tmp_path / "t"):
        with pytest.raises(CellError, match="cell column 'c' holds") as e:
            rc.pp.tokenize(with_column(values), make_vocab(2), obs=["c"], out=out)
        assert "\n" not in str(e.value)
    assert list(tmp_path.iterdir()) == []


def test_columns_called_by_a_number_or_twice():
    adata = make_adata([[1, 2], [2, 1]])
    adata.obs[7] = ["x", "y"]
    assert rc.pp.tokenize(adata, make_vocab(2), obs=["7"]).obs("7").tolist() == ["x", "y"]
    adata.obs = pd.DataFrame([["x", "z"], ["y", "w"]], index=adata.obs_names, columns=["c", "c"])
    with pytest.raises(CellError, match="2 cell columns called 'c'"):
        rc.pp.tokenize(adata, make_vocab(2), obs=["c"])


def test_cells_of_a_screen_keep_every_column(small, tmp_path):
    columns = {"n_tokens": pa.array([7, 8, 9]), "obs_n_tokens": pa.array([1, 2, 3])} | NOT_HELD
    screen, notes = said(screen_cells, tokens_with(**columns), tmp_path / "s", model=small[1], genes="G1")
    cells = pq.read_table(screen.folder / "cells.parquet")
    assert cells["n_tokens"].to_pylist() == [3, 1, 2] and cells["obs_n_tokens"].to_pylist() == [7, 8, 9]
    assert cells["obs_obs_n_tokens"].to_pylist() == [1, 2, 3] and not notes
    for name, column in NOT_HELD.items():
        assert cells[name].to_pylist() == column.to_pylist(), name


# Work beside an output, under names that can be foretold


@pytest.mark.parametrize("target", ["folder", "nothing"])
def test_links_in_the_place_of_work_are_not_followed(small, tmp_path, monkeypatch, target):
    from rankcell.tokens import opening

    monkeypatch.setattr(opening, "_IN_MEMORY", 0)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "theirs").write_text("x")
    make_adata([[1] * 12]).write_h5ad(tmp_path / "x.h5ad")
    for name in ("e.npz.run", ".e.npz.tokens"):
        (tmp_path / name).symlink_to(tmp_path / target)
        with pytest.raises(RankcellError, match=f"{name}, where the work for this output is kept, is a link"):
            call(embed_to_file, tmp_path / "x.h5ad", tmp_path / "e.npz", model=small[1], force=True)
        (tmp_path / name).unlink()
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["theirs"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "x.h5ad"]


def test_work_of_somebody_else_is_left_alone(small, tmp_path, monkeypatch):
    import os

    (tmp_path / "e.npz.run").mkdir()
    monkeypatch.setattr(os, "getuid", lambda real=os.getuid(): real + 1)
    with pytest.raises(RankcellError, match="belongs to somebody else"):
        call(embed_to_file, tokens_with(), tmp_path / "e.npz", model=small[1], force=True)
