"""Numbers that are none: a training that diverges, a model whose states overflow, totals beyond the arithmetic. One line, nothing written."""

import numpy as np
import pytest
from builders import make_adata, make_checkpoint, make_vocab
from flat_options import call, perturb_df

import rankcell as rc
from rankcell.cli import main
from rankcell.embed.embed_cells import embed_to_file
from rankcell.errors import CountsError, ModelError, SettingsError
from rankcell.train import loop
from rankcell.train.pretraining import pretrain

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_training_ends_at_the_step_that_diverges(training_cells, tmp_path, monkeypatch, step, loss):
    update, losses = loop._update, []

    def diverging(*args):
        losses.append(update(*args))
        return loss if len(losses) == step else losses[-1]

    monkeypatch.setattr(loop, "_update", diverging)
    with pytest.raises(SettingsError, match=f"the training diverged: the loss is {loss} at step {step} of .* a lower lr than"):
        call(pretrain, training_cells[0], tmp_path / "model", **training_cells[1])
    assert len(losses) == step and sorted(p.name for p in tmp_path.iterdir()) == ["cells.dataset", "vocab"]


def test_a_held_out_loss_that_is_no_number_ends_it_too(training_cells, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "masked_accuracy", lambda *a, **k: {"loss": float("nan"), "top1": 0.0, "top10": 0.0})
    with pytest.raises(SettingsError, match="the training diverged: the loss is nan"):
        call(pretrain, training_cells[0], tmp_path / "model", **training_cells[1])
    assert not (tmp_path / "model").exists()


def test_a_rate_far_too_high_writes_no_model(training_cells, tmp_path, capsys):
    words = ["--vocab", training_cells[1]["vocab"], "--epochs", 3, "--layers", 1, "--width", 8, "--heads", 2, "--device", "cpu", "--lr", 1e30]
    assert main([str(w) for w in ["pretrain", training_cells[0], "-o", tmp_path / "model", *words]]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "diverged" in line]
    assert len(said) == 1 and "--lr" in said[0] and not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "name, value", [("lr", "nan"), ("lr", "inf"), ("lr", "0"), ("lr", "-1"), ("weight_decay", "nan"), ("cell_weight", "-1"), ("max_minutes", "0"), ("max_minutes", "nan"), ("mask_rate", "nan"), ("row_genes", "-1")]
)
def test_rates_are_finite_numbers_in_range(training_cells, tmp_path, name, value):
    given = int(value) if name == "row_genes" else float(value)
    with pytest.raises(SettingsError, match=f"^{name} is {given}; "):
        call(pretrain, training_cells[0], tmp_path / "model", **(training_cells[1] | {name: given}))


# Models


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory):
    """A model of finite weights whose states are not finite."""
    from safetensors.torch import load_file, save_file

    folder = make_checkpoint(tmp_path_factory.mktemp("models") / "huge", make_vocab())
    weights = load_file(folder / "model.safetensors")
    for name, w in weights.items():
        if "LayerNorm.weight" in name:
            w[:] = 3e38
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    "verb",
    [
        lambda a, m, d: rc.tl.embed(a, m, compute=rc.Compute("cpu")),
        lambda a, m, d: rc.tl.embed(a, m, pool="cls", layer=-1, compute=rc.Compute("cpu")),
        lambda a, m, d: rc.tl.state_embeddings(a, "kind", m, compute=rc.Compute("cpu")),
        lambda a, m, d: rc.tl.gene_embeddings(a, m, compute=rc.Compute("cpu")),
        lambda a, m, d: rc.tl.gene_embeddings(a, m, per_cell=True, compute=rc.Compute("cpu")),
        lambda a, m, d: perturb_df(a, m, device="cpu"),
        lambda a, m, d: rc.tl.compare_poolings(a, "kind", m, pool="mean", scoring=rc.Scoring(k=2, folds=2, resolution=0), compute=rc.Compute("cpu")),
        lambda a, m, d: call(embed_to_file, a, d / "out.npz", model=m, include=["gene_mean"], device="cpu"),
        lambda a, m, d: call(embed_to_file, a, d / "out.npy", model=m, device="cpu"),
    ],
)
def test_states_that_are_no_numbers_are_refused(overflowing, tmp_path, verb):
    adata = make_adata(np.random.default_rng(0).poisson(3, (8, 12)) + 1, kind=list("abababab"))
    with pytest.raises(ModelError, match="the states of a cell are not finite numbers in fp32: look at the weights"):
        verb(adata, overflowing, tmp_path)
    assert not adata.obsm and not (tmp_path / "out.npy").exists() and not (tmp_path / "out.npz").exists()


def test_cells_without_genes_are_no_reason(tmp_path):
    adata = make_adata([[1, 2, 0, 4], [0, 0, 0, 0], [3, 0, 1, 1]])
    with pytest.warns(rc.errors.RankcellWarning, match="1 of 3 cells have no genes"):
        rc.tl.embed(adata, make_checkpoint(tmp_path / "small", make_vocab()), compute=rc.Compute("cpu"))
    assert np.isnan(adata.obsm["X_rankcell"]).all(1).tolist() == [False, True, False]


# Totals


@pytest.mark.parametrize("total", [np.float32(1e-40), np.float64(1e-320), np.float32(1e-36), np.float32(3e38), np.float64(1.7e308)])
def test_totals_beyond_the_arithmetic_are_refused(total):
    adata = make_adata([[1, 900, 3, 4], [5, 6, 7, 80]])
    adata.obs["n_counts"] = np.array([20, total], total.dtype)
    with pytest.raises(CountsError, match="row 1 has n_counts .* mend obs n_counts"):
        rc.pp.tokenize(adata, make_vocab())


@pytest.mark.parametrize("total", [np.float32(1e-20), np.float64(1e-200), np.float32(1e30), np.float64(1e200), np.float32(18)])
def test_odd_totals_within_it_rank_as_they_are(total):
    adata = make_adata([[1, 900, 3, 4], [5, 6, 7, 80]])
    adata.obs["n_counts"] = np.full(2, total, total.dtype)
    tokens = rc.pp.tokenize(adata, make_vocab())
    assert [(row - 4)[1:-1].tolist() for row in tokens] == [[1, 3, 2, 0], [3, 2, 1, 0]]


def test_another_cells_count_is_no_reason():
    """The largest count and the smallest total stand in different cells."""
    adata = make_adata([[1, 3e30, 3, 4], [5, 6, 7, 80]])
    adata.obs["n_counts"] = np.array([3e30, 1e-8], np.float32)
    assert [(row - 4)[1:-1].tolist() for row in rc.pp.tokenize(adata, make_vocab())] == [[1, 3, 2, 0], [3, 2, 1, 0]]
