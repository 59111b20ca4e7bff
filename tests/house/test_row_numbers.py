"""Rows of a token set by their numbers: counted from 0, and no others."""

import numpy as np
import pytest
from builders import make_adata, make_vocab

import rankcell as rc
from rankcell.errors import CellError, GeneError

COUNTS = [[9, 0, 4, 0], [0, 3, 0, 8], [5, 6, 0, 0]]
GENES = [[0, 2], [3, 1], [1, 0]]  # of each cell from its highest count down: all medians are 1


@pytest.fixture(scope="module")
def vocab():
    return make_vocab(4, medians=[1.0] * 4)


@pytest.fixture(scope="module")
def tokens(vocab):
    return rc.pp.tokenize(make_adata(COUNTS), vocab, tokenizing=rc.Tokenizing(keep_counts=True, keep_uncropped=True))


@pytest.mark.parametrize("number", [0, 1, 2, np.int32(1), np.uint8(2)])
def test_a_row_by_its_number(tokens, vocab, number):
    assert vocab.gene_of_token[tokens.genes(number)].tolist() == GENES[number]
    assert tokens.row(number)[1:-1].tolist() == tokens.genes(number).tolist() == tokens.uncropped(number).tolist()
    assert len(tokens.counts(number)) == 4


@pytest.mark.parametrize("number", [-1, -2, -4, 3, 1000, 2**70, 0.5, 1.0, "1", "cell1", True, np.bool_(True), None, np.array([0, 1]), float("nan")])
@pytest.mark.parametrize("method", ["row", "genes", "uncropped", "counts"])
def test_no_such_row(tokens, method, number):
    with pytest.raises(CellError, match="there is no row -?[0-9]+: the tokens have 3 cells|a row is named by its number") as e:
        getattr(tokens, method)(number)
    assert "\n" not in str(e.value)


def test_no_row_of_an_empty_set(tokens):
    nothing = tokens.take([])
    assert len(nothing) == 0
    with pytest.raises(CellError, match="there is no row 0: the tokens have 0 cells"):
        nothing.row(0)


@pytest.mark.parametrize("rows", [[2, 0], np.array([2, 0], np.uint16), (2, 0), np.flatnonzero([1, 0, 1])[::-1]])
def test_rows_in_the_order_named(tokens, rows):
    assert tokens.take(rows).cell_ids == [tokens.cell_ids[2], tokens.cell_ids[0]]
    assert tokens.take(rows).genes(0).tolist() == tokens.genes(2).tolist()


@pytest.mark.parametrize(
    "rows, said",
    [
        ([0, -1], "no row -1"),
        ([3], "no row 3"),
        ([True, False, True], "np.flatnonzero"),
        ([0.7], "whole numbers"),
        (["cell1"], "whole numbers"),
        (1, "whole numbers"),
        ([[0], [1, 2]], "whole numbers"),
        (np.array([2**64 - 1], np.uint64), "no row 18446744073709551615"),
    ],
)
def test_no_such_rows(tokens, rows, said):
    with pytest.raises(CellError, match=said):
        tokens.take(rows)


def test_a_gene_by_its_index(vocab):
    assert vocab.label(3) == vocab.symbols[3]
    for index in (vocab.lookup(["no gene"])[0], 4, -4):
        with pytest.raises(GeneError, match=f"there is no gene {index}"):
            vocab.label(index)
