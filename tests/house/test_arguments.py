"""Arguments of a screen in the forms that people give them: taken as they are meant, or refused in one line in Python's words."""

import numpy as np
import pandas as pd
import pytest
from builders import make_adata
from flat_options import perturb_df

from rankcell import wording
from rankcell.cli import main
from rankcell.errors import RankcellError, RankcellWarning, SettingsError
from rankcell.perturb import Delete, Measure, Subset, read_screen
from rankcell.perturb.exact.state_names import states_as_text
from rankcell.perturb.run.start_cells import start_cells

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def adata():
    return make_adata(np.random.default_rng(0).poisson(2, (6, 12)) + 1, kind=list("xxyyyy"), two=["a b"] * 3 + ["c d"] * 3)


@pytest.fixture(scope="module")
def screen(small, adata):
    def run(**how):
        how = {"genes": ["G0", "G1"], "model": small[1], "device": "cpu", "readout": "cell"} | how
        return perturb_df(adata, **how)

    return run


@pytest.mark.parametrize(
    ("value", "ids"),
    [
        ("kind=x", [0, 1]),
        (("kind", "x"), [0, 1]),
        ({"kind": "x"}, [0, 1]),
        (["kind=x"], [0, 1]),
        (lambda a: a.obs["kind"] == "x", [0, 1]),
        (lambda a: (a.obs["kind"] == "x")[::-1], [0, 1]),
        (lambda a: (a.obs["kind"] == "y").to_numpy(), [2, 3, 4, 5]),
        ([True, False, True, False, False, False], [0, 2]),
        (["cell3", "cell1"], [1, 3]),
        (lambda a: a.obs_names[[2]], [2]),
        ({"two": "a b"}, [0, 1, 2]),
    ],
)
def test_start(screen, adata, value, ids):
    table = screen(start=value(adata) if callable(value) else value)
    assert list(dict.fromkeys(table.cell_id)) == [f"cell{i}" for i in ids]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"kind": ["x", "y"]}, "names 2 states"),
        ([True, False], "mask of 2 cells, and the input has 6"),
        (3, "start is a int"),
        ([1, 2], "start is a list of int"),
        (["cell1", "nobody"], "there is no cell 'nobody'"),
        (pd.Series([True] * 6, index=list("abcdef")), "other cells than the input"),
        ("kind", "start='kind': expected COLUMN=STATE"),
        (("kind", "z"), "no cell has kind = 'z'"),
    ],
)
def test_start_refused(screen, value, says):
    with pytest.raises(RankcellError, match=says) as error:
        screen(start=value)
    assert "--" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["kind=y", {"kind": "y"}, ("kind", "y"), ["kind=y"], [{"kind": "y"}], np.array(["kind=y"])])
def test_toward(screen, value):
    assert "toward_y_cell_in_place" in screen(toward=value, start="kind=x")


def test_several_states():
    assert states_as_text({"kind": ["x", "y"], "two": "a b"}, "toward") == ("kind=x", "kind=y", "two=a b")
    assert states_as_text(None, "toward") == states_as_text((), "toward") == ()
    assert start_cells(None, None) == (None, None)
    with pytest.raises(SettingsError, match="the input is a file"):
        start_cells([True], "x.h5ad")


@pytest.mark.parametrize(
    "value", [{"G1", "G0"}, pd.Index(["G0", "G1"]), pd.Series(["G0", "G1"]), np.array(["G0", "G1"]), "G0,G1", ("G0", "G1")]
)
def test_genes(screen, value):
    assert sorted(set(screen(genes=value).genes)) == ["ENSG00000000000", "ENSG00000000001"]


def test_genes_as_sets_of_others(screen):
    assert Delete().genes == "all"
    with pytest.raises(SettingsError, match="^genes is None; names of genes, or leave it out for all genes$"):
        Delete(None)
    for value, says in (
        (5, "genes is 5"),
        ({"a": ["G0"]}, "sets takes"),
        ([1], "genes holds 1"),
        ([""], "empty name"),
        (b"G0", "is a bytes"),
    ):
        with pytest.raises(SettingsError, match=says):
            screen(genes=value)
    assert set(screen(genes="all", sets={"one": "G0, G1", "two": {"G2"}}).edit) == {"delete:one", "delete:two"}
    for value in (["G0", "G1"], {"a": 3}, {"a": None}):
        with pytest.raises(SettingsError, match=r"sets is a list|the set 'a' is"):
            screen(genes="all", sets=value)


@pytest.mark.parametrize("value", ["2", 2.0, np.int64(2), np.float32(2)])
def test_numbers(screen, value):
    assert screen(cells=value).cell_id.nunique() == 2


@pytest.mark.parametrize("value", ["two", 2.5, True, float("nan"), float("inf"), [2]])
def test_numbers_that_are_none(screen, value):
    with pytest.raises(SettingsError, match=r"cells is .*; a whole number"):
        screen(cells=value)
    with pytest.raises(SettingsError):
        Subset(value)


def test_a_seed_without_a_number_of_cells_is_refused(screen):
    with pytest.raises(SettingsError, match="seed.* samples as many cells as .*cells.* says, and no .*cells.* is there: add it, or leave out the seed"):
        Subset(seed=1)
    with pytest.raises(SettingsError, match="samples as many cells"):
        Subset(only=["c0"], seed=0)
    assert screen(cells=2, seed=1).cell_id.nunique() == 2


def test_the_rest(screen, adata):
    with pytest.raises(SettingsError, match=r"unknown kind 'delet'.*did you mean delete\?"):
        screen(kind="delet")
    with pytest.raises(SettingsError, match="states is an AnnData"):
        screen(states=adata)
    with pytest.raises(SettingsError, match="states is a dict"):
        screen(states={})
    assert Measure(layer=[-2]).layer == Measure(layer=np.int64(-2)).layer == -2
    with pytest.raises(SettingsError, match="one layer"):
        screen(layer=[-1, -2])
    assert len(screen(layer=[-1], obs="kind")) == len(screen(layer=-1))


# Genes that the vocabulary lacks


def test_all_unknown_genes_are_named(screen, small):
    with pytest.raises(
        SettingsError, match=r"3 of 4 genes are not in vocabulary 'small' \(12 genes\): G99.*, g0 .*, ENSG99999999999; rc.Delete\(skip_unknown=True"
    ):
        screen(genes=["G0", "G99", "g0", "ENSG99999999999"])
    with pytest.raises(SettingsError, match="gene 'X' is not in vocabulary"):
        screen(genes="X")
    many = [f"X{i}" for i in range(50)]
    with pytest.raises(SettingsError, match=r"50 of 51 genes .*X19 and 30 more"):
        screen(genes=["G0", *many])
    assert small[0].unknown(["G0", "ENSG00000000001.3", "x", "x"]) == ["x"]


def test_skip_unknown(screen, tmp_path):
    with pytest.warns(RankcellWarning, match=r"2 of 3 genes are not in .*: A9, B9; the screen goes on without"):
        table = screen(genes=["G0", "A9", "B9"], skip_unknown=True, out=tmp_path / "s")
    assert set(table.genes) == {"ENSG00000000000"} and read_screen(tmp_path / "s").manifest["unknown_genes"] == ["A9", "B9"]
    with pytest.warns(RankcellWarning, match="gene 'A9' is not"):
        screen(genes="all", sets={"one": ["G0", "A9"]}, skip_unknown=True)
    with pytest.raises(SettingsError, match="no gene is left"):
        screen(genes=["A9", "B9"], skip_unknown=True)


def one_line(capsys):
    said = capsys.readouterr().err
    assert said.startswith("rankcell: ") and said.count("\n") == 1
    return said


def test_at_the_command_line(small, adata, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    adata.write_h5ad("x.h5ad")
    (tmp_path / "genes.txt").write_text("G0\nG1\n")
    words = ["perturb", "x.h5ad", "-o", "s", "--model", str(small[1]), "--device", "cpu"]
    assert main([*words, "--genes", "genes.txt"]) == 2
    assert "genes.txt is a file and no gene: --genes @genes.txt reads" in one_line(capsys)
    assert main([*words, "--start", "two=a", "b"]) == 2
    assert "--start 'two=a b'" in one_line(capsys)
    assert main([*words, "--genes", "G0,A9,B9"]) == 2
    assert "2 of 3 genes" in (said := one_line(capsys)) and "--skip-unknown goes on without them" in said
    assert main([*words, "--genes", "G0,A9,B9", "--skip-unknown"]) == 0
    assert "A9, B9; the screen goes on without" in capsys.readouterr().err


def test_wording_for_another_process():
    with wording.command_line({"precision": "--precision"}):
        said = wording.current()
    try:
        wording.adopt(said)
        assert wording.option("precision", "fp32") == "--precision fp32" and not wording.offers("layer")
    finally:
        wording.adopt({"flags": False, "spelling": None})
