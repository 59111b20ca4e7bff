"""Options of the verbs: former flags, options without a flag, and the classes in Python."""

import numpy as np
import pytest
from builders import make_adata, make_vocab

import rankcell as rc
from rankcell.cli import main
from rankcell.errors import SettingsError
from rankcell.options import flag_words

COUNTS = np.arange(1, 25).reshape(2, 12)


@pytest.fixture
def layered(tmp_path):
    """A count file whose counts are in a layer, and its vocabulary."""
    adata = make_adata(COUNTS)
    adata.layers["mine"] = adata.X[:, ::-1].copy()
    adata.write_h5ad(tmp_path / "in.h5ad")
    make_vocab().save(tmp_path / "v")
    return tmp_path


@pytest.mark.parametrize("flag", ["--layer", "--counts-layer"])
@pytest.mark.parametrize("joined", [False, True])
def test_a_former_flag_is_the_new_one(layered, flag, joined, capsys):
    given = [f"{flag}=mine"] if joined else [flag, "mine"]
    assert main(["tokenize", str(layered / "in.h5ad"), "-o", str(layered / "t"), "--vocab", str(layered / "v"), *given]) == 0
    assert rc.TokenSet.open(layered / "t").spec.source["matrix"] == "layer 'mine'"
    assert main(["check", str(layered / "in.h5ad"), "--vocab", str(layered / "v"), *given]) == 0
    assert "--counts-layer mine -o" in capsys.readouterr().out


def test_a_flag_that_another_option_has_is_no_former_one(layered, capsys):
    """The layer of embed is the model's."""
    assert main(["embed", str(layered / "in.h5ad"), "-o", str(layered / "e.npz"), "--model", "demo", "--layer", "mine"]) == 2
    assert "--layer" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["tokenize", "check", "vocab build", "vocab tally"])
def test_help_names_the_new_flag_alone(verb, capsys):
    assert main([*verb.split(), "--help"]) == 0
    words = capsys.readouterr().out.split()
    assert "--counts-layer" in words and "--layer" not in words and "--rows-per-block" not in words


def test_classes_in_python(layered):
    adata = make_adata(COUNTS)
    with pytest.raises(SettingsError, match=r"max_len is 'six'; a whole number or None"):
        rc.Tokenizing(max_len="six")
    with pytest.raises(SettingsError, match=r"counts is {'raw': True}; give rc.Counts\(...\)"):
        rc.pp.tokenize(adata, make_vocab(), counts={"raw": True})
    with pytest.raises(TypeError, match="keep_count"):
        rc.Tokenizing(keep_count=True)
    with pytest.raises(SettingsError, match="k is 0; at least 1"):
        rc.Scoring(k=0)
    with pytest.raises(SettingsError, match="cell_layer 9 is out of range for 3 blocks"):
        rc.Recipe(cell_layer=9)
    assert rc.EmbedConfig("mean", -1).outputs == ["mean_layer-1"] and rc.EmbedConfig() == rc.EmbedConfig(["mean"], [-2])
    for cls, words in ((rc.Tokenizing, "Longest row"), (rc.Recipe, "Highest learning rate"), (rc.Scoring, "Nearest neighbours")):
        assert words in cls.__doc__


def test_tokens_into_a_folder(layered):
    adata, vocab = make_adata(COUNTS), make_vocab()
    written = rc.pp.tokenize(adata, vocab, tokenizing=rc.Tokenizing(max_len=6), out=layered / "t")
    assert (layered / "t").is_dir() and written.spec.max_len == 6
    with pytest.raises(rc.errors.OutputError, match="exists"):
        rc.pp.tokenize(adata, vocab, out=layered / "t")
    assert len(rc.pp.tokenize(adata, vocab, out=layered / "t", force=True)) == 2


def test_options_as_words():
    assert flag_words({"min_cells": 5, "raw": True, "cls": False}) == ["--min-cells", "5", "--raw", "--no-cls"]
