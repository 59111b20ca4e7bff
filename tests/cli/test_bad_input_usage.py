"""Wrong command lines and refusals of the system: one line with the verb and the way out, exit code 2, no traceback."""

import errno

import pytest

from rankcell.cli import main
from rankcell.cli.usage import failed_call, unquoted


def line(capsys, *args):
    assert main([str(a) for a in args]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("rankcell: ") and len(err.splitlines()) == 1
    return err.strip()


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["embed"], ["rankcell embed: ", "IN is missing (A count file", "see rankcell embed --help"]),
        (["embed", "x.h5ad"], ["rankcell embed: ", "--out is missing", "see rankcell embed --help"]),
        (["embed", "x.h5ad", "-o", "y.h5ad", "--poool", "mean"], ["no option --poool", "did you mean --pool?"]),
        (["embed", "x.h5ad", "-o", "y.h5ad", "--layer", "two"], ["rankcell embed: ", "--layer", "integer"]),
        (["embed", "x.h5ad", "-o", "y.h5ad", "--layer", "spliced"], ["--layer is a layer of the model, --counts-layer NAME a layer of the input"]),
        (["perturb", "x.h5ad", "-o", "d", "--layer", "spliced"], ["--layer is a layer of the model, --counts-layer NAME a layer of the input"]),
        (["embed", "x.h5ad", "z.h5ad", "-o", "y.h5ad"], ["rankcell embed: ", "z.h5ad"]),
        (["tokenize", "x.h5ad", "-o"], ["-o"]),
        (["embd", "x.h5ad"], ["embd", "Did you mean 'embed'"]),
        (["vocab", "buld", "x.h5ad"], ["rankcell vocab: ", "Did you mean 'build'", "see rankcell vocab --help"]),
        (["vocab", "build", "x.h5ad"], ["rankcell vocab build: ", "--out is missing", "see rankcell vocab build --help"]),
        (["--bogus"], ["no option --bogus", "see rankcell --help"]),
    ],
)
def test_usage(capsys, args, parts):
    said = line(capsys, *args)
    assert all(part in said for part in parts), said


@pytest.mark.parametrize(
    ("args", "option"),
    [
        (["perturb", "x.h5ad", "-o", "d", "--start", "cell_type=CD4", "T", "cells"], "--start 'cell_type=CD4 T cells'"),
        (["perturb", "x.h5ad", "-o", "d", "--start=cell_type=CD4", "T", "--force"], "--start 'cell_type=CD4 T'"),
        (["tokenize", "x.h5ad", "--filter", "cell_type", "==", "'B'", "-o", "t"], "--filter 'cell_type == '\"'\"'B'\"'\"''"),
        (["tokenize", "x.h5ad", "-o", "t", "--obs", "cell", "type"], "--obs 'cell type'"),
        (["embed", "x.h5ad", "-o", "y.npz", "--include", "state", "--by", "cell", "type"], "--by 'cell type'"),
    ],
)
def test_a_value_with_blanks_needs_quotes(capsys, tmp_path, monkeypatch, args, option):
    monkeypatch.chdir(tmp_path)
    said = line(capsys, *args)
    assert said.startswith(f"rankcell: rankcell {args[0]}: ") or said.startswith(f"rankcell: {args[0]}: ")
    assert said.endswith(f"a value with blanks needs quotes: {option}")


@pytest.mark.parametrize(
    "args",
    [
        ["x.h5ad", "-o", "t", "y.h5ad"],  # an input
        ["-o", "t", "folder"],  # the only one
        ["x.h5ad", "--force", "donor2"],  # a flag takes no value
        ["x.h5ad", "-o", "t", "donors/*"],
        ["x.h5ad", "-o", "t", "there"],
        ["x.h5ad", "-o", "t", "--", "T", "cells"],
        ["x.h5ad", "-o", "t", "--filter", "a == b"],
    ],
)
def test_inputs_are_no_part_of_a_value(tmp_path, monkeypatch, args):
    import typer

    from rankcell.cli.main import make_app

    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    assert unquoted(args, typer.main.get_command(make_app()).commands["tokenize"].params) is None


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "big.h5ad"), "big.h5ad: no room is left"),
        (PermissionError(errno.EACCES, "Permission denied", b"locked"), "locked: permission denied"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "folder"), "folder: it is a folder"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a" * 300), "its name is too long"),
        (OSError("HDF5 says no"), "HDF5 says no"),
        (OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b"), "b: Invalid cross-device link"),
        (MemoryError(), "not enough memory"),
    ],
)
def test_no_traceback_for_what_the_system_refuses(capsys, monkeypatch, error, says):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr("rankcell.stats.screen_statistics.write_statistics", fail)
    assert says in line(capsys, "stats", "d", "-o", "x.tsv")


def test_names_that_are_too_long(capsys, tmp_path):
    for verb, more in (("tokenize", ["--vocab", "demo"]), ("embed", ["--model", "demo"]), ("perturb", ["--model", "demo"]), ("stats", [])):
        said = line(capsys, verb, tmp_path / ("x" * 300), "-o", tmp_path / ("y" * 300 + ".tsv"), *more)
        assert "Traceback" not in said
    assert failed_call(OSError()) and list(tmp_path.iterdir()) == []
