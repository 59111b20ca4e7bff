"""rc.get with what is none of its inputs: one line that says what is expected and what was found."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from builders import make_vocab
from flat_options import write_stats
from hand_screens import made_table, write_screen

import rankcell as rc
from rankcell.errors import InputError, RankcellError, SettingsError
from rankcell.perturb import read_screen

WRONG = {
    "a name": lambda tmp: "nothing",
    "nothing": lambda tmp: None,
    "a table": lambda tmp: pd.DataFrame({"a": [1.0]}),
    "a folder": lambda tmp: tmp,
    "a file": lambda tmp: _file(tmp / "a.txt", "x"),
    "a table's file": lambda tmp: _file(tmp / "a.csv", "a,b\n1,2\n"),
    "an h5ad": lambda tmp: _h5ad(tmp / "a.h5ad"),
    "an AnnData": lambda tmp: ad.AnnData(np.ones((3, 2), np.float32)),
    "a number": lambda tmp: 3,
    "a list": lambda tmp: [1, 2],
    "a mapping": lambda tmp: {"a": 1},
    "bytes": lambda tmp: b"x",
    "an array": lambda tmp: np.ones((2, 2)),
    "a column": lambda tmp: pd.Series([1.0]),
    "a vocabulary": lambda tmp: make_vocab(),
}
GETTERS = {
    "screen_df": rc.get.screen_df,
    "affected_df": rc.get.affected_df,
    "screen_adata": rc.get.screen_adata,
    "ranking": rc.get.ranking,
    "read_embeddings": rc.get.read_embeddings,
    "tokens_df": lambda what: rc.get.tokens_df(what, 0),
}


def _file(path, text):
    path.write_text(text)
    return path


def _h5ad(path):
    ad.AnnData(np.ones((3, 2), np.float32)).write_h5ad(path)
    return path


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("getter", GETTERS)
def test_what_is_none_of_its_inputs_is_one_line(tmp_path, getter, what):
    with pytest.raises(RankcellError) as e:
        GETTERS[getter](WRONG[what](tmp_path))
    assert "\n" not in str(e.value) and len(str(e.value)) < 300


@pytest.mark.parametrize(
    ("getter", "what", "says"),
    [
        ("screen_df", "an AnnData", "results folder of a screen, or a Screen, found AnnData; perturb it first"),
        ("affected_df", "a table", "found DataFrame; a table of rc.tl.perturb is one already"),
        ("screen_adata", "a mapping", "found dict"),
        ("screen_df", "a name", "no results folder nothing"),
        ("ranking", "an AnnData", "expected a ranking .*, found AnnData"),
        ("ranking", "a folder", "found the folder .*rank a screen first"),
        ("ranking", "a table", "no column 'effect'; it has a"),
        ("ranking", "a table's file", "has no column 'edit'"),
        ("ranking", "a name", "no such file: nothing"),
        ("read_embeddings", "a folder", "embeddings end in .h5ad, .*; give the path that rc.tl.embed wrote"),
        ("read_embeddings", "a table", "out is of type DataFrame; a path"),
        ("tokens_df", "an AnnData", "this is AnnData: give what rc.pp.tokenize returns"),
    ],
)
def test_what_was_expected_and_found(tmp_path, getter, what, says):
    with pytest.raises(RankcellError, match=says):
        GETTERS[getter](WRONG[what](tmp_path))


@pytest.fixture
def folder(tmp_path):
    table = made_table(30, 6)
    return write_screen(tmp_path / "s", table, symbols=table.attrs["symbols"])


def test_a_screen_is_taken_as_its_folder_is(folder):
    screen = read_screen(folder)
    for source in (screen, str(folder), folder):
        assert rc.get.screen_df(source).equals(rc.get.screen_df(folder))
    assert rc.get.screen_adata(screen).shape == rc.get.screen_adata(folder).shape


def test_a_ranking_is_taken_from_its_file(folder, tmp_path):
    ranked = rc.tl.rank_edits(folder)
    expected = rc.get.ranking(ranked)
    for name in ("t.csv", "t.tsv", "t.parquet"):
        write_stats(folder, tmp_path / name)
        found = rc.get.ranking(tmp_path / name)
        assert found.index.equals(expected.index) and np.allclose(found, expected, rtol=1e-12) and found.name == expected.name


def test_a_screen_is_ranked_first(folder):
    with pytest.raises(SettingsError, match="no column 'effect'; this is the table of a screen: rank it with rc.tl.rank_edits"):
        rc.get.ranking(rc.get.screen_df(folder))
    with pytest.raises(InputError, match="rank a screen first"):
        rc.get.ranking(folder)
    with pytest.raises(InputError, match="found Screen"):
        rc.get.ranking(read_screen(folder))
