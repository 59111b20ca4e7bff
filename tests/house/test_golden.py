"""Against Geneformer's own outputs: tokens equal, embeddings within 1e-5, shifts within max(2e-6, 2 %)."""

import functools
import json
import re

import numpy as np
import pandas as pd
import pytest
from flat_options import call, run_screen

import rankcell as rc
from rankcell.embed import Embedder
from rankcell.embed.contexts import gene_means
from rankcell.embed.embed_cells import embed_to_file
from rankcell.perturb import Perturber, StateEmbeddings
from rankcell.tokens import Tokenizer, TokenSet, TokenSpec

MODELS = {"V1": "v1", "V2": "v2"}
SOUND = [
    "V1_delete_all_cell_layer-1", "V1_delete_all_cell_layer0", "V1_delete_all_cell_and_gene", "V1_delete_gene1_cell",
    "V1_delete_gene1_cell_and_gene", "V1_delete_group3_cell", "V1_delete_group3_cell_and_gene", "V1_delete_goal_all_cell",
    "V1_delete_goal_gene1_cell", "V1_overexpress_all_cell_layer-1", "V1_overexpress_all_cell_layer0",
    "V1_overexpress_gene1_cell", "V1_overexpress_gene1_cell_and_gene", "V1_overexpress_goal_all_cell",
    "V1_overexpress_goal_gene1_cell", "V2_delete_all_cls_layer-1", "V2_delete_all_cls_layer0", "V2_delete_all_cls_and_gene",
    "V2_delete_gene1_cls", "V2_delete_gene1_cls_and_gene", "V2_delete_group3_cls", "V2_delete_group3_cls_and_gene",
    "V2_delete_goal_all_cls", "V2_delete_goal_gene1_cls", "V2_overexpress_all_cls_layer-1", "V2_overexpress_all_cls_layer0",
    "V2_overexpress_gene1_cls", "V2_overexpress_gene1_cls_and_gene", "V2_overexpress_goal_all_cls",
    "V2_overexpress_goal_gene1_cls",
]  # fmt: skip


def cells(golden, vocabularies, name):
    """Tokenized golden cells as a TokenSet, their row number as the cell id."""
    table = pd.read_parquet(golden / "cells" / f"{name}.parquet")
    vocab = vocabularies[name[-2:]]
    spec = TokenSpec.of(vocab, frame=vocab.frame, max_len=vocab.max_len)
    return TokenSet.from_rows(table.input_ids, spec, obs={"bulk_labels": table.bulk_labels} if "bulk_labels" in table else None)


@pytest.mark.parametrize("version", ["V1", "V2"])
@pytest.mark.parametrize("counts", ["pbmc68k", "atlas300"])
def test_tokens(golden, vocabularies, counts, version):
    tokens = Tokenizer(vocabularies[version]).tokenize(golden / "counts" / f"{counts}.h5ad")
    expected = pd.read_parquet(golden / "tokens" / f"{counts}_{version}.parquet").input_ids
    assert len(tokens) == len(expected) == {"pbmc68k": 700, "atlas300": 300}[counts]
    assert [i for i, (a, b) in enumerate(zip(tokens, expected, strict=True)) if not np.array_equal(a, b)] == []


@pytest.mark.parametrize("layer", [-1, 0])
@pytest.mark.parametrize("name", ["cells64_V1_cell", "cells64_V2_cell", "cells64_V2_cls", "atlas6_V1_cell", "atlas6_V2_cls"])
def test_embeddings(golden, vocabularies, name, layer):
    file = golden / "embeddings" / f"{name}_layer{layer}.parquet"
    if not file.exists():
        assert name.startswith("atlas6") and layer == 0  # made for one layer only
        return
    source, version, mode = re.fullmatch(r"(\w+)_(V\d)_(\w+)", name).groups()
    embedder = call(Embedder, golden / "models" / MODELS[version], vocab=vocabularies[version], device="cpu")
    pool = {"cell": "mean", "cls": "cls"}[mode]
    found = embedder.embed(cells(golden, vocabularies, f"{source}_{version}"), pool=pool, layer=layer - 1)
    expected = pd.read_parquet(file)
    np.testing.assert_allclose(found.columns[f"{pool}_layer{layer - 1}"][expected.cell], np.stack(expected.embedding), rtol=0, atol=1e-5)


def embedder_of(golden, vocabularies, version):
    return call(Embedder, golden / "models" / MODELS[version], vocab=vocabularies[version], device="cpu", precision="fp32")


def test_gene_means(golden, vocabularies):
    """The mean state of each gene over cells, in one pass; Geneformer's layer -1 is the block before the last."""
    tokens = cells(golden, vocabularies, "cells64_V1")
    found = gene_means(embedder_of(golden, vocabularies, "V1"), tokens, -2)
    expected = pd.read_parquet(golden / "embeddings" / "cells64_V1_gene_layer-1.parquet").set_index("gene").embedding
    assert set(found.obs["gene"]) == set(expected.index) and len(expected) == found.n_obs == 674
    np.testing.assert_allclose(found.X, np.stack(expected[found.obs["gene"]]), rtol=0, atol=1e-5)
    shown = pd.Series(np.concatenate([tokens.genes(i) for i in range(len(tokens))])).value_counts()
    genes = np.asarray(vocabularies["V1"].genes, object)[vocabularies["V1"].gene_of_token[shown.index]]
    assert found.obs.set_index("gene")["n"].to_dict() == dict(zip(genes, shown, strict=True))


@pytest.mark.parametrize("layer", [-1, 0])
def test_gene_means_add_up_to_cell_means(golden, vocabularies, layer):
    """There is no file of V2's genes: weighted by how many cells show each they are the mean of all genes of all cells, as
    Geneformer's means over the genes of each cell are."""
    tokens = cells(golden, vocabularies, "cells64_V2")
    found = gene_means(embedder_of(golden, vocabularies, "V2"), tokens, layer - 1)
    expected = pd.read_parquet(golden / "embeddings" / f"cells64_V2_cell_layer{layer}.parquet").sort_values("cell")
    n = found.obs["n"].to_numpy()
    assert expected.cell.tolist() == list(range(64)) and n.sum() == tokens.n_genes.sum()
    total = (np.stack(expected.embedding).astype(np.float64) * tokens.n_genes[:, None]).sum(0)
    np.testing.assert_allclose((found.X.astype(np.float64) * n[:, None]).sum(0) / n.sum(), total / n.sum(), rtol=0, atol=1e-5)


def golden_states(golden, version):
    table = pd.read_csv(golden / "states" / f"{version}.csv", index_col=0)
    readout = {"V1": "cell", "V2": "cls"}[version]
    return StateEmbeddings({(state, readout): table[state].to_numpy(np.float64) for state in table})


@pytest.fixture(scope="module")
def run_case(golden, vocabularies, tmp_path_factory):
    """name -> (case, finished Screen), each run once."""
    cases = json.loads((golden / "screens" / "cases.json").read_text())

    @functools.cache
    def run(name):
        return cases[name], screen_of(
            golden, vocabularies, cases[name], tmp_path_factory.mktemp(name) / "screen", name.endswith("_and_gene")
        )

    return run


def screen_of(golden, vocabularies, case, out, affected):
    version = case["model_version"]
    genes = case["genes_to_perturb"]
    goal = "cell_states_to_model" in case
    perturber = call(Perturber, golden / "models" / case["model"], vocab=vocabularies[version], device="cpu")
    return run_screen(
        perturber,
        cells(golden, vocabularies, case["input"]),
        out,
        layer=case["emb_layer"] - 1,
        kind=case["perturb_type"],
        genes=genes,
        group=genes != "all",
        states=golden_states(golden, version) if goal else None,
        readout_compat="geneformer" if goal and version == "V1" else "rankcell",
        affected=affected,
    )


def assert_shifts(found, expected, shift):
    """Within 2e-6, or 2 % of the shift where that is more (float32 with other matrix kernels)."""
    wrong = np.abs(found - expected) > np.maximum(2e-6, 0.02 * np.abs(shift))
    assert not wrong.any(), f"{wrong.sum()} of {len(wrong)} differ, by up to {np.abs(found - expected).max():.2e}"


@pytest.mark.parametrize("name", SOUND)
def test_screen_cell_rows(golden, run_case, name):
    case, done = run_case(name)
    screen = done.table().to_pandas()
    expected = pd.read_parquet(golden / "screens" / f"{name}.parquet").astype({"genes": str, "affected": str, "state": str})
    expected = expected[expected.affected == "cell_emb"].assign(cell_id=lambda t: t.cell.astype(str))
    screen["key"] = ["+".join(sorted(g.split("+"))) for g in screen.genes]
    expected["key"] = ["+".join(sorted(g.split("+"))) for g in expected.genes]
    plain = "cos_genes" if case["model_version"] == "V1" else "cos_cls"
    readout = "cell" if case["model_version"] == "V1" else "cls"
    for state, rows in expected.groupby("state"):
        column = f"toward_{state}_{readout}" if state else plain
        both = rows.merge(screen, on=["cell_id", "key"])
        assert len(both) == len(rows) > 0
        assert_shifts(both[column], both.value, both.value if state else 1 - both.value)


@pytest.mark.parametrize("name", [n for n in SOUND if n.endswith("_and_gene")])
def test_screen_gene_rows(golden, run_case, name):
    case, screen = run_case(name)
    expected = pd.read_parquet(golden / "screens" / f"{name}.parquet").astype({"genes": str, "affected": str})
    expected = expected[expected.affected != "cell_emb"]
    mean = expected.groupby(["genes", "affected"]).value.agg(["size", "mean", lambda v: v.astype(float).std(ddof=0)]).reset_index()
    mean.columns = ["genes", "affected", "size", "mean", "sd"]
    affected = screen.affected().to_pandas()
    for t in (mean, affected):
        t["key"] = ["+".join(sorted(g.split("+"))) for g in t.genes]
    both = mean.merge(affected, on=["key", "affected"])
    assert len(both) == len(mean) == len(affected)
    assert (both["size"] == both.n).all()
    assert_shifts(both.mean_cos, both["mean"], 1 - both["mean"])
    assert_shifts(both.sd_cos, both.sd, 1 - both["mean"])
    if case["model_version"] == "V2":
        assert_cos_genes(screen.table().to_pandas(), expected, every_cell=case["genes_to_perturb"] == "all")


def assert_cos_genes(table, gene_rows, *, every_cell):
    """cos_genes of a model with CLS is the mean of a perturbation's gene rows: per cell where Geneformer's files say the
    cell ("all" has a file for each); else the sums over all cells, since a list's gene rows carry their place in each
    gene's list and not the cell."""
    table = table.assign(n=table.n_tokens - 2 - table.genes.str.count("[+]") - 1)
    if every_cell:
        mean = gene_rows.assign(cell_id=gene_rows.cell.astype(str)).groupby(["cell_id", "genes"]).value.mean().reset_index()
        joined = mean.merge(table, on=["cell_id", "genes"])
        assert len(joined) == len(mean) == len(table)
        assert_shifts(joined.cos_genes, joined.value, 1 - joined.value)
    else:
        assert table.n.sum() == len(gene_rows)
        mean = gene_rows.value.astype(float).mean()
        assert_shifts(np.array([(table.cos_genes * table.n).sum() / table.n.sum()]), np.array([mean]), np.array([1 - mean]))


@pytest.mark.parametrize("version", ["V1", "V2"])
@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_states_of_a_store(golden, vocabularies, version, suffix, tmp_path):
    """States that `embed --include state` writes are Geneformer's; so are those in memory."""
    from rankcell.embed.stores import read_embeddings

    pool = {"V1": "mean", "V2": "cls"}[version]
    expected = golden_states(golden, version)
    tokens = cells(golden, vocabularies, f"states12_{version}")
    how = {"model": golden / "models" / MODELS[version], "vocab": vocabularies[version], "pool": pool, "device": "cpu"}
    call(embed_to_file, tokens, tmp_path / f"e{suffix}", include=["state"], by="bulk_labels", **how)
    stored = read_embeddings(tmp_path / f"e{suffix}").tables["states"]
    memory = call(rc.tl.state_embeddings, tokens, "bulk_labels", **how)
    for names, values in ((stored["state"], stored[f"{pool}_layer-2"]), (memory.state.tolist(), memory[f"{pool}_layer-2"])):
        assert sorted(names) == sorted(expected.names)
        for name, vector in zip(names, values, strict=True):
            np.testing.assert_allclose(vector, expected.vectors[name, {"V1": "cell", "V2": "cls"}[version]], rtol=0, atol=1e-5)


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_states(golden, vocabularies, version, tmp_path):
    """States made from the cells are Geneformer's, and a screen toward them is the screen toward the file's."""
    tokens = cells(golden, vocabularies, f"states12_{version}")
    expected = golden_states(golden, version)
    perturber = call(Perturber, golden / "models" / MODELS[version], vocab=vocabularies[version], device="cpu")
    toward = [f"bulk_labels={s}" for s in expected.names]
    screen = run_screen(perturber, tokens, tmp_path / "screen", genes="ENSG00000138326", toward=toward)
    from rankcell.perturb import read_states

    made = read_states(screen.folder / "states.parquet")
    for key, vector in expected.vectors.items():
        np.testing.assert_allclose(made.vectors[key], vector, rtol=0, atol=1e-5)
