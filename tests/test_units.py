"""Units of work: how many tokens one is, on a processor and on a GPU, asked for, held in a folder, and in parts."""

import json

import numpy as np
import pytest
from pretended_gpu import pretended

from rankcell.embed import Embedder, run
from rankcell.embed.asked import Asked
from rankcell.embed.run import embed_to_store
from rankcell.errors import OutputError
from rankcell.model.encoder import budget_for, unit_size
from rankcell.perturb import Perturber
from rankcell.tokens import TokenSet, TokenSpec

pytestmark = [pytest.mark.pretended_gpu, pytest.mark.usefixtures("one_thread")]


class Stopped(Exception):
    pass


def stop(done, n):
    raise Stopped


@pytest.fixture(scope="module")
def tokens(small):
    rng = np.random.default_rng(1)
    rows = [[2, *(rng.permutation(12)[:n] + 4), 3] for n in (3, 5, 4, 6, 2, 5)]
    return TokenSet.from_rows(rows, TokenSpec.of(small[0], frame=small[0].frame, max_len=10))


def settings_of(folder):
    return json.loads((folder / "manifest.json").read_text())["settings"]


def screen(small, tokens, out, device, *, budget=None, **how):
    """The settings of a screen that is begun and stopped, or gone on with, in `out`; and the error that ended it, if any."""
    with pytest.raises((Stopped, OutputError)) as e:
        Perturber(small[1], device=device, precision="fp32", tokens_per_batch=budget).perturb(tokens, out, progress=stop, **how)
    return settings_of(out), e.value


def test_the_rule(small):
    assert unit_size("cpu", 10**6, 250_000) == 250_000
    with pretended():
        assert unit_size("cuda:0", 1_000, 250_000) == 250_000
        assert unit_size("cuda:0", 262_144, 250_000) == 8 * 262_144
        assert unit_size("cpu", 262_144, 250_000) == 250_000
        embedder = Embedder(small[1], device="cuda:0")
        assert embedder.tokens_per_unit(1) == 8 * budget_for(embedder.checkpoint, "cuda:0", "auto") == 8 * embedder.tokens_per_batch


def test_units_of_a_screen(small, tokens, tmp_path):
    """On a processor as ever; on a GPU several batches; what is asked for as it is; a part as on a processor."""
    assert screen(small, tokens, tmp_path / "cpu", "cpu", budget=100_000)[0]["tokens_per_unit"] == 250_000
    with pretended():
        assert screen(small, tokens, tmp_path / "gpu", "cuda:0")[0]["tokens_per_unit"] == 8 * 262_144
        assert screen(small, tokens, tmp_path / "small", "cuda:0", budget=100_000)[0]["tokens_per_unit"] == 800_000
        assert screen(small, tokens, tmp_path / "asked", "cuda:0", tokens_per_unit=30)[0]["tokens_per_unit"] == 30
        assert screen(small, tokens, tmp_path / "part", "cuda:0", shard="1/2")[0]["tokens_per_unit"] == 250_000


@pytest.mark.parametrize("held", [250_000, 30])
def test_a_folder_goes_on_with_its_units(small, tokens, tmp_path, held):
    """Also one of an earlier version, whose units were 250,000 tokens on every device; parts take them from the folder."""
    with pretended():
        begun, _ = screen(small, tokens, tmp_path / "s", "cuda:0", tokens_per_unit=held)
        for how in ({}, {"shard": "1/2"}, {"tokens_per_unit": held}):
            again, error = screen(small, tokens, tmp_path / "s", "cuda:0", **how)
            assert again == begun and isinstance(error, Stopped)
        perturber = Perturber(small[1], device="cuda:0", precision="fp32")
        assert perturber.perturb(tokens, tmp_path / "s", dry_run=True).n_units == (
            1 if held > 1_000 else 5
        )  # of 330 tokens, the last two cells together
        again, error = screen(small, tokens, tmp_path / "s", "cuda:0", tokens_per_unit=31)
        assert again == begun and f"tokens_per_unit: {held} there, 31 now" in str(error)
        anew, error = screen(small, tokens, tmp_path / "s", "cuda:0", force=True)
        assert anew["tokens_per_unit"] == 8 * 262_144 and isinstance(error, Stopped)
        assert screen(small, tokens, tmp_path / "s", "cuda:0", shard="1/2")[0] == anew


def test_units_of_an_embedding(small, tokens, tmp_path, monkeypatch):
    """Settled when a run begins, and held in its folder; a folder of an earlier version goes on with its own."""

    def begin(out, device):
        monkeypatch.setattr(run, "_compute", stop_before)
        with pytest.raises(Stopped):
            embed_to_store(Embedder(small[1], device=device, precision="fp32"), tokens, tmp_path / out, Asked(["mean"], [-2]), shard="1/1")
        return settings_of(tmp_path / f"{out}.run")

    def stop_before(units, part, prepare, progress):
        raise Stopped

    assert begin("cpu.npz", "cpu")["tokens_per_unit"] == 500_000
    with pretended():
        assert begin("gpu.npz", "cuda:0")["tokens_per_unit"] == 8 * 262_144
        with monkeypatch.context() as m:
            m.setattr(Embedder, "tokens_per_unit", lambda self, least: least)
            old = begin("old.npz", "cuda:0")
        assert old["tokens_per_unit"] == 500_000 and begin("old.npz", "cuda:0") == old
