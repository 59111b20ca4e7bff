"""Damaged string heaps of HDF5 files, in which the HDF5 library walks for ever, are refused at once."""

import subprocess
import sys

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest

from rankcell.counts.io.heaps import require_walkable_heaps
from rankcell.errors import InputError
from rankcell.vocab import find_vocabulary


def written(path, n=400, compression="gzip"):
    genes = list(find_vocabulary("demo").genes)
    x = np.random.default_rng(0).poisson(1, (n, len(genes))).astype("f4")
    obs = pd.DataFrame({"kind": pd.Categorical(["a", "b"] * (n // 2))}, index=[f"cell{i}" for i in range(n)])
    ad.AnnData(x, obs=obs, var=pd.DataFrame(index=genes)).write_h5ad(path, compression=compression)
    return path


def heaps_in(raw):
    at = raw.find(b"GCOL\x01\0\0\0")
    while at >= 0:
        yield at
        at = raw.find(b"GCOL\x01\0\0\0", at + 8)


def zeroed(path, start, n=256):
    raw = bytearray(path.read_bytes())
    raw[start : start + n] = bytes(n)
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_whole_files_pass(tmp_path, libver):
    with h5py.File(tmp_path / "a.h5", "w", libver=libver) as f:
        for k, length in enumerate((0, 1, 7, 8, 100, 5000)):
            f[f"s{k}"] = ["x" * length + str(i) for i in range(200)]
            f[f"s{k}"].attrs["many"] = ["y" * length] * 20
            if k:
                del f[f"s{k - 1}"]
    require_walkable_heaps(tmp_path / "a.h5")
    require_walkable_heaps(written(tmp_path / "b.h5ad"))
    (tmp_path / "c").write_bytes(b"GCOL\x01\0\0\0")
    require_walkable_heaps(tmp_path / "c")


def test_every_heap_that_is_overwritten_is_found(tmp_path):
    path = written(tmp_path / "a.h5ad")
    whole = path.read_bytes()
    starts = list(heaps_in(whole))
    assert len(starts) >= 3
    for start in starts:
        path.write_bytes(whole)
        with pytest.raises(InputError, match=f"a.h5ad is damaged .its block of text at byte {start:,}"):
            require_walkable_heaps(zeroed(path, start + 16))


def test_check_and_tokenize_end_at_once(tmp_path):
    """In processes of their own: what is tried here hung in the HDF5 library."""
    path = written(tmp_path / "a.h5ad")
    zeroed(path, next(heaps_in(path.read_bytes())) + 40)
    for verb in (["check", str(path), "--vocab", "demo"], ["tokenize", str(path), "--vocab", "demo", "-o", str(tmp_path / "t.dataset")]):
        run = subprocess.run([sys.executable, "-m", "rankcell", *verb], capture_output=True, text=True, timeout=600, check=False)
        assert run.returncode == 2 and run.stderr.count("\n") == 1 and "is damaged" in run.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5ad"]
