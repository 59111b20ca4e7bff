"""What goes wrong at the command line: exit code 2, one clear line on stderr, nothing left behind."""

import errno
import os
import pathlib
import pickle
import subprocess
import sys

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse as sp
from builders import make_adata, make_vocab

from rankcell.cli import main
from rankcell.vocab import Vocabulary
from rankcell.vocab import folder as vocabulary_folder


@pytest.fixture
def folder(tmp_path):
    """A folder with good counts (`good.h5ad`, 3 cells x 12 genes) and a vocabulary (`vocab`)."""
    make_vocab().save(tmp_path / "vocab")
    good().write_h5ad(tmp_path / "good.h5ad")
    return tmp_path


def good(**obs):
    return make_adata(np.random.default_rng(0).poisson(2, (3, 12)) + 1, **obs)


def state(folder):
    """Every file under `folder` with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def refused(folder, capsys, *args, message):
    """Run the command line: it must exit with 2, say `message` in a line or two, and leave the folder as it was."""
    before = state(folder)
    code = main([str(a) for a in args])
    out, err = capsys.readouterr()
    assert code == 2, out + err
    assert 1 <= len(err.splitlines()) <= 2 and err.startswith("rankcell: ") and "Traceback" not in err and len(err) < 900
    for part in [message] if isinstance(message, str) else message:
        assert part in err
    assert state(folder) == before
    return err


def refused_file(folder, capsys, path, message, *more):
    """The same for tokenizing the count file `path`, and for building a vocabulary where that reads the same things."""
    return refused(folder, capsys, "tokenize", path, "-o", folder / "out", "--vocab", folder / "vocab", *more, message=message)


def test_the_good_file_is_good(folder, capsys):
    """The refusals below are not for nothing: the same command with a good file works."""
    assert main(["tokenize", str(folder / "good.h5ad"), "-o", str(folder / "out"), "--vocab", str(folder / "vocab")]) == 0
    out, err = capsys.readouterr()
    assert "3 cells, 12 of 12 genes known" in out and err == ""


# Files


def a_text(path):
    path.write_text("gene,cell\n1,2\n")


def an_empty_file(path):
    path.touch()


def a_truncated_file(path):
    make_adata(np.random.default_rng(0).poisson(2, (300, 200))).write_h5ad(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def a_file_cut_at_its_end(path):
    good().write_h5ad(path)
    path.write_bytes(path.read_bytes()[:-100])


def other_hdf5(path):
    with h5py.File(path, "w") as f:
        f["matrix/data"] = [1, 2]


def hdf5_with_datasets_for_groups(path):
    with h5py.File(path, "w") as f:
        f["obs"], f["var"], f["X"] = [1], [1], [[1]]


def hdf5_with_groups_for_matrix(path):
    good().write_h5ad(path)
    with h5py.File(path, "r+") as f:
        del f["X"]
        f.create_group("X")


def sparse_without_shape(path):
    good().write_h5ad(path)
    with h5py.File(path, "r+") as f:
        del f["X"].attrs["shape"]


def sparse_without_data(path):
    good().write_h5ad(path)
    with h5py.File(path, "r+") as f:
        del f["X"]["data"]


def index_of_unknown_kind(path):
    good().write_h5ad(path)
    with h5py.File(path, "r+") as f:
        f["obs"]["_index"].attrs["encoding-type"] = "something-new"


def without_index(path):
    good().write_h5ad(path)
    with h5py.File(path, "r+") as f:
        del f["var"]["_index"]


def short_obs(path):
    good().write_h5ad(path)
    with h5py.File(path, "r+") as f:
        f["X"].attrs["shape"] = [4, 12]


def without_x(path):
    good().write_h5ad(path)
    with h5py.File(path, "r+") as f:
        del f["X"]


def three_dimensions(path):
    good().write_h5ad(path)
    with h5py.File(path, "r+") as f:
        del f["X"]
        f["X"] = np.ones((3, 12, 2))


def a_matrix_of_text(path):
    good().write_h5ad(path)
    with h5py.File(path, "r+") as f:
        del f["X"]
        f["X"] = np.full((3, 12), b"many")


FILES = {
    a_text: "not an HDF5 file",
    an_empty_file: "not an HDF5 file",
    a_truncated_file: "truncated",
    a_file_cut_at_its_end: "truncated",
    other_hdf5: ["no known layout", "it holds matrix", "obs and var"],
    hdf5_with_datasets_for_groups: "/obs is stored as int64, not as a table",
    hdf5_with_groups_for_matrix: "not a matrix",
    sparse_without_shape: "not a readable h5ad",
    sparse_without_data: "not a readable h5ad",
    index_of_unknown_kind: "/obs/_index is not readable",
    without_index: "/var/_index is not readable",
    short_obs: "X has 4 pointers for 4 cells x 12 genes",
    without_x: "has no X",
    three_dimensions: "3 dimensions",
    a_matrix_of_text: "not numbers",
}


@pytest.mark.parametrize("make", FILES, ids=lambda f: f.__name__)
def test_files_that_are_no_counts(folder, capsys, make):
    make(folder / "bad.h5ad")
    said = FILES[make] if isinstance(FILES[make], list) else [FILES[make]]
    refused_file(folder, capsys, folder / "bad.h5ad", ["bad.h5ad", *said])
    refused(folder, capsys, "vocab", "build", folder / "bad.h5ad", "-o", folder / "out", message="bad.h5ad")


def test_no_file(folder, capsys):
    refused_file(folder, capsys, folder / "nothing.h5ad", "no such file")
    (folder / "folder.h5ad").mkdir()
    refused_file(folder, capsys, folder / "folder.h5ad", "is a folder")
    (folder / "empty").mkdir()
    refused_file(folder, capsys, folder / "empty", "is a folder without count files")
    (folder / "x.csv").write_text("a")
    refused_file(folder, capsys, folder / "x.csv", ["not a count file of a known format", "h5ad", "it is a text"])


@pytest.mark.parametrize(("cells", "genes"), [(0, 5), (5, 0), (0, 0)])
@pytest.mark.parametrize("store", [sp.csr_matrix, sp.csc_matrix, np.array])
def test_empty_matrix(folder, capsys, cells, genes, store):
    x = store(np.zeros((cells, genes), np.float32))
    obs, var = pd.DataFrame(index=[f"c{i}" for i in range(cells)]), pd.DataFrame(index=[f"G{i}" for i in range(genes)])
    ad.AnnData(x, obs=obs, var=var).write_h5ad(folder / "bad.h5ad")
    refused_file(folder, capsys, folder / "bad.h5ad", f"X is empty ({cells} cells x {genes} genes)")


# Values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (np.log1p, ["fractional", "log-normalised", "no other matrix", "--allow-non-counts"]),
        (lambda x: x - 2, ["negative"]),
        (lambda x: x * np.where(np.arange(12) == 5, np.nan, 1), ["nan", "NaN"]),
        (lambda x: x + 0.5, ["fractional", "cell 'cell0', gene 'G0'"]),
        (lambda x: x * np.inf, ["infinite"]),
    ],
)
def test_values_that_are_no_counts(folder, capsys, change, message):
    adata = good()
    adata.X = sp.csr_matrix(change(adata.X.toarray()).astype(np.float32))
    adata.write_h5ad(folder / "bad.h5ad")
    refused_file(folder, capsys, folder / "bad.h5ad", message)
    refused(folder, capsys, "vocab", "build", folder / "bad.h5ad", "-o", folder / "out", message=message)


def test_log_normalised_with_the_counts_elsewhere(folder, capsys):
    adata = good()
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.log1p(adata.X)
    adata.write_h5ad(folder / "bad.h5ad")
    adata.layers["umis"] = adata.layers["counts"].copy()
    adata.write_h5ad(folder / "two.h5ad")
    refused_file(folder, capsys, folder / "two.h5ad", "pass --counts-layer counts, which holds counts")
    refused_file(folder, capsys, folder / "bad.h5ad", ["no layer 'conts'", "it has counts"], "--layer", "conts")
    refused_file(folder, capsys, folder / "bad.h5ad", "no raw matrix", "--raw")
    refused_file(folder, capsys, folder / "bad.h5ad", "choose one", "--raw", "--layer", "counts")


def test_a_bad_value_after_good_blocks(folder, capsys, monkeypatch):
    """The error comes when part of the output is written already; nothing of it is left."""
    from rankcell.counts import matrix

    monkeypatch.setattr(matrix, "ENTRIES_PER_BLOCK", 12)
    adata = good()
    adata.X[2, 11] = 0.5
    adata.write_h5ad(folder / "bad.h5ad")
    refused_file(folder, capsys, folder / "bad.h5ad", "cell 'cell2', gene 'G11'")


@pytest.mark.parametrize(
    ("n_counts", "message"),
    [([5, 0, 5], "of cell 'cell1' is 0 but"), ([5.0, 5.0, np.nan], "of cell 'cell2' is nan"), ([-1, 1, 1], "is -1")],
)
def test_n_counts(folder, capsys, n_counts, message):
    good(n_counts=n_counts).write_h5ad(folder / "bad.h5ad")
    refused_file(folder, capsys, folder / "bad.h5ad", message)


# Genes and cells


def renamed(names, column=None):
    adata = make_adata(np.ones((3, len(names))))
    adata.var = pd.DataFrame({} if column is None else column, index=names)
    return adata


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([f"Gm{'abcdefghijklmnopqrstuvwxyz'[i]}rik" for i in range(26)], "0 of 26 genes"),
        ([f"ENSMUSG{i:011d}" for i in range(26)], "These look like mouse genes"),
        ([f"X-{i}" for i in range(26)], "--gene-column"),
        ([str(i) for i in range(26)], "--gene-column"),
    ],
)
def test_unknown_genes(folder, capsys, names, message):
    renamed(names).write_h5ad(folder / "bad.h5ad")
    shown = ", ".join(names[:3])
    known = "ENSG00000000000 (G0), ENSG00000000001 (G1), ENSG00000000002 (G2)"
    refused_file(folder, capsys, folder / "bad.h5ad", [message, "only 0 of 26 genes are in vocabulary 'small'", shown, known])


def test_mouse_symbols_against_the_shipped_vocabulary(folder, capsys):
    """Human symbols in the mouse's spelling are not taken for human ones."""
    human = [s for s in Vocabulary.load(_shipped()).symbols if s.isalnum()][:50]
    renamed([s.capitalize() for s in human if s.capitalize() != s]).write_h5ad(folder / "bad.h5ad")
    err = refused(folder, capsys, "tokenize", folder / "bad.h5ad", "--vocab", "demo", "-o", folder / "out", message="only 0 of")
    assert "mouse" in err


def _shipped():
    from rankcell.vocab import shipped_vocabularies

    return shipped_vocabularies()["pbmc68k"]


def test_wrong_gene_column(folder, capsys):
    renamed([f"G{i}" for i in range(12)], {"note": ["x"] * 12}).write_h5ad(folder / "bad.h5ad")
    refused_file(folder, capsys, folder / "bad.h5ad", "no gene column 'gene'; it has index, note", "--gene-column", "gene")
    refused_file(folder, capsys, folder / "bad.h5ad", "0 of 12 genes", "--gene-column", "note")


def test_duplicate_cell_ids(folder, capsys):
    adata = good()
    adata.write_h5ad(folder / "bad.h5ad")
    with h5py.File(folder / "bad.h5ad", "r+") as f:
        f["obs"]["_index"][2] = "cell0"
    refused_file(folder, capsys, folder / "bad.h5ad", ["1 cell id stands there more than once", "'cell0'", "obs_names_make_unique"])


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--obs", "cluster"], ["no cell column 'cluster'", "it has none"]),
        (["--layer", "counts"], ["no layer 'counts'", "it has none"]),
        (["--max-len", "2"], ["--max-len is 2", "give at least 3"]),
        (["--max-len", "0", "--no-cls"], ["give at least 1"]),
        (["--max-len", "many"], ["--max-len", "integer"]),
        (["--workers", "0"], ["at least 1"]),
        (["--vocab", "homo"], ["no vocabulary 'homo'", "pbmc68k"]),
        (["--no-such-option"], ["--no-such-option"]),
    ],
)
def test_options(folder, capsys, options, message):
    refused_file(folder, capsys, folder / "good.h5ad", message, *options)


def test_cls_without_a_cls_token(folder, capsys):
    make_vocab(special=("<pad>", "<mask>")).save(folder / "plain")
    message = ["vocabulary 'small' has no <cls> token", "--no-cls"]
    refused_file(folder, capsys, folder / "good.h5ad", message, "--vocab", folder / "plain", "--cls")


def test_vocabulary_folders(folder, capsys):
    (folder / "empty").mkdir()
    refused_file(folder, capsys, folder / "good.h5ad", "vocabulary.json is missing", "--vocab", folder / "empty")
    refused_file(folder, capsys, folder / "good.h5ad", "no vocabulary", "--vocab", folder / "good.h5ad")
    path = folder / "vocab" / "genes.tsv"
    path.write_text(path.read_text().replace("\t1.0", "\t2.0", 1))
    refused_file(folder, capsys, folder / "good.h5ad", "changed by hand")
    refused(folder, capsys, "vocab", "show", folder / "vocab", message="changed by hand")
    refused(folder, capsys, "vocab", "show", "homo", message="no vocabulary 'homo'")


# The output


def commands(folder):
    """Every verb of these rooms that writes, without its output."""
    for name, value in {"t": {"<pad>": 0, "ENSG00000000001": 1}, "m": {"ENSG00000000001": 1.0}}.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(value))
    return [
        ["tokenize", folder / "good.h5ad", "--vocab", folder / "vocab"],
        ["vocab", "build", folder / "good.h5ad"],
        ["vocab", "import", "--tokens", folder / "t.pkl", "--medians", folder / "m.pkl"],
    ]


@pytest.mark.parametrize("which", range(3))
def test_output_that_cannot_be(folder, capsys, which):
    command = commands(folder)[which]
    (folder / "out").mkdir()
    (folder / "out" / "mine.txt").write_text("kept")
    (folder / "file").write_text("kept")
    refused(folder, capsys, *command, "-o", folder / "out", message=["exists", "--force"])
    refused(folder, capsys, *command, "-o", folder / "file", message="file")
    refused(folder, capsys, *command, "-o", folder / "file", "--force", message="is a file: this writes a folder")
    refused(folder, capsys, *command, "-o", folder / "no" / "such" / "out", message=["does not exist", "make it first"])
    refused(folder, capsys, *command, "-o", folder / "file" / "out", message="does not exist")
    refused(folder, capsys, *command, "-o", "/", "--force", message="would be lost" if which == 0 else "cannot be replaced")
    refused(folder, capsys, *command, "-o", folder / "out", "--force", message=["holds something else", "choose another output"])
    assert (folder / "out" / "mine.txt").read_text() == "kept"
    for _ in range(2):  # an output of its own is replaced
        assert main([*map(str, command), "-o", str(folder / "own"), "--force"]) == 0
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


def test_input_is_never_the_output(folder, capsys):
    source = folder / "good.h5ad"
    refused_file(folder, capsys, source, "is the input, which is never written to", "-o", source, "--force")


def test_current_folder_as_output(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    refused(folder, capsys, "tokenize", "good.h5ad", "--vocab", "vocab", "-o", ".", "--force", message="holds the input good.h5ad, which would be lost")


class Full:
    """A file that takes `room` bytes and then says that the disk is full."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        self.room -= len(data) if isinstance(data, (bytes, str)) else memoryview(data).nbytes
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()


@pytest.mark.parametrize("room", [0, 700, 3_000])
def test_disk_full_while_tokens_are_written(folder, capsys, monkeypatch, room):
    """Not even the schema fits, the first batch does not fit, the end does not fit."""
    rng = np.random.default_rng(0)
    make_adata(rng.poisson(2, (500, 12)) + 1).write_h5ad(folder / "many.h5ad")
    monkeypatch.setattr(pa, "OSFile", lambda path, mode: pa.PythonFile(Full(open(path, mode), room), mode))  # noqa: SIM115 (Full closes it)
    err = refused_file(folder, capsys, folder / "many.h5ad", ["the disk is full", "was not written", str(folder / "out")])
    assert "out.part" not in err


@pytest.mark.parametrize(
    ("which", "name"),
    [(0, "state.json"), (0, "dataset_info.json"), (0, "rankcell.json")]
    + [(which, name) for which in (1, 2) for name in ("vocabulary.json", "genes.tsv")],
)
def test_disk_full_while_text_is_written(folder, capsys, monkeypatch, which, name):
    def full(path, mode="r", **how):
        file = open(path, mode, **how)  # noqa: SIM115 (Full closes it)
        return Full(file, 10) if path.name == name and "w" in mode else file

    def write_text(path, text, **how):
        with full(path, "w", **how) as file:
            return file.write(text)

    command = commands(folder)[which]
    monkeypatch.setattr(vocabulary_folder, "open", full, raising=False)
    monkeypatch.setattr(pathlib.Path, "write_text", write_text)
    refused(folder, capsys, *command, "-o", folder / "out", message=["the disk is full", str(folder / "out")])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_disk_full_at_sync(folder, capsys, monkeypatch, number):
    """Delayed allocation, or a quota: the error comes when the file is synced."""

    def full(fd):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    for command in commands(folder):
        refused(folder, capsys, *command, "-o", folder / "out", message="the disk is full")


def test_folder_that_may_not_be_written(folder, capsys, monkeypatch):
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode, **k: real(path, mode, **k) and mode != os.W_OK)
    for command in commands(folder):
        refused(folder, capsys, *command, "-o", folder / "out", message="cannot be written to")


# In a process of its own


def run(*args, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "rankcell", *map(str, args)], capture_output=True, text=True, timeout=600, cwd=cwd, check=False
    )


def test_as_a_command(folder):
    before = state(folder)
    a_truncated_file(folder / "bad.h5ad")
    done = run("tokenize", "bad.h5ad", "-o", "out", "--vocab", "vocab", cwd=folder)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("rankcell: bad.h5ad is truncated") and len(done.stderr.splitlines()) == 1
    (folder / "bad.h5ad").unlink()
    assert state(folder) == before
    done = run("tokenize", "good.h5ad", "-o", "out", "--vocab", "vocab", cwd=folder)
    assert done.returncode == 0 and done.stderr == "" and "3 cells" in done.stdout
    assert sorted(state(folder).keys() - before.keys()) == [
        "out",
        "out/data-00000-of-00001.arrow",
        "out/dataset_info.json",
        "out/rankcell.json",
        "out/state.json",
    ]


def test_empty_cells_are_a_note_and_no_error(folder, capsys):
    adata = make_adata([[1, 1], [0, 0]])
    adata.write_h5ad(folder / "x.h5ad")
    assert main(["tokenize", str(folder / "x.h5ad"), "-o", str(folder / "out"), "--vocab", str(folder / "vocab")]) == 0
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        "rankcell: note: 1 of 2 cells have no gene with a count that vocabulary 'small' knows: they keep their row, and their embedding will be NaN"
    ]
    assert "2 cells" in out
