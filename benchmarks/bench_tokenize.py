"""Tokenize: rankcell against the plain loop that most people write, and against reading the arrays alone.

python benchmarks/bench_tokenize.py [--counts FILE.h5ad ...] [--loom FILE.loom] [--vocab FOLDER] [--cells 10000] [--repeats 5]

Without --counts it makes counts up (20,000 genes, 1,900 detected a cell) and writes them plain and with gzip. Start-up (imports,
kernel) is left out of both sides and measured by itself, as `rankcell tokenize` on one cell. A loom file of the same cells as the
last --counts file is compared with it.

The limits: h5py reading the arrays in as many threads as rankcell uses (its library reads one thing at a time, whichever thread
asks), and the same bytes through h5py's direct chunk reading and zlib, which do run side by side.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from common import best_of, machine, made_up_counts

from rankcell.counts.parallel import processors
from rankcell.tokens.cells import tokenize_cells
from rankcell.vocab import Vocabulary, find_vocabulary

THREADS = min(8, processors())


def make_input(folder: pathlib.Path, n_cells: int):
    import anndata as ad
    import pandas as pd

    x = made_up_counts(n_cells, 20_000)
    ids = [f"ENSG{i:011d}" for i in range(20_000)]
    obs = pd.DataFrame({"n_counts": np.asarray(x.sum(1)).ravel()}, index=[f"c{i}" for i in range(n_cells)])
    adata = ad.AnnData(x, obs=obs, var=pd.DataFrame({"ensembl_id": ids}, index=ids))
    adata.write_h5ad(folder / "plain.h5ad")
    adata.write_h5ad(folder / "gzip.h5ad", compression="gzip")
    special = {"<pad>": 0, "<mask>": 1}
    medians = np.random.default_rng(1).gamma(2.0, 2.0, 20_000) + 0.5
    vocab = Vocabulary(name="bench", genes=ids, tokens=np.arange(20_000) + 2, medians=medians, special=special, max_len=2048)
    return [folder / "plain.h5ad", folder / "gzip.h5ad"], vocab


def plain_loop(path: pathlib.Path, vocab: Vocabulary, out: pathlib.Path) -> None:
    """A cell at a time: slice the row, normalise, argsort; then one Dataset from everything. Frozen: do not make it faster."""
    import anndata as ad
    from datasets import Dataset

    adata = ad.read_h5ad(path)
    genes = vocab.lookup(adata.var["ensembl_id"])
    known = np.flatnonzero(genes >= 0)
    median, token = vocab.medians[genes[known]], vocab.tokens[genes[known]]
    x = adata.X[:, known].tocsr()
    n_counts = adata.obs["n_counts"].to_numpy()
    rows = []
    for i in range(x.shape[0]):
        row = x[i]
        value = row.data / n_counts[i] * vocab.target_sum / median[row.indices]
        rows.append(token[row.indices][np.argsort(-value)][: vocab.max_len])
    Dataset.from_dict({"input_ids": rows, "length": [len(r) for r in rows]}).save_to_disk(str(out))


def read_arrays(path: pathlib.Path, *, threads: int = THREADS) -> None:
    """data, indices and indptr through h5py, in slices of a million entries, by `threads` threads."""
    import h5py

    with h5py.File(path) as f:
        x = f["X"]
        x["indptr"][:]
        n = len(x["data"])
        slices = [(name, a, min(n, a + 1_000_000)) for a in range(0, n, 1_000_000) for name in ("data", "indices")]
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(lambda s: x[s[0]][s[1] : s[2]].size, slices):
                pass


def read_chunks(path: pathlib.Path, *, threads: int = THREADS) -> None:
    """The same bytes by h5py's direct chunk reading and zlib, by `threads` threads."""
    import h5py

    with h5py.File(path) as f:
        chunks = [(f["X"][name], a) for name in ("data", "indices") for a in range(0, len(f["X"][name]), f["X"][name].chunks[0])]

        def read(at):
            dataset, a = at
            raw = dataset.id.read_direct_chunk((a,))[1]
            return len(zlib.decompress(raw) if dataset.compression else raw)

        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(read, chunks):
                pass


def start_up(path: pathlib.Path, vocab: pathlib.Path, out: pathlib.Path, repeats: int) -> float:
    """Seconds of `rankcell tokenize` on a file of one cell, in a new process, kernel compiled before."""
    import anndata as ad

    one = path.with_name("one-cell.h5ad") if os.access(path.parent, os.W_OK) else out.parent / "one-cell.h5ad"
    adata = ad.read_h5ad(path, backed="r")
    adata[:1].to_memory().write_h5ad(one)
    adata.file.close()
    command = [sys.executable, "-m", "rankcell", "tokenize", str(one), "-o", str(out), "--vocab", str(vocab), "--force"]
    best = float("inf")
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        best = min(best, time.perf_counter() - start)
    one.unlink()
    return best


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--counts", type=pathlib.Path, nargs="+")
    ap.add_argument("--loom", type=pathlib.Path)
    ap.add_argument("--vocab", default="demo")
    ap.add_argument("--cells", type=int, default=10_000, help="cells to make up")
    ap.add_argument("--repeats", type=int, default=5)
    a = ap.parse_args()
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    print(machine(), f"{THREADS} threads, best of {a.repeats}", sep="; ")
    with tempfile.TemporaryDirectory() as tmp:
        folder = pathlib.Path(tmp)
        paths, vocab = (a.counts, find_vocabulary(a.vocab)) if a.counts else make_input(folder, a.cells)
        vocab.save(folder / "vocab")
        out = folder / "out.dataset"
        seconds = start_up(paths[0], folder / "vocab", folder / "one.dataset", a.repeats)
        print(f"start-up (`rankcell tokenize` on one cell, new process)  {seconds:.2f} s")

        def ours(path):
            return tokenize_cells(path, vocab, out=out)

        def plain(path):
            plain_loop(path, vocab, folder / "plain")

        def clear():  # not timed
            for made in (out, folder / "plain"):
                shutil.rmtree(made, ignore_errors=True)

        for path in paths:
            n = len(ours(path))  # imports and the compiled kernel
            work = [lambda p=path: ours(p), lambda p=path: plain(p), lambda p=path: read_arrays(p), lambda p=path: read_chunks(p)]
            fast, slow, read, chunks = best_of(a.repeats, *work, before=clear)
            print(f"{path.name}: {n:,} cells")
            print(f"  rankcell tokenize        {fast:8.3f} s  {n / fast:10,.0f} cells/s")
            print(f"  plain loop               {slow:8.3f} s  {n / slow:10,.0f} cells/s   rankcell is {slow / fast:.1f} times as fast")
            print(f"  h5py reads the arrays    {read:8.3f} s                        rankcell takes {fast / read:.2f} times as long")
            print(f"  direct chunks and zlib   {chunks:8.3f} s                        rankcell takes {fast / chunks:.2f} times as long")
        if a.loom:
            clear()
            ours(a.loom)
            fast, loom = best_of(a.repeats, lambda: ours(paths[-1]), lambda: ours(a.loom), before=clear)
            print(f"{a.loom.name}: {loom:.3f} s, {loom / fast:.2f} times {paths[-1].name} ({fast:.3f} s)")


if __name__ == "__main__":
    main()
