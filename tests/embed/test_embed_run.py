"""rankcell embed into stores: what is in them, stopped and killed at any moment, two at once, refused; and genes and states in memory."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from builders import make_adata, make_checkpoint, make_vocab
from flat_options import call
from safetensors.torch import load_file, save_file

import rankcell as rc
from rankcell.cli import main
from rankcell.embed import Embedder, gene_sums
from rankcell.embed import embedding_units as units
from rankcell.embed import store_run as run
from rankcell.embed.stores import STORES, read_embeddings
from rankcell.embed.unit_cells import Work
from rankcell.errors import RankcellWarning, SettingsError
from rankcell.model import Encoder
from rankcell.tokens import TokenSet, TokenSpec, opening

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals")
SUFFIXES = list(STORES)
IDS = ["żółw", "AAAC-1", "細胞 3", "🧬", "b", "a", "AAAC-10", "é", "z z", "0"]
KIND = ["B", "T", None, "B", "NK", "T", "B", "B", "", "T"]
BODIES = [
    [5, 9, 4],
    [15, 14, 13, 12, 11, 10, 9, 8, 7, 6],
    [7],
    [],
    [8, 4, 12, 6, 10],
    [4, 5, 6, 7],
    [9, 5],
    [12, 11, 4],
    [5],
    [6, 9, 14, 4],
]
EVERYTHING = [
    "--include",
    "cell,gene,gene_mean,state",
    "--by",
    "kind",
    "--pool",
    "mean",
    "--pool",
    "cls+std",
    "--layer",
    "-2",
    "--layer",
    "3",
]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tokens(small):
    """Ten cells of unsorted lengths; one without genes, two of no kind."""
    rows = [[2, *body, 3] for body in BODIES]
    return TokenSet.from_rows(rows, TokenSpec.of(small[0], frame=small[0].frame, max_len=64), cell_ids=IDS, obs={"kind": KIND})


@pytest.fixture(scope="module")
def states(small, tokens):
    """{layer: [states of the genes of each cell]}, float32, by the Embedder."""
    work = Work([], {-2: 2, 3: 3})
    genes = call(Embedder, small[1], device="cpu", precision="fp32").run(tokens, np.arange(len(tokens)), work).genes
    return {n: np.split(values, np.cumsum([len(b) for b in BODIES])[:-1]) for n, values in genes.items()}


@pytest.fixture(scope="module")
def place(small, tokens, tmp_path_factory):
    """A folder with the tokens, a copy of the model, and counts."""
    folder = tmp_path_factory.mktemp("place")
    tokens.save(folder / "cells.dataset")
    shutil.copytree(small[1], folder / "model")
    rng = np.random.default_rng(5)
    counts = rng.poisson(1.5, (8, 12)) * rng.permutation(np.arange(1, 97)).reshape(8, 12)
    adata = make_adata(counts, kind=pd.Categorical(list("bbacabca"), ["c", "b", "a"]))
    adata.write_h5ad(folder / "counts.h5ad")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Writing zarr v2 data")
        adata.write_zarr(folder / "counts.zarr")
    return folder


def command(place, out, *more, source="cells.dataset", model="model"):
    return [str(x) for x in ("embed", place / source, "-o", out, "--model", place / model, "--device", "cpu", *more)]


def embed(place, out, *more, **how):
    assert main(command(place, out, *more, **how)) == 0
    return read_embeddings(out)


def names_in(folder):
    return sorted(p.name for p in folder.iterdir())


def one_line(text):
    lines = [x for x in text.strip().splitlines() if not x.startswith(("rankcell: note:", "cells embedded: "))]
    assert len(lines) == 1 and lines[0].startswith("rankcell: "), text
    return lines[0]


def same_tables(a, b):
    """Two stores hold the same: texts, arrays and dtypes; every table."""
    assert a.cell_ids == b.cell_ids and a.meta == b.meta
    assert list(a.tables) == list(b.tables)
    for x, y in [(a.columns, b.columns), *((a.tables[t], b.tables[t]) for t in a.tables)]:
        assert list(x) == list(y)
        for key in x:
            if isinstance(x[key], np.ndarray):
                assert x[key].dtype == y[key].dtype
                np.testing.assert_array_equal(x[key], y[key])
            else:
                assert list(x[key]) == list(y[key])


# what is in a store


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.filterwarnings("always::rankcell.errors.RankcellWarning")
def test_cells_in_every_format(place, small, tokens, tmp_path, suffix, capsys):
    out = tmp_path / f"e{suffix}"
    found = embed(place, out)
    with pytest.warns(RankcellWarning, match="1 of 10 cells"):
        expected = call(Embedder, small[1], device="cpu").embed(tokens)
    assert found.cell_ids == IDS
    assert list(found.columns) == ["mean_layer-2"]
    np.testing.assert_array_equal(found.columns["mean_layer-2"], expected.columns["mean_layer-2"])
    assert np.isnan(found.columns["mean_layer-2"]).all(1).tolist() == [not b for b in BODIES]
    assert found.meta["vocabulary_hash"] == small[0].hash and found.meta["n_cells_without_genes"] == 1
    said = capsys.readouterr()
    assert said.out.endswith(f"{out}: 10 cells: mean_layer-2 (16 wide)\n")
    assert said.err == "rankcell: note: 1 of 10 cells have no genes: their embeddings are NaN\n"
    assert all(not name.startswith(".") and not name.endswith(".run") for name in names_in(tmp_path))


@pytest.fixture(scope="module", params=["mean", "median"])
def everything(request, place, tmp_path_factory):
    """All tables, made in units of a few cells."""
    out = tmp_path_factory.mktemp("everything") / "e.parquet"
    with pytest.MonkeyPatch.context() as m:
        m.setattr(run, "TOKENS_PER_UNIT", 12)
        return request.param, embed(place, out, *EVERYTHING, "--statistic", request.param)


@pytest.fixture(scope="module")
def exact(small, tokens):
    """The cells' own embeddings, in memory."""
    with pytest.warns(RankcellWarning, match="1 of 10 cells"):
        return call(Embedder, small[1], device="cpu", precision="fp32").embed(tokens, pool=["mean", "cls+std"], layer=[-2, 3]).columns


def test_cells_beside_everything_else(everything, exact):
    _, found = everything
    assert found.cell_ids == IDS
    assert list(found.columns) == list(exact) == ["mean_layer-2", "cls+std_layer-2", "mean_layer3", "cls+std_layer3"]
    for name, values in exact.items():
        np.testing.assert_allclose(found.columns[name], values, rtol=0, atol=2e-6)
    assert found.columns["cls+std_layer3"].shape == (10, 32)


def test_genes_of_each_cell(everything, states, small):
    genes = everything[1].tables["genes"]
    vocab = small[0]
    flat = [(cell, vocab.genes[t - 4], rank) for cell, body in zip(IDS, BODIES, strict=True) for rank, t in enumerate(body)]
    assert list(zip(genes["cell_id"], genes["gene"], genes["rank"].tolist(), strict=True)) == flat
    for n in (-2, 3):
        np.testing.assert_allclose(genes[f"layer{n}"], np.concatenate(states[n]), rtol=0, atol=2e-6)


def means_by_hand(states, cells):
    """{token: (n, mean, population sd)} over some cells, in plain numpy."""
    held = {}
    for i in cells:
        for token, state in zip(BODIES[i], states[i], strict=True):
            held.setdefault(token, []).append(state.astype(np.float64))
    return {t: (len(v), np.mean(v, axis=0), np.std(v, axis=0, ddof=0)) for t, v in sorted(held.items())}


def assert_means(table, rows, states, n, cells, vocab, mean, sd):
    expected = means_by_hand(states[n], cells)
    assert [table["gene"][r] for r in rows] == [vocab.genes[t - 4] for t in expected]
    assert [table["symbol"][r] for r in rows] == [vocab.symbols[t - 4] for t in expected]
    assert [int(table["n"][r]) for r in rows] == [v[0] for v in expected.values()]
    np.testing.assert_allclose(mean[rows], [v[1] for v in expected.values()], rtol=0, atol=2e-6)
    # sqrt of a difference of squares: float32 states that agree to 2e-6 leave about 1e-3 of a vanishing deviation
    np.testing.assert_allclose(sd[rows], [v[2] for v in expected.values()], rtol=0, atol=1e-5)


def of_kind(kind):
    return [i for i, k in enumerate(KIND) if k == kind]


def test_gene_means_of_each_group(everything, states, small):
    """The groups in their order, the genes of each by token; cells of no kind are in none."""
    table = everything[1].tables["gene_means"]
    groups = list(dict.fromkeys(table["group"]))
    assert groups == ["B", "NK", "T"]
    for group in groups:
        rows = [r for r, g in enumerate(table["group"]) if g == group]
        for n in (-2, 3):
            assert_means(table, rows, states, n, of_kind(group), small[0], table[f"mean_layer{n}"], table[f"sd_layer{n}"])


def test_gene_means_of_all_cells(place, states, small, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "TOKENS_PER_UNIT", 12)
    found = embed(place, tmp_path / "e.npz", "--include", "gene_mean", "--layer", "-2", "--layer", "3")
    assert found.cell_ids == [] and list(found.tables) == ["gene_means"]
    table = found.tables["gene_means"]
    assert list(table) == ["gene", "symbol", "n", "mean_layer-2", "sd_layer-2", "mean_layer3", "sd_layer3"]
    for n in (-2, 3):
        rows = np.arange(len(table["gene"]))
        assert_means(table, rows, states, n, range(10), small[0], table[f"mean_layer{n}"], table[f"sd_layer{n}"])


def test_states(everything, exact):
    statistic, found = everything
    table = found.tables["states"]
    assert list(table) == ["state", "n_cells", *exact]
    assert table["state"] == ["B", "NK", "T"]
    assert table["n_cells"].tolist() == [3, 1, 3]  # the B cell without genes does not count
    for name, values in exact.items():
        for i, kind in enumerate(table["state"]):
            cells = [c for c in of_kind(kind) if BODIES[c]]
            expected = getattr(np, statistic)(values[cells].astype(np.float64), axis=0)
            np.testing.assert_allclose(table[name][i], expected, rtol=0, atol=2e-6)


def test_what_a_store_says_of_itself(everything):
    statistic, found = everything
    assert {k: found.meta[k] for k in ("include", "by", "statistic", "dtype")} == {
        "include": ["cell", "gene", "gene_mean", "state"],
        "by": "kind",
        "statistic": statistic,
        "dtype": "float32",
    }
    assert found.meta["outputs"]["cls+std_layer3"] == {"pool": "cls+std", "layer": 3, "parts": {"cls": [0, 16], "std": [16, 32]}}


@pytest.mark.parametrize("suffix", [s for s in SUFFIXES if s != ".npy"])
def test_all_tables_in_every_format(place, everything, tmp_path, suffix, monkeypatch):
    statistic, expected = everything
    monkeypatch.setattr(run, "TOKENS_PER_UNIT", 12)
    same_tables(embed(place, tmp_path / f"e{suffix}", *EVERYTHING, "--statistic", statistic), expected)
    assert [n for n in names_in(tmp_path) if n.startswith(".") or n.endswith(".run")] == []


def test_units_change_nothing_but_last_bits(place, everything, tmp_path):
    statistic, expected = everything
    found = embed(place, tmp_path / "e.npz", *EVERYTHING, "--statistic", statistic)
    for x, y in [(found.columns, expected.columns), *((found.tables[t], expected.tables[t]) for t in expected.tables)]:
        for key in x:
            if isinstance(x[key], np.ndarray):
                np.testing.assert_allclose(x[key], y[key], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("dtype", "close"), [("float16", 2e-3), ("float64", 2e-6)])
@pytest.mark.parametrize("suffix", [".parquet", ".h5ad", ".sqlite"])
def test_dtypes(place, everything, tmp_path, dtype, close, suffix):
    statistic, expected = everything
    found = embed(place, tmp_path / f"e{suffix}", *EVERYTHING, "--statistic", statistic, "--dtype", dtype)
    for x, y in [(found.columns, expected.columns), *((found.tables[t], expected.tables[t]) for t in expected.tables)]:
        for key, values in x.items():
            if isinstance(values, np.ndarray) and values.dtype.kind == "f":
                assert values.dtype == dtype
                np.testing.assert_allclose(values, y[key], rtol=close, atol=max(close, 1e-5))
    assert found.meta["dtype"] == dtype


def test_states_of_float16_are_of_what_is_stored(place, tmp_path):
    found = embed(place, tmp_path / "e.npz", "--include", "cell,state", "--by", "kind", "--statistic", "median", "--dtype", "float16")
    cells = found.columns["mean_layer-2"][of_kind("T")].astype(np.float64)
    np.testing.assert_array_equal(found.tables["states"]["mean_layer-2"][2], np.median(cells, axis=0).astype(np.float16))


def test_categories_keep_their_order(place, tmp_path):
    """Of a count file whose column is categorical; a category of no cell is none."""
    found = embed(place, tmp_path / "e.h5ad", "--include", "cell,state", "--by", "kind", source="counts.h5ad")
    assert found.tables["states"]["state"] == ["c", "b", "a"]
    assert found.tables["states"]["n_cells"].tolist() == [2, 3, 3]
    out = ad.read_h5ad(tmp_path / "e.h5ad")
    assert out.shape == (8, 12) and out.X.sum() == ad.read_h5ad(place / "counts.h5ad").X.sum()


def test_medians_in_pieces(place, everything, tmp_path, monkeypatch):
    """Of many cells the exact median is taken some dimensions at a time."""
    from rankcell.embed import groups

    monkeypatch.setattr(groups, "_MEDIAN_BYTES", 8 * 10 * 3)
    monkeypatch.setattr(run, "TOKENS_PER_UNIT", 12)
    if everything[0] == "median":
        found = embed(place, tmp_path / "e.npz", *EVERYTHING, "--statistic", "median")
        same_tables(found, everything[1])


def test_sums_keep_little_memory(small):
    """As much as the vocabulary is wide, for any number of cells."""
    sums = gene_sums.GeneSums(small[0].n_ids, 16, {-1: 3})
    import torch

    rng = np.random.default_rng(0)
    for i in range(50):
        ids = rng.permutation(12)[:6] + 4
        sums.keep(sums.reduced(ids, np.full(6, i), {3: torch.from_numpy(rng.normal(size=(6, 16)).astype(np.float32))}))
    assert {v.shape for v in sums.sums.values()} == {(2, 16, 16)}
    assert sums.counts[0].sum() == 300


def test_cells_without_genes_fill_a_unit(place, small, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "TOKENS_PER_UNIT", 4)
    spec = TokenSpec.of(small[0], frame=small[0].frame, max_len=64)
    TokenSet.from_rows([[2, 3]] * 4 + [[2, 5, 6, 3]] + [[2, 3]] * 4, spec, obs={"kind": list("aaaabcccc")}).save(tmp_path / "cells.dataset")
    (tmp_path / "out").mkdir()
    for suffix in (".parquet", ".h5ad", ".npz"):
        shutil.rmtree(tmp_path / "out")
        (tmp_path / "out").mkdir()
        args = command(tmp_path, tmp_path / "out" / f"e{suffix}", "--include", "cell,gene,gene_mean,state", "--by", "kind")
        args[args.index("--model") + 1] = str(place / "model")
        assert main(args) == 0
        found = read_embeddings(tmp_path / "out" / f"e{suffix}")
        assert np.isnan(found.columns["mean_layer-2"]).all(1).tolist() == [True] * 4 + [False] + [True] * 4
        assert found.tables["genes"]["cell_id"] == ["4", "4"]
        assert found.tables["gene_means"]["group"] == ["b", "b"]
        assert found.tables["states"]["n_cells"].tolist() == [0, 1, 0]
        assert np.isnan(found.tables["states"]["mean_layer-2"]).all(1).tolist() == [True, False, True]


def test_no_cells_at_all(place, small, tmp_path):
    TokenSet.from_rows([], TokenSpec.of(small[0], frame=small[0].frame, max_len=64)).save(tmp_path / "cells.dataset")
    for suffix in (".parquet", ".npy", ".h5ad"):
        args = command(tmp_path, tmp_path / f"e{suffix}")
        args[args.index("--model") + 1] = str(place / "model")
        assert main(args) == 0
        found = read_embeddings(tmp_path / f"e{suffix}")
        assert found.cell_ids == [] and found.columns["mean_layer-2"].shape == (0, 16)


# large count files


@pytest.mark.parametrize("source", ["counts.h5ad", "counts.zarr"])
def test_tokens_of_large_files_stay_on_disk(place, tmp_path, monkeypatch, source):
    how = ["--include", "cell,gene,state", "--by", "kind"]
    expected = embed(place, tmp_path / "a.parquet", *how, source=source)
    monkeypatch.setattr(opening, "_IN_MEMORY", 0)
    seen, fetch = [], Embedder.run

    def look(self, *args, **more):
        seen.append(names_in(tmp_path))
        return fetch(self, *args, **more)

    monkeypatch.setattr(Embedder, "run", look)
    same_tables(embed(place, tmp_path / "b.parquet", *how, source=source), expected)
    assert seen and all(".b.parquet.tokens" in names for names in seen)
    assert names_in(tmp_path) == sorted(f"{x}{y}.parquet" for x in "ab" for y in ("", ".genes", ".states"))


def test_tokens_on_disk_are_removed_after_a_failure(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(opening, "_IN_MEMORY", 0)
    assert main(command(place, tmp_path / "e.parquet", "--layer", "9", source="counts.h5ad")) == 2
    assert "out of range" in one_line(capsys.readouterr().err)
    assert names_in(tmp_path) == []


# refusals


@pytest.fixture(scope="module")
def broken(place):
    """Models that cannot be used."""
    shutil.copytree(place / "model", place / "nan")
    weights = load_file(place / "nan" / "model.safetensors")
    weights["bert.encoder.layer.1.output.dense.weight"][2, 3] = float("nan")
    save_file(weights, place / "nan" / "model.safetensors", metadata={"format": "pt"})
    shutil.copytree(place / "model", place / "truncated")
    file = place / "truncated" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    make_checkpoint(place / "short", make_vocab(), positions=8)
    return place


REFUSED = {
    "include": (["--include", "cells"], "'cells' cannot be included; one or several of cell, gene, gene_mean, state"),
    "include among several": (["--include", "cell,genes"], "'genes' cannot be included"),
    "nothing": (["--include", ""], "'' cannot be included"),
    "statistic": (["--include", "state", "--by", "kind", "--statistic", "mode"], "statistic is mode; one of mean, median"),
    "dtype": (["--dtype", "int8"], "dtype is int8; one of float16, float32, float64"),
    "pool": (["--pool", "median", "--pool", "meen"], "unknown pooling 'meen'; one of cls, first, max"),
    "pool among parts": (["--pool", "mean+vra"], "unknown pooling 'vra'"),
    "pool twice": (["--pool", "mean+mean"], "holds the same kind twice"),
    "layer": (["--layer", "4"], "layer 4 is out of range: model 'model' has 3 blocks, so layers -4 to 3"),
    "attention of the embedding layer": (["--pool", "parti", "--layer", "0"], "needs attention, and layer 0 is the embedding layer"),
    "by without need": (["--by", "kind"], "--by is for --include state and --include gene_mean"),
    "state without by": (["--include", "state"], "states are the categories of a cell column: name it (--by COLUMN)"),
    "a column that is not there": (["--include", "state", "--by", "type"], "no cell column 'type'"),
    "precision": (["--precision", "fp8"], "unknown precision 'fp8'"),
    "tokens per batch": (["--tokens-per-batch", "0"], "--tokens-per-batch is 0"),
    "several in a npy": (["-o", "e.npy", "--pool", "mean", "--pool", "cls"], "a .npy holds one vector of every cell, and there are 2"),
    "layers in a npy": (["-o", "e.npy", "--layer", "-1", "--layer", "-2"], "and there are 2"),
    "tables in a npy": (["-o", "e.npy", "--include", "cell,gene"], "no table of genes"),
    "ending": (["-o", "e.csv"], "embeddings are written as .h5ad, .zarr, .parquet"),
    "no such folder": (["-o", "a/e.npz"], "the folder a does not exist: make it first"),
    "not a number": (["--model", "nan"], "holds NaN or infinite weights"),
    "truncated": (["--model", "truncated"], "model.safetensors cannot be read"),
    "too few positions": (["--model", "short"], "rows have up to 12 tokens, but model 'short' has 8 positions"),
    "the input": (["-o", "cells.dataset", "--force"], "cells.dataset"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line_and_nothing_is_left(broken, monkeypatch, capsys, case):
    more, says = REFUSED[case]
    monkeypatch.chdir(broken)
    before = sorted(str(p) for p in broken.rglob("*"))
    options = {"-o": ["e.parquet"], "--model": ["model"]}
    options |= {flag: more[i + 1 : i + 2] for i, flag in enumerate(more) if flag in options}
    rest = [x for i, x in enumerate(more) if x not in options and (i == 0 or more[i - 1] not in options)]
    assert main(["embed", "cells.dataset", *(x for k, v in options.items() for x in (k, *v)), *rest]) == 2
    assert says in one_line(capsys.readouterr().err)
    assert sorted(str(p) for p in broken.rglob("*")) == before


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_output_that_exists(place, tmp_path, capsys, suffix):
    out = tmp_path / f"e{suffix}"
    first = embed(place, out)
    before = {p.name: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    capsys.readouterr()
    assert main(command(place, out, "--pool", "cls", model="no model: the output is looked at first")) == 2
    assert "exists: choose another output, or pass --force to replace it" in one_line(capsys.readouterr().err)
    assert {p.name: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    again = embed(place, out, "--pool", "cls", "--force")
    assert list(again.columns) == ["cls_layer-2"] and first.cell_ids == again.cell_ids
    assert not [n for n in names_in(tmp_path) if n.startswith(".") or n.endswith(".run")]


@posix
def test_a_folder_that_cannot_be_written_to(place, tmp_path, monkeypatch, capsys):
    (tmp_path / "closed").mkdir(mode=0o555)
    access = os.access  # root may write everywhere: say what the others would be told
    monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode) and not str(path).endswith("closed"))
    assert main(command(place, tmp_path / "closed" / "e.parquet")) == 2
    assert "cannot be written to" in one_line(capsys.readouterr().err)
    assert names_in(tmp_path / "closed") == []


def test_something_else_stands_where_the_run_is_kept(place, tmp_path, capsys):
    (tmp_path / "e.npz.run").mkdir()
    (tmp_path / "e.npz.run" / "mine").write_text("mine")
    for force in ([], ["--force"]):
        assert main(command(place, tmp_path / "e.npz", *force)) == 2
        assert "e.npz.run exists and is not a rankcell result" in one_line(capsys.readouterr().err)
    assert names_in(tmp_path) == ["e.npz.run"] and names_in(tmp_path / "e.npz.run") == ["mine"]


@pytest.mark.parametrize("by", [[], ["--by", "kind"]])
def test_means_over_nothing(place, small, tmp_path, capsys, by):
    spec = TokenSpec.of(small[0], frame=small[0].frame, max_len=64)
    TokenSet.from_rows([[2, 3], [2, 5, 3] if by else [2, 3]], spec, obs={"kind": ["a", None]}).save(tmp_path / "cells.dataset")
    args = command(tmp_path, tmp_path / "e.npz", "--include", "cell,gene_mean", *by)
    args[args.index("--model") + 1] = str(place / "model")
    assert main(args) == 2
    assert "has genes: there is nothing to take means of" in one_line(capsys.readouterr().err)
    assert names_in(tmp_path) == ["cells.dataset"]


# stopped


@pytest.fixture
def stops(monkeypatch):
    """`stops(n, error)`: the run raises at its n-th batch. Units of one or two cells."""
    walk = Encoder.walk
    monkeypatch.setattr(run, "TOKENS_PER_UNIT", 12)
    monkeypatch.setattr(units, "_SECONDS", 0)

    def at(n, error=KeyboardInterrupt):
        left = [n]

        def stopping(self, *args, **how):
            left[0] -= 1
            if left[0] == 0:
                raise error
            return walk(self, *args, **how)

        monkeypatch.setattr(Encoder, "walk", stopping)
        return left

    yield at
    monkeypatch.setattr(Encoder, "walk", walk)


def test_ctrl_c(place, tmp_path, stops, capsys):
    expected = embed(place, tmp_path / "whole.parquet", *EVERYTHING)
    capsys.readouterr()
    out = tmp_path / "e.parquet"
    stops(1)
    assert main(command(place, out, *EVERYTHING)) == 130
    assert one_line(capsys.readouterr().err) == "rankcell: stopped; the same command starts again"
    assert not (tmp_path / "e.parquet.run").exists()
    for n in (3, 2):
        stops(n)
        assert main(command(place, out, *EVERYTHING)) == 130
        said = one_line(capsys.readouterr().err)
        assert said == f"rankcell: stopped; what is done is kept in {out}.run, the same command goes on from there"
        assert not out.exists()
    ran = stops(100)
    same_tables(embed(place, out, *EVERYTHING), expected)
    assert 100 - ran[0] < len(BODIES) - 3  # what was kept is not computed again
    for name in ("", ".genes", ".gene_means", ".states"):
        assert (tmp_path / f"e{name}.parquet").read_bytes() == (tmp_path / f"whole{name}.parquet").read_bytes()
    assert not (tmp_path / "e.parquet.run").exists()


def test_ctrl_c_keeps_sums_alone(place, tmp_path, stops, capsys):
    """Means over genes have no shards: their sums are what is kept."""
    how = ["--include", "gene_mean", "--by", "kind"]
    expected = embed(place, tmp_path / "whole.npz", *how)
    stops(4)
    assert main(command(place, tmp_path / "e.npz", *how)) == 130
    assert "is kept in" in one_line(capsys.readouterr().err)
    assert (tmp_path / "e.npz.run" / "gene_sums.npz").is_file()
    ran = stops(100)
    same_tables(embed(place, tmp_path / "e.npz", *how), expected)
    assert 100 - ran[0] <= 6
    assert names_in(tmp_path) == ["e.npz", "whole.npz"]


def test_another_run_is_refused_with_what_differs(place, tmp_path, stops, capsys):
    out = tmp_path / "e.parquet"
    stops(3)
    assert main(command(place, out)) == 130
    capsys.readouterr()
    kept = {p.name: p.read_bytes() for p in (tmp_path / "e.parquet.run").rglob("*") if p.is_file()}
    stops(0)
    for more, differs in (
        (["--pool", "cls"], "outputs: ['mean_layer-2'] there, ['cls_layer-2'] now"),
        (["--dtype", "float64"], "dtype: float32 there, float64 now"),
        (["--include", "cell,state", "--by", "kind"], "include: ['cell'] there, ['cell', 'state'] now; by: nothing there, kind now"),
        (["--precision", "bf16"], "precision: fp32 there, bf16 now"),
        (["--tokens-per-batch", "99"], "tokens_per_batch: nothing there, 99 now"),
    ):
        assert main(command(place, out, *more)) == 2
        said = one_line(capsys.readouterr().err)
        assert f"{out}.run holds another run ({differs}" in said and "pass --force to replace it" in said
    assert {p.name: p.read_bytes() for p in (tmp_path / "e.parquet.run").rglob("*") if p.is_file()} == kept
    assert list(embed(place, out, "--pool", "cls", "--force").columns) == ["cls_layer-2"]
    assert names_in(tmp_path) == ["e.parquet"]


def test_an_error_keeps_what_is_done(place, tmp_path, stops, monkeypatch, capsys):
    """A disk that fills while the output is written: what is computed stays, and the same command only writes."""
    import pyarrow.parquet as pq

    write = pq.ParquetWriter.write_table

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    ran = stops(100)
    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    assert main(command(place, tmp_path / "e.parquet")) == 2
    assert "disk is full" in one_line(capsys.readouterr().err)
    assert names_in(tmp_path) == ["e.parquet.run"]
    monkeypatch.setattr(pq.ParquetWriter, "write_table", write)
    before = ran[0]
    embed(place, tmp_path / "e.parquet")
    assert ran[0] == before and names_in(tmp_path) == ["e.parquet"]


def test_the_second_is_refused(place, tmp_path, capsys):
    from rankcell.store import locked

    out = tmp_path / "e.parquet"
    (tmp_path / "e.parquet.run").mkdir()
    with locked(tmp_path / "e.parquet.run"):
        for force in ([], ["--force"]):
            assert main(command(place, out, *force)) == 2
            assert f"another process is writing to {out}.run: wait for it, or choose another output" in one_line(capsys.readouterr().err)
    embed(place, out)
    assert names_in(tmp_path) == ["e.parquet"]


def test_another_process_was_faster(place, tmp_path, monkeypatch, capsys):
    """It finished the same output between the look at it and the lock."""
    out = tmp_path / "e.npz"
    check = Embedder.check

    def meanwhile(*args):
        monkeypatch.setattr(Embedder, "check", check)
        embed(place, out, "--pool", "cls")
        return check(*args)

    monkeypatch.setattr(Embedder, "check", meanwhile)
    assert main(command(place, out)) == 2
    assert "exists: choose another output" in one_line(capsys.readouterr().err)
    assert list(read_embeddings(out).columns) == ["cls_layer-2"] and names_in(tmp_path) == ["e.npz"]


# killed: a loaded process forks a child for every start, which kills itself at some file that it opens, renames or removes

KILLS = """
import json, os, random, shutil, signal, sys
import torch
torch.set_num_threads(1)
from rankcell.cli import main
from rankcell.embed import store_run as run
from rankcell.embed import embedding_units as units

base, name, seed, *command = sys.argv[1:]
run.TOKENS_PER_UNIT, units._SECONDS = 12, 0
os.fsync = lambda fd: None  # a process that is killed loses nothing that the system has
chance = random.Random(int(seed))
EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")

def child(folder, die_at):
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    steps = [0]
    def hook(event, args):
        if event in EVENTS and args and str(args[0]).startswith(folder):
            steps[0] += 1
            if steps[0] == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    for number in (1, 2):
        os.dup2(os.open(os.path.join(base, "said"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    code = main([os.path.join(folder, name) if c == "OUT" else c for c in command])
    sys.stderr.flush()
    with open(os.path.join(base, "steps"), "w") as f:
        f.write(str(steps[0]))
    os._exit(code)

def new(number):
    folder = os.path.join(base, f"run{number}")
    os.mkdir(folder)
    return folder

stdout, sys.stdout = sys.stdout, open(os.devnull, "w")
assert main([os.path.join(new("warm"), name) if c == "OUT" else c for c in command]) == 0  # all that a child needs is loaded
sys.stdout = stdout
whole = new(0)
assert child(whole, 0) == 0
with open(os.path.join(base, "steps")) as f:
    most = int(f.read())
print(json.dumps({"folder": whole, "code": 0, "steps": most}), flush=True)
number, kills = 1, 0
folder = new(number)
while kills < 20 or code != 0:
    # every other time somewhere in the first half of what an undisturbed run does, else to the end; after 20 kills let it finish
    die_at = 0 if kills >= 20 else chance.randint(1, most if kills % 2 else most // 3)
    code = child(folder, die_at)
    kills += code == -signal.SIGKILL
    if code == 2:  # it was killed when the output was whole
        with open(os.path.join(base, "said")) as f:
            said = f.read()
        print(json.dumps({"folder": folder, "code": 2, "said": said}), flush=True)
    elif code == 0:
        print(json.dumps({"folder": folder, "code": 0, "kills": kills}), flush=True)
    elif code != -signal.SIGKILL:
        with open(os.path.join(base, "said")) as f:
            raise SystemExit(f"exit code {code}: {f.read()}")
    if code in (0, 2):
        number, code = number + 1, 0
        if kills < 20:
            folder = new(number)
"""


def bytes_in(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@posix
@pytest.mark.skipif(sys.platform == "darwin", reason="forks a process that holds libraries which do not like that there")
@pytest.mark.parametrize("name", ["e.parquet", "e.npy", "e.h5ad"])
def test_killed_at_random_moments(place, tmp_path, name):
    more = [] if name.endswith(".npy") else EVERYTHING
    source = "counts.h5ad" if name == "e.h5ad" else "cells.dataset"
    args = [str(tmp_path), name, "3", *command(place, "OUT", *more, source=source)]
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", KILLS, *args], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    first, *found = map(json.loads, done.stdout.splitlines())
    whole = tmp_path / "run0"
    expected = bytes_in(whole)
    assert first["steps"] > 50 and name in expected and len(found) >= 1
    assert {".lock", f"{name}.run"} & set(expected) == set()
    for one in found:
        folder = tmp_path / os.path.basename(one["folder"])
        assert "exists" in one.get("said", "exists"), one
        if name.endswith(".h5ad"):
            same_tables(read_embeddings(folder / name), read_embeddings(whole / name))
            assert names_in(folder) == names_in(whole)
        else:
            assert bytes_in(folder) == expected


STEPS = (
    KILLS.split("number, kills = 1, 0")[0]
    + """
for step in range(int(seed), most + 1):
    folder = new(step)
    assert child(folder, step) == -signal.SIGKILL
    codes = [child(folder, 0)]
    with open(os.path.join(base, "said")) as f:
        said = f.read()
    print(json.dumps({"folder": folder, "step": step, "codes": codes, "said": said}), flush=True)
"""
)


@posix
@pytest.mark.skipif(sys.platform == "darwin", reason="forks a process that holds libraries which do not like that there")
@pytest.mark.parametrize("name", ["e.parquet", "e.npy"])
def test_killed_at_every_step_of_the_writing(place, tmp_path, name):
    """From the first byte of the output on to the end, tidying up included: the same command finishes, or says that it is there."""
    more = [] if name.endswith(".npy") else ["--include", "cell,state", "--by", "kind"]
    script = STEPS.replace("range(int(seed), most + 1)", "range(most - int(seed), most + 1)").replace("= 12, 0", "= 60, 0")
    args = [str(tmp_path), name, "40", *command(place, "OUT", *more)]
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script, *args], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = list(map(json.loads, done.stdout.splitlines()))[1:]
    expected = bytes_in(tmp_path / "run0")
    assert len(found) == 41
    codes = [one["codes"][0] for one in found]
    assert 0 in codes and 2 in codes and codes == sorted(codes)  # finished first, then only said to be there
    for one in found:
        assert one["codes"] == [0] or "exists: choose another output, or pass --force" in one["said"], one
        assert bytes_in(tmp_path / f"run{one['step']}") == expected, one


@posix
def test_interrupted_and_doubled_as_a_command(place, tmp_path, monkeypatch):
    """A true process, interrupted with the signal that Ctrl-C sends; while it runs, a second one is refused."""
    monkeypatch.setattr(run, "TOKENS_PER_UNIT", 12)
    script = """
    import sys, time
    from rankcell.embed import store_run as run
    from rankcell.embed import unit_cells as unit
    from rankcell.cli import main
    run.TOKENS_PER_UNIT = 12
    keep = unit.Unit.keep
    def slow(self, result):
        keep(self, result)
        time.sleep(0.2)
    unit.Unit.keep = slow
    sys.exit(main())
    """
    out = tmp_path / "e.parquet"
    call = [sys.executable, "-c", textwrap.dedent(script), *command(place, out)]
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        end = time.monotonic() + 600
        while not list(tmp_path.glob("e.parquet.run/shards/cells-*.arrow")) and time.monotonic() < end:
            time.sleep(0.02)
        assert main(command(place, out)) == 2
        first.send_signal(signal.SIGINT)
        _, said = first.communicate(timeout=600)
    assert first.returncode == 130, said
    assert one_line(said) == f"rankcell: stopped; what is done is kept in {out}.run, the same command goes on from there"
    assert main(command(place, out)) == 0
    assert names_in(tmp_path) == ["e.parquet"]


def test_a_run_goes_on_with_as_many_threads_as_it_began_with(place, tmp_path, stops, capsys):
    import torch

    whole, out = tmp_path / "whole.parquet", tmp_path / "e.parquet"
    embed(place, whole)
    stops(3)
    assert main(command(place, out)) == 130
    stops(100)
    capsys.readouterr()
    torch.set_num_threads(2)
    try:
        assert main(command(place, out)) == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert "note: going on with 1 threads, as this run began, not 2: to the same numbers" in capsys.readouterr().err
    assert out.read_bytes() == whole.read_bytes()


# in memory


@pytest.fixture
def adata(place):
    return ad.read_h5ad(place / "counts.h5ad")


def rows_of(small, adata):
    return list(rc.Tokenizer(small[0], rc.Tokenizing(max_len=64)).tokenize(adata))


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_tl_state_embeddings(small, adata, statistic):
    cells = rc.Tokenizer(small[0], rc.Tokenizing(max_len=64)).tokenize(adata)
    exact = call(Embedder, small[1], device="cpu").embed(cells, pool=["mean", "cls"], layer=[-1, 1]).columns
    table = rc.tl.state_embeddings(adata, "kind", model=small[1], pool=["mean", "cls"], layer=[-1, 1], statistic=statistic, compute=rc.Compute("cpu"))
    assert list(table) == ["state", "n_cells", *exact]
    assert table.state.tolist() == ["c", "b", "a"] and table.n_cells.tolist() == [2, 3, 3]
    for name, values in exact.items():
        for state, vector in zip(table.state, table[name], strict=True):
            expected = getattr(np, statistic)(values[(adata.obs.kind == state).to_numpy()].astype(np.float64), axis=0)
            assert vector.dtype == np.float32
            np.testing.assert_allclose(vector, expected, rtol=0, atol=1e-6)
    assert table.attrs["rankcell"]["by"] == "kind" and table.attrs["rankcell"]["statistic"] == statistic


def test_tl_state_embeddings_refused(small, adata):
    with pytest.raises(SettingsError, match="statistic is mode; one of mean, median"):
        rc.tl.state_embeddings(adata, "kind", model=small[1], statistic="mode")
    adata.obs["nothing"] = pd.Series([None] * 8, index=adata.obs_names, dtype=object)
    with pytest.raises(SettingsError, match="cell column 'nothing' says nothing about any cell: name another"):
        rc.tl.state_embeddings(adata, "nothing", model=small[1])
    with pytest.raises(SettingsError, match="by is for means over cells: leave out per_cell"):
        rc.tl.gene_embeddings(adata, model=small[1], by="kind", per_cell=True)


def states_in_cells(small, adata, layer):
    """[(cell, token, rank, state)] by the plain Encoder, a cell at a time."""
    from rankcell.model import collate, open_checkpoint

    encoder = Encoder(open_checkpoint(small[1]), device="cpu")
    n = encoder.checkpoint.resolve_layer(layer)
    found = []
    for i, row in enumerate(rows_of(small, adata)):
        states = encoder.states(collate([row], np.array([0])), [n])[n].numpy()
        found += [(i, int(t), rank, s) for rank, (t, s) in enumerate(zip(row[1:-1], states[1:-1], strict=True))]
    return found


@pytest.mark.parametrize("by", [None, "kind"])
@pytest.mark.parametrize("layer", [-2, 3])
def test_tl_gene_embeddings(small, adata, by, layer, tmp_path):
    found = rc.tl.gene_embeddings(adata, model=small[1], by=by, layer=layer, compute=rc.Compute("cpu"))
    held = {}
    for cell, token, _, state in states_in_cells(small, adata, layer):
        group = "" if by is None else str(adata.obs.kind.iloc[cell])
        held.setdefault((group and "cba".index(group), token), []).append(state.astype(np.float64))
    held = dict(sorted(held.items()))
    vocab = small[0]
    assert found.obs["gene"].tolist() == [vocab.genes[t - 4] for _, t in held]
    assert found.obs["symbol"].tolist() == [vocab.symbols[t - 4] for _, t in held]
    assert found.obs["n"].tolist() == [len(v) for v in held.values()]
    if by:
        assert found.obs["group"].tolist() == ["cba"[g] for g, _ in held]
        assert found.obs_names[0] == f"{found.obs['group'].iloc[0]}|{found.obs['gene'].iloc[0]}"
    assert found.X.dtype == found.layers["sd"].dtype == np.float32 and found.obs_names.is_unique
    np.testing.assert_allclose(found.X, [np.mean(v, axis=0) for v in held.values()], rtol=0, atol=2e-6)
    np.testing.assert_allclose(found.layers["sd"], [np.std(v, axis=0) for v in held.values()], rtol=0, atol=1e-5)
    assert found.uns["rankcell"]["layer"] == layer
    found.write_h5ad(tmp_path / "genes.h5ad")
    again = ad.read_h5ad(tmp_path / "genes.h5ad")
    np.testing.assert_array_equal(again.X, found.X)
    assert again.obs["n"].tolist() == found.obs["n"].tolist() and again.uns["rankcell"]["model"] == "small"


@pytest.mark.parametrize("tokens_per_batch", [1, None])
def test_tl_gene_embeddings_of_each_cell(small, adata, tmp_path, tokens_per_batch, monkeypatch):
    from rankcell.embed import contexts

    monkeypatch.setattr(contexts, "TOKENS_PER_UNIT", 30)
    found = rc.tl.gene_embeddings(adata, model=small[1], per_cell=True, layer=-1, compute=rc.Compute("cpu", tokens_per_batch=tokens_per_batch))
    expected = states_in_cells(small, adata, -1)
    assert found.obs["cell_id"].tolist() == [f"cell{i}" for i, *_ in expected]
    assert found.obs["gene"].tolist() == [small[0].genes[t - 4] for _, t, *_ in expected]
    assert found.obs["symbol"].tolist() == [small[0].symbols[t - 4] for _, t, *_ in expected]
    assert found.obs["rank"].tolist() == [rank for _, _, rank, _ in expected]
    np.testing.assert_allclose(found.X, [s for *_, s in expected], rtol=0, atol=2e-6)
    found.write_h5ad(tmp_path / "genes.h5ad")
    np.testing.assert_array_equal(ad.read_h5ad(tmp_path / "genes.h5ad").X, found.X)
