"""Names with characters that would steer a terminal: every message stays one line of plain text."""

import numpy as np
import pytest
from builders import make_adata, make_vocab

from rankcell.cli.main import main
from rankcell.wording import one_line, visible

HOSTILE = ["a\nb", "a\x1b[2Jb", "a\x00b", "a\u202eb", "a\u2066b", "a\rb", "a\x9bb", "a\u2028b", "\x07a"]


def steers(text):
    return [c for c in text if (ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160 or c in "\u202e\u2066\u2028\u2029\u200f"]


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_said_of_a_name(name):
    said = one_line(f"gene '{name}' is not there")
    assert not steers(said) and "\n" not in said and said.startswith("gene '") and said.endswith("is not there")


def test_other_scripts_stay_as_they_are():
    assert visible("naïve 细胞 خلية é می\u200cخواهم 🧬") == "naïve 细胞 خلية é می\u200cخواهم 🧬"
    assert one_line("a\x1bb\x00\u202e") == "a\\x1bb\\x00\\u202e"


@pytest.mark.parametrize("name", [n for n in HOSTILE if "\x00" not in n])
def test_cells_and_genes_of_such_names(tmp_path, capsys, name):
    make_vocab().save(tmp_path / "v")
    adata = make_adata(np.ones((2, 12)))
    adata.obs_names, adata.var_names = [name, "other"], [name, *adata.var_names[1:]]
    adata.obs["label"] = [name, "x"]
    adata.X.data[0] = 0.5
    adata.write_h5ad(tmp_path / "a.h5ad")
    for words in (
        ["tokenize", "-o", str(tmp_path / "o")],
        ["check"],
        ["tokenize", "-o", str(tmp_path / "o"), "--filter", f"label == {name!r}"],
    ):
        assert main([words[0], str(tmp_path / "a.h5ad"), *words[1:], "--vocab", str(tmp_path / "v")]) == 2
        out, err = capsys.readouterr()
        assert not steers(out) and not steers(err) and err.count("\n") == (words[0] != "check")
    assert main(["tokenize", name, "-o", str(tmp_path / "o")]) == 2
    err = capsys.readouterr().err
    assert not steers(err) and err.count("\n") == 1


def test_an_interrupt_in_the_middle_of_a_lock_is_a_stop(monkeypatch, capsys):
    """CPython's condition variables answer an interrupt at a bad moment with an error of their own."""

    def interrupted(*_, **__):
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("release unlocked lock")

    monkeypatch.setattr("rankcell.cli.check_report.check", interrupted)
    assert main(["check", "a.h5ad"]) == 130
    assert capsys.readouterr().err == "rankcell: stopped\n"
