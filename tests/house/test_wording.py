"""Messages name an option as the caller would write it."""

import ast
import re

import pytest
import typer
from builders import ROOT

from rankcell.cli.main import main, make_app
from rankcell.errors import RankcellError, RankcellWarning
from rankcell.wording import command, command_line, offers, option, python_verb

DOORS = ("cli", "report", "jobs", "demo.py")  # what stands here is for the terminal, or a page that shows commands
FLAG = re.compile(r"--[a-z]")
LITERAL_FLAGS = {
    ("wording.py", "--no-"): "the one place where flags are made",
}


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


@pytest.mark.parametrize(
    ("verb", "work"),
    [
        ("tokenize", "rankcell.tokens.cells.tokenize_cells"),
        ("check", "rankcell.cli.check_report.check"),
        ("embed", "rankcell.embed.embed_cells.embed_to_file"),
        ("perturb", "rankcell.perturb.run.screen_cells.perturb_cells"),
    ],
)
def test_each_command_spells_its_own(verb, work, monkeypatch, capsys):
    def refuse(*_, **__):
        raise RankcellError(f"{option('counts_layer')}|{offers('raw')}|{offers('toward')}")

    monkeypatch.setattr(work, refuse)
    arguments = ["in"] if verb == "check" else ["in", "-o", "out"]
    assert main([verb, *arguments]) == 2
    assert capsys.readouterr().err == f"rankcell: --counts-layer|True|{verb == 'perturb'}\n"


def test_every_command_is_such_a_verb():
    from rankcell.cli.verb import Verb

    top = typer.main.get_command(make_app())
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


def test_what_check_says_names_options_as_the_caller_writes_them(tmp_path, capsys):
    from builders import make_adata, make_vocab
    from flat_options import call

    from rankcell.cli.check_report import check
    from rankcell.cli.main import main

    make_vocab().save(tmp_path / "v")
    paths = {}
    for name in ("scaled", "raw", "in layer", "plain"):
        adata = make_adata([[1, 2, 0, 4], [3, 0, 1, 1]])
        if name == "raw":
            adata.raw = adata
            adata = adata[:, :2].copy()
        if name == "in layer":
            adata.layers["mine"] = adata.X.copy()
        if name in ("scaled", "in layer"):
            adata.X = adata.X * 1.5
        adata.write_h5ad(paths.setdefault(name, tmp_path / f"{name}.h5ad"))
    both = [paths["in layer"], paths["plain"]]
    for of, flags, words in (
        (paths["scaled"], "as they are with --allow-non-counts:", "as they are with allow_non_counts=True:"),
        (paths["scaled"], "(for --obs and --filter)", "(for obs and filter)"),
        (paths["raw"], "pass --raw to use them all", "pass raw=True to use them all"),
        (both, "--counts-layer mine for in layer", "counts_layer='mine' for in layer"),
    ):
        listed = of if isinstance(of, list) else [of]
        page = " ".join(" ".join(call(check, listed, vocab=tmp_path / "v").lines()).split())
        assert words in page and flags not in page
        main(["check", *map(str, listed), "--vocab", str(tmp_path / "v")])
        assert flags in " ".join(capsys.readouterr().out.split())


def test_an_output_that_is_there_names_force_as_the_caller_writes_it(tmp_path):
    from rankcell.errors import OutputError
    from rankcell.store import require_new

    (tmp_path / "a").write_text("x")

    @python_verb()
    def without(out):
        require_new(out)

    @python_verb()
    def with_it(out, force=False):
        require_new(out, force=force)

    for verb, end in ((with_it, "another output, or pass force=True to replace it"), (without, "choose another output")):
        with pytest.raises(OutputError) as e:
            verb(tmp_path / "a")
        assert str(e.value).endswith(end)
    with command_line({"force": "--force"}), pytest.raises(OutputError, match="pass --force to replace it"):
        require_new(tmp_path / "a")


@pytest.mark.parametrize(("name", "kind"), [("a.h5", "tenx"), ("a.loom", "loom"), ("folder", "mtx"), ("a.h5ad", "h5ad")])
def test_formats_name_options_as_the_caller_writes_them(tmp_path, name, kind):
    import h5py
    import numpy as np
    import scipy.sparse as sp
    from builders import make_adata
    from count_files import Counts, write_loom, write_mtx, write_tenx

    from rankcell.counts import open_counts
    from rankcell.errors import InputError

    x = sp.csr_matrix(np.array([[1.0, 2.0], [3.0, 0.0]]))
    path = tmp_path / name
    if kind == "h5ad":
        adata = make_adata(x.toarray())
        adata.layers["mine"] = adata.X.copy()
        adata.write_h5ad(path)
        with h5py.File(path, "r+") as f:
            del f["X"]
    else:
        {"tenx": write_tenx, "loom": write_loom, "mtx": write_mtx}[kind](Counts(x), path)
    how, flag, word = ({}, "--counts-layer mine", "counts_layer='mine'") if kind == "h5ad" else ({"raw": True}, "--raw", "raw")
    with command_line({"raw": "--raw", "counts_layer": "--counts-layer"}), pytest.raises(InputError, match=flag):
        open_counts(path, **how)
    with pytest.raises(InputError, match=word) as e:
        open_counts(path, **how)
    assert "--" not in str(e.value).removeprefix(str(path))


def test_a_command_is_a_function_in_python_where_there_is_one():
    assert command("embed") == "rc.tl.embed" and command("vocab fetch", "v2") == "'rankcell vocab fetch v2' in a terminal"
    with command_line({}):
        assert command("embed") == "'rankcell embed'" and command("vocab fetch", "v2") == "'rankcell vocab fetch v2'"


def literals(tree):
    """(line, text) of every literal but docstrings and what is given to `wording.command`, which are words of a command line."""
    passed = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and isinstance(node.body[0], ast.Expr):
            passed.add(node.body[0].value)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "command":
            passed |= set(ast.walk(node))
    yield from ((n.lineno, n.value) for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str) and n not in passed)


def test_rooms_leave_the_spelling_of_options_to_the_door():
    """Below the doors no message holds a flag: `wording.option` and `wording.command` write what the caller would."""
    wrong, used = [], set()
    for path in sorted((ROOT / "rankcell").rglob("*.py")):
        name = path.relative_to(ROOT / "rankcell").as_posix()
        for line, text in literals(ast.parse(path.read_text())) if name.split("/")[0] not in DOORS else ():
            excuse = next((key for key in LITERAL_FLAGS if key[0] == name and key[1] in text), None)
            used |= {excuse} - {None}
            if FLAG.search(text) and excuse is None:
                wrong.append(f"{name}:{line}: {text!r}")
    assert not wrong, "spell it by rankcell.wording.option: " + "; ".join(wrong)
    assert used == set(LITERAL_FLAGS), "no longer needed here: " + str(set(LITERAL_FLAGS) - used)


def test_messages_in_python_name_public_classes_alone():
    import rankcell.counts.vocabulary.options as for_building
    from rankcell.counts.options import Counts, CountsPlace

    assert for_building.CountsToBuild.__mro__[1] is Counts  # a class made from it, which users do not have
    assert Counts.option_words()["genome"] == CountsPlace.option_words()["genome"] == "rc.Counts({})"


OBTAINED = {"found", "held", "asked", "said", "told"}  # these say that a value was obtained, not what it is; a local is named after its content


def identifiers(tree):
    for node in ast.walk(tree):
        yield from (getattr(node, field, None) for field in ("id", "arg", "attr", "name", "asname") if isinstance(getattr(node, field, None), str))


def test_identifiers_say_what_a_value_is():
    vague = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted((ROOT / "rankcell").rglob("*.py"))
        for name in identifiers(ast.parse(path.read_text()))
        if OBTAINED & set(name.lower().split("_"))
    }
    assert vague == set()
