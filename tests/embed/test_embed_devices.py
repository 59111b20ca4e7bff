"""rankcell embed on several devices and in parts: the bytes of one process, whoever computes; and the GPU is free before others start."""

import os
import shutil
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from builders import make_checkpoint, make_vocab
from flat_options import call, run_screen

import rankcell as rc
from rankcell.cli import main
from rankcell.embed import Embedder
from rankcell.embed import store_run as run
from rankcell.embed.embed_cells import embed_part
from rankcell.embed.stores import read_embeddings
from rankcell.errors import OutputError, RankcellWarning, SettingsError
from rankcell.execute import engine as execution
from rankcell.perturb import Perturber
from rankcell.store.parts import PartDone
from rankcell.tokens import TokenSet, TokenSpec

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:1 of 30 cells have no genes"),
    pytest.mark.filterwarnings("ignore:2 processes of .* threads"),
]

EVERYTHING = ["--include", "cell,gene,gene_mean,state", "--by", "kind", "--pool", "mean", "--pool", "cls"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model and 30 cells of 3 to 20 genes, of which one has none."""
    folder = tmp_path_factory.mktemp("place")
    vocab = make_vocab(40)
    make_checkpoint(folder / "model", vocab)
    rng = np.random.default_rng(0)
    rows = [np.concatenate([[2], rng.permutation(vocab.tokens)[: n if i else 0], [3]]) for i, n in enumerate(rng.integers(3, 21, 30))]
    spec = TokenSpec.of(vocab, frame=vocab.frame, max_len=64)
    TokenSet.from_rows(rows, spec, obs={"kind": [["a", "b", None][i % 3] for i in range(30)]}).save(folder / "cells.dataset")
    return folder


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    monkeypatch.setattr(run, "TOKENS_PER_UNIT", 60)


@pytest.fixture(scope="module")
def whole(place, tmp_path_factory):
    """{suffix: file} that one process has written."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as m:
        m.setattr(run, "TOKENS_PER_UNIT", 60)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RankcellWarning)  # module fixtures are not under the marks
            for name in ("e.parquet", "all.parquet"):
                assert main(command(place, folder / name, *(EVERYTHING if name == "all.parquet" else []))) == 0
    return folder


def command(place, out, *more, device="cpu"):
    return [str(x) for x in ("embed", place / "cells.dataset", "-o", out, "--model", place / "model", "--device", device, *more)]


def assert_same(out, wanted):
    """Every byte, but for means over genes, whose sums were added in another order."""
    a, b = read_embeddings(out), read_embeddings(wanted)
    assert a.cell_ids == b.cell_ids and a.meta == b.meta and list(a.tables) == list(b.tables)
    for name, values in b.columns.items():
        assert np.array_equal(a.columns[name], values, equal_nan=True), name
    for table, columns in b.tables.items():
        for name, values in columns.items():
            if table == "gene_means" and name.startswith(("mean", "sd")):
                np.testing.assert_allclose(a.tables[table][name], values, rtol=1e-6)
            else:
                assert np.array_equal(a.tables[table][name], values, equal_nan=np.asarray(values).dtype.kind == "f"), (table, name)


@pytest.mark.parametrize("name", ["e.parquet", "all.parquet"])
def test_two_devices(place, whole, tmp_path, capsys, name):
    assert main(command(place, tmp_path / name, *(EVERYTHING if name == "all.parquet" else []), device="cpu,cpu")) == 0
    assert_same(tmp_path / name, whole / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in whole.glob(f"{name.split('.')[0]}*"))


def test_more_devices_than_units(place, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "TOKENS_PER_UNIT", 10**6)
    assert main(command(place, tmp_path / "e.parquet", device="cpu,cpu,cpu")) == 0
    assert_same(tmp_path / "e.parquet", whole / "e.parquet")


@pytest.mark.parametrize(("name", "device"), [("e.parquet", "cpu"), ("all.parquet", "cpu"), ("all.parquet", "cpu,cpu")])
def test_parts(place, whole, tmp_path, capsys, name, device):
    """In any order, on one device or several each; the command without --shard puts them together."""
    more = EVERYTHING if name == "all.parquet" else []
    for part in ("2/3", "1/3"):
        assert main(command(place, tmp_path / name, *more, "--shard", part, device=device)) == 0
        assert not (tmp_path / name).exists()
    said = capsys.readouterr().out
    assert "part 2/3 is done" in said and "part 1/3 is done" in said and "the same command without --shard" in said
    shards = list((tmp_path / f"{name}.run" / "shards").glob("cells-*"))
    ages = {p.name: p.stat().st_mtime_ns for p in shards}
    seen = []
    with pytest.MonkeyPatch.context() as m:
        real = run.write_result
        m.setattr(run, "write_result", lambda *a, **k: seen.extend((p.name, p.stat().st_mtime_ns) for p in shards) or real(*a, **k))
        assert main(command(place, tmp_path / name, *more)) == 0  # the third part, and all together
    assert dict(seen) == ages  # what was done was not done again
    assert_same(tmp_path / name, whole / name)
    assert not (tmp_path / f"{name}.run").exists()


def test_parts_from_python(place, tmp_path):
    done = call(embed_part, place / "cells.dataset", tmp_path / "e.npz", model=place / "model", device="cpu", shard="1/2")
    assert isinstance(done, PartDone) and done.folder == tmp_path / "e.npz.run" and 0 < done.done < done.n_units


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2"])
def test_parts_that_are_none(place, tmp_path, capsys, shard):
    assert main(command(place, tmp_path / "e.parquet", f"--shard={shard}")) == 2
    assert "expected I/N" in capsys.readouterr().err.strip().splitlines()[-1] and not list(tmp_path.iterdir())


def test_a_part_of_another_run(place, tmp_path, capsys):
    assert main(command(place, tmp_path / "e.parquet", "--shard", "1/2")) == 0
    assert main(command(place, tmp_path / "e.parquet", "--shard", "2/2", "--pool", "cls")) == 2
    assert "holds another run" in capsys.readouterr().err.strip().splitlines()[-1]
    assert main(command(place, tmp_path / "e.parquet", "--shard", "2/2")) == 0


def test_tokens_that_have_changed_meanwhile(place, tmp_path, capsys):
    moved = tmp_path / "place"
    shutil.copytree(place, moved)
    assert main(command(moved, tmp_path / "e.parquet", "--shard", "1/2")) == 0
    tokens = TokenSet.open(moved / "cells.dataset")
    tokens.take(range(29, -1, -1)).save(moved / "cells.dataset", force=True)
    with pytest.raises(OutputError, match="is not what it was when"), run_units(tmp_path / "e.parquet.run") as _:
        pass


def run_units(folder):
    from rankcell.embed.embedding_units import open_units

    return open_units(str(folder), "cpu", "0")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs signals")
def test_killed_and_gone_on_with_on_other_devices(place, whole, tmp_path):
    out = tmp_path / "all.parquet"
    line = f"import sys; from rankcell.embed import store_run as run, embedding_units as units; run.TOKENS_PER_UNIT, units._SECONDS = 60, 0\nfrom rankcell.cli import main; main({command(place, out, *EVERYTHING, device='cpu,cpu')!r})"
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # as many as the undisturbed run had
    call = [sys.executable, "-W", "ignore", "-c", line]
    process = subprocess.Popen(call, env=os.environ | threads, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 600
    while not list(tmp_path.glob("all.parquet.run/gene_sums-*.npz")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.kill()
    process.wait()
    time.sleep(0.5)  # the processes of the devices see that nobody is there
    assert out.exists() or list(tmp_path.glob("all.parquet.run/shards/cells-*"))
    if not out.exists():
        assert main(command(place, out, *EVERYTHING)) == 0
    assert_same(out, whole / "all.parquet")


def test_work_in_memory_is_on_one_device(place):
    tokens = TokenSet.open(place / "cells.dataset")
    with pytest.raises(SettingsError, match="not shared out over several devices, name one"):
        call(Embedder, place / "model", device="cpu,cpu").embed(tokens)
    with pytest.raises(SettingsError, match="not shared out over several devices, name one"):
        rc.tl.state_embeddings(tokens, "kind", place / "model", compute=rc.Compute("cpu,cpu"))
    with pytest.raises(SettingsError, match="not shared out over several devices, name one"):
        rc.tl.gene_embeddings(tokens, place / "model", compute=rc.Compute("cpu,cpu"))


# the parent's own model is gone before the processes of the devices load theirs


def test_the_model_is_released_before_embedding_is_shared_out(place, tmp_path, monkeypatch):
    embedder, seen = call(Embedder, place / "model", device="cpu,cpu"), []
    monkeypatch.setattr(execution, "run_on", lambda task, folder, units, devices, count, **how: seen.append((embedder._encoder, devices)))
    with pytest.raises(FileNotFoundError):  # nothing was computed
        run.embed_to_store(embedder, TokenSet.open(place / "cells.dataset"), tmp_path / "e.npz", run.EmbedConfig(["mean"], [-2]))
    assert seen == [(None, ["cpu", "cpu"])]


def test_the_model_is_released_before_a_screen_is_shared_out(place, tmp_path, monkeypatch):
    perturber, seen = call(Perturber, place / "model", device="cpu,cpu"), []

    def stop(task, folder, units, devices, count, **how):
        seen.append((perturber.embedder._encoder, devices))
        raise KeyboardInterrupt

    monkeypatch.setattr(execution, "run_on", stop)
    with pytest.raises(KeyboardInterrupt):
        run_screen(perturber, TokenSet.open(place / "cells.dataset"), tmp_path / "s", tokens_per_unit=2_000)
    assert seen == [(None, ["cpu", "cpu"])]
