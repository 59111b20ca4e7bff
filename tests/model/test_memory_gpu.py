"""Memory of a pretended GPU that runs out at any allocation: the numbers of an undisturbed run, and what was held is given back first."""

import contextlib
import functools
import warnings

import numpy as np
import pytest
import torch
from pretended_gpu import pretended
from test_memory import SCREENS, SOME, Setting, close, few_objects, screened

from rankcell.embed.gene_sums import GeneSums
from rankcell.embed.unit_cells import Work
from rankcell.errors import ModelError, RankcellWarning
from rankcell.model import Encoder
from rankcell.perturb.exact import sharing
from rankcell.perturb.fast.epistasis import interactions
from rankcell.perturb.fast.fast_engine import FastEngine

pytestmark = [pytest.mark.pretended_gpu, pytest.mark.usefixtures("one_thread")]
MOST = 5  # allocations of a run that fail, in turn
ERRORS = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
)


@pytest.fixture
def gpu():
    with pretended() as gpu:
        yield gpu


@pytest.fixture
def setting(gpu, tmp_path):
    return Setting(tmp_path, device="cuda")


def at_every_allocation(gpu, run, same=close, most=MOST):
    """One allocation fails; of one text after the other."""
    gpu.reset()
    expected = run()
    n, chance = gpu.allocations, np.random.default_rng()
    step = max(1, n // most)
    with few_objects(), warnings.catch_warnings():
        warnings.simplefilter("ignore", RankcellWarning)
        for i, at in enumerate(range(int(chance.integers(1, step + 1)), n + 1, step)):
            gpu.reset()
            with gpu.out_of_memory(at, ERRORS[i % len(ERRORS)]):
                same(run(), expected, f"allocation {at} of {n} failed")
            assert gpu.allocations >= at and gpu.calls["empty_cache"] > 0, at


def test_embeddings_and_sums(gpu, setting):
    def run():
        sums = GeneSums(setting.vocab.n_ids, 16, {-1: 3, 0: 0}, np.array([0, 1, 0, -1]))
        found = setting.embedder().embed(setting.tokens, pool=["mean", "cls+max", "parti"], layer=[-1, -2]).columns
        setting.embedder().run(setting.tokens, np.arange(4), Work([], {-1: 3}, sums))
        return found | {f"n {g}": n for g, n in sums.counts.items()} | {f"sums {k}": v for k, v in sums.sums.items()}

    at_every_allocation(gpu, run, functools.partial(close, rtol=1e-5, atol=1e-5))


@pytest.mark.parametrize("name", ["shared", "not shared", "overexpress"])
def test_exact_screens(gpu, setting, monkeypatch, name):
    monkeypatch.setattr(sharing, "DEVICES", ("cpu", "cuda"))
    monkeypatch.setattr(sharing, "LEAST_EDITS", 4)
    monkeypatch.setattr(sharing, "LEAST_TOKENS", 30 if name == "shared" else 1_000)
    at_every_allocation(gpu, lambda: screened(setting.engine(**SCREENS[name]), setting))


def test_half_precision(gpu, tmp_path):
    """Variable-length attention, whose rows' ends are brought there for each batch."""
    setting = Setting(tmp_path, device="cuda", precision="fp16", width=32)
    at_every_allocation(gpu, lambda: screened(setting.engine(genes=SOME[:12]), setting), functools.partial(close, rtol=5e-2, atol=1e-2))


def test_fast_screens_and_pairs(gpu, setting):
    def run():
        fast = FastEngine(setting.engine(budget=2_000), splits=2, projections=2, verify_top=2)
        scored = fast.run(setting.rows[:1])
        found = interactions(fast, setting.rows[:1], [1 - scored.scores["cos_genes"]], n=5, verify=2)
        return scored.predicted | found.joint

    at_every_allocation(gpu, run, functools.partial(close, rtol=1e-3, atol=1e-5), most=4)


def test_a_gpu_that_stays_full(gpu, setting):
    """One line with what is needed, what is free, and what to change."""
    gpu.memory = 2**30
    for error in ERRORS:
        engine = setting.engine()
        with contextlib.ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", RankcellWarning)
            gpu.reset()
            gpu.allocate = lambda error=error: (_ for _ in ()).throw(error)
            stack.callback(lambda: delattr(gpu, "allocate"))
            with pytest.raises(ModelError, match=r"^the memory of device 'cuda:0' does not hold one row of 82 tokens \(.*\): choose another device, or precision='bf16'$"):
                engine.run(setting.rows)
            with pytest.raises(ModelError, match=r"^the memory of device 'cuda:0' does not hold model 'm' \("):
                Encoder(setting.checkpoint, device="cuda")
