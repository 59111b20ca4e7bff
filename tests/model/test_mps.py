"""Apple's GPUs, pretended: what they have no numbers of 64 bits for is computed on the processor, to the processor's numbers."""

import numpy as np
import pytest
import torch
from flat_options import call, run_screen
from pretended_gpu import pretended
from small_screens import KINDS, make_engine, make_rows, make_tokens

from rankcell.embed import Embedder
from rankcell.embed.gene_sums import GeneSums
from rankcell.embed.unit_cells import Work
from rankcell.errors import SettingsError
from rankcell.model.devices import wide
from rankcell.model.pools import POOLS
from rankcell.perturb import Perturber
from rankcell.perturb.exact.affected import AffectedRows, AffectedSums

pytestmark = [pytest.mark.pretended_gpu, pytest.mark.usefixtures("one_thread")]


@pytest.fixture
def model(screened_model):
    return screened_model


@pytest.fixture
def gpu():
    with pretended(kind="mps", n_devices=1) as gpu:
        yield gpu


def test_what_it_refuses(gpu):
    there = torch.ones(3, device="mps")
    assert there.device == torch.device("mps", 0) and (there + 1).sum().item() == 6
    for refused in (there.double, lambda: torch.ones(3, dtype=torch.float64).to("mps"), lambda: torch.zeros(2, dtype=torch.float64, device="mps")):
        with pytest.raises(TypeError, match="float64"):
            refused()
    assert wide(there).dtype == torch.float64 and wide(there).device.type == "cpu" and gpu.operations()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_embeddings(model, gpu, precision):
    tokens = make_tokens(model, (40, 33, 12, 3))
    how = {"pool": list(POOLS), "layer": [-1, -2]}
    wanted = call(Embedder, model, device="cpu", precision="fp32").embed(tokens, **how).columns
    embeddings = call(Embedder, model, device="mps", precision=precision, tokens_per_batch=100).embed(tokens, **how)
    assert embeddings.meta["device"] == "mps" and embeddings.meta["attention"] == "sdpa" and gpu.kernels
    for name, values in wanted.items():
        limit = {"fp32": 2e-5, "fp16": 0.02}[precision] * (8 if name.startswith(("var", "norm", "std")) else 1)
        assert np.abs(embeddings.columns[name] - values).max() <= limit * np.abs(values).max(), name


def test_gene_sums(model, gpu):
    tokens, sums = make_tokens(model, (40, 33, 12)), {}
    for device in ("cpu", "mps"):
        sums[device] = GeneSums(model.vocab.n_ids, model.width, {-2: 2})
        call(Embedder, model, device=device, precision="fp32").run(tokens, np.arange(3), Work([], {-2: 2}, sums[device]))
    for a, b in zip(sums["cpu"].mean_sd(0, -2), sums["mps"].mean_sd(0, -2), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_edits(model, gpu, kind):
    """With every readout, distances and affected genes."""
    rows, scores = make_rows(model, (40, 12)), {}
    for device in ("cpu", "mps"):
        engine = make_engine(model, device, kind=kind, plan=KINDS[kind], euclidean=True, keep_perturbed=True)
        engine.run(rows, most=6, sums=AffectedRows(4))
        scores[device] = engine.run(rows, most=6, sums=AffectedSums(model.vocab.n_ids)).scores
    for name, values in scores["cpu"].items():
        np.testing.assert_allclose(scores["mps"][name], values, atol=1e-4 if "euclidean" in name else 2e-5, err_msg=name)


def test_many_deletions_of_a_long_row(model, gpu):
    (row,) = make_rows(model, (300,))
    a, b = (make_engine(model, device, budget=6_000).run([row], most=40).scores for device in ("cpu", "mps"))
    for name, values in a.items():
        np.testing.assert_allclose(b[name], values, atol=2e-5)


def test_a_screen(model, gpu, tmp_path):
    perturber = call(Perturber, model, device="mps", tokens_per_batch=500)
    screen = run_screen(perturber, make_tokens(model, (20, 12)), tmp_path / "s", toward=[], cells=1)
    assert screen.manifest["settings"]["device"] == "mps" and screen.table().num_rows == 18
    with pytest.raises(SettingsError, match="device 'mps' has no numbers of 64 bits"):
        run_screen(perturber, make_tokens(model, (20, 12)), tmp_path / "f", method="fast")
    assert not (tmp_path / "f").exists()
