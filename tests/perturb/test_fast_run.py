"""How fast screens are run: tables, audit and verification, resuming and parts, effort, options and what is refused."""

import errno
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from builders import ROOT, make_checkpoint, make_vocab
from flat_options import call, draw_screen, perturb_df, run_screen, screen_cells

import rankcell as rc
from rankcell.cli import main
from rankcell.errors import CellError, InputError, OutputError, RankcellWarning, SettingsError
from rankcell.execute import engine as execution
from rankcell.perturb import Estimate, Perturber, merge, read_screen, run_unit
from rankcell.perturb.exact.engine import Engine
from rankcell.perturb.fast import effort, epistasis
from rankcell.perturb.fast.fast_engine import FastEngine
from rankcell.perturb.run import loaded
from rankcell.store import read_sealed_json, write_sealed_json
from rankcell.tokens import TokenSet, TokenSpec

N = 12
SMALL = dict(toward=["kind=x"], readout="cell")
WAY = dict(SMALL, method="fast", splits=12, projections=2, tokens_per_unit=1)  # a unit for each cell
MORE = dict(WAY, verify_top=4, verify_screen=7)
BY = "toward_x_cell_in_place"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with tokens and the model. Rows are long enough for a prediction to be cheaper than all edits."""
    folder = tmp_path_factory.mktemp("place")
    vocab = make_vocab(60)
    make_checkpoint(folder / "model", vocab)
    rng = np.random.default_rng(1)
    rows = [[2, *(rng.permutation(60)[: rng.integers(30, 58)] + 4), 3] for _ in range(N)]
    spec = TokenSpec.of(vocab, frame=vocab.frame, max_len=64)
    tokens = TokenSet.from_rows(rows, spec, cell_ids=[f"c{i}" for i in range(N)], obs={"kind": list("xy" * (N // 2))})
    tokens.save(folder / "cells.dataset")
    (folder / "only.txt").write_text("c3\n\nc1\nc3\n")
    (folder / "unknown.txt").write_text("c3\nnobody\n")
    (folder / "none.txt").write_text("\n")
    return folder


@pytest.fixture(scope="module")
def tokens(place):
    return TokenSet.open(place / "cells.dataset")


@pytest.fixture(scope="module")
def perturber(place):
    return call(Perturber, place / "model", device="cpu", tokens_per_batch=500)


@pytest.fixture(scope="module")
def exact(perturber, tokens, tmp_path_factory):
    return run_screen(perturber, tokens, tmp_path_factory.mktemp("exact") / "s", **SMALL)


@pytest.fixture(scope="module")
def whole(perturber, tokens, tmp_path_factory):
    """An undisturbed fast run in one process."""
    return run_screen(perturber, tokens, tmp_path_factory.mktemp("whole") / "s", **MORE)


def tables(folder):
    assert read_screen(folder).manifest["complete"]
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.suffix in (".parquet", ".txt")}


def facts(folder):
    """What the manifest says, without the settings."""
    return {k: v for k, v in read_screen(folder).manifest.items() if k not in ("settings", "fingerprint")}


def same(folder, other):
    assert tables(folder) == tables(other) and facts(folder) == facts(other)
    assert sorted(p.name for p in folder.iterdir() if p.name[0] != ".") == sorted(p.name for p in other.iterdir() if p.name[0] != ".")


def stopping(folder, n, kind="screen"):
    """A progress callback that stops the run when so many shards are whole."""

    def stop(done, total):
        if len(list(folder.glob(f"shards/{kind}-*.parquet"))) >= n:
            raise KeyboardInterrupt

    return stop


# tables


def test_the_table_has_the_same_rows_and_columns(whole, exact):
    found, theirs = whole.table().to_pandas(), exact.table().to_pandas()
    columns = list(theirs)
    assert list(found) == [*columns[:6], "exact", "exact_in_place", *columns[6:]]
    pd.testing.assert_frame_equal(found[columns[:6]], theirs[columns[:6]])
    assert found["exact"].dtype == bool and found.notna().all().all()
    # batches of other edits: the same to rounding
    for which, part in (("", "toward_x_cell"), ("_in_place", BY)):
        run = found[f"exact{which}"]
        assert 0 < run.sum() < len(found)
        np.testing.assert_allclose(found.loc[run, part], theirs.loc[run, part], atol=1e-6)
        assert np.corrcoef(found[part], theirs[part])[0, 1] > 0.8
    np.testing.assert_allclose(found["toward_x_cell_position"], found["toward_x_cell"] - found[BY], atol=1e-12)
    np.testing.assert_allclose(found["shift_cell_position"], found["cos_cell_in_place"] - found["cos_cell"], atol=1e-12)


def test_the_manifest(whole, exact):
    added = ("method", "audit", "verify_top", "verify_screen", "verify_by", "splits", "projections", "min_recall")
    held = whole.manifest["settings"]
    assert [held[k] for k in added] == ["fast", 0.02, 4, 7, BY, 12, 2, None]
    assert not {*added} & exact.manifest["settings"].keys() and "audit" not in exact.manifest
    assert set(whole.manifest["audit"]) == {"cos_cell", "cos_cell_in_place", "toward_x_cell", BY}
    assert not (exact.folder / "audit.parquet").exists() and not (whole.folder / "short_cells.txt").exists()


def test_the_audit_tables(whole):
    table = whole.table().to_pandas().set_index(["cell_id", "edit"])
    audit = whole.audit().to_pandas()
    assert list(audit)[:7] == ["cell_id", "edit", "rank", "n_tokens", "sampled", "sampled_whole", "sampled_in_place"]
    here = table.loc[pd.MultiIndex.from_frame(audit[["cell_id", "edit"]])].reset_index()
    assert (table["exact"] | table["exact_in_place"]).sum() == len(audit)
    run = here["exact_in_place"]
    assert (audit[BY].notna() == run).all() and (audit["toward_x_cell"].notna() == here["exact"]).all()
    np.testing.assert_array_equal(audit.loc[run, BY], here.loc[run, BY])
    assert audit[f"{BY}_predicted"].notna().all()
    assert (audit["sampled"] == (audit["sampled_whole"] | audit["sampled_in_place"])).all()
    assert (audit.groupby("cell_id")["sampled"].sum() == 12).all()
    cells = pq.read_table(whole.folder / "audit_cells.parquet").to_pandas()
    assert list(cells) == ["cell_id", "score", "n_edits", "n", "spearman", "error", "relative_error", "recall", "short"]
    assert len(cells) == 4 * N and not cells["short"].any() and cells["recall"].between(0, 1).all()
    assert cells.groupby("score")["n"].sum().to_dict() == {k: v["n"] for k, v in whole.manifest["audit"].items()}


def test_each_value_belongs_to_its_cell_alone(perturber, tokens, whole, tmp_path):
    """Other units, other neighbours."""
    found = run_screen(perturber, tokens, tmp_path / "s", **(MORE | dict(tokens_per_unit=10**9)))
    assert found.manifest["n_units"] == 1 and whole.manifest["n_units"] == N
    a, b = (pd.read_parquet(f / "screen.parquet") for f in (found.folder, whole.folder))
    pd.testing.assert_frame_equal(a, b, atol=1e-6)
    assert (a["exact"] == b["exact"]).all()
    alone = run_screen(perturber, tokens, tmp_path / "t", only=["c5"], **(MORE | dict(verify_screen=0)))
    first = run_screen(perturber, tokens, tmp_path / "u", **(MORE | dict(verify_screen=0)))
    alone, first = alone.table().to_pandas(), first.table().to_pandas()
    pd.testing.assert_frame_equal(alone, first[first["cell_id"] == "c5"].reset_index(drop=True), atol=1e-6)


def test_kinds_and_readouts(perturber, tokens, tmp_path):
    for number, how in enumerate((dict(kind="mask"), dict(readout="cls"), dict(readout=["genes", "cell", "cls"]))):
        found = run_screen(perturber, tokens, tmp_path / f"s{number}", **(WAY | dict(cells=3) | how))
        columns = found.table().schema.names
        assert ("exact_in_place" in columns) == (how.get("kind") is None) and "exact" in columns
        assert found.manifest["audit"] and ("sampled_whole" in found.audit().schema.names) == ("exact_in_place" in columns)


def test_from_python(place, tmp_path):
    found = perturb_df(place / "cells.dataset", place / "model", device="cpu", only=place / "only.txt", out=tmp_path / "s", **WAY)
    assert set(found["cell_id"]) == {"c1", "c3"} and "exact" in found
    assert json.loads((tmp_path / "s" / "manifest.json").read_text())["settings"]["method"] == "fast"
    with pytest.warns(RankcellWarning, match="no edit is in 5 cells or more: there is no p"):
        assert {"exact", "effect"} & set(rc.tl.rank_edits(tmp_path / "s").columns)
    with pytest.raises(OutputError, match="has no audit.parquet: it was not run with method='fast'"):
        screen_cells(place / "cells.dataset", tmp_path / "t", model=place / "model", device="cpu", cells=1, **SMALL).audit()


# verification


def test_the_largest_of_the_screen_are_verified(perturber, tokens, whole, exact, tmp_path):
    before = run_screen(perturber, tokens, tmp_path / "s", **(MORE | dict(verify_screen=0))).table().to_pandas()
    after, truth = whole.table().to_pandas(), exact.table().to_pandas()
    open_ = before.index[~before["exact_in_place"]]
    largest = before.loc[open_, BY].abs().sort_values(ascending=False, kind="stable").index[:7]
    changed = after["exact_in_place"] & ~before["exact_in_place"]
    assert sorted(largest) == changed.index[changed].tolist()
    assert after.loc[largest, ["exact", "exact_in_place"]].all().all()
    scores = [c for c in truth if c.startswith(("cos_", "toward_", "shift_"))]
    np.testing.assert_allclose(after.loc[largest, scores], truth.loc[largest, scores], atol=1e-6)
    pd.testing.assert_frame_equal(after.drop(largest), before.drop(largest))
    run = before.loc[largest, "exact"]  # of which the whole deletion was known stay as they were
    assert (after.loc[largest[run], "toward_x_cell"] == before.loc[largest[run], "toward_x_cell"]).all()
    audit = whole.audit().to_pandas().set_index(["cell_id", "edit"])
    rows = audit.loc[pd.MultiIndex.from_frame(after.loc[largest, ["cell_id", "edit"]])]
    assert rows.notna().all().all() and not rows["sampled_in_place"].any()
    assert (rows["sampled"].to_numpy() == run.to_numpy()).all()
    np.testing.assert_array_equal(rows[f"{BY}_predicted"], before.loc[largest, BY])
    held = json.loads((tmp_path / "s" / "manifest.json").read_text())["audit"]
    assert whole.manifest["audit"] == held  # what was chosen does not judge


def test_a_score_to_verify_by(perturber, tokens, tmp_path):
    screen = run_screen(perturber, tokens, tmp_path / "s", **(WAY | dict(verify_top=8, verify_by="cos_cell")))
    found, audit = (t.to_pandas().set_index(["cell_id", "edit"]) for t in (screen.table(), screen.audit()))
    chosen = audit[~audit["sampled"]]
    for cell, rows in chosen.groupby("cell_id"):
        others = found.loc[[cell]]
        assert (1 - rows["cos_cell_predicted"]).min() >= (1 - others["cos_cell"])[~others["exact"]].max()
    assert 4 < len(chosen) / N <= 8 and set(screen.manifest["audit"]["cos_cell"]["at"]) == {"5"}


def test_more_to_verify_than_there_is(perturber, tokens, exact, tmp_path):
    found = run_screen(perturber, tokens, tmp_path / "s", only=["c1"], **(WAY | dict(verify_screen=10**6))).table().to_pandas()
    assert found["exact_in_place"].all() and found["exact"].sum() > len(found) - 13
    truth = exact.table().to_pandas()
    np.testing.assert_allclose(found[BY], truth[truth["cell_id"] == "c1"][BY], atol=1e-6)


# resuming, parts, devices


@pytest.mark.parametrize(("kind", "n"), [("screen", 0), ("screen", 5), ("verified", 0), ("verified", 2)])
def test_going_on(perturber, tokens, whole, tmp_path, kind, n, monkeypatch):
    folder = tmp_path / "s"
    glob = f"{kind}-*" if kind == "screen" else "verified-*"
    if kind == "verified":  # the units are there
        run = Engine.run_edits

        def stop(self, *args, **how):
            if len(list(folder.glob("shards/screen-*"))) == N and len(list(folder.glob(f"shards/{glob}"))) >= n:
                raise KeyboardInterrupt
            return run(self, *args, **how)

        monkeypatch.setattr(Engine, "run_edits", stop)
    with pytest.raises(KeyboardInterrupt):
        run_screen(perturber, tokens, folder, progress=stopping(folder, n) if kind == "screen" else None, **MORE)
    monkeypatch.undo()
    assert len(list(folder.glob(f"shards/{glob}.parquet"))) >= n and not (folder / "screen.parquet").exists()
    run_screen(perturber, tokens, folder, **MORE)
    same(folder, whole.folder)
    at = (folder / "manifest.json").stat().st_mtime_ns
    run_screen(perturber, tokens, folder, **MORE)
    assert (folder / "manifest.json").stat().st_mtime_ns == at


def test_a_shard_is_last_that_of_the_screen(perturber, tokens, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_screen(perturber, tokens, tmp_path / "s", progress=stopping(tmp_path / "s", 0), **MORE)
    shard = run_unit(tmp_path / "s", 3, device="cpu")
    ages = [shard.with_name(f"{kind}-000003.parquet").stat().st_mtime_ns for kind in ("audit", "audit_cells", "screen")]
    assert ages == sorted(ages)


KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from flat_options import call, run_screen
from rankcell.perturb import Perturber
from rankcell.tokens import TokenSet

folder, model, data, die_at = sys.argv[1:]
steps = [0]
def hook(event, args):
    if event in ("open", "os.rename", "os.mkdir", "os.remove") and args and str(args[0]).startswith(folder):
        steps[0] += 1
        if steps[0] == int(die_at):
            os.kill(os.getpid(), signal.SIGKILL)
perturber, tokens = call(Perturber, model, device="cpu", tokens_per_batch=500), TokenSet.open(data)
sys.addaudithook(hook)
run_screen(perturber, tokens, folder, {way})
print(steps[0])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs SIGKILL")
def test_killed_at_any_moment(place, whole, tmp_path):
    code = KILLED.format(tests=str(ROOT / "tests"), way=", ".join(f"{k}={v!r}" for k, v in MORE.items()))
    folder, codes = tmp_path / "s", []
    for die_at in (60, 110, 90, 0):
        call = [sys.executable, "-W", "ignore", "-c", code, str(folder), str(place / "model"), str(place / "cells.dataset"), str(die_at)]
        codes.append(subprocess.run(call, capture_output=True, timeout=600, check=False).returncode)
    assert codes[-1] == 0 and codes.count(-signal.SIGKILL) >= 2
    same(folder, whole.folder)


@pytest.mark.parametrize("at", range(0, 60, 7))
def test_a_full_disk(perturber, tokens, whole, tmp_path, monkeypatch, at):
    write, rows, left = pq.write_table, pq.ParquetWriter.write_table, [at]

    def full(real, *args, **how):
        real(*args, **how)
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "write_table", lambda *args, **how: full(write, *args, **how))
    monkeypatch.setattr(pq.ParquetWriter, "write_table", lambda *args, **how: full(rows, *args, **how))
    try:
        run_screen(perturber, tokens, tmp_path / "s", **MORE)
        assert left[0] >= 0
    except OutputError as e:
        assert "the disk is full" in str(e)
    assert not list(tmp_path.rglob("*.part-*"))
    monkeypatch.undo()
    run_screen(perturber, tokens, tmp_path / "s", **MORE)
    same(tmp_path / "s", whole.folder)


@pytest.mark.parametrize("shared", [True, False])
def test_parts_put_together_are_the_whole(perturber, tokens, whole, tmp_path, shared):
    folders = [tmp_path / ("s" if shared else f"s{i}") for i in (1, 2, 3)]
    for i, folder in enumerate(folders, 1):
        run_screen(perturber, tokens, folder, shard=f"{i}/3", **MORE)
        assert not list(folder.glob("shards/verified-*"))
    out = tmp_path / ("s" if shared else "out")
    merge(dict.fromkeys(folders), out, device="cpu")
    same(out, whole.folder)
    assert read_screen(out).manifest["settings"] == whole.manifest["settings"]


def test_parts_need_the_model_only_to_verify(perturber, tokens, tmp_path, monkeypatch):
    for i in (1, 2):
        run_screen(perturber, tokens, tmp_path / "a", shard=f"{i}/2", **WAY)
        run_screen(perturber, tokens, tmp_path / "b", shard=f"{i}/2", **MORE)

    def never(*_, **__):
        raise AssertionError("the model is opened")

    monkeypatch.setattr(loaded, "Encoder", never)
    assert merge([tmp_path / "a"], tmp_path / "a").manifest["audit"]
    with pytest.raises(AssertionError, match="the model is opened"):
        merge([tmp_path / "b"], tmp_path / "b")
    monkeypatch.undo()
    assert merge([tmp_path / "b"], tmp_path / "b").manifest["complete"]


def test_parts_are_verified_on_another_machine_with_a_word(perturber, tokens, whole, tmp_path, monkeypatch):
    run_screen(perturber, tokens, tmp_path / "s", shard="1/1", **MORE)
    manifest = read_sealed_json(tmp_path / "s" / "manifest.json")
    manifest["settings"]["device"] = "another"
    write_sealed_json(tmp_path / "s" / "manifest.json", manifest)
    with pytest.warns(RankcellWarning, match="began on another machine .*: what is verified now agrees to rounding"):
        merge([tmp_path / "s"], tmp_path / "s", device="cpu")
    assert tables(tmp_path / "s") == tables(whole.folder)
    with pytest.raises(OutputError, match="is finished, or was stopped"):
        run_unit(tmp_path / "s", 0, device="cpu")


def test_several_devices_give_the_same_bytes(place, tokens, whole, tmp_path, monkeypatch):
    """They share the cells, and then what is verified of the whole screen."""
    seen, tasks, run_on = [], [], execution.run_on
    def noted(task, folder, units, *rest, **how):
        tasks.append((task, len(units)))
        run_on(task, folder, units, *rest, **how)

    monkeypatch.setattr(execution, "run_on", noted)
    several = call(Perturber, place / "model", device="cpu,cpu", tokens_per_batch=500)
    run_screen(several, tokens, tmp_path / "s", progress=lambda *at: seen.append(at), **MORE)
    same(tmp_path / "s", whole.folder)
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1]
    assert tasks == [("rankcell.perturb.run.worker:open_worker", N), ("rankcell.perturb.run.verify:open_verification", 7)]


# effort


class Trial:
    """A fast engine whose error falls with what is spent."""

    def __init__(self, splits, projections, log, floor=0.0):
        self.splits, self.projections, self.log, self.floor = splits, projections, log, floor

    def cost(self, edits, lengths):
        return (self.splits + self.projections) * np.asarray(lengths)

    def run(self, rows):
        self.log.append((self.splits, self.projections))
        rng = np.random.default_rng(1)
        found = made_up(rows)
        error = self.floor + 16 / self.splits / self.projections
        predicted = {k: v + error * rng.normal(size=len(v)) * v.std() for k, v in found.scores.items()}
        found.predicted = predicted
        return found


class Made:
    def __init__(self, cell, target, scores):
        self.cell, self.target, self.scores = cell, target, scores


def made_up(rows):
    rng = np.random.default_rng(0)
    cell, target = np.repeat(np.arange(len(rows)), 100), np.tile(np.arange(100), len(rows))
    return Made(cell, target, {"cos_cell": 1 - rng.random(len(cell)) ** 4, "toward_x_cell": rng.standard_t(3, len(cell))})


class Runs:
    class plan:
        @staticmethod
        def count(row):
            return 100

    @staticmethod
    def run(rows, *, most):
        found = made_up(rows)
        some = found.target % 2 == 0
        return Made(found.cell[some], found.target[some], {k: v[some] for k, v in found.scores.items()})


ROWS = [np.arange(50), np.arange(70)]


@pytest.mark.parametrize(("least", "floor", "reached"), [(0.5, 0, True), (0.9, 0, True), (0.99, 1.0, False)])
def test_the_cheapest_effort_that_reaches_the_recall(least, floor, reached):
    log = []
    tries = effort.grid("auto", "auto", "cos_cell")
    assert len(tries) == 20
    found = effort.choose_effort(lambda s, k: Trial(s, k, log, floor), ROWS, Runs, least, tries=tries, verify_by="cos_cell")
    costs = [t["tokens"] for t in found["tried"]]
    assert costs == sorted(costs) and log == [(t["splits"], t["projections"]) for t in found["tried"]]
    assert found["reached"] == reached
    recall = {(t["splits"], t["projections"]): t["recall"] for t in found["tried"]}
    assert all(set(r) == {"cos_cell"} for r in recall.values())
    chosen = (found["splits"], found["projections"])
    assert chosen == log[-1] if reached else recall[chosen]["cos_cell"] >= max(r["cos_cell"] for r in recall.values()) - 0.01
    assert all(min(t["recall"].values()) < least for t in found["tried"][:-1])
    assert (len(log) == 20) == (not reached)
    with pytest.warns(RankcellWarning, match="reach the recall asked for" if reached else "none of 20 efforts reaches a recall of 0.99"):
        effort.note_choice(found, least)


def test_what_is_tried():
    assert effort.grid(16, 32, "cos_cell") == [(16, 32)]
    assert effort.grid("auto", "auto", BY) == [(8, 8), (16, 8), (32, 8), (64, 8)]  # projections are for sizes
    assert effort.grid("auto", 64, "cos_cell") == [(8, 64), (16, 64), (32, 64), (64, 64)]
    assert effort.judged(["cos_cell", "toward_x_cell", BY], BY) == [BY]


def test_effort_is_chosen_once(perturber, tokens, tmp_path, monkeypatch):
    way = {k: v for k, v in WAY.items() if k not in ("splits", "projections")} | dict(min_recall=0.1)
    with pytest.warns(RankcellWarning, match="projections reach the recall asked for"):
        found = run_screen(perturber, tokens, tmp_path / "whole", **way)
    held = found.manifest["effort"]
    assert held["reached"] and found.manifest["settings"]["splits"] == held["splits"] == 8
    assert found.manifest["settings"]["projections"] == 8 and held["tried"][0]["tokens"] > 0
    with pytest.warns(RankcellWarning, match="reach the recall"):
        run_screen(perturber, tokens, tmp_path / "s", shard="1/2", **way)

    def never(*_, **__):
        raise AssertionError("not again")

    monkeypatch.setattr(effort, "choose_effort", never)
    run_screen(perturber, tokens, tmp_path / "s", shard="2/2", **way)
    monkeypatch.undo()
    merge([tmp_path / "s"], tmp_path / "out")
    same(tmp_path / "out", tmp_path / "whole")


# cells that fall short


def test_short_cells(place, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(place)
    out = tmp_path / "s"
    call = ["perturb", "cells.dataset", "--model", "model", "--device", "cpu", "--toward", "kind=x", "--readout", "cell"]
    fast = ["--method", "fast", "--splits", "12", "--projections", "2", "--min-recall", "0.8"]
    assert main([*call, *fast, "-o", str(out)]) == 0
    said = capsys.readouterr()
    short = (out / "short_cells.txt").read_text().split()
    cells = pq.read_table(out / "audit_cells.parquet").to_pandas()
    mine = cells[cells["score"] == BY]
    assert short == mine.loc[mine["recall"] < 0.8, "cell_id"].tolist() == mine.loc[mine["short"], "cell_id"].tolist()
    assert 0 < len(short) < N and read_screen(out).manifest["n_short"] == len(short)
    (note,) = [line for line in said.err.splitlines() if "expected to stay below a recall of 0.8" in line]
    assert f"{len(short)} of 12 cells" in note and f"--method exact and --only {out}/short_cells.txt" in note
    (line,) = [line for line in said.out.splitlines() if line.startswith("audit, ")]
    assert BY in line and "recall of the top tenth" in line and "relative error" in line
    assert main([*call, "--method", "exact", "--only", str(out / "short_cells.txt"), "-o", str(tmp_path / "e")]) == 0
    assert read_screen(tmp_path / "e").cells()["cell_id"].to_pylist() == short


# the page


def test_the_page_tells_the_audit(perturber, tokens, whole, exact, tmp_path):
    draw_screen(whole.folder, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "How good the predictions are" in text and f"largest by <code>{BY}</code> were run" not in text
    assert "7 of the whole screen predicted largest were run as well" in text and "every edit was run" not in text
    draw_screen(exact.folder, tmp_path / "exact.html")
    assert "How good the predictions are" not in (tmp_path / "exact.html").read_text()
    top = run_screen(perturber, tokens, tmp_path / "s", **(WAY | dict(verify_top=6)))
    draw_screen(top.folder, tmp_path / "top.html")
    assert f"The 6 edits of each cell predicted largest by <code>{BY}</code> were run" in (tmp_path / "top.html").read_text()
    all_run = run_screen(perturber, tokens, tmp_path / "t", **(WAY | dict(cells=2, splits=64)))
    draw_screen(all_run.folder, tmp_path / "all.html")
    assert "every edit was run, and none predicted" in (tmp_path / "all.html").read_text()


# --only, a look before, options


def test_only(perturber, tokens, exact, tmp_path):
    found = run_screen(perturber, tokens, tmp_path / "s", only=["c7", "c2"], **SMALL)
    truth = exact.table().to_pandas()
    mine = truth[truth["cell_id"].isin(["c2", "c7"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(found.table().to_pandas(), mine, atol=1e-6)
    assert found.cells()["cell_id"].to_pylist() == ["c2", "c7"]
    both = run_screen(perturber, tokens, tmp_path / "t", only=["c1", "c2", "c3"], start="kind=y", cells=1)
    assert both.cells()["cell_id"].to_pylist() == ["c1"]
    with pytest.raises(SettingsError, match="there are no cells to perturb"):
        run_screen(perturber, tokens, tmp_path / "u", only=["c1"], start="kind=x")
    with pytest.raises(CellError, match=r"there is no cell 'nobody' \(only; 12 cells, such as c0, c1\)"):
        run_screen(perturber, tokens, tmp_path / "u", only=["c1", "nobody"])
    with pytest.raises(InputError, match="no such file: .* \\(from only="):
        screen_cells(tokens, tmp_path / "u", model=perturber.checkpoint, only=tmp_path / "nothing.txt")


def test_dry_run(place, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    call = ["perturb", "cells.dataset", "-o", str(tmp_path / "s"), "--model", "model", "--device", "cpu", "--readout", "cell"]
    call += ["--toward", "kind=x", "--tokens-per-unit", "3000"]
    more = ["--method", "fast", "--splits", "12", "--projections", "2", "--verify-top", "2", "--verify-screen", "5"]
    said = {}
    for name, options in (("exact", []), ("fast", more)):
        assert main([*call, *options, "--dry-run"]) == 0
        said[name] = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    tokens = {name: int(lines["tokens through the model"].replace(",", "")) for name, lines in said.items()}
    assert tokens["fast"] < tokens["exact"] and said["fast"]["edits"] == said["exact"]["edits"]
    assert sorted(place.rglob("*")) == before and not (tmp_path / "s").exists()
    seen = []
    assert main([*call, *more]) == 0
    assert str(read_screen(tmp_path / "s").manifest["n_units"]) == said["fast"]["units of work"]
    found = screen_cells(place / "cells.dataset", tmp_path / "t", model=place / "model", device="cpu", dry_run=True, progress=seen, **WAY)
    assert isinstance(found, Estimate) and found.n_tokens > 0 and found.bytes_finished > 0
    assert str(found).splitlines() == ["Estimate", *(f"  {line}" for line in found.lines())]
    assert f"<td>{found.n_tokens:,}</td>" in found._repr_html_()
    assert "\n  audit, " in repr(rc.Screen(tmp_path / "s")), repr(rc.Screen(tmp_path / "s"))
    auto = {k: v for k, v in WAY.items() if k not in ("splits", "projections")} | dict(min_recall=0.2)
    with pytest.warns(RankcellWarning, match="reach the recall"):
        assert screen_cells(place / "cells.dataset", tmp_path / "t", model=place / "model", device="cpu", dry_run=True, **auto).n_tokens
    assert not (tmp_path / "t").exists()


def test_a_unit_is_as_large_as_its_cost(perturber, tokens, tmp_path):
    """Cheaper edits, more cells in a unit."""
    several = run_screen(perturber, tokens, tmp_path / "s", **(WAY | dict(tokens_per_unit=4000)))
    engine = FastEngine(None, **{})
    assert several.manifest["n_units"] < run_screen(perturber, tokens, tmp_path / "t", tokens_per_unit=4000, **SMALL).manifest["n_units"]
    assert engine.splits == 16 and engine.projections == 32 and engine.audit == 0.02  # what the options promise


BAD = {
    "a method that is none": ("--method quick", "unknown method 'quick'; one of exact, fast"),
    **{
        f"--{name} without": (
            f"--{name} {value}",
            f"--{name} is for fast, and --method is exact: leave it out",
        )
        for name, value in {
            **{"audit": 0.1, "verify-top": 3, "verify-screen": 3, "verify-by": "cos_cell"},
            **{"splits": 8, "projections": "auto", "min-recall": 0.5},
        }.items()
    },
    "pairs of an exact screen": ("--epistasis 5", "--epistasis is for fast, and --method is exact"),
    "one gene to pair": ("--method fast --epistasis 1", "--epistasis is 1; at least 2"),
    "pairs to verify of none": (
        "--method fast --verify-pairs 5",
        "--verify-pairs is of the pairs of --epistasis N, which is not asked for",
    ),
    "pairs of masks": ("--method fast --kind mask --epistasis 5", "--epistasis makes pairs of the genes that a screen deletes one by one"),
    "pairs of pairs": ("--method fast --anchor G3 --epistasis 5", "--epistasis makes pairs of the genes that a screen deletes one by one"),
    "no audit": ("--method fast --audit 0", "--audit is 0.0; a share above 0, at most 1"),
    "too much audit": ("--method fast --audit 1.5", "--audit is 1.5; a share above 0, at most 1"),
    "an audit that is none": ("--method fast --audit nan", "--audit is nan; a share above 0, at most 1"),
    "no recall": ("--method fast --min-recall 0", "--min-recall is 0.0; a share above 0, at most 1"),
    "one split": ("--method fast --splits 1", "--splits is 1; a number of at least 2, or auto"),
    "splits in words": ("--method fast --splits many", "--splits is many; a number of at least 2, or auto"),
    "projections below none": ("--method fast --projections -1", "--projections is -1; a number of at least 0, or auto"),
    "no projections for sizes": (
        "--method fast --projections 0",
        "--projections 0 predicts no sizes of shift, and --verify-by is cos_genes",
    ),
    "auto for nothing": ("--method fast --splits auto", "--splits auto needs the recall that is to be reached: add --min-recall"),
    "fewer than none to verify": ("--method fast --verify-top -1", "--verify-top is -1; at least 0"),
    "fewer than none of the screen": ("--method fast --verify-screen -2", "--verify-screen is -2; at least 0"),
    "an unknown score": ("--method fast --verify-by cos_all", "--verify-by cos_all is not a score that is predicted; one of cos_genes, "),
    "a part of a score": ("--method fast --verify-by shift_cell_position", "is not a score that is predicted"),
    "a state that is not asked for": ("--method fast --verify-by toward_x_cell", "is not a score that is predicted"),
    "distances": ("--method fast --distance euclidean", "only --method exact does that"),
    "affected genes": ("--method fast --affected", "only --method exact does that"),
    "groups": ("--method fast --genes G1,G2 --group", "only --method exact does that"),
    "an unknown cell": ("--only unknown.txt", "there is no cell 'nobody' (--only; 12 cells, such as c0, c1)"),
    "no cells": ("--only none.txt", "--only names no cell: give the ids of those to perturb"),
    "no such file": ("--only nothing.txt", "no such file: nothing.txt (from --only nothing.txt)"),
    "a folder": ("--only model", "model is not a file: expected cell ids"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_options_in_one_line(place, tmp_path, case, capsys, monkeypatch):
    options, says = BAD[case]
    monkeypatch.chdir(place)
    assert main(["perturb", "cells.dataset", "-o", str(tmp_path / "s"), "--model", "model", "--device", "cpu", *options.split()]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("rankcell: ") and says in lines[0], lines
    assert not (tmp_path / "s").exists()


def test_pairs(place, tokens, tmp_path, capsys, monkeypatch):
    """Pairs of the largest genes of each cell, the same in parts; those that were run as a screen of pairs gives them."""
    monkeypatch.setattr(epistasis, "cost", lambda *a, **k: np.zeros(1))  # not so few that all are run
    perturber = call(Perturber, place / "model", device="cpu", tokens_per_batch=500)
    how = dict(WAY, cells=3, epistasis=8, verify_pairs=4)
    done = run_screen(perturber, tokens, tmp_path / "pairs", **how)
    table = done.epistasis().to_pandas()
    assert len(table) == 3 * 28 and (table.groupby("cell_id").exact.sum() == 4 + 8).all() and table.sampled.sum() == 3 * 8
    screen = done.table().to_pandas().set_index(["cell_id", "genes"])
    for _, rows in screen.groupby("cell_id"):
        largest = rows[BY].abs().sort_values(ascending=False).index.get_level_values("genes")[:8]
        cell = table[table.cell_id == rows.index[0][0]]
        assert set(cell["first"]) | set(cell["second"]) == set(largest)
    run = table[table.exact & (table.cell_id == "c0")]
    for row in run.iloc[:3].itertuples():
        pair = run_screen(perturber, tokens, tmp_path / row.symbols, genes=[row.first, row.second], group=True, cells=3, **SMALL)
        wanted = pair.table().to_pandas().set_index("cell_id").loc["c0"]
        assert getattr(row, BY) == pytest.approx(wanted[BY], abs=1e-6)
    told = done.manifest["epistasis"]
    assert told["pairs"] == 84 and told["run"] == 36 and told["judged"] == 24 and told["spearman"] > 0.8
    for i in (1, 2, 3):
        run_screen(perturber, tokens, tmp_path / "parts", shard=f"{i}/3", **how)
    same(merge([tmp_path / "parts"], tmp_path / "parts").folder, done.folder)
    assert (tmp_path / "parts" / "epistasis.parquet").read_bytes() == (done.folder / "epistasis.parquet").read_bytes()
    monkeypatch.undo()
    monkeypatch.chdir(place)
    command = ["perturb", "cells.dataset", "-o", str(tmp_path / "all"), "--model", "model", "--device", "cpu", "--method", "fast"]
    command += ["--toward", "kind=x", "--readout", "cell", "--cells", "2", "--epistasis", "4"]
    assert main(command) == 0
    assert "epistasis.parquet: 12 pairs of genes, 12 of them run" in capsys.readouterr().out
    with pytest.raises(OutputError, match="has no epistasis.parquet: run the screen with epistasis"):
        run_screen(perturber, tokens, tmp_path / "none", **dict(WAY, cells=1)).epistasis()


def test_another_screen_in_the_folder(perturber, tokens, whole):
    with pytest.raises(OutputError, match="holds another run .*verify_top: 4 there, 5 now"):
        run_screen(perturber, tokens, whole.folder, **(MORE | dict(verify_top=5)))
    with pytest.raises(OutputError, match="holds another run"):
        run_screen(perturber, tokens, whole.folder, **SMALL)
