"""Messages name an option as the caller would write it."""

import pytest
import typer

from rankcell.cli.main import app, main
from rankcell.errors import RankcellError, RankcellWarning
from rankcell.wording import command_line, offers, option, python_verb


def test_outside_of_a_verb_options_are_parameters():
    assert option("counts_layer") == "counts_layer"
    assert option("counts_layer", "a b") == "counts_layer='a b'" and option("raw", True) == "raw=True"
    assert option("controls", placeholder="A,B") == "controls"
    assert offers("whatever")


def test_at_the_command_line_they_are_flags():
    with command_line({"counts_layer": "--layer", "raw": "--raw"}):
        assert option("counts_layer", "a b") == "--layer 'a b'" and option("raw", True) == "--raw"
        assert option("counts_layer", placeholder="NAME") == "--layer NAME"
        assert option("min_cells") == "--min-cells" and not offers("min_cells")
        assert offers("counts_layer") and not offers("layer")
    assert option("raw", True) == "raw=True"


def test_a_python_verb_names_its_own_parameters():
    @python_verb(counts_layer="layer")
    def inner(adata, layer=None, raw=False):
        return option("counts_layer", "x"), option("raw", True), offers("counts_layer"), offers("gene_column")

    @python_verb()
    def outer(adata, counts_layer=None):
        return inner(adata)

    assert inner(0) == ("layer='x'", "raw=True", True, False)
    assert outer(0)[0] == "counts_layer='x'"  # that of the verb which the user called
    with command_line({"counts_layer": "--counts-layer"}):
        assert outer(0)[0] == "--counts-layer x"
    assert option("counts_layer") == "counts_layer"


@pytest.mark.parametrize(("verb", "flag"), [("tokenize", "--layer"), ("check", "--layer"), ("embed", "--counts-layer"), ("perturb", "--counts-layer")])
def test_each_command_spells_its_own(verb, flag, monkeypatch, capsys):
    import rankcell.jobs

    def refuse(*_, **__):
        raise RankcellError(f"{option('counts_layer')}|{offers('raw')}|{offers('toward')}")

    monkeypatch.setattr(rankcell.jobs, verb, refuse)
    arguments = ["in"] if verb == "check" else ["in", "-o", "out"]
    assert main([verb, *arguments]) == 2
    assert capsys.readouterr().err == f"rankcell: {flag}|True|{verb == 'perturb'}\n"


def test_every_command_is_such_a_verb():
    from rankcell.cli.verb import Verb

    top = typer.main.get_command(app)
    leaves = [c for command in top.commands.values() for c in getattr(command, "commands", {"": command}).values()]
    assert len(leaves) > 10 and all(isinstance(c, Verb) for c in leaves)


def test_a_note_points_at_the_callers_line():
    import rankcell as rc

    with pytest.warns(RankcellWarning, match="no gene") as caught:
        rc.pp.tokenize(_with_an_empty_cell(), "demo")
    assert [w.filename for w in caught] == [__file__]


def _with_an_empty_cell():
    import anndata as ad
    import numpy as np
    import pandas as pd

    from rankcell.vocab import find_vocabulary

    genes = find_vocabulary("demo").genes[:2]
    return ad.AnnData(np.array([[1, 2], [0, 0]], "f4"), obs=pd.DataFrame(index=["a", "b"]), var=pd.DataFrame(index=genes))


def test_an_option_that_is_switched_off():
    from rankcell.wording import command_line

    assert option("cls", False) == "cls=False"
    with command_line({"cls": "--cls"}):
        assert option("cls", False) == "--no-cls"
