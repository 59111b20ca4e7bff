"""The GPU path on a pretended GPU: what a GPU would refuse is refused, numbers are the processor's, and little is waited for."""

import collections

import numpy as np
import pytest
import torch
from flat_options import call
from pretended_gpu import OnGpu, pretended
from small_screens import KINDS, make_engine, make_rows, make_tokens

from rankcell.embed import Embedder
from rankcell.embed.gene_sums import GeneSums
from rankcell.embed.unit_cells import Work
from rankcell.model.pools import POOLS
from rankcell.perturb.exact import sharing
from rankcell.perturb.exact.affected import AffectedRows, AffectedSums
from rankcell.perturb.fast.fast_engine import FastEngine

pytestmark = [pytest.mark.pretended_gpu, pytest.mark.usefixtures("one_thread")]

# The largest difference from float32 on the processor: of unit-size states, of cosines
LIMITS = {"fp32": 2e-5, "bf16": 0.06, "fp16": 0.01}


@pytest.fixture
def gpu():
    with pretended() as gpu:
        yield gpu


@pytest.fixture
def model(screened_model):
    return screened_model


def assert_scores_agree(scores, wanted, limit):
    """NaN in the same places; distances, which are no cosines, to ten times the limit."""
    assert list(scores) == list(wanted)
    for name, values in wanted.items():
        assert np.array_equal(np.isfinite(scores[name]), np.isfinite(values)), name
        difference = np.abs(scores[name] - values)[np.isfinite(values)]
        assert not len(difference) or difference.max() <= limit * (10 if "euclidean" in name else 1), name


def assert_predictions_agree(predicted, wanted):
    """To two thousandths of the largest: a sum over many heads, tokens and blocks in float32."""
    assert any(np.isfinite(values).any() for values in wanted.values())
    for name, values in wanted.items():
        size = np.abs(values[np.isfinite(values)]).max(initial=1e-3)
        np.testing.assert_allclose(predicted[name], values, atol=2e-3 * size, err_msg=name)


# the pretended GPU itself


def test_what_a_gpu_refuses(gpu):
    here, there, home = torch.ones(2, 3).to("cuda"), torch.ones(2, 3, device="cuda:1"), torch.ones(2, 3)
    for refused in (lambda: here + there, lambda: here + home, lambda: home.add_(here), lambda: torch.cat([here, home])):
        with pytest.raises(RuntimeError, match="same device"):
            refused()
    with pytest.raises(TypeError, match="numpy"):
        here.numpy()
    with pytest.raises(RuntimeError, match="pin"):
        here.pin_memory()
    assert (here + 1).device == torch.device("cuda", 0) and (there * here.to("cuda:1")).device == torch.device("cuda", 1)


def test_what_is_seen(gpu):
    values = torch.arange(6.0).view(2, 3)
    there = values.pin_memory().to("cuda", non_blocking=True)
    assert [e.name for e in gpu.copies_in] == ["pinned"] and not gpu.waits
    values.to("cuda")
    assert gpu.copies_in[-1].n_bytes == 24 and len(gpu.waits) == 1
    gpu.reset()
    total = (there[0] + there[1]).sum()
    assert gpu.kernels == 2 and not gpu.waits  # two views are no kernels
    assert total.item() == 15 and there.nonzero().shape == (5, 2) and torch.equal(there.cpu(), values)
    assert [w.name for w in gpu.waits] == ["item", "nonzero", "copy home"]
    there[torch.tensor([True, False])]
    assert gpu.waits[-1].name == "index on the processor"


def test_memory_that_runs_out_once(gpu):
    there = torch.ones(3, device="cuda")
    with gpu.out_of_memory(2):
        there = there + 1
        with pytest.raises(torch.OutOfMemoryError):
            there + 1
        assert (there + 1).sum().item() == 9


def test_gradients(gpu):
    x = torch.tensor([1.0, 2.0], device="cuda").requires_grad_()
    (slope,) = torch.autograd.grad((x**3).sum(), x)
    assert isinstance(slope, OnGpu) and slope.tolist() == [3, 12]


def test_random_numbers(gpu):
    """The processor's, of a generator that is where they are to be; each call's own where that is pretended."""
    wanted = torch.randn(3, 4, generator=torch.Generator().manual_seed(5))
    there = torch.empty(3, 4, device="cuda").normal_(generator=torch.Generator("cuda").manual_seed(5))
    assert isinstance(there, OnGpu) and torch.equal(there.cpu(), wanted) and not gpu.copies_in
    for refused in (torch.Generator(), torch.Generator("cuda:1")):
        with pytest.raises(RuntimeError, match="generator device"):
            torch.randn(3, device="cuda", generator=refused)
        with pytest.raises(RuntimeError, match="generator device"):
            there.normal_(generator=refused)
    gpu.draws_by_call = True
    drawn = []
    for rows in ([6], [3, 3], [6]):
        generator = torch.Generator("cuda").manual_seed(5)
        drawn.append(torch.cat([torch.randn(n, 16, device="cuda", generator=generator) for n in rows]).cpu())
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])


# the same numbers


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
@pytest.mark.parametrize("precision", LIMITS)
def test_embeddings(model, gpu, precision, device):
    """Every pooling, of two layers, in batches of a few rows."""
    tokens = make_tokens(model, (40, 40, 33, 12, 3))
    how = {"pool": list(POOLS), "layer": [-1, -2]}
    wanted = call(Embedder, model, device="cpu", precision="fp32").embed(tokens, **how).columns
    embeddings = call(Embedder, model, device=device, precision=precision, tokens_per_batch=100).embed(tokens, **how)
    assert embeddings.meta["attention"] == ("sdpa" if precision == "fp32" else "varlen")
    for name, values in wanted.items():
        limit = LIMITS[precision] * np.abs(values).max() * (8 if name.startswith(("var", "norm", "std")) else 1)
        assert np.abs(embeddings.columns[name] - values).max() <= limit, name


@pytest.mark.parametrize("precision", LIMITS)
def test_gene_sums(model, gpu, precision):
    tokens, sums = make_tokens(model, (40, 40, 33, 12, 3)), {}
    for device, way in (("cpu", "fp32"), ("cuda", precision)):
        sums[device] = GeneSums(model.vocab.n_ids, model.width, {-2: 2})
        call(Embedder, model, device=device, precision=way, tokens_per_batch=100).run(tokens, np.arange(5), Work([], {-2: 2}, sums[device]))
    for a, b in zip(sums["cpu"].mean_sd(0, -2), sums["cuda"].mean_sd(0, -2), strict=True):
        np.testing.assert_allclose(b, a, atol=2 * LIMITS[precision] * max(1, np.abs(a).max()) if a.dtype.kind == "f" else 0)


WAYS = {"all": {}, "euclidean": {"euclidean": True, "keep_perturbed": True}, "cls": {"readouts": ("cls",)}}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", LIMITS)
def test_edits(model, gpu, precision, kind, way):
    rows = make_rows(model, (40, 40, 12))
    scores = {}
    for device, held in (("cpu", "fp32"), ("cuda", precision)):
        engine = make_engine(model, device, held, kind=kind, plan=KINDS[kind], **WAYS[way])
        scores[device] = engine.run(rows, most=8).scores
    assert_scores_agree(scores["cuda"], scores["cpu"], 3 * LIMITS[precision])


def test_affected_genes(model, gpu):
    """Sums over cells, and each cell's five largest."""
    rows, found = make_rows(model, (40, 33, 12)), {}
    for device in ("cpu", "cuda"):
        engine, sums, top = make_engine(model, device), AffectedSums(model.vocab.n_ids), AffectedRows(5)
        engine.run(rows, sums=sums)
        engine.run(rows, sums=top)
        found[device] = (*sums.reduce(), *top.rows())
    for a, b in zip(found["cpu"], found["cuda"], strict=True):
        np.testing.assert_allclose(b, a, atol=1e-5)


def test_refilled_deletions(model, gpu):
    rows, longer = make_rows(model, (40, 33)), [np.asarray(model.vocab.tokens[::-1])[:60]] * 2
    longer = [np.concatenate([r[1:-1], x[~np.isin(x, r)]]) for r, x in zip(rows, longer, strict=True)]
    scores = [make_engine(model, d, plan={"refill": True}).run(rows, longer, most=12).scores for d in ("cpu", "cuda")]
    assert_scores_agree(scores[1], scores[0], 3 * LIMITS["fp32"])


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("precision", LIMITS)
def test_many_deletions_of_a_long_row(model, gpu, precision, shared, monkeypatch):
    """With and without the first block that they share."""
    monkeypatch.setattr(sharing, "DEVICES", ("cpu", "cuda"))
    monkeypatch.setattr(sharing, "LEAST_EDITS", 32 if shared else 10**9)
    (row,) = make_rows(model, (300,))
    scores = [make_engine(model, d, p, budget=6000).run([row], most=40).scores for d, p in (("cpu", "fp32"), ("cuda:1", precision))]
    assert_scores_agree(scores[1], scores[0], 3 * LIMITS[precision])


@pytest.mark.parametrize("kind", ["delete", "overexpress", "mask"])
def test_fast_predictions(model, gpu, kind):
    rows, fast = make_rows(model, (110, 100)), {}
    for device in ("cpu", "cuda:1"):
        fast[device] = FastEngine(make_engine(model, device, kind=kind), projections=4, splits=4, verify_top=2).run(rows)
    a, b = fast["cpu"], fast["cuda:1"]
    assert_predictions_agree(b.predicted, a.predicted)
    for which, exact in a.exact.items():
        assert np.array_equal(exact, b.exact[which]) and exact.any() and not exact.all()


def test_pairs(model, gpu):
    """Deletions of two genes, predicted from the deletion of the first."""
    row = make_rows(model, (60,))[0]
    genes = [model.vocab.describe_token(int(t)) for t in row[[5, *range(7, 58)]]]
    found = []
    for device in ("cpu", "cuda"):
        engine = make_engine(model, device, genes=genes[1:], plan={"anchor": genes[0]})
        found.append(FastEngine(engine, projections=1, splits=4).run([row]).predicted)
    assert_predictions_agree(found[1], found[0])


# kernels and waits: limits as of today, to be lowered whenever the work gets less


def waits_of(gpu):
    return collections.Counter(wait.name for wait in gpu.waits)


def test_work_of_an_embedding(model, gpu):
    tokens = make_tokens(model, np.arange(64) % 40 + 20)
    embedder = call(Embedder, model, device="cuda", precision="bf16", tokens_per_batch=500)
    _ = embedder.encoder
    gpu.reset()
    embedder.embed(tokens, pool=["mean", "cls"], layer=-2)
    n_batches = gpu.operations()["varlen"] / (model.n_layers - 1)
    assert n_batches == 5 and gpu.kernels <= 85 * n_batches
    assert waits_of(gpu) <= collections.Counter({"copy home": 2})  # an output each
    assert len(gpu.copies_in) <= 4 * n_batches and all(copy.name == "pinned" for copy in gpu.copies_in)


def test_work_of_one_gene_in_many_cells(model, gpu):
    gene, rows = int(model.vocab.tokens[0]), make_rows(model, np.arange(40) + 20)
    for row in rows:
        if gene not in row:
            row[len(row) // 2] = gene
    engine = make_engine(model, "cuda", "bf16", budget=100_000, genes=[model.vocab.describe_token(gene)])
    gpu.reset()
    assert len(engine.run(rows).target) == len(rows)
    assert gpu.kernels <= 23 * len(rows)
    assert len(gpu.waits) <= 3


def test_work_of_all_deletions_of_a_cell(model, gpu):
    (row,) = make_rows(model, (300,))
    engine = make_engine(model, "cuda", "bf16", budget=20_000)
    gpu.reset()
    assert len(engine.run([row]).target) == 298
    assert gpu.operations()["varlen"] == (model.n_layers - 1) * 11  # both blocks of the row, and of ten batches of deletions
    assert gpu.kernels <= 2_000 and len(gpu.waits) <= 3
    assert sum(copy.n_bytes for copy in gpu.copies_in) <= 60_000  # of 178,000 tokens, which the device makes from 298 positions
    assert waits_of(gpu)["copy home"] <= len(engine.score_names)


def waits_of_predictions(gpu):
    return [wait.name for wait in gpu.waits if wait.where.startswith(("perturb/fast/response.py", "model/tape.py"))]


def test_work_of_a_prediction(model, gpu):
    """Random numbers are drawn where they are used; what is predicted comes home in one copy."""
    (row,) = make_rows(model, (300,))
    fast = FastEngine(make_engine(model, "cuda", budget=20_000), projections=32)
    _ = fast._weights
    gpu.reset()
    fast.run([row])
    assert gpu.kernels <= 2_000 and len(gpu.waits) <= 5 and waits_of_predictions(gpu) == ["copy home"]
    assert gpu.operations()["normal_"] == 32 and gpu.operations()["linalg_qr"] == 2
    assert all(copy.name == "pinned" for copy in gpu.copies_in)
    numbers_of_a_projection = 4 * 300 * model.width  # bytes
    assert sum(copy.n_bytes for copy in gpu.copies_in) < 6 * numbers_of_a_projection


@pytest.mark.parametrize("kind", ["mask", "overexpress", "move"])
def test_a_prediction_of_every_kind_waits_once(model, gpu, kind):
    fast = FastEngine(make_engine(model, "cuda", kind=kind, plan=KINDS[kind]), projections=4, splits=4)
    gpu.reset()
    fast.run(make_rows(model, (110,)))
    assert waits_of_predictions(gpu) == ["copy home"]


def test_a_prediction_of_pairs_waits_twice(model, gpu):
    """Once for each of its passes."""
    row = make_rows(model, (60,))[0]
    genes = [model.vocab.describe_token(int(t)) for t in row[[5, *range(7, 58)]]]
    fast = FastEngine(make_engine(model, "cuda", genes=genes[1:], plan={"anchor": genes[0]}), projections=1, splits=4)
    gpu.reset()
    fast.run([row])
    assert waits_of_predictions(gpu) == ["copy home"] * 2


@pytest.mark.parametrize("by_call", [False, True])
def test_projections_are_the_same_however_many_are_drawn_at_once(model, by_call):
    (row,), predicted = make_rows(model, (110,)), []
    with pretended(draws_by_call=by_call) as gpu:
        for most in (32, 3, 1):
            engine = make_engine(model, "cuda")
            engine.encoder.memory.most["projections"] = most
            predicted.append(FastEngine(engine, splits=2, projections=7).run([row]).predicted)
        assert gpu.operations()["normal_"] == 3 * 7
    for other in predicted[1:]:
        assert_predictions_agree(other, predicted[0])
