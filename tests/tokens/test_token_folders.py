"""Token folders as other programs save them, and folders that were changed since they were written: right, or refused in one line."""

import json
import os
import warnings

import numpy as np
import pyarrow as pa
import pytest
from builders import make_adata, make_vocab
from flat_options import call, run_screen, tokens_of_flat

import rankcell as rc
from rankcell.cli.main import main
from rankcell.embed import Embedder
from rankcell.errors import CellError, RankcellError, RankcellWarning, TokensError
from rankcell.tokens import Tokenizer, TokenSet, TokenSpec
from rankcell.tokens import fingerprint as seal
from rankcell.vocab import Frame

VOCAB = make_vocab()  # <pad> 0, <mask> 1, <cls> 2, <eos> 3, genes from 4 on
ROWS = [[5, 7, 4], [6], [9, 8]]


def save(folder, rows, kind=None, **columns):
    """A `datasets` folder as other programs save it; `kind`: the arrow type of input_ids."""
    import datasets

    table = pa.table({"input_ids": pa.array(rows, kind), **columns})
    datasets.Dataset(table).save_to_disk(str(folder))
    return folder


def opened(folder, **how):
    return TokenSet.open(folder, vocab=VOCAB, **how)


def rows_of(tokens):
    return [row.tolist() for row in tokens]


@pytest.mark.parametrize("item", ["int8", "int16", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64"])
@pytest.mark.parametrize("make", [pa.list_, pa.large_list], ids=["list", "large_list"])
def test_every_kind_of_whole_numbers(tmp_path, item, make):
    kind = make(getattr(pa, item)())
    tokens = opened(save(tmp_path / "t", ROWS, kind))
    assert rows_of(tokens) == ROWS and tokens.lengths.tolist() == [3, 1, 2] and tokens.row(0).dtype == np.int32
    tokens.save(tmp_path / "own")
    assert rows_of(TokenSet.open(tmp_path / "own")) == ROWS
    assert rows_of(tokens.take([2, 0])) == [ROWS[2], ROWS[0]]


def test_fixed_size_lists(tmp_path):
    rows = [[5, 7], [6, 4], [9, 8]]
    assert rows_of(opened(save(tmp_path / "t", rows, pa.list_(pa.int32(), 2)))) == rows


def test_padding_at_the_end_is_left_out_with_a_note(tmp_path):
    padded = [[5, 7, 4, 0, 0], [6, 0, 0, 0, 0], [9, 8, 10, 11, 12], [0, 0, 0, 0, 0]]
    mask = [[int(t > 0) for t in row] for row in padded]
    folder = save(tmp_path / "t", padded, pa.list_(pa.int64(), 5), attention_mask=pa.array(mask), label=pa.array(list("abcd")))
    with pytest.warns(RankcellWarning, match="3 of 4 rows end in padding"):
        tokens = opened(folder)
    assert rows_of(tokens) == [[5, 7, 4], [6], [9, 8, 10, 11, 12], []] and tokens.obs("label").tolist() == list("abcd")


def test_padding_after_a_frame_and_counts_beside_it(tmp_path):
    folder = save(tmp_path / "t", [[2, 5, 3, 0], [2, 6, 7, 3]], counts=pa.array([[0, 2.5, 0, 0], [0, 1, 1, 0]], pa.list_(pa.float32())))
    with pytest.warns(RankcellWarning, match="1 of 2 rows"):
        tokens = opened(folder)
    assert tokens.frame == Frame((2,), (3,)) and rows_of(tokens) == [[2, 5, 3], [2, 6, 7, 3]]
    assert tokens.counts(0).tolist() == [0, 2.5, 0] and tokens.counts(1).tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        ([[0, 0, 5], [5, 6, 7]], None, r"special tokens among the genes \(such as <pad> in row 0\)"),
        ([[5, 0, 6], [5, 6, 7]], None, r"special tokens among the genes \(such as <pad> in row 0\)"),
        ([["TP53"], ["CD3D"]], None, "lists of string"),
        ([[[5]], [[6]]], None, "lists of list<"),
        ([5, 6], None, "holds int64, not lists"),
        (["5 6", "7"], None, "holds string, not lists"),
        ([[5], None, [6]], None, "missing in row 1"),
        ([[5, None], [6]], None, "1 tokens of 'input_ids' are missing"),
        ([[5.5], [6.0]], None, "5.5, which is no token number"),
        ([[float("nan")], [6.0]], None, "nan, which is no token number"),
        ([[-4], [6]], None, "token -4 of row 0 is not in vocabulary"),
        ([[5], [2**40]], None, "of row 1 is not in vocabulary"),
        ([[5], [2**63]], pa.list_(pa.uint64()), "of row 1 is not in vocabulary"),
        ([[5], [16]], None, "token 16 of row 1 is not in vocabulary 'small' .highest 15."),
    ],
)
def test_what_are_no_rows_of_tokens(tmp_path, rows, kind, message):
    with pytest.raises(TokensError, match=message) as e:
        opened(save(tmp_path / "t", rows, kind))
    assert "\n" not in str(e.value)


def test_several_datasets_in_one_folder_are_named(tmp_path, capsys):
    import datasets

    parts = {name: datasets.Dataset.from_dict({"input_ids": ROWS}) for name in ("train", "test")}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "both"))
    with pytest.raises(TokensError, match="test, train.*such as .*both/test"):
        opened(tmp_path / "both")
    assert rows_of(opened(tmp_path / "both" / "train")) == ROWS
    assert main(["embed", str(tmp_path / "both"), "-o", str(tmp_path / "e.npz"), "--model", "demo"]) == 2
    assert "test, train" in capsys.readouterr().err


def test_an_object_is_no_folder():
    import datasets

    rows = datasets.Dataset.from_dict({"input_ids": ROWS})
    for given in (rows, rows.to_iterable_dataset(), ROWS, None):
        with pytest.raises(RankcellError, match="is no folder of tokens|^folder is .*path"):
            opened(given)


def test_a_set_without_rows(tmp_path):
    with pytest.raises(TokensError, match="names no file of rows"):  # as `datasets` saves an empty one
        opened(save(tmp_path / "t", pa.array([], pa.list_(pa.int32()))))
    TokenSet.from_rows([], TokenSpec.of(VOCAB, frame=Frame(), max_len=8)).save(tmp_path / "own")
    assert len(TokenSet.open(tmp_path / "own")) == 0


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["c0", "c0", "c1"], r"1 cell id stands there more than once \('c0' 2 times\).*row number"),
        (["a", None, "b"], "1 of 3 cells have no id, such as row 1"),
        ([1, 1, 1], r"'1' 3 times"),
        ([["a"], ["b"], ["c"]], "not text"),
    ],
)
def test_cell_ids_that_do_not_tell_cells_apart(tmp_path, ids, message):
    """They would be merged into one cell wherever results are joined by cell."""
    with pytest.raises(CellError, match=message):
        opened(save(tmp_path / "t", ROWS, cell_id=pa.array(ids)))


def test_numbers_are_cell_ids_and_row_numbers_where_there_are_none(tmp_path):
    assert opened(save(tmp_path / "a", ROWS, cell_id=pa.array([7, 3, 5]))).cell_ids == ["7", "3", "5"]
    assert opened(save(tmp_path / "b", ROWS)).cell_ids == ["0", "1", "2"]


@pytest.mark.parametrize("ids", [["a", "a", "b"], ["a", None, "b"], ["a", float("nan"), "b"], ["a", "b"]])
def test_rows_in_memory_are_held_to_the_same(ids):
    spec = TokenSpec.of(VOCAB, frame=Frame(), max_len=8)
    with pytest.raises(CellError):
        TokenSet.from_rows(ROWS, spec, cell_ids=ids)


@pytest.mark.parametrize("row", [[5.5], ["CD3D"], [[5]], [None], 5, [5, float("nan")], [2**40]])
def test_rows_in_memory_are_token_numbers(row):
    with pytest.raises(TokensError, match="row 1 is no list of token numbers"):
        TokenSet.from_rows([[4], row], TokenSpec.of(VOCAB, frame=Frame(), max_len=8))


def test_a_column_of_numbers_called_counts_is_an_annotation(tmp_path):
    tokens = opened(save(tmp_path / "t", ROWS, counts=pa.array([10, 20, 30])))
    assert not tokens.has_counts and tokens.obs("counts").tolist() == [10, 20, 30]


# Folders that were changed since they were written


def own(folder, **how):
    tokens_of_flat(VOCAB, make_adata(np.arange(1, 25).reshape(2, 12)), folder, max_len=12, **how)
    return folder


def forget():
    """As another process, which has not seen the files written."""
    seal._CHECKED.clear()


def refused(folder, message):
    forget()
    with pytest.raises(TokensError, match=message) as e:
        TokenSet.open(folder)
    assert str(folder) in str(e.value) and "\n" not in str(e.value)


def data_of(folder):
    return next(folder.glob("*.arrow"))


@pytest.mark.parametrize("place", [-200, -60, 300, 8])
def test_a_changed_byte_of_the_rows_is_seen(tmp_path, place):
    path = data_of(own(tmp_path / "t"))
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)
    refused(tmp_path / "t", r"arrow was changed since it was written.*tokenize again")


def test_a_file_that_lost_bytes_is_seen(tmp_path):
    path = data_of(own(tmp_path / "t"))
    path.write_bytes(path.read_bytes()[:-8])
    refused(tmp_path / "t", "bytes and not the")


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v | {"frame": {"head": [], "tail": []}},
        lambda v: {k: x for k, x in v.items() if k != "frame"},
        lambda v: v | {"vocabulary_hash": "0" * 64},
        lambda v: {k: x for k, x in v.items() if k != "hash"},
        lambda v: {k: x for k, x in v.items() if k != "files"},
        lambda v: v | {"max_len": "long"},
    ],
)
def test_a_changed_spec_is_seen(tmp_path, change):
    path = own(tmp_path / "t") / "rankcell.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    refused(tmp_path / "t", "rankcell.json was changed since it was written.*tokenize again")


def test_rows_of_another_set_are_seen(tmp_path):
    one, other = own(tmp_path / "one"), tmp_path / "other"
    Tokenizer(VOCAB, rc.Tokenizing(max_len=12)).write(make_adata(np.arange(25, 1, -1).reshape(2, 12)), other)
    data_of(one).write_bytes(data_of(other).read_bytes())
    refused(one, "was changed")
    (own(tmp_path / "third") / "state.json").write_text(json.dumps({"_data_files": [{"filename": "rows.arrow"}]}))
    data_of(tmp_path / "third").rename(tmp_path / "third" / "rows.arrow")
    refused(tmp_path / "third", "other files than rankcell.json says")


def test_what_is_unchanged_opens_wherever_it_lies(tmp_path):
    own(tmp_path / "t").rename(tmp_path / "moved")
    forget()
    path = tmp_path / "moved" / "rankcell.json"
    path.write_text(json.dumps(json.loads(path.read_text())))  # other white space, the same values
    assert len(TokenSet.open(tmp_path / "moved")) == 2


def test_a_file_is_looked_through_once(tmp_path, monkeypatch):
    own(tmp_path / "t")
    read = []
    monkeypatch.setattr(seal, "file_hash", lambda path, real=seal.file_hash: read.append(path) or real(path))
    TokenSet.open(tmp_path / "t")
    assert read == []  # written by this process
    forget()
    for _ in range(3):
        TokenSet.open(tmp_path / "t")
    assert [p.name for p in read] == ["data-00000-of-00001.arrow"]
    os.utime(data_of(tmp_path / "t"), (1, 1))
    TokenSet.open(tmp_path / "t")
    assert len(read) == 2


def unsealed(folder, **changes):
    """As an earlier version wrote it: without a fingerprint."""
    path = folder / "rankcell.json"
    held = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("files", "hash", "cropping")}
    path.write_text(json.dumps(held | changes))
    return folder


def test_folders_of_earlier_versions_open_without_a_word(tmp_path, small):
    folder = unsealed(own(tmp_path / "t"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokens = TokenSet.open(folder)
        assert tokens.frame == Frame((2,), (3,)) and dict(tokens.spec.cropping) == {}
        assert call(Embedder, small[1], device="cpu").embed(tokens).columns["mean_layer-2"].shape == (2, 16)


def test_a_frame_removed_from_a_folder_of_an_earlier_version(tmp_path, small):
    """<cls> would be an ordinary gene, in every mean."""
    folder = unsealed(own(tmp_path / "t"), frame={"head": [], "tail": []})
    with pytest.raises(TokensError, match=r"2 have special tokens among the genes \(such as <"):
        call(Embedder, small[1], device="cpu").embed(TokenSet.open(folder))
    with pytest.raises(TokensError, match="2 of 2 rows lack the special tokens"):
        call(Embedder, small[1], device="cpu").embed(TokenSet.open(unsealed(own(tmp_path / "u"), frame={"head": [2], "tail": [2]})))


@pytest.mark.parametrize("token", [16, -1, 2**20, 0])
def test_tokens_outside_the_vocabulary_never_meet_the_model(token, small, tmp_path):
    spec = TokenSpec.of(small[0], frame=Frame(), max_len=8)
    tokens = TokenSet.from_rows([[5, 6], [7, token]], spec)
    with pytest.raises(TokensError, match=f"token {token} of row 1 is not in|<pad> in row 1"):
        call(Embedder, small[1], device="cpu").embed(tokens)
    from rankcell.perturb import Perturber

    with pytest.raises(TokensError):
        run_screen(call(Perturber, small[1], device="cpu"), tokens, tmp_path / "screen", genes=["G1"])
    assert list(tmp_path.iterdir()) == []


def test_changed_offsets_of_an_unsealed_folder(tmp_path):
    """Row boundaries beyond the values: an index error, or memory of others."""
    folder = save(tmp_path / "t", ROWS, pa.list_(pa.int32()))
    path = data_of(folder)
    raw = bytearray(path.read_bytes())
    at = raw.rindex(np.array([0, 3, 4, 6], "<i4").tobytes())
    raw[at + 4 : at + 8] = np.array([900], "<i4").tobytes()
    path.write_bytes(raw)
    with pytest.raises(TokensError, match="cannot be read as a token set"):
        opened(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("state.json", t)
        for t in (
            "[]",
            "5",
            '{"_data_files": 5}',
            '{"_data_files": []}',
            '{"_data_files": [{"filename": 5}]}',
            "\x00",
            '{"_data_files": ["x"]}',
        )
    ]
    + [
        ("state.json", '{"_data_files": [{"filename": "../u/data.arrow"}]}'),
        ("state.json", '{"_data_files": [{"filename": "/etc/passwd"}]}'),
    ]
    + [("rankcell.json", t) for t in ("[]", "5", "null", '"x"', "", '{"format": 5}', '{"format": "rankcell-tokens-1"}')],
)
def test_json_of_another_shape(tmp_path, name, text):
    folder = own(tmp_path / "t")
    (folder / name).write_text(text)
    forget()
    with pytest.raises(TokensError) as e:
        TokenSet.open(folder)
    assert "\n" not in str(e.value) and name in str(e.value)


@pytest.mark.parametrize(
    "change",
    [
        {"source": [1]},
        {"categories": {"a": 5}},
        {"categories": [5]},
        {"cropping": [1]},
        {"cropping": {"cells": "x"}},
        {"max_len": None},
        {"frame": 5},
        {"frame": {"head": 5, "tail": []}},
        {"categories": {"a": {"categories": 5, "ordered": True}}},
        {"max_len": 1e400},
    ],
)
def test_values_of_another_type_in_a_spec_without_fingerprint(tmp_path, change):
    with pytest.raises(RankcellError) as e:
        TokenSet.open(unsealed(own(tmp_path / "t"), **change))
    assert "\n" not in str(e.value)
