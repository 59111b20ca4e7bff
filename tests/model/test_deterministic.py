"""The same bytes each time: nothing on the GPU path has an order of sums or writes that is not fixed, as torch's list has it."""

import numpy as np
import pytest
import torch
from flat_options import call
from pretended_gpu import pretended
from small_screens import KINDS, make_engine, make_rows, make_tokens

from rankcell.embed import Embedder
from rankcell.embed.gene_sums import GeneSums
from rankcell.embed.unit_cells import Work
from rankcell.model.pools import POOLS
from rankcell.perturb.exact.affected import AffectedRows, AffectedSums
from rankcell.perturb.fast.fast_engine import FastEngine

pytestmark = [pytest.mark.pretended_gpu, pytest.mark.usefixtures("one_thread")]


@pytest.fixture
def model(screened_model):
    return screened_model


@pytest.fixture
def gpu():
    with pretended() as gpu:
        yield gpu
        assert gpu.launches and gpu.unordered == []


@pytest.fixture
def seen():
    """The same, of which something is expected."""
    with pretended() as gpu:
        yield gpu


@pytest.mark.parametrize(
    "operation",
    [
        lambda x, at: x.cumsum(0),
        lambda x, at: x.cumsum(1),
        lambda x, at: x.index_add_(0, at, x.clone()),
        lambda x, at: x.scatter_add_(0, at[:, None].expand(3, 2), x.clone()),
        lambda x, at: x.index_put_((at,), x.clone(), accumulate=True),
        lambda x, at: x.__setitem__(at, x + 1),
        lambda x, at: x[:, 0].kthvalue(1),
        lambda x, at: torch.bincount(at, weights=x[:, 0]),
    ],
)
def test_what_has_no_fixed_order_is_seen(seen, operation):
    operation(torch.ones(3, 2, device="cuda"), torch.tensor([0, 2, 2]).to("cuda"))
    assert len(seen.unordered) == 1


def test_what_has_one_is_not(seen):
    x, at = torch.ones(3, 2, device="cuda"), torch.tensor([2, 0, 1]).to("cuda")
    x[at] = x + 1
    x[at[:2]] = 5.0
    x[at, at % 2] = x[:, 0]
    at.cumsum(0)
    x.sum(0), x.sort(0), x[torch.tensor([0, 0]).to("cuda")]
    assert seen.unordered == [] and seen.kernels > 5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_embeddings(model, gpu, precision):
    tokens = make_tokens(model, (40, 40, 33, 12, 3))
    embedder = call(Embedder, model, device="cuda", precision=precision, tokens_per_batch=100)
    embedder.embed(tokens, pool=list(POOLS), layer=[-1, -2])
    sums = GeneSums(model.vocab.n_ids, model.width, {-2: 2})
    embedder.run(tokens, np.arange(5), Work([], {-2: 2}, sums))


@pytest.mark.parametrize("kind", KINDS)
def test_edits(model, gpu, kind):
    engine = make_engine(model, "cuda", "bf16", kind=kind, plan=KINDS[kind], euclidean=True, keep_perturbed=True)
    for sums in (AffectedSums(model.vocab.n_ids), AffectedRows(4)):
        engine.run(make_rows(model, (40, 12)), most=8, sums=sums)


def test_many_deletions_of_a_long_row(model, gpu):
    make_engine(model, "cuda", budget=6_000).run(make_rows(model, (300,)), most=40)


@pytest.mark.parametrize("kind", ["delete", "overexpress", "mask", "move"])
def test_predictions(model, gpu, kind):
    """The sum of slopes along a row is made on the processor."""
    fast = FastEngine(make_engine(model, "cuda", kind=kind, plan=KINDS[kind]), projections=4, splits=4)
    scored = fast.run(make_rows(model, (110,)))
    assert not all(exact.all() for exact in scored.exact.values())


def test_twice_the_same_bytes(model, gpu):
    rows = make_rows(model, (110, 60))
    for engine in (make_engine(model, "cuda", "bf16", budget=3_000), FastEngine(make_engine(model, "cuda"), projections=4, splits=4)):
        a, b = engine.run(rows).scores, engine.run(rows).scores
        assert all(a[name].tobytes() == b[name].tobytes() for name in a)
