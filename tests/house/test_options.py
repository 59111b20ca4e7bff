"""Classes of options: what they take and refuse, in Python and as flags; and the verbs of screens as a user calls them."""

import inspect
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass
from typing import Annotated

import numpy as np
import pytest
from builders import make_adata

import rankcell as rc
from rankcell.cli import main
from rankcell.cli.flags import flat
from rankcell.cli.verb import Verb
from rankcell.errors import OutputError, SettingsError
from rankcell.options import Choice, Help, Options, at_least, fields_of, names_in, one_of

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Paint(Options):
    """How a wall is painted."""

    colour: Annotated[str, Help("The colour, beside {coats}.", check=one_of("red", "blue"))] = "red"
    coats: Annotated[int | None, Help("Coats of paint.", check=at_least(1))] = None


@dataclass(frozen=True)
class Paper(Options):
    """How a wall is papered."""

    pattern: Annotated[str, Help("Stripes or dots.")] = "dots"
    coats: Annotated[int, Help("Coats of paste.", check=at_least(0))] = 0


WALL = Choice("cover", Help("paint or paper."), {"paint": Paint, "paper": Paper})


def test_values_are_taken_in_one_form():
    assert Paint(coats="2").coats == Paint(coats=np.int64(2)).coats == Paint(coats=2.0).coats == 2
    assert Paint().settings() == {"colour": "red", "coats": None} and Paint("blue").non_defaults() == {"colour": "blue"}
    assert Paint.of_settings({"coats": 3, "device": "cpu"}) == Paint(coats=3)
    assert repr(Paint("blue")) == "Paint(colour='blue')" and repr(Paint()) == "Paint()"
    with pytest.raises(FrozenInstanceError):
        Paint().coats = 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coats": 0}, "coats is 0; at least 1"),
        ({"coats": "two"}, "coats is 'two'; a whole number or None"),
        ({"coats": True}, "coats is True; a whole number or None"),
        ({"colour": "green"}, "colour is green; one of red, blue"),
        ({"colour": None}, "colour is None; a name"),
    ],
)
def test_values_that_cannot_be(options, message):
    with pytest.raises(SettingsError, match=f"^{message}$"):
        Paint(**options)


def test_a_class_says_what_its_fields_are():
    assert Paint.__doc__ == (
        "How a wall is painted.\n\nParameters\n----------\ncolour : str, default 'red'\n    The colour, beside `coats`.\n"
        "coats : int | None, default None\n    Coats of paint."
    )
    assert str(inspect.signature(Paint)) == "(colour: str = 'red', coats: int | None = None)"
    assert [f.name for f in fields_of(Paint)] == names_in(Paint) == ["colour", "coats"]
    assert set(names_in(Annotated[Options, WALL])) == {"cover", "colour", "coats", "pattern"}


@pytest.mark.parametrize(
    ("variant", "given", "message"),
    [
        ("papr", {}, r"unknown cover 'papr'; one of paint, paper \(did you mean paper\?\)"),
        ("paper", {"colour": "red"}, "colour is for paint, and cover is paper: leave it out"),
        ("paper", {"coats": -1}, "coats is -1; at least 0"),
    ],
)
def test_choices_that_cannot_be(variant, given, message):
    with pytest.raises(SettingsError, match=f"^{message}$"):
        WALL.build(variant, given)
    assert WALL.build("paper", {"coats": 2}) == Paper(coats=2)


def test_flags_of_classes():
    """A number of 0 is given, a list that is not is the default itself, and the class is made again of what was given."""
    import typer

    built = {}

    @flat
    def cover(wall: Annotated[Options, WALL], model: rc.Model, names: Annotated[list[str], Help("Names.", hidden=("title",))] = ()) -> None:
        built.update(wall=wall, model=model, names=names)

    made = typer.Typer()
    made.command(cls=Verb)(cover)
    command = typer.main.get_command(made)
    command.main(["--cover", "paper", "--coats", "0", "--model", "demo", "--title", "a"], standalone_mode=False)
    assert built["wall"] == Paper(coats=0) and built["model"] == rc.Model("demo") and list(built["names"]) == ["a"]
    command.main([], standalone_mode=False)
    assert built["wall"] == Paint() and list(built["names"]) == []
    with pytest.raises(SettingsError, match="pattern"):
        command.main(["--pattern", "stripes"], standalone_mode=False)


def test_a_flag_of_no_class_is_checked():
    import typer

    @flat
    def count(n: Annotated[int, Help("A number.", flags=("-n",), check=at_least(1))] = 10) -> None:
        """Count."""

    app = typer.Typer()
    app.command(cls=Verb)(count)
    command = typer.main.get_command(app)
    command.main(["-n", "1"], standalone_mode=False)
    with pytest.raises(SettingsError, match="^-n is 0; at least 1$"):
        command.main(["-n", "0"], standalone_mode=False)


def test_every_field_of_a_screen_is_a_flag(capsys):
    assert main(["perturb", "--help"]) == 0
    text = capsys.readouterr().out
    for cls in (rc.ScreenConfig, rc.Counts, rc.Model, rc.Compute):
        for name in names_in(cls):
            assert f"--{name.replace('_', '-')}" in text, name


# A screen, as a user calls it


@pytest.fixture(scope="module")
def adata():
    return make_adata(np.random.default_rng(0).poisson(2, (6, 12)) + 1, kind=list("xxyyyy"), donor=list("aabbcc"))


@pytest.fixture(scope="module")
def cpu():
    return rc.Compute("cpu", "fp32", 64)


def test_a_screen(small, adata, cpu, tmp_path):
    screen = rc.tl.perturb(
        adata,
        rc.Delete(["G0", "G1"]),
        small[1],
        toward="kind=y",
        start={"kind": "x"},
        obs="donor",
        measure=rc.Measure(["genes", "cell"], affected=True),
        compute=cpu,
    )
    rows = screen.df(obs=True)
    assert len(rows) == 4 and {"cos_genes_in_place", "toward_y_cell", "donor"} <= set(rows) and "cos_cls" not in rows
    assert screen.affected().shape[0] and screen.adata(by="cells").shape == (2, 2)
    assert set(screen.rank(score="toward_y_cell_in_place", mode=[], min_cells=1).symbols) == {"G0", "G1"}
    assert rc.tl.rank_edits(screen, mode=[], min_cells=1).equals(screen.rank(mode=[], min_cells=1))
    assert "delete G0, G1" in repr(screen) and "<table>" in screen._repr_html_() and "kind=y" in screen._repr_html_()
    assert "to rank: 2 edits, all in 2 cells or more" in repr(screen) and "follows the gene's rank" not in repr(screen)  # no cell has ten edits
    with pytest.raises(OutputError, match="has no epistasis.parquet"):
        screen.pairs()
    again = rc.Screen(screen)
    assert again.folder == screen.folder and again.df().equals(screen.df())


def test_a_fast_screen_and_its_pairs(small, adata, cpu):
    fast = rc.Fast(splits=2, projections=2, epistasis=3, verify_pairs=1)
    screen = rc.tl.perturb(adata, rc.Delete(), small[1], method=fast, subset=rc.Subset(cells=2), compute=cpu)
    assert {"exact", "exact_in_place"} <= set(screen.df()) and screen.manifest["settings"]["method"] == "fast"
    pairs = screen.pairs()
    assert pairs.groupby("cell_id").size().tolist() == [3, 3] and "cos_genes_in_place_interaction" in pairs


def test_estimate_parts_and_merge(small, adata, cpu, tmp_path):
    how = {"measure": rc.Measure("cell"), "method": rc.Exact(tokens_per_unit=1), "compute": cpu}
    estimate = rc.tl.estimate_perturb(adata, rc.Delete("G0"), small[1], **how)
    assert (estimate.n_cells, estimate.n_edits, estimate.n_units) == (6, 6, 6)
    whole = rc.tl.perturb(adata, rc.Delete("G0"), small[1], **how)
    for part in ("1/2", "2/2"):
        done = rc.tl.run_part(adata, rc.Delete("G0"), small[1], part=part, out=tmp_path / "parts", **how)
    assert (done.done, done.n_units) == (6, 6)
    merged = rc.tl.merge(tmp_path / "parts", tmp_path / "merged")
    assert merged.df().equals(whole.df()) and isinstance(merged, rc.Screen)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"edit": "delete"}, r"edit is 'delete'; give rc.Delete\(...\) or rc.Overexpress\(...\)"),
        ({"method": "fast"}, r"method is 'fast'; give rc.Exact\(...\) or rc.Fast\(...\)"),
        ({"counts": "raw"}, r"counts is 'raw'; give rc.Counts\(...\)"),
        ({"compute": "cpu"}, r"compute is 'cpu'; give rc.Compute\(...\)"),
        ({"subset": 10}, r"subset is 10; give rc.Subset\(...\)"),
        ({"start": "kind=x", "toward": "kind=x"}, "start and toward are both kind=x"),
        ({"measure": rc.Measure("genes"), "toward": "kind=x"}, "movement toward a state is read from the cell or the CLS readout"),
    ],
)
def test_refused_before_a_model_is_opened(adata, how, message):
    with pytest.raises(SettingsError, match=message) as error:
        rc.tl.perturb(adata, **({"model": "/nowhere/at/all"} | how))
    assert "--" not in str(error.value)


def test_wrong_combinations_cannot_be_written():
    for make in (lambda: rc.Delete("A", quarters=2), lambda: rc.Mask("A", to_rank=3), lambda: rc.Exact(audit=0.1), lambda: rc.Overexpress(refill=True)):
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            make()


def test_lists_of_names_are_complete():
    """What names every entry of a registry: help, the words of pages, the kinds of edit that tests run through."""
    from small_screens import KINDS as TRIED

    from rankcell.embed.options import EmbedConfig
    from rankcell.model import POOLS
    from rankcell.perturb import KINDS
    from rankcell.perturb.edits.options import EDIT_CHOICE
    from rankcell.report.drawing import Drawing
    from rankcell.report.pages import answer, screen_page
    from rankcell.report.pictures.screen_pictures import PICTURES

    help_of = {cls: {f.name: f.help.text for f in fields_of(cls)} for cls in (EmbedConfig, Drawing)}
    for text, names in ((help_of[EmbedConfig]["pool"], POOLS), (help_of[Drawing]["what"], PICTURES), (EDIT_CHOICE.help.text, KINDS)):
        assert set(names) <= set(re.findall(r"\w+", text))
    for mapping in (EDIT_CHOICE.variants, answer._VERBS, screen_page._KINDS, TRIED):
        assert set(mapping) == set(KINDS)


def test_options_load_nothing():
    heavy = "import rankcell as rc, sys; rc.Delete(['A']), rc.Fast(), rc.Counts(), rc.Compute(), rc.Model('demo'), rc.Tokenizing(), rc.Measure()\n"
    check = "print([m for m in ('numpy', 'pandas', 'torch', 'anndata', 'pyarrow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", heavy + check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
