"""No toy unasked: a model is named, or it is the one that made the embeddings; and the toy says that it is one, everywhere."""

import shutil

import numpy as np
import pytest
from builders import make_adata, make_checkpoint, make_vocab
from flat_options import call, perturb_df

import rankcell as rc
from rankcell.cli import main
from rankcell.errors import ModelError, RankcellWarning
from rankcell.get import read_embeddings
from rankcell.perturb import read_screen
from rankcell.vocab import find_vocabulary

TOY = "toy model: 765 genes, trained on 630 blood cells; for trying the tools, not for biology"


@pytest.fixture
def cells():
    """Counts on genes that the toy and the small vocabulary do not share, 12 cells of two kinds."""
    counts = np.random.default_rng(0).integers(0, 5, (12, 12))
    counts[:, 0] += 1
    return make_adata(counts, kind=["a", "b"] * 6)


@pytest.fixture
def toy_cells():
    import anndata as ad
    import pandas as pd

    genes = find_vocabulary("demo").genes[:6]
    return ad.AnnData(
        np.arange(1, 13, dtype="f4").reshape(2, 6), obs=pd.DataFrame(index=["x", "y"]), var=pd.DataFrame(index=list(genes))
    )


VERBS = {
    "embed": rc.tl.embed,
    "perturb": lambda a, **how: perturb_df(a, genes=["G0"], **how),
    "state_embeddings": lambda a, **how: call(rc.tl.state_embeddings, a, "kind", **how),
    "gene_embeddings": lambda a, **how: call(rc.tl.gene_embeddings, a, **how),
    "compare_poolings": lambda a, **how: call(rc.tl.compare_poolings, a, "kind", pool=["mean"], folds=2, k=2, n_random=1, **how),
    "rank_bias": lambda a, **how: call(rc.tl.rank_bias, a, pool=["mean"], n_bins=2, how="drop", **how),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_model_is_required(cells, verb):
    with pytest.raises(ModelError) as e:
        VERBS[verb](cells)
    text = str(e.value)
    assert text.startswith("no model was named: model takes a checkpoint folder") and "OWNER/REPO/FOLDER" in text and TOY in text
    assert "\n" not in text and not cells.obsm


@pytest.mark.parametrize("make", [rc.Embedder, rc.Perturber])
def test_the_classes_too(make):
    with pytest.raises(ModelError, match="no model was named"):
        make()


@pytest.mark.parametrize("verb", ["embed", "perturb"])
def test_at_the_command_line(cells, verb, tmp_path, capsys):
    cells.write_h5ad(tmp_path / "c.h5ad")
    assert main([verb, str(tmp_path / "c.h5ad"), "-o", str(tmp_path / "out.parquet")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "no model was named: --model MODEL takes" in said and "'demo'" in said
    assert [p.name for p in tmp_path.iterdir()] == ["c.h5ad"]


@pytest.fixture
def embedded(cells, tmp_path):
    folder = make_checkpoint(tmp_path / "mine", make_vocab())
    rc.tl.embed(cells, model=str(folder), compute=rc.Compute("cpu"))
    return cells, folder


@pytest.mark.parametrize("verb", [v for v in VERBS if v != "embed"])
@pytest.mark.filterwarnings("ignore:.*found in X_pca|.*")
def test_the_model_that_made_the_embeddings(embedded, verb):
    adata, folder = embedded
    with pytest.warns(RankcellWarning, match=r"taken is 'mine' \(.*\), which made the embeddings of this AnnData"):
        found = VERBS[verb](adata, device="cpu")
    named = VERBS[verb](adata, model=str(folder), device="cpu")
    if hasattr(found, "equals"):
        assert found.drop(columns=[c for c in found if found[c].dtype == object]).equals(
            named.drop(columns=[c for c in named if named[c].dtype == object])
        )
    else:
        assert np.array_equal(found.X, named.X)


def test_it_survives_a_file(embedded, tmp_path):
    import anndata as ad

    adata, folder = embedded
    adata.write_h5ad(tmp_path / "e.h5ad")
    again = ad.read_h5ad(tmp_path / "e.h5ad")
    assert again.uns["rankcell"]["model_source"] == str(folder)
    with pytest.warns(RankcellWarning, match="taken is 'mine'"):
        rc.tl.gene_embeddings(again, compute=rc.Compute("cpu"))


def test_a_model_that_is_gone_or_another_by_now(embedded):
    adata, folder = embedded
    shutil.rmtree(folder)
    with pytest.raises(ModelError, match=r"uns\['rankcell'\] names model 'mine', which cannot be taken: no checkpoint folder .*; name it with model"):
        VERBS["rank_bias"](adata)
    make_checkpoint(folder, make_vocab(), seed=1)
    with pytest.raises(ModelError, match="is another model by now"):
        VERBS["perturb"](adata)


@pytest.mark.parametrize("entry", ["text", {}, {"model": "demo"}, {"outputs": {}}])
def test_an_entry_that_names_no_model(cells, entry):
    cells.uns["rankcell"] = entry
    with pytest.raises(ModelError, match="no model was named"):
        VERBS["rank_bias"](cells)


# The toy says what it is


def test_the_toy_says_so_in_python(toy_cells):
    rc.tl.embed(toy_cells, model="demo", compute=rc.Compute("cpu"))
    assert toy_cells.uns["rankcell"]["model_note"] == TOY
    toy_cells.obs["kind"] = ["a", "a"]
    assert rc.tl.state_embeddings(toy_cells, "kind", model="demo", compute=rc.Compute("cpu")).attrs["rankcell"]["model_note"] == TOY
    assert rc.tl.gene_embeddings(toy_cells, model="demo", compute=rc.Compute("cpu")).uns["rankcell"]["model_note"] == TOY


def test_the_toy_says_so_at_the_command_line(toy_cells, tmp_path, capsys):
    toy_cells.write_h5ad(tmp_path / "c.h5ad")
    for verb, out in (("embed", "e.parquet"), ("perturb", "s")):
        assert main([verb, str(tmp_path / "c.h5ad"), "-o", str(tmp_path / out), "--model", "demo", "--device", "cpu"]) == 0
        assert f"rankcell: note: {TOY}\n" in capsys.readouterr().err
    assert read_embeddings(tmp_path / "e.parquet").meta["model_note"] == TOY
    assert read_screen(tmp_path / "s").manifest["settings"]["model_note"] == TOY


def test_a_copy_of_the_toy_says_so_and_other_models_say_nothing(toy_cells, embedded, tmp_path):
    """What it is stands in its folder: its name does not matter."""
    from rankcell.model.checkpoint import demo_folder

    shutil.copytree(demo_folder(), tmp_path / "my-great-model")
    rc.tl.embed(toy_cells, model=str(tmp_path / "my-great-model"), compute=rc.Compute("cpu"))
    assert toy_cells.uns["rankcell"]["model_note"] == TOY
    assert "model_note" not in embedded[0].uns["rankcell"]
