"""Inputs that somebody made to do harm: pipes, devices and links inside them, sizes that they claim and do not hold. One line each, at once."""

import json
import os
import shutil
import signal
import zipfile

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from builders import make_vocab
from count_files import Counts, write_h5ad, write_loom, write_mtx, write_tenx, write_zarr

from rankcell.counts import open_counts
from rankcell.errors import InputError
from rankcell.tokens import Tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")  # anndata announces its own coming default
VOCAB = make_vocab(30)
COUNTS = Counts(sp.csr_matrix(np.random.default_rng(0).poisson(1, (20, 30))))
MANY = 10**12


@pytest.fixture(autouse=True)
def _no_longer_than_a_minute():
    """A read that waits for ever is a failure, not a test run that never ends."""

    def stop(*_):
        raise TimeoutError("it waits for ever")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def refused(source, *says):
    with pytest.raises(InputError) as e:
        Tokenizer(VOCAB).tokenize(source)
    assert "\n" not in str(e.value) and all(part in str(e.value) for part in says), str(e.value)


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def device(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def link_out(path):
    away = next(p for p in path.parents if p.suffix == ".zarr").with_name("away")
    shutil.move(path, away)
    path.symlink_to(away)


def loop(path):
    path.unlink()
    path.symlink_to(path)


KINDS = {
    "pipe": (pipe, "is a pipe"),
    "device": (device, "is a link to what is not in the store"),
    "link": (link_out, "is a link to what is not in the store"),
    "loop": (loop, "is a link to what is not in the store"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["X/data/0", "X/indptr/.zarray", "obs/_index/0", "obs/.zgroup"])
def test_what_is_no_file_in_a_zarr_store(tmp_path, kind, where):
    store = write_zarr(COUNTS, tmp_path / "x.zarr", version=2)
    (store / ".zmetadata").unlink(missing_ok=True)
    KINDS[kind][0](store / where)
    refused(store, KINDS[kind][1])


def test_what_is_no_file_in_a_store_of_version_3(tmp_path):
    for n, where in enumerate(("zarr.json", "obs/zarr.json", "X/data/c/0")):
        store = write_zarr(COUNTS, tmp_path / f"{n}.zarr")
        root = json.loads((store / "zarr.json").read_text())
        (store / "zarr.json").write_text(json.dumps({key: value for key, value in root.items() if key != "consolidated_metadata"}))
        pipe(store / where)
        refused(store, where, "is a pipe")


def test_links_to_a_store_and_within_it_are_followed(tmp_path):
    store = write_zarr(COUNTS, tmp_path / "x.zarr", version=2)
    shutil.move(store / "X/data/0", store / "X/data/kept")
    (store / "X/data/0").symlink_to("kept")
    (tmp_path / "link.zarr").symlink_to(store)
    assert len(Tokenizer(VOCAB).tokenize(tmp_path / "link.zarr")) == 20


@pytest.mark.parametrize("name", ["../../secret/_index", "/etc/passwd", "../var/_index"])
def test_names_that_lead_out_of_a_store(tmp_path, name):
    store = write_zarr(COUNTS, tmp_path / "x.zarr", version=2)
    shutil.copytree(store / "var", tmp_path / "secret")
    (store / ".zmetadata").unlink(missing_ok=True)
    attributes = json.loads((store / "obs/.zattrs").read_text())
    (store / "obs/.zattrs").write_text(json.dumps(attributes | {"_index": name}))
    refused(store, "x.zarr")


def zipped(store, path, *, claim="", more=()):
    """The store in a zip archive, whose member `claim` says that it holds 8 GB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(p for p in store.rglob("*") if p.is_file()):
            archive.writestr(str(file.relative_to(store)), file.read_bytes())
        for name in more:
            archive.writestr(name, b"harm")
        for member in archive.filelist:
            if member.filename == claim:
                member.file_size = 2**33
    return path


def test_zip_members_that_lead_out_are_never_written(tmp_path):
    (tmp_path / "in").mkdir()
    store = write_zarr(COUNTS, tmp_path / "in" / "x.zarr")
    path = zipped(store, tmp_path / "in" / "y.zarr.zip", more=["../harm", "/harm", "X/../../../harm"])
    before = sorted(tmp_path.rglob("*"))
    assert len(Tokenizer(VOCAB).tokenize(path)) == 20
    assert sorted(tmp_path.rglob("*")) == before and not os.path.exists("/harm")


@pytest.mark.parametrize("member", ["X/data/c/0", "zarr.json", "obs/_index/c/0"])
def test_zip_members_that_claim_gigabytes(tmp_path, member):
    store = write_zarr(COUNTS, tmp_path / "x.zarr")
    refused(zipped(store, tmp_path / "y.zarr.zip", claim=member), member, "8,589,934,592 bytes")


def claim_zarr(store, where, shape, chunks=None):
    path = store / where / ".zarray"
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value | {"shape": shape} | ({"chunks": chunks} if chunks else {})))


ZARR_CLAIMS = {
    "dense": ("dense", [("X", [MANY, 30])], "1,000,000,000,000 x 30"),
    "genes": ("dense", [("X", [20, MANY])], "20 x 1,000,000,000,000"),
    "ids": ("csr", [("obs/_index", [MANY])], "holds 1,000,000,000,000 values"),
    "some ids": ("csr", [("obs/_index", [10**8])], "are not stored"),
    "a chunk of ids": ("csr", [("obs/_index", [MANY], [MANY])], "more than fit in memory"),
    "pointers": ("csr", [("X/indptr", [MANY + 1])], "1,000,000,000,001 pointers"),
    "chunks of entries": ("csr", [("X/data", [MANY], [MANY // 10])], "chunks of 100,000,000,000 values"),
}


@pytest.mark.parametrize("claim", ZARR_CLAIMS)
def test_a_zarr_store_that_claims_more_than_it_holds(tmp_path, claim):
    kind, arrays, says = ZARR_CLAIMS[claim]
    store = write_zarr(COUNTS, tmp_path / "x.zarr", version=2, kind=kind)
    (store / ".zmetadata").unlink(missing_ok=True)
    for array in arrays:
        claim_zarr(store, *array)
    refused(store, says)


def claim_hdf5(file, name, shape):
    attributes, dtype = dict(file[name].attrs), file[name].dtype
    del file[name]
    file.create_dataset(name, shape, dtype, chunks=tuple(min(100, n) for n in shape)).attrs.update(attributes)


HDF5_CLAIMS = {
    "ids": (write_h5ad, [("obs/_index", (MANY,))], "holds 1,000,000,000,000 values"),
    "some ids": (write_h5ad, [("obs/_index", (10**8,))], "are not stored"),
    "dense": (lambda c, p: write_h5ad(c, p, kind="dense"), [("X", (MANY, 30))], "1,000,000,000,000 x 30"),
    "pointers": (write_h5ad, [("X/indptr", (MANY + 1,))], "1,000,000,000,001 pointers"),
    "loom": (write_loom, [("matrix", (30, MANY))], "col_attrs are 20 long"),
    "loom genes": (write_loom, [("matrix", (MANY, 20))], "row_attrs are 30 long"),
    "10x pointers": (write_tenx, [("matrix/indptr", (MANY + 1,))], "1,000,000,000,001 pointers"),
    "10x barcodes": (write_tenx, [("matrix/barcodes", (MANY,))], "holds 1,000,000,000,000 values"),
}


@pytest.mark.parametrize("claim", HDF5_CLAIMS)
def test_an_hdf5_file_that_claims_more_than_it_holds(tmp_path, claim):
    write, arrays, says = HDF5_CLAIMS[claim]
    path = write(COUNTS, tmp_path / "x.h5")
    with h5py.File(path, "r+") as f:
        for name, shape in arrays:
            claim_hdf5(f, name, shape)
    refused(path, says)


@pytest.mark.parametrize("side", ["cells", "genes"])
def test_a_loom_without_names_that_claims_many(tmp_path, side):
    path = write_loom(COUNTS, tmp_path / "x.loom")
    with h5py.File(path, "r+") as f:
        claim_hdf5(f, "matrix", (30, MANY) if side == "cells" else (MANY, 20))
        for name in list(f["col_attrs" if side == "cells" else "row_attrs"]):
            del f["col_attrs" if side == "cells" else "row_attrs"][name]
    refused(path, f"says that it has 1,000,000,000,000 {side}")


def test_pointers_to_entries_that_are_not_there(tmp_path):
    path = write_h5ad(COUNTS, tmp_path / "x.h5ad")
    with h5py.File(path, "r+") as f:
        pointers = f["X/indptr"][:].astype(np.int64)
        pointers[-1] = MANY
        del f["X/indptr"]
        f["X/indptr"] = pointers
        for name in ("X/data", "X/indices"):
            claim_hdf5(f, name, (MANY,))
    refused(path, "x.h5ad")


@pytest.mark.parametrize("kind", ["link", "raw bytes", "virtual"])
def test_an_hdf5_file_that_leads_to_a_pipe(tmp_path, kind):
    path, other = write_h5ad(COUNTS, tmp_path / "x.h5ad", kind="dense"), tmp_path / "other"
    os.mkfifo(other)
    with h5py.File(path, "r+") as f:
        del f["X"]
        if kind == "link":
            f["X"] = h5py.ExternalLink(str(other), "/X")
        elif kind == "raw bytes":
            f.create_dataset("X", (20, 30), "f4", external=[(str(other), 0, 2400)])
        else:
            layout = h5py.VirtualLayout((20, 30), "f4")
            layout[:] = h5py.VirtualSource(str(other), "X", (20, 30))
            f.create_virtual_dataset("X", layout)
    refused(path, "other is a pipe")


def test_raw_bytes_of_other_peoples_files(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "secret").write_bytes(bytes(range(65, 85)) * 16)
    path = write_h5ad(COUNTS, tmp_path / "own" / "x.h5ad")
    with h5py.File(path, "r+") as f:
        del f["obs/_index"]
        f.create_dataset("obs/_index", (20,), "S16", external=[(str(tmp_path / "secret"), 0, 320)])
    refused(path, "outside of its own folder")


def test_a_chunked_matrix_of_which_nothing_was_written_is_zero(tmp_path):
    path = write_h5ad(COUNTS, tmp_path / "x.h5ad", kind="dense")
    with h5py.File(path, "r+") as f:
        claim_hdf5(f, "X", (20, 30))
    with open_counts(path) as source:
        assert sum(len(block.data) for block in source.blocks()) == 0 and source.n_cells == 20


@pytest.mark.parametrize("name", ["barcodes.tsv", "features.tsv", "matrix.mtx"])
@pytest.mark.parametrize("make", [pipe, device])
def test_what_is_no_file_in_a_matrix_folder(tmp_path, name, make):
    folder = write_mtx(COUNTS, tmp_path / "run", zipped=False)
    make(folder / name)
    refused(folder, "run")
