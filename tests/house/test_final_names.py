"""What stands under a final name is final: looked at whenever something is synced, renamed or removed, which is when a kill can matter."""

import hashlib
import os
import shutil

import numpy as np
import pytest
from builders import make_checkpoint, make_vocab
from flat_options import call, run_screen

from rankcell.perturb import Perturber, merge, read_screen
from rankcell.tokens import TokenSet, TokenSpec

pytestmark = pytest.mark.usefixtures("one_thread")
FAST = dict(toward=["kind=x"], readout="cell", method="fast", splits=12, projections=2, verify_top=4, verify_screen=7)
FAST |= dict(epistasis=4, min_recall=0.9, tokens_per_unit=1)
EXACT = dict(toward=["kind=x"], affected=True, affected_top=2, cells=2, tokens_per_unit=1)
STEPS = ("replace", "rename", "fsync", "unlink", "rmdir")
pytestmark = [pytestmark, pytest.mark.filterwarnings("ignore:the recall of the top tenth|.*are expected to stay below a recall")]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Rows are long enough for a prediction to be cheaper than all edits."""
    vocab, rng = make_vocab(60), np.random.default_rng(1)
    rows = [[2, *(rng.permutation(60)[: rng.integers(40, 58)] + 4), 3] for _ in range(4)]
    spec = TokenSpec.of(vocab, frame=vocab.frame, max_len=64)
    tokens = TokenSet.from_rows(rows, spec, cell_ids=list("abcd"), obs={"kind": list("xyxy")})
    return tokens, make_checkpoint(tmp_path_factory.mktemp("place") / "model", vocab)


@pytest.fixture(scope="module")
def tokens(place):
    return place[0]


@pytest.fixture(scope="module")
def perturber(place):
    return call(Perturber, place[1], device="cpu", tokens_per_batch=500)


def digests(folder):
    """The tables of a folder by name, however far they are."""
    files = [p for p in folder.glob("*") if not p.name.startswith(".") and p.name != "manifest.json" and p.is_file()]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def watched(monkeypatch, folder, run, *, keep=None):
    """Run, and look at `folder` before and after every step: [{name: digest}]; `keep`: where every fifth of these is copied to."""
    seen = []

    def look():
        seen.append(digests(folder))
        if keep is not None and folder.exists() and len(seen) % 5 == 0:
            shutil.copytree(folder, keep / f"{len(seen):04d}")

    def step(real, *args, **how):
        look()
        done = real(*args, **how)
        look()
        return done

    with monkeypatch.context() as patch:
        for name in STEPS:
            real = getattr(os, name)
            patch.setattr(os, name, lambda *args, real=real, **how: step(real, *args, **how))
        run()
    return seen


def check(seen, wanted):
    assert len(seen) > 40 and {name for names in seen for name in names} == set(wanted)
    early = [(n, name) for n, names in enumerate(seen) for name, digest in names.items() if digest != wanted[name]]
    assert early == []


@pytest.mark.parametrize("how", [FAST, EXACT], ids=["fast", "exact"])
def test_a_run(perturber, tokens, tmp_path, monkeypatch, how):
    out = tmp_path / "s"
    (tmp_path / "killed").mkdir()
    seen = watched(monkeypatch, out, lambda: run_screen(perturber, tokens, out, **how), keep=tmp_path / "killed")
    wanted = digests(out)
    check(seen, wanted)
    if how is FAST:
        flags = read_screen(out).read("screen.parquet", columns=["exact"])["exact"].to_numpy()
        assert 0 < flags.sum() < len(flags)  # some are predicted still, and so there were some to be verified
    for left in sorted((tmp_path / "killed").iterdir())[::3]:  # what a kill would have left there goes on to the same tables
        run_screen(perturber, tokens, left, **how)
        assert digests(left) == wanted and read_screen(left).manifest["complete"]
        assert not (left / "work").exists() and not (left / "shards").exists()


@pytest.mark.parametrize("where", ["in place", "elsewhere"])
def test_a_merge(perturber, tokens, tmp_path, monkeypatch, where):
    for i in (1, 2):
        run_screen(perturber, tokens, tmp_path / "parts", shard=f"{i}/2", **FAST)
    out = tmp_path / ("parts" if where == "in place" else "merged")
    seen = watched(monkeypatch, out, lambda: merge([tmp_path / "parts"], out, device="cpu"))
    check(seen, digests(out))


def test_parts_in_one_folder_and_the_whole_after_them(perturber, tokens, tmp_path, monkeypatch):
    out = tmp_path / "s"
    seen = watched(monkeypatch, out, lambda: run_screen(perturber, tokens, out, shard="2/2", **FAST))
    seen += watched(monkeypatch, out, lambda: run_screen(perturber, tokens, out, **FAST))
    check(seen, digests(out))
