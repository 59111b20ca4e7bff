"""Files that hold no counts: each is named for what it is, with the way out, in one line, whatever it is called."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import socket
import tarfile

import h5py
import numpy as np
import pytest
from builders import make_adata, make_vocab

from rankcell import Tokenizer
from rankcell.cli import main
from rankcell.counts import open_counts
from rankcell.errors import InputError

TABLE = b"gene,c1,c2\nG0,1,2\n"


def tar():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as t:
        t.addfile(tarfile.TarInfo("x"), io.BytesIO())
    return out.getvalue()


def npz():
    out = io.BytesIO()
    np.savez(out, data=np.ones(3))
    return out.getvalue()


FILES = {
    "a.h5ad": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", r"git LFS pointer \(\d+ bytes.*git lfs pull"),
    "page.h5ad": (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "a web page.*download it again"),
    "b.h5ad": (b"", "is empty"),
    "c.h5ad.gz": (gzip.compress(b"\x89HDF\r\n\x1a\n" + bytes(99)), r"gunzip -k c\.h5ad\.gz"),
    "d.h5ad": (gzip.compress(b"\x89HDF\r\n\x1a\n" + bytes(99)), r"compressed by gzip.*gunzip -k"),
    "e.h5.bz2": (bz2.compress(b"x"), "compressed by bzip2"),
    "f.h5ad.xz": (lzma.compress(b"x"), "compressed by xz"),
    "g.csv": (TABLE, r"table of text: read it with anndata.read_csv\('g.csv', delimiter=','\)"),
    "h.tsv": (TABLE.replace(b",", b"\t"), r"delimiter='\\t'"),
    "i.csv.gz": (gzip.compress(TABLE), "table of text"),
    "j.txt": (TABLE.replace(b",", b";"), "delimiter=';'"),
    "k.h5ad": (TABLE, "table of text"),
    "l.rds": (gzip.compress(b"X\n\0\0\0\3"), "an R object.*writeH5AD"),
    "m.h5ad": (gzip.compress(b"X\n\0\0\0\3"), "an R object"),
    "n.RData": (gzip.compress(b"RDX3\nX\n"), "an R workspace"),
    "o.xlsx": (b"PK\3\4" + bytes(30), "a spreadsheet"),
    "p.npz": (npz(), "numpy archive.*names neither cells nor genes"),
    "q.tar.gz": (tar(), "an archive: unpack it"),
    "r.h5ad": (tar(), "an archive: unpack it"),
    "s.pkl": (pickle.dumps([1], protocol=4), "a pickle"),
    "t.dat": (b"%%MatrixMarket matrix coordinate integer general\n1 1 0\n", "a MatrixMarket file: name it NAME.mtx"),
    "u.mtx": (b"%%MatrixMarket matrix coordinate integer general\n1 1 0\n", "has no barcodes.tsv .or .gz. beside it"),
}


@pytest.mark.parametrize("name", FILES)
def test_named_for_what_it_is(tmp_path, name, capsys):
    content, message = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as e:
        open_counts(tmp_path / name)
    assert "\n" not in str(e.value) and name in str(e.value) and len(str(e.value)) < 600
    for verb in (["check", str(tmp_path / name)], ["tokenize", str(tmp_path / name), "-o", str(tmp_path / "out")]):
        assert main(verb) == 2
        said = capsys.readouterr()
        assert said.err.count("\n") == 1 and said.out == "" and "Traceback" not in said.err
    assert sorted(p.name for p in tmp_path.iterdir()) == [name]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["assays/RNA/counts/data", "cell.names", "levels"], "Seurat.*SeuratDisk::Convert"),
        (["barcode", "gene", "umi", "reads"], "lists the molecules"),
        (["all_differential_expression/x", "clustering/y"], "results of an analysis"),
        (["model/weights", "optimizer"], "no known layout: it holds model, optimizer"),
    ],
)
def test_hdf5_of_other_kinds(tmp_path, names, message):
    with h5py.File(tmp_path / "x.h5", "w") as f:
        for name in names:
            f[name] = [1]
    with pytest.raises(InputError, match=message):
        open_counts(tmp_path / "x.h5")


@pytest.mark.parametrize("name", ["x.h5ad", "x.loom", "x.mtx", "x", "x.zarr.zip"])
def test_pipes_and_sockets_are_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="is a pipe, not a file"):
        open_counts(tmp_path / name)
    with pytest.raises(InputError, match="is a device"):
        open_counts("/dev/null")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(os.path.relpath(tmp_path / "s.h5ad"))
        with pytest.raises(InputError, match="is a socket"):
            open_counts(tmp_path / "s.h5ad")


def test_a_pipe_in_a_folder_is_no_input(tmp_path):
    make_adata([[1, 2]]).write_h5ad(tmp_path / "a.h5ad")
    os.mkfifo(tmp_path / "b.h5")
    with pytest.raises(InputError, match=r"b\.h5 is a pipe"):
        Tokenizer(make_vocab()).tokenize(tmp_path)
