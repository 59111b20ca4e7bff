"""Near matches of gene names: what a misspelt name may mean, in screens and in `check`."""

import difflib

import numpy as np
import pytest
from builders import make_adata, make_vocab
from flat_options import call, perturb_df
from hypothesis import given, settings
from hypothesis import strategies as st

from rankcell.cli.check_report import check
from rankcell.errors import SettingsError
from rankcell.vocab import Vocabulary
from rankcell.vocab.near import NearNames

SYMBOLS = ["CD3D", "CD3E", "HLA-DRA", "RPL13", "FOXP3", "FOXP1", "GAPDH", "C10orf54", "MALT1", "NKX2-1", "MS4A1", "LYZ"]


def vocabulary(symbols=SYMBOLS, **kw):
    genes = [f"ENSG{i:011d}" for i in range(len(symbols))]
    n = np.arange(1, len(symbols) + 1)
    return Vocabulary(name="v", genes=genes, symbols=symbols, tokens=n, medians=np.ones(len(n)), special={"<pad>": 0}, **kw)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("cd3d", "CD3D"),
        ("HLA.DRA", "HLA-DRA"),  # as R writes it
        ("hla_dra ", "HLA-DRA"),
        ("CD3D-1", "CD3D"),  # as anndata and R make names unique
        ("CD3D.1", "CD3D"),
        ("NKX2.1", "NKX2-1"),
        ("c10ORF54", "C10orf54"),
        ("CD3DD", "CD3D"),
        ("GAPD", "GAPDH"),
        ("FOXP", "FOXP3 or FOXP1"),
        ("RPL10", ""),  # another gene of the family
        ("FOXP2", ""),
        ("ENSG00000000099", ""),
        ("AC090498.1", ""),
        ("", ""),
        ("é", ""),
    ],
)
def test_near_matches(name, meant):
    assert vocabulary().suggestion(name) == (f"; did you mean {meant}?" if meant else "")


def test_names_as_they_are_written_in_the_vocabulary():
    """Those of a mouse too, and aliases."""
    mouse = vocabulary(["Cd3d", "Gapdh", "Lyz2"], species="mouse", aliases={"Lysozyme": "ENSG00000000002"})
    assert [mouse.suggestion(n) for n in ("CD3D", "Gapdhh", "lysosyme")] == [f"; did you mean {n}?" for n in ("Cd3d", "Gapdh", "Lysozyme")]


def test_a_vocabulary_without_symbols():
    assert vocabulary([""] * 3).suggestion("CD3D") == "" and NearNames([]).find("CD3D") == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ABC-12x", min_size=1, max_size=6), max_size=12, unique_by=str.upper), st.text("ABC-12x", min_size=1, max_size=6))
def test_the_quick_look_loses_no_near_match(names, name):
    """What is compared letter by letter is all that difflib finds among all names."""
    upper = {n.upper(): n for n in names}
    found = NearNames(names)._similar(name.upper(), 20)
    every = difflib.get_close_matches(name.upper(), list(upper), n=40, cutoff=0.75)
    assert set(found) <= set(every)
    digits = {n: ("".join(c for c in n if c.isalpha()), "".join(c for c in n if c.isdigit())) for n in [*upper, name.upper()]}
    other = {n for n in every if digits[n][0] == digits[name.upper()][0] and digits[n][1] and digits[name.upper()][1]}
    assert set(every) - set(found) <= other


def test_a_screen_names_them(small):

    adata = make_adata(np.ones((3, 12), int))
    with pytest.raises(SettingsError, match=r"gene 'g_1' is not in vocabulary.*; did you mean G1\?"):
        perturb_df(adata, small[1], genes=["g_1"])
    with pytest.raises(SettingsError, match=r"2 of 3 genes are not in vocabulary.*: g_1 \(did you mean G1\?\), TP53"):
        perturb_df(adata, small[1], genes=["g_1", "TP53", "G2"])


def page(tmp_path, names, vocab):
    adata = make_adata(np.arange(1, len(names) + 1)[None])
    adata.var = adata.var[[]].set_axis(names)
    adata.write_h5ad(tmp_path / "a.h5ad")
    vocab.save(tmp_path / "v")
    return " ".join(" ".join(call(check, tmp_path / "a.h5ad", vocab=tmp_path / "v").lines()).split())


def test_check_names_them(tmp_path):
    known = [s for s in SYMBOLS if s not in ("HLA-DRA", "LYZ")]
    said = page(tmp_path, [*known, "HLA.DRA", "Lyz"], vocabulary())
    assert "not known the most abundant: Lyz (15.4 %; did you mean LYZ?), HLA.DRA (14.1 %; did you mean HLA-DRA?) of all counts" in said


def test_another_gene_of_a_file_is_no_slip(tmp_path):
    said = page(tmp_path, [*SYMBOLS[:8], "MALAT1", "CD3DD", "RPL13A"], vocabulary())
    assert "not known the most abundant: RPL13A (16.7 %), CD3DD (15.2 %), MALAT1 (13.6 %) of all counts" in said


def test_nothing_is_meant_where_few_genes_are_known(tmp_path):
    """They are another species', or another kind of names."""
    said = page(tmp_path, ["CD3D", *(s.capitalize() for s in SYMBOLS[1:])], vocabulary())
    assert "not known the most abundant: Lyz (15.4 %)," in said and "did you mean" not in said


def test_what_is_no_count_has_no_share(tmp_path):
    adata = make_adata(np.full((2, 12), 1))
    adata.X = adata.X * 1.5
    adata.var = adata.var[[]].set_axis([*(f"G{i}" for i in range(11)), "g11"])
    adata.write_h5ad(tmp_path / "a.h5ad")
    make_vocab().save(tmp_path / "v")
    said = " ".join(" ".join(call(check, tmp_path / "a.h5ad", vocab=tmp_path / "v").lines()).split())
    assert "not known the most abundant: g11 (did you mean G11?)" in said
