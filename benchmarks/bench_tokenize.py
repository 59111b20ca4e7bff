"""Tokenize: rankcell against the plain loop that most people write, and against reading the arrays alone.

python benchmarks/bench_tokenize.py [--counts FILE.h5ad --vocab FOLDER] [--cells 3000]

Without --counts it makes counts up (20,000 genes, 1,900 detected a cell). Start-up (imports, kernel) is left out of both.
"""

import argparse
import pathlib
import shutil
import tempfile

import numpy as np
from common import best_of, machine, made_up_counts

from rankcell import jobs
from rankcell.vocab import Vocabulary, find_vocabulary


def make_input(folder: pathlib.Path, n_cells: int):
    import anndata as ad
    import pandas as pd

    x = made_up_counts(n_cells, 20_000)
    ids = [f"ENSG{i:011d}" for i in range(20_000)]
    obs = pd.DataFrame({"n_counts": np.asarray(x.sum(1)).ravel()}, index=[f"c{i}" for i in range(n_cells)])
    ad.AnnData(x, obs=obs, var=pd.DataFrame({"ensembl_id": ids}, index=ids)).write_h5ad(folder / "counts.h5ad")
    special = {"<pad>": 0, "<mask>": 1}
    medians = np.random.default_rng(1).gamma(2.0, 2.0, 20_000) + 0.5
    return folder / "counts.h5ad", Vocabulary(
        name="bench", genes=ids, tokens=np.arange(20_000) + 2, medians=medians, special=special, max_len=2048
    )


def plain_loop(path: pathlib.Path, vocab: Vocabulary, out: pathlib.Path) -> None:
    """A cell at a time: slice the row, normalise, argsort; then one Dataset from everything."""
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


def read_arrays(path: pathlib.Path) -> None:
    import h5py

    with h5py.File(path) as f:
        for name in ("data", "indices", "indptr"):
            f["X"][name][:]


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--counts", type=pathlib.Path)
    ap.add_argument("--vocab", default="demo")
    ap.add_argument("--cells", type=int, default=3000, help="cells to make up")
    ap.add_argument("--repeats", type=int, default=3)
    a = ap.parse_args()
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    with tempfile.TemporaryDirectory() as tmp:
        folder = pathlib.Path(tmp)
        path, vocab = (a.counts, find_vocabulary(a.vocab)) if a.counts else make_input(folder, a.cells)
        out = folder / "out.dataset"

        def ours() -> None:
            shutil.rmtree(out, ignore_errors=True)
            jobs.tokenize(path, out, vocab=vocab)

        def plain() -> None:
            shutil.rmtree(folder / "plain", ignore_errors=True)
            plain_loop(path, vocab, folder / "plain")

        ours()  # imports and the compiled kernel
        fast, slow, read = best_of(a.repeats, ours, plain, lambda: read_arrays(path))
        from rankcell.tokens import TokenSet

        n = len(TokenSet.open(out))
    print(machine())
    print(f"{n:,} cells, best of {a.repeats}")
    print(f"rankcell tokenize          {fast:8.3f} s  {n / fast:10,.0f} cells/s")
    print(f"plain loop                 {slow:8.3f} s  {n / slow:10,.0f} cells/s   rankcell is {slow / fast:.1f} times as fast")
    print(f"h5py reads the arrays      {read:8.3f} s  (the limit)          rankcell takes {fast / read:.1f} times as long")


if __name__ == "__main__":
    main()
