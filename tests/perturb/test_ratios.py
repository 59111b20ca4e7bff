"""What the parts of a prediction take: measured once where a screen begins on a GPU, and the same from then on."""

import json
import time

import numpy as np
import pytest
from builders import make_checkpoint, make_vocab
from flat_options import call, run_screen
from pretended_gpu import pretended
from small_screens import Stopped, make_engine, make_rows, stop

from rankcell.errors import OutputError, RankcellWarning
from rankcell.perturb import Perturber, merge
from rankcell.perturb.fast import ratios
from rankcell.perturb.fast.fast_engine import FastEngine, cost
from rankcell.perturb.fast.ratios import PROCESSOR, Ratios, measure, rounded
from rankcell.perturb.run import method_fast
from rankcell.perturb.run.loaded import LoadedScreen
from rankcell.perturb.run.method_fast import fast_engine_of
from rankcell.perturb.run.prepared import read_prepared
from rankcell.tokens import TokenSet, TokenSpec

pytestmark = [pytest.mark.pretended_gpu, pytest.mark.usefixtures("one_thread")]

WAY = dict(toward=["kind=x"], readout="cell", method="fast", splits=6, projections=2)
SLOW = Ratios(tape=24.0, adjoint=48.0, slopes=32.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("ratios") / "model", make_vocab(60))


@pytest.fixture(scope="module")
def tokens():
    vocab, rng = make_vocab(60), np.random.default_rng(1)
    rows = [[2, *(rng.permutation(60)[:n] + 4), 3] for n in (55, 50, 12, 44)]
    return TokenSet.from_rows(rows, TokenSpec.of(vocab, frame=vocab.frame, max_len=64), obs={"kind": list("xyxy")})


@pytest.fixture
def measured(monkeypatch):
    """The lengths of the rows, and the functions at once, of each time that something is measured."""
    calls = []

    def pretend(engine, rows, *, functions):
        calls.append(([len(row) for row in rows], functions))
        return SLOW

    monkeypatch.setattr(method_fast, "measure", pretend)
    return calls


def screen(model, tokens, out, device, **how):
    return run_screen(call(Perturber, model, device=device, precision="fp32", tokens_per_batch=500), tokens, out, **(WAY | how))


def begin(model, tokens, out, device, **how):
    """The settings of a screen that is begun, or gone on with, and stopped."""
    with pytest.raises(Stopped):
        screen(model, tokens, out, device, progress=stop, **how)
    return json.loads((out / "manifest.json").read_text())["settings"]


def test_rounded():
    assert [rounded(x) for x in (0.7, 0.9, 1.0, 1.2, 1.3, 1.7, 1.8, 2.4, 2.5, 4.8, 11, 1000)] == [
        0.75,
        1,
        1,
        1,
        1.5,
        1.5,
        2,
        2,
        3,
        4,
        12,
        1024,
    ]
    assert rounded(0.0) > 0


def test_costs():
    """A tape of the row and one of its shift; an adjoint with effects and one without for each score and projection of a mean."""
    how = dict(passes=2, toward=1, readouts=2, projections=3, splits=4)
    edits, lengths = np.array([500]), np.array([10])
    of = lambda r: 10 * (2 * r.tape + (r.adjoint + r.slopes) * 4 + r.adjoint * 3 + 10)  # noqa: E731
    assert cost(edits, lengths, **how) == np.ceil(of(PROCESSOR)) and cost(edits, lengths, ratios=SLOW, **how) == of(SLOW)
    assert cost(edits, lengths, ratios=Ratios(tape=1e6), **how) == 2 * 500 * 10  # all edits are run
    assert Ratios.of({}) == PROCESSOR and Ratios.of(json.loads(json.dumps(SLOW.settings))) == SLOW


def test_measured(screened_model, monkeypatch):
    """With a clock that counts kernels."""
    rows = make_rows(screened_model, (300, 200))
    with pretended() as gpu:
        monkeypatch.setattr(time, "perf_counter", lambda: float(gpu.kernels))
        engine = make_engine(screened_model, "cuda", budget=20_000)
        alone, several = measure(engine, rows[:1], functions=1), measure(engine, rows, functions=8)
        assert measure(engine, rows, functions=0) == measure(engine, rows, functions=1)
        assert gpu.calls["synchronize"] >= 2 * 4 * 3
        assert measure(make_engine(screened_model, "cuda", kind="mask", budget=20_000), rows, functions=8).adjoint >= several.adjoint
    for each in (alone, several):
        assert each.adjoint > each.slopes > 0 and each.tape > 1  # a pass among many shares its kernels with them
        assert all(rounded(x) == x for x in (each.tape, each.adjoint, each.slopes))
    assert alone.adjoint >= 4 * several.adjoint  # eight functions go back in about as many kernels as one


def test_memory_that_runs_out(screened_model, monkeypatch):
    """Fewer functions at once, as in the screen."""
    tried, adjoint = [], ratios.Tape.adjoint

    def hungry(self, cotangents, *args, **how):
        tried.append(len(cotangents))
        if len(cotangents) > 5:
            raise MemoryError
        return adjoint(self, cotangents, *args, **how)

    monkeypatch.setattr(ratios.Tape, "adjoint", hungry)
    engine = make_engine(screened_model, "cpu", budget=2_000)
    with pytest.warns(match="going on with 4 projections at once"):
        measure(engine, make_rows(screened_model, (60,)))
    assert tried[:2] == [8, 4] and set(tried) == {8, 4}


def test_measured_once(model, tokens, tmp_path, measured):
    """On the longest of the cells that are probed; resuming, parts in the same folder and every worker take what is settled."""
    with pretended():
        begun = begin(model, tokens, tmp_path / "s", "cuda:0")
        assert begun["ratios"] == SLOW.settings["ratios"] and measured == [([46, 57], 2)]
        assert begin(model, tokens, tmp_path / "s", "cuda:0") == begun == begin(model, tokens, tmp_path / "s", "cuda:0", shard="1/2")
        work = read_prepared(tmp_path / "s")
        assert fast_engine_of(LoadedScreen.open(work, "cuda:0")).ratios == SLOW and len(measured) == 1
        done = screen(model, tokens, tmp_path / "s", "cuda:0")
        assert done.manifest["settings"] == begun and done.table()["exact"].to_numpy().all()  # predictions take too long
        screen(model, tokens, tmp_path / "t", "cuda:0", dry_run=True)
        assert len(measured) == 2
        begin(model, tokens, tmp_path / "s", "cuda:0", force=True)
        assert len(measured) == 3


def test_not_measured(model, tokens, tmp_path, measured, monkeypatch):
    """On a processor, in exact screens, in a part that comes first, and in a folder that was begun without."""
    assert "ratios" not in begin(model, tokens, tmp_path / "cpu", "cpu")
    screen(model, tokens, tmp_path / "dry", "cpu", dry_run=True)
    with pretended():
        begin(model, tokens, tmp_path / "exact", "cuda:0", method="exact", splits=None, projections=None)
        part = begin(model, tokens, tmp_path / "part", "cuda:0", shard="1/2", tokens_per_unit=1)
        assert "ratios" not in part
        assert begin(model, tokens, tmp_path / "part", "cuda:0", shard="2/2", tokens_per_unit=1) == part
        with monkeypatch.context() as m:
            m.setattr(method_fast.FastMethod, "_ratios", lambda self, *args: {})
            old = begin(model, tokens, tmp_path / "old", "cuda:0")
        done = screen(model, tokens, tmp_path / "old", "cuda:0")
        assert done.manifest["settings"] == old and not done.table()["exact"].to_numpy().all()
        assert fast_engine_of(LoadedScreen.open(read_prepared(tmp_path / "part"), "cuda:0")).ratios == PROCESSOR == FastEngine(None).ratios
        with pytest.raises(OutputError, match="device: cpu there"):
            screen(model, tokens, tmp_path / "cpu", "cuda:0")
    assert measured == []


def test_parts_of_two_makes_of_device(model, tokens, tmp_path):
    """They are put together, with a note of what differs."""
    screen(model, tokens, tmp_path / "cpu", "cpu", shard="1/2", tokens_per_unit=1)
    with pretended():
        screen(model, tokens, tmp_path / "gpu", "cuda:0", shard="2/2", tokens_per_unit=1)
    with pytest.warns(
        RankcellWarning, match=r"device: cpu .*to the last bit, and predicted sizes of shift to the error of their random projections"
    ):
        done = merge([tmp_path / "cpu", tmp_path / "gpu"], tmp_path / "both")
    assert done.manifest["complete"]
