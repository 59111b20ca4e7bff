"""Memory that runs out at any operation: the numbers of an undisturbed run, or one clear error, and never other numbers."""

import contextlib
import functools
import gc
import re
import warnings

import numpy as np
import pytest
import torch
from builders import make_checkpoint, make_vocab
from flat_options import call, edit_plan
from torch.utils._python_dispatch import TorchDispatchMode

from rankcell.embed import Embedder
from rankcell.embed.gene_sums import GeneSums
from rankcell.embed.unit_cells import Work
from rankcell.errors import ModelError, RankcellWarning
from rankcell.model import Encoder, open_checkpoint
from rankcell.model import encoder as encoder_module
from rankcell.model.device_memory import Memory
from rankcell.model.heads import load_masked_lm
from rankcell.model.weights import read_weights
from rankcell.perturb import StateEmbeddings
from rankcell.perturb.exact import pieces, sharing
from rankcell.perturb.exact.affected import AffectedRows, AffectedSums
from rankcell.perturb.exact.engine import Engine
from rankcell.perturb.fast.epistasis import interactions
from rankcell.perturb.fast.fast_engine import FastEngine
from rankcell.perturb.run.method import _Several
from rankcell.tokens import TokenSet, TokenSpec
from rankcell.train.evaluate import masked_accuracy, masked_examples

GENES, MOST = 90, 15  # genes of the vocabulary; operations of a run at which memory runs out, in turn
pytestmark = pytest.mark.usefixtures("one_thread")


@functools.cache
def is_view(func):
    returns = func._schema.returns
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


class RunsOut(TorchDispatchMode):
    """Counts the operations that may need memory; those that `fails` says yes to raise."""

    def __init__(self, fails=lambda n: False, text="CUDA out of memory. Tried to allocate 2.00 GiB."):
        super().__init__()
        self.n, self.fails, self.text = 0, fails, text

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not is_view(func):
            self.n += 1
            if self.fails(self.n):
                raise torch.OutOfMemoryError(self.text)
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def few_objects():
    """Collecting what nobody holds, as each failure does, takes a tenth of a second where all of torch is looked through."""
    gc.freeze()
    yield
    gc.unfreeze()


def at_every_operation(run, same, most=MOST):
    """Let memory run out at operations all over `run`: once, which changes nothing; at this one and a later one, which may be one clear
    error where a row alone fails twice; at all from there on."""
    with RunsOut() as counted:
        expected = run()
    same(run(), expected)
    n, chance = counted.n, np.random.default_rng()
    step = max(1, n // most)
    with few_objects(), warnings.catch_warnings():
        warnings.simplefilter("ignore", RankcellWarning)
        for at in range(int(chance.integers(1, step + 1)), n + 1, step):
            again = at + int(chance.integers(1, 2 * step + 50))
            with RunsOut(lambda i, at=at: i == at):
                same(run(), expected, f"memory ran out at operation {at} of {n}")
            if chance.random() < 0.5:
                continue
            with RunsOut(lambda i, at=at, again=again: i in (at, again)):
                found = outcome(run)
            if not isinstance(found, str):
                same(found, expected, f"memory ran out at operations {at} of {n} and {again}")
        for at in (1, n // 3, n // 2):
            with RunsOut(lambda i, at=at: i >= at):
                assert re.search(r"does not hold .*2\.00 GiB more needed", str(outcome(run))), at


def outcome(run):
    """What a run gives, or its one line of error."""
    try:
        return run()
    except ModelError as e:
        assert "\n" not in str(e)
        return str(e)


def close(found, expected, hint="", rtol=2e-5, atol=2e-6):
    """Smaller batches are tiled otherwise: float32 states differ in their last bits, and scores, which are differences of states of
    size 1, by a millionth. Counts and tokens are the same."""
    assert found.keys() == expected.keys(), hint
    for name, values in expected.items():
        if values.dtype.kind in "iu":
            np.testing.assert_array_equal(found[name], values, err_msg=f"{name}: {hint}")
        else:
            np.testing.assert_allclose(found[name], values, rtol=rtol, atol=atol, err_msg=f"{name}: {hint}")


class Setting:
    def __init__(self, folder, device="cpu", precision="fp32", width=16):
        self.vocab = make_vocab(GENES)
        self.checkpoint = open_checkpoint(make_checkpoint(folder / "m", self.vocab, positions=100, width=width))
        self.encoder = Encoder(self.checkpoint, device=device, precision=precision)
        rng = np.random.default_rng(0)
        self.rows = [np.array([2, *rng.permutation(self.vocab.tokens)[:n], 3]) for n in (80, 40, 40, 15)]
        self.states = StateEmbeddings({("x", r): rng.normal(size=width) for r in ("cell", "cls")})
        spec = TokenSpec.of(self.vocab, frame=self.vocab.frame, max_len=100)
        self.tokens = TokenSet.from_rows([r.tolist() for r in self.rows], spec)

    def engine(self, kind="delete", budget=330, **how):
        self.encoder.memory = Memory(self.encoder.device)  # nothing is known yet
        options = {k: how.pop(k) for k in ("genes", "refill", "group", "to_rank") if k in how}
        plan = edit_plan(self.vocab, kind=kind, frame=self.vocab.frame, max_len=95, **options)
        return Engine(self.encoder, plan, 2, self.states, budget, **how)

    def embedder(self):
        made = call(Embedder, self.checkpoint, device=str(self.encoder.device), precision="fp32", tokens_per_batch=100)
        self.encoder.memory = Memory(self.encoder.device)
        made._encoder = self.encoder
        return made


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return Setting(tmp_path_factory.mktemp("memory"))


# embed


def test_embeddings(setting):
    def run():
        return setting.embedder().embed(setting.tokens, pool=["mean", "cls+max", "parti"], layer=[-1, -2]).columns

    at_every_operation(run, functools.partial(close, rtol=3e-6, atol=3e-6))


def test_sums_and_states_of_genes(setting):
    def run():
        sums = GeneSums(setting.vocab.n_ids, 16, {-1: 3, 0: 0}, np.array([0, 1, 0, -1]))
        genes = setting.embedder().run(setting.tokens, np.arange(4), Work([], {-1: 3}, sums)).genes
        return {"genes": genes[-1]} | {f"n {g}": n for g, n in sums.counts.items()} | {f"sums {k}": v for k, v in sums.sums.items()}

    at_every_operation(run, functools.partial(close, rtol=1e-5, atol=1e-5))


# exact screens


def screened(engine, setting, longer=None):
    """Scores, and what becomes of the other genes, in every form."""
    sums, top, raw = AffectedSums(setting.vocab.n_ids), AffectedRows(3), AffectedRows()
    scored = engine.run(setting.rows, longer, sums=_Several([sums, top, raw]))
    found = {"cell": scored.cell, "target": scored.target} | scored.scores
    for which in engine.plan.passes:
        found |= {f"sums {which} {i}": v for i, v in enumerate(sums.reduce(which))}
    ends = zip(("top", "raw"), (top.rows(), raw.rows()), strict=True)
    # genes that move equally far but for rounding may stand in either order: of each edit how many, and how far
    return found | {f"{name} {i}": held[i] for name, held in ends for i in (0, 2)}


SOME = [f"G{i}" for i in range(30)]
SCREENS = {
    "shared": {"genes": SOME},
    "shared distances": {"genes": SOME[:12], "euclidean": True, "keep_perturbed": True},
    "not shared": {"budget": 1_000, "genes": SOME},
    "overexpress": {"kind": "overexpress", "genes": ["G0", "G1", "G2", "G70"]},
    "mask": {"kind": "mask", "genes": SOME},
    "group": {"genes": ["G0", "G1", "G2"], "group": True},
}


@pytest.mark.parametrize("name", SCREENS)
def test_exact_screens(setting, monkeypatch, name):
    monkeypatch.setattr(sharing, "LEAST_EDITS", 4)
    monkeypatch.setattr(sharing, "LEAST_TOKENS", 30 if name.startswith("shared") else 1_000)

    def run():
        return screened(setting.engine(**SCREENS[name]), setting)

    at_every_operation(run, close)


def test_refill_and_cls_alone(setting):
    longer = [np.array([2, *np.random.default_rng(1).permutation(setting.vocab.tokens)[:n], 3]) for n in (80, 40, 40, 15)]

    def run():
        engine = setting.engine(refill=True, genes=SOME, readouts=("cls",))
        return engine.run(setting.rows, longer).scores

    at_every_operation(run, close)


def test_shared_sums_that_fail_midway(setting, monkeypatch):
    """Of the two sums beside a segment either may fail: what was shared is then made anew, or not shared."""
    monkeypatch.setattr(sharing, "LEAST_EDITS", 4)
    monkeypatch.setattr(sharing, "LEAST_TOKENS", 30)
    plain, calls = sharing.FirstBlock._sums, []

    def sums(self, *where):
        calls.append(where)
        if len(calls) == fail:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, *where)

    monkeypatch.setattr(sharing.FirstBlock, "_sums", sums)
    fail = 0
    expected = screened(setting.engine(genes=SOME), setting)
    n = len(calls)
    assert n > 12
    for fail in range(1, n + 1):
        calls.clear()
        with pytest.warns(RankcellWarning, match="for what the deletions of a cell share: going on without it"):
            close(screened(setting.engine(genes=SOME), setting), expected, f"call {fail}")


def test_affected_genes_are_kept_once(setting, monkeypatch):
    """A batch holds edits of several lengths, each collected by itself: those before the one that fails count once."""
    plain, calls, how = torch.Tensor.topk, [], {"kind": "overexpress", "genes": [f"G{i}" for i in range(8)], "budget": 1_000}

    def topk(*args, **named):
        calls.append(args)
        if len(calls) == fail:
            raise RuntimeError("CUDA error: out of memory")
        return plain(*args, **named)

    monkeypatch.setattr(pieces, "_PADDED", 1.0)  # each length by itself
    monkeypatch.setattr(torch.Tensor, "topk", topk)
    fail = 0
    expected = screened(setting.engine(**how), setting)
    n = len(calls)
    assert n > 4
    for fail in range(1, n + 1):
        calls.clear()
        with pytest.warns(RankcellWarning, match="out of memory with"):
            close(screened(setting.engine(**how), setting), expected, f"call {fail} of {n}")


def test_the_smaller_budget_is_kept(setting, monkeypatch):
    """A device that holds 100 tokens, budgets of 330: two failures in all, for baselines and edits alike."""
    walk, tried = Encoder.walk, []

    def limited(self, batch, *args, **how):
        tried.append(len(batch.input_ids))
        if tried[-1] > 100:
            raise RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB")
        return walk(self, batch, *args, **how)

    expected = screened(setting.engine(), setting)
    engine = setting.engine()
    monkeypatch.setattr(Encoder, "walk", limited)
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        close(screened(engine, setting), expected)
    assert [n for n in tried if n > 100] == tried[:1] and len(tried) > 50  # the rows of all cells; then 88 tokens fit
    assert [str(w.message) for w in notes] == ["out of memory with 183 tokens a batch: going on with 91 (tokens_per_batch=91 starts so)"]
    tried.clear()
    screened(engine, setting)
    assert max(tried) <= 91


# fast screens, pairs


def test_fast_screens(setting):
    def run():
        engine = setting.engine(budget=2_000)
        scored = FastEngine(engine, splits=4, projections=4, verify_top=3).run(setting.rows[:1])
        return scored.scores | scored.predicted

    at_every_operation(run, functools.partial(close, rtol=1e-3, atol=1e-5), most=12)


def test_pairs(setting):
    def run():
        fast = FastEngine(setting.engine(budget=2_000), splits=2, projections=2)
        single = fast.engine.run(setting.rows[:1]).scores["cos_genes"]
        found = interactions(fast, setting.rows[:1], [1 - single], n=12, verify=4)
        return found.values | found.joint

    at_every_operation(run, functools.partial(close, rtol=1e-3, atol=1e-5), most=12)


def test_projections_do_not_depend_on_how_many_are_drawn_at_once(setting):
    """Where the memory holds fewer at once, the same are drawn."""
    runs = []
    for most in (8, 3, 1):
        engine = setting.engine(budget=2_000)
        setting.encoder.memory.most["projections"] = most
        runs.append(FastEngine(engine, splits=2, projections=7).run(setting.rows[:1]).predicted)
    close(runs[1], runs[0], rtol=1e-3, atol=1e-5)
    close(runs[2], runs[0], rtol=1e-3, atol=1e-5)


# models: loaded, judged, trained


def test_a_model_is_loaded(setting, monkeypatch):
    weights = {}

    def read(*args):
        if not weights:
            weights.update(read_weights(*args))
        return {name: w.clone() for name, w in weights.items()}

    monkeypatch.setattr(encoder_module, "read_weights", read)  # torch.asarray of a file's bytes does not go with such a mode

    def run():
        encoder = Encoder(setting.checkpoint, device="cpu", precision="fp32")
        return {f"{i} {part}": getattr(encoder.block(i), part).weight.numpy() for i in range(3) for part in ("qkv", "down")}

    run()
    with RunsOut() as counted:
        expected = run()
    with few_objects():
        for at in range(1, counted.n + 1, max(1, counted.n // MOST)):
            with RunsOut(lambda i, at=at: i == at):
                close(run(), expected, rtol=0, atol=0)
        for at in (1, counted.n):
            with RunsOut(lambda i, at=at: i >= at), pytest.raises(ModelError, match="the memory of device 'cpu' does not hold model 'm' "):
                run()


def test_accuracies(setting):
    model = load_masked_lm(setting.checkpoint)
    asked = masked_examples(setting.rows, setting.vocab.frame, mask=1, mask_rate=0.2, draws=2, seed=0)

    def run():
        found = masked_accuracy(model, asked, pad=0, device="cpu", tokens_per_batch=200, exclude_shown=True)
        assert model.training is False
        return {name: np.array(value) for name, value in found.items()}

    model.eval()
    at_every_operation(run, close)
