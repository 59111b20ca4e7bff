"""Vocabularies by name from any folder; no toy unasked; and what a damaged vocabulary folder says."""

import json
import os

import pytest
from builders import make_adata, make_vocab

import rankcell as rc
from rankcell.cli import main
from rankcell.errors import RankcellWarning, VocabularyError
from rankcell.hub import user_folder
from rankcell.vocab import Vocabulary, find_vocabulary
from rankcell.vocab.catalog import fetched_vocabularies, find_by_hash, keep_fetched, vocabularies_at_hand
from rankcell.vocab.published import fetch_vocab

COUNTS = [[1, 0, 2, 0], [0, 3, 0, 0], [4, 1, 1, 0]]


@pytest.fixture
def user(tmp_path, monkeypatch):
    """A user's folder of their own, and an empty working folder."""
    monkeypatch.setenv("RANKCELL_CACHE", str(tmp_path / "user"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "user"


def test_a_fetched_vocabulary_is_known_by_name_everywhere(user, tmp_path, monkeypatch, capsys):
    vocab = make_vocab(name="mine")
    monkeypatch.setattr("rankcell.vocab.published.fetch_vocabulary", lambda name, **_: vocab)
    with pytest.raises(VocabularyError, match="run 'rankcell vocab fetch geneformer-v2' in a terminal once"):
        find_vocabulary("geneformer-v2")
    fetch_vocab("geneformer-v2", tmp_path / "somewhere")
    monkeypatch.chdir(tmp_path)
    found = find_vocabulary("geneformer-v2")
    assert found == vocab and found.name == "geneformer-v2" and Vocabulary.load(tmp_path / "somewhere").name == "somewhere"
    assert find_by_hash(vocab.hash) == vocab and list(vocabularies_at_hand()) == ["pbmc68k", "geneformer-v2"]
    assert main(["vocab", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("geneformer-v2") and "12 genes" in lines[1] and lines[2].startswith("geneformer-v1") and "not fetched" in lines[2]
    make_vocab(13, name="other").save(tmp_path / "geneformer-v2")
    assert len(find_vocabulary("geneformer-v2")) == 13  # a folder here comes first


def test_where_it_is_kept(monkeypatch, tmp_path):
    monkeypatch.delenv("RANKCELL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "name", "posix")
    assert user_folder() == tmp_path / "rankcell"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert user_folder() == tmp_path / "home" / ".cache" / "rankcell"


def test_without_a_home(monkeypatch):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("RANKCELL_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("rankcell.hub.Path.home", nobody)
    assert user_folder() is None and fetched_vocabularies() == {} and keep_fetched(make_vocab(), "geneformer-v2") is None
    assert find_vocabulary("demo").name == "pbmc68k"


def test_where_nothing_can_be_kept(user, tmp_path):
    """A file in the way of the folder: the vocabulary that was asked for is there all the same."""
    user.write_text("in the way")
    assert keep_fetched(make_vocab(), "geneformer-v2") is None and fetched_vocabularies() == {}


@pytest.mark.parametrize("call", [rc.pp.tokenize, rc.pp.align_genes, lambda _: rc.Tokenizer()])
def test_a_vocabulary_is_required(user, call):
    with pytest.raises(VocabularyError) as e:
        call(make_adata(COUNTS))
    text = str(e.value)
    assert text.startswith("no vocabulary was named: vocab takes") and "pbmc68k (also called demo: a toy of 765 genes)" in text
    assert "'rankcell vocab fetch' in a terminal brings geneformer-v1, geneformer-v2" in text and "\n" not in text


@pytest.mark.parametrize("vocab", [3, ["demo"], {"a": 1}, True])
def test_what_is_no_vocabulary(vocab):
    with pytest.raises(VocabularyError, match="expected a Vocabulary, its folder, or one of pbmc68k"):
        find_vocabulary(vocab)


def test_tokenize_at_the_command_line(user, capsys):
    make_adata(COUNTS).write_h5ad("c.h5ad")
    assert main(["tokenize", "c.h5ad", "-o", "t.dataset"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "no vocabulary was named: --vocab V takes" in said and os.listdir() == ["c.h5ad"]
    assert "'rankcell vocab fetch' brings geneformer-v1" in said and "'rankcell vocab build FILE -o FOLDER' makes one of its counts" in said


def test_the_one_that_knows_the_genes_is_taken_with_a_note(user, capsys):
    make_adata(COUNTS).write_h5ad("c.h5ad")
    keep_fetched(make_vocab(), "geneformer-v1")
    with pytest.warns(RankcellWarning, match="'geneformer-v1' is taken, which knows 4 of the 4 genes and has 12; vocab names another"):
        tokens = rc.pp.tokenize(make_adata(COUNTS))
    assert tokens.spec.vocabulary_hash == find_vocabulary("geneformer-v1").hash
    assert main(["tokenize", "c.h5ad", "-o", "t.dataset"]) == 0
    assert "'geneformer-v1' is taken" in capsys.readouterr().err


def test_one_that_knows_less_than_half_is_not_taken(user):
    adata = make_adata(COUNTS)
    adata.var_names = [*find_vocabulary("demo").genes[:1], "x", "y", "z"]
    with pytest.raises(VocabularyError, match="no vocabulary was named"):
        rc.pp.tokenize(adata)


def test_check_compares_those_at_hand(user, capsys):
    make_adata(COUNTS).write_h5ad("c.h5ad")
    keep_fetched(make_vocab(), "geneformer-v1")
    assert main(["check", "c.h5ad"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "No vocabulary was named. Of the 4 genes of c.h5ad are known:"
    assert lines[1] == "- to geneformer-v1 (12 genes): 4 (100%), taken below" and lines[2] == "- to pbmc68k (765 genes): 0 (0%)"
    assert lines[-1] == "rankcell tokenize c.h5ad --vocab geneformer-v1 -o c.dataset"
    assert main(lines[-1].split()[1:]) == 0


def test_check_of_a_file_that_does_not_open(user, capsys):
    with open("c.h5ad", "w") as f:
        f.write("nothing")
    assert main(["check", "c.h5ad"]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "c.h5ad" in said.err


# A damaged folder


DAMAGE = {
    "no JSON": ("vocabulary.json", lambda text: text[:50], "vocabulary.json"),
    "a list": ("vocabulary.json", lambda text: "[1, 2]", "vocabulary.json"),
    "text": ("vocabulary.json", lambda text: '"x"', "vocabulary.json"),
    "name is a number": ("vocabulary.json", lambda text: changed(text, name=3), "name is 3"),
    "name is missing": ("vocabulary.json", lambda text: changed(text, name=None), "name is None"),
    "specials are a list": ("vocabulary.json", lambda text: changed(text, special_tokens=[1]), "special_tokens is [1]"),
    "a special token is text": ("vocabulary.json", lambda text: changed(text, special_tokens={"<pad>": "0"}), "special_tokens is {'<pad>': '0'}"),
    "a special token is a fraction": ("vocabulary.json", lambda text: changed(text, special_tokens={"<pad>": 0.5}), "special_tokens is"),
    "max_len is a fraction": ("vocabulary.json", lambda text: changed(text, max_len=20.5), "max_len is 20.5"),
    "max_len is text": ("vocabulary.json", lambda text: changed(text, max_len="20"), "max_len is '20'"),
    "max_len is true": ("vocabulary.json", lambda text: changed(text, max_len=True), "max_len is True"),
    "max_len is huge": ("vocabulary.json", lambda text: changed(text, max_len=2**64), "max_len is 18446744073709551616"),
    "target_sum is text": ("vocabulary.json", lambda text: changed(text, target_sum="1e4"), "target_sum is '1e4'"),
    "target_sum is no number": ("vocabulary.json", lambda text: changed(text, target_sum=float("nan")), "target_sum is nan"),
    "provenance is a number": ("vocabulary.json", lambda text: changed(text, provenance=7), "provenance is 7"),
    "a token is text": ("genes.tsv", lambda text: text.replace("\n4\t", "\nfour\t", 1), "genes.tsv line 2: token is 'four'"),
    "a token is huge": ("genes.tsv", lambda text: text.replace("\n4\t", "\n99999999999999999999\t", 1), "genes.tsv line 2: token"),
    "a median is text": ("genes.tsv", lambda text: text.replace("\t1.0\n", "\tone\n", 1), "genes.tsv line 2: median is 'one'"),
    "a median is negative": ("genes.tsv", lambda text: text.replace("\t1.0\n", "\t-1.0\n", 1), "-1"),
    "a line is short": ("genes.tsv", lambda text: text.replace("\tG0\t", "\t", 1), "line 2 has 3 fields"),
    "other columns": ("genes.tsv", lambda text: text.replace("median", "mean", 1), "genes.tsv has columns"),
    "a token was changed": ("genes.tsv", lambda text: text.replace("\n4\t", "\n400\t", 1), "changed by hand"),
}


def changed(text, **values):
    return json.dumps(json.loads(text) | values)


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_one_line_that_names_file_and_value(tmp_path, case):
    file, change, said = DAMAGE[case]
    make_vocab(name="v").save(tmp_path / "v")
    path = tmp_path / "v" / file
    before = path.read_text()
    path.write_text(change(before))
    assert path.read_text() != before
    with pytest.raises(VocabularyError) as e:
        Vocabulary.load(tmp_path / "v")
    text = str(e.value)
    assert said in text and str(tmp_path / "v") in text and "\n" not in text and len(text) < 500
