"""A Perturber or Embedder that has run before gives what a fresh one gives: nothing that a run settled is carried to the next."""

import numpy as np
import pytest
from flat_options import call, run_screen

from rankcell.embed import Embedder
from rankcell.embed import store_run as run
from rankcell.embed.stores import read_embeddings
from rankcell.perturb import Perturber
from rankcell.perturb.run import runtime
from rankcell.tokens import TokenSet, TokenSpec

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tokens(small):
    rng = np.random.default_rng(1)
    rows = [[2, *(rng.permutation(12)[:n] + 4), 3] for n in (12, 11, 12, 10, 12, 11)]
    return TokenSet.from_rows(rows, TokenSpec.of(small[0], frame=small[0].frame, max_len=64))


def begun(perturber, tokens, folder):
    """A screen that is stopped once it is prepared."""

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_screen(perturber, tokens, folder, progress=stop)
    return folder


def result(screen):
    return screen.manifest, {p.name: p.read_bytes() for p in sorted(screen.folder.glob("*.parquet"))}


def test_the_budget_of_a_resumed_screen_is_its_own(small, tokens, tmp_path):
    folder = begun(call(Perturber, small[1], device="cpu", tokens_per_batch=64), tokens, tmp_path / "begun")
    perturber = call(Perturber, small[1], device="cpu")
    assert run_screen(perturber, tokens, folder).manifest["settings"]["tokens_per_batch"] == 64
    again = run_screen(perturber, tokens, tmp_path / "again")
    fresh = run_screen(call(Perturber, small[1], device="cpu"), tokens, tmp_path / "fresh")
    assert again.manifest["settings"]["tokens_per_batch"] == 4096
    assert result(again) == result(fresh)


def test_the_precision_of_a_resumed_screen_is_its_own(small, tokens, tmp_path):
    folder = begun(call(Perturber, small[1], device="cpu", precision="bf16"), tokens, tmp_path / "begun")
    perturber = call(Perturber, small[1], device="cpu")
    assert run_screen(perturber, tokens, folder).manifest["settings"]["precision"] == "bf16"
    again = run_screen(perturber, tokens, tmp_path / "again")
    assert again.manifest["settings"]["precision"] == "fp32"
    assert result(again) == result(run_screen(call(Perturber, small[1], device="cpu"), tokens, tmp_path / "fresh"))


@pytest.mark.filterwarnings("ignore::rankcell.errors.RankcellWarning")
def test_each_screen_settles_its_precision(small, tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "faster_precisions", lambda device, width: ["bf16"])
    settled = iter(["bf16", "fp32", "bf16"])

    def settle(engine_of, faster, rows, longer=None):
        precision = next(settled)
        assert engine_of("fp32").encoder.precision == "fp32" and engine_of(precision).encoder.precision == precision
        return {"precision": precision, "tried": []}

    monkeypatch.setattr(runtime.precisions, "settle", settle)
    perturber = call(Perturber, small[1], device="cpu")
    screens = [run_screen(perturber, tokens, tmp_path / str(n)) for n in range(3)]
    assert [s.manifest["settings"]["precision"] for s in screens] == ["bf16", "fp32", "bf16"]
    fresh = run_screen(call(Perturber, small[1], device="cpu", precision="fp32"), tokens, tmp_path / "fresh")
    assert result(screens[1])[1] == result(fresh)[1]


def test_memory_that_ran_out_in_a_screen_is_that_screens(small, tokens, tmp_path):
    perturber = call(Perturber, small[1], device="cpu")
    perturber.embedder.encoder.memory.most["tokens"] = 30
    again = run_screen(perturber, tokens, tmp_path / "again")
    assert perturber.embedder.encoder.memory.most == {}
    assert result(again) == result(run_screen(call(Perturber, small[1], device="cpu"), tokens, tmp_path / "fresh"))


def test_the_model_is_loaded_once(small, tokens, tmp_path, monkeypatch):
    from rankcell.embed import embedder as embedders

    loaded, load = [], embedders.Encoder
    monkeypatch.setattr(embedders, "Encoder", lambda *args, **how: loaded.append(how["precision"]) or load(*args, **how))
    perturber = call(Perturber, small[1], device="cpu")
    for name in ("a", "b", "c"):
        run_screen(perturber, tokens, tmp_path / name)
    assert loaded == ["fp32"]


def test_a_reused_embedder_keeps_its_own_budget(small, tokens, tmp_path):
    asked = run.EmbedConfig(["mean"], [-2])
    embedder = call(Embedder, small[1], device="cpu")
    embedder.encoder.memory.most["tokens"] = 30
    run.embed_to_store(embedder, tokens, tmp_path / "b.npz", asked)
    assert embedder.tokens_per_batch == 4096 and embedder.encoder.memory.most == {}
    run.embed_to_store(call(Embedder, small[1], device="cpu"), tokens, tmp_path / "c.npz", asked)
    same = [read_embeddings(tmp_path / name).columns["mean_layer-2"].tobytes() for name in ("b.npz", "c.npz")]
    assert same[0] == same[1]
