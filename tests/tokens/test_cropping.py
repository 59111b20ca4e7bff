"""Cropped cells are counted, said and recorded wherever counts become tokens or tokens meet a model."""

import json
import warnings

import numpy as np
import pytest
from builders import make_adata, make_checkpoint, make_vocab
from flat_options import call, screen_cells, tokens_of_flat

import rankcell as rc
from rankcell.cli.main import main
from rankcell.embed.embed_cells import embed_to_file
from rankcell.errors import RankcellWarning
from rankcell.tokens import Tokenizer
from rankcell.tokens.cropping import Cropping
from rankcell.wording import command_line

# ten genes, five, none of ten: with room for four 6 + 1 of 15 genes are not read
COUNTS = [[1] * 10, [1] * 5 + [0] * 5, [1] + [0] * 9]
RECORD = {"most_genes": 4, "cells": 3, "cropped": 2, "genes": 16, "unread": 7}
SAID = "2 of 3 cells are cropped to the 4 genes that fit a row: 44% of the known genes detected in all cells are not read"


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """A model with CLS and EOS whose six positions hold four genes."""
    return make_checkpoint(tmp_path_factory.mktemp("narrow") / "model", make_vocab(), positions=6)


def said(function, *args, **kwargs):
    """(result, the notes on cropping)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RankcellWarning)
        result = function(*args, **kwargs)
    return result, [str(w.message) for w in caught if "cropped" in str(w.message)]


def test_counts_over_blocks():
    total = Cropping(4).add(np.array([10, 5])).add(np.array([1])).add(np.array([], np.int64))
    assert total.to_json() == RECORD and total.share_unread == 7 / 16
    assert total.sentence().startswith(SAID)
    assert Cropping(10).add(np.array([10, 5, 1])).sentence() == "" == Cropping().sentence()


@pytest.mark.parametrize(("genes", "share"), [([10_001], "less than 1%"), ([10_000_000, 1], "more than 99%"), ([20_000], "50%")])
def test_a_share_is_never_rounded_to_none_or_all(genes, share):
    assert f": {share} of the known genes" in Cropping(10_000).add(np.array(genes)).sentence()


def test_the_way_out_is_one_that_the_verb_has():
    cropping = Cropping(4).add(np.array([9]))
    with command_line({"max_len": "--max-len"}):
        assert cropping.sentence().endswith("longer rows hold more (--max-len)")
    with command_line({"counts_layer": "--layer"}):
        assert cropping.sentence().endswith("a model with more positions reads more")


@pytest.mark.parametrize("how", [{}, {"rows_per_block": 1, "workers": 2}, {"keep_uncropped": True, "keep_counts": True}])
def test_a_token_set_records_it(how, tmp_path):
    tokens, notes = said(tokens_of_flat, make_vocab(), make_adata(COUNTS), max_len=6, **how)
    assert dict(tokens.spec.cropping) == RECORD and [n.startswith(SAID) for n in notes] == [True]
    tokens.save(tmp_path / "t")
    assert json.loads((tmp_path / "t" / "rankcell.json").read_text())["cropping"] == RECORD
    assert dict(rc.TokenSet.open(tmp_path / "t").spec.cropping) == RECORD


def test_summed_columns_are_one_gene_and_unknown_ones_none():
    """Two columns of one gene, one that the vocabulary does not know: three genes, room for two."""
    adata = make_adata([[1, 1, 1, 1, 5]])
    adata.var["ensembl_id"] = [f"ENSG{i:011d}" for i in (0, 0, 1, 2)] + ["ENSG99999999999"]
    tokens, notes = said(tokens_of_flat, make_vocab(), adata, max_len=4, gene_column="ensembl_id")
    assert (tokens.spec.cropping["genes"], tokens.spec.cropping["unread"]) == (3, 1) and len(notes) == 1


def test_nothing_is_said_of_whole_cells():
    assert said(Tokenizer(make_vocab(), rc.Tokenizing(max_len=12)).tokenize, make_adata(COUNTS))[1] == []


def test_tokenize_embed_and_perturb_say_it(narrow, tmp_path):
    path, tokens = tmp_path / "in.h5ad", tmp_path / "t"
    make_adata(COUNTS).write_h5ad(path)
    _, notes = said(rc.pp.tokenize, make_adata(COUNTS), make_vocab(), tokenizing=rc.Tokenizing(max_len=6))
    assert [n.startswith(SAID) and n.endswith("(rc.Tokenizing(max_len=...))") for n in notes] == [True]
    Tokenizer(make_vocab(), rc.Tokenizing(max_len=6)).write(path, tokens)
    for source in (path, tokens):
        written, notes = said(call, embed_to_file, source, tmp_path / f"{source.name}.parquet", model=narrow)
        assert written.meta["cropping"] == RECORD and [n.startswith(SAID) for n in notes] == [True]
        screen, notes = said(screen_cells, source, tmp_path / f"{source.name}-screen", model=narrow, genes="G0")
        assert screen.manifest["cropping"] == RECORD and [n.startswith(SAID) for n in notes] == [True]
    adata = make_adata(COUNTS)
    _, notes = said(rc.tl.embed, adata, narrow)
    assert len(notes) == 1 and dict(adata.uns["rankcell"]["cropping"]) == RECORD


def test_on_the_command_line_it_is_a_note(narrow, tmp_path, capsys):
    make_adata(COUNTS).write_h5ad(tmp_path / "in.h5ad")
    assert main(["embed", str(tmp_path / "in.h5ad"), "-o", str(tmp_path / "e.npz"), "--model", str(narrow)]) == 0
    assert f"rankcell: note: {SAID}; a model with more positions reads more\n" in capsys.readouterr().err
