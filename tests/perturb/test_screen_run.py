"""How screens are run: units, parts, devices, kills, full disks; the tables beside the scores; options and what is refused."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import make_adata
from flat_options import call, edit_plan, perturb_df, run_screen, screen_cells

import rankcell as rc
from rankcell.cli import main
from rankcell.errors import InputError, OutputError, RankcellWarning, SettingsError, TokensError
from rankcell.perturb import Estimate, PartDone, Perturber, merge, read_screen, run_unit
from rankcell.perturb.edits.gene_lists import named_sets
from rankcell.perturb.exact.engine import Engine
from rankcell.perturb.results import screen_tables as results
from rankcell.stats.screen_lines import rank_lines
from rankcell.store import locked
from rankcell.store.parts import Part
from rankcell.tokens import TokenSet, TokenSpec

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
WAY = dict(toward=["kind=x"], affected=True, affected_top=2, tokens_per_unit=1)  # a unit for each cell
N_UNITS = 9


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Several threads only wait for each other on models this small."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def perturber(small):
    return call(Perturber, small[1], device="cpu", tokens_per_batch=40)


@pytest.fixture(scope="module")
def tokens(small):
    """Ten cells, one without genes."""
    rng = np.random.default_rng(1)
    bodies = [rng.permutation(12)[: rng.integers(2, 7)] + 4 for _ in range(N_UNITS)]
    bodies.insert(4, np.array([], int))
    rows = [[2, *b, 3] for b in bodies]
    spec = TokenSpec.of(small[0], frame=small[0].frame, max_len=10)
    return TokenSet.from_rows(rows, spec, cell_ids=[f"c{i}" for i in range(10)], obs={"kind": list("xyxyxyxyxy"), "n_genes": range(10)})


@pytest.fixture(scope="module")
def place(tokens, small, tmp_path_factory):
    """A folder with the tokens, the model and counts."""
    folder = tmp_path_factory.mktemp("place")
    tokens.save(folder / "cells.dataset")
    os.symlink(small[1], folder / "model")
    counts = np.random.default_rng(2).poisson(2, (8, 12)) * np.random.default_rng(3).permutation(np.arange(1, 97)).reshape(8, 12)
    make_adata(counts, kind=list("abababab"), donor=list("ppqqppqq")).write_h5ad(folder / "counts.h5ad")
    (folder / "sets.gmt").write_text("first\tnone\tG0\tG1\nsecond\t\tENSG00000000005\n")
    return folder


@pytest.fixture(scope="module")
def whole(perturber, tokens, tmp_path_factory):
    """An undisturbed run in one process."""
    with pytest.warns(RankcellWarning, match="1 of 10 cells have no genes"):
        return run_screen(perturber, tokens, tmp_path_factory.mktemp("whole") / "s", **WAY)


pytestmark = pytest.mark.filterwarnings("ignore:1 of 10 cells have no genes")


def tables(folder):
    assert read_screen(folder).manifest["complete"]
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.parquet"))}


def names_in(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".lock"))


def stop_after(n):
    """A progress callback that stops the run when `n` units are whole."""

    def stop(done, total, folder=None):
        if len(list(stop.folder.glob("shards/screen-*.parquet"))) >= n:
            raise KeyboardInterrupt

    return stop


def prepared(perturber, tokens, folder, **how):
    """A folder in which no unit is done yet."""
    stop = stop_after(0)
    stop.folder = folder
    with pytest.raises(KeyboardInterrupt):
        run_screen(perturber, tokens, folder, progress=stop, **(WAY | how))
    assert not list(folder.glob("shards/*.parquet"))
    return folder


# units


def test_a_unit_is_a_function_of_the_folder_and_its_number(perturber, tokens, whole, tmp_path):
    folder = prepared(perturber, tokens, tmp_path / "s")
    for unit in reversed(range(N_UNITS)):
        shard = run_unit(folder, unit, device="cpu")
        assert shard == folder / "shards" / f"screen-{unit:06d}.parquet" and shard.exists()
    inode = shard.stat().st_ino
    assert run_unit(folder, 0, device="cpu").stat().st_ino == inode  # left as it is
    with pytest.raises(SettingsError, match="unit 9 is not there: .* has units 0 to 8"):
        run_unit(folder, N_UNITS, device="cpu")
    merge([folder], folder)
    assert tables(folder) == tables(whole.folder)
    assert names_in(folder) == names_in(whole.folder)


def test_a_prepared_folder_needs_neither_the_tokens_nor_the_perturber(place, tmp_path, whole):
    """In another process, which has no more than the folder; tokens of a folder are read where they are."""
    folder = prepared(call(Perturber, place / "model", device="cpu", tokens_per_batch=40), place / "cells.dataset", tmp_path / "s")
    held = json.loads((folder / "work" / "plan.json").read_text())
    assert held["place"]["tokens"] == str((place / "cells.dataset").resolve()) and not (folder / "work" / "tokens").exists()
    code = f"import sys, torch; torch.set_num_threads(1)\nfrom rankcell.perturb import run_unit\nrun_unit({str(folder)!r}, 3, device='cpu')"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=600)
    assert [p.name for p in folder.glob("shards/screen*")] == ["screen-000003.parquet"]


@pytest.mark.parametrize("what", ["tokens", "plan"])
def test_what_has_changed_meanwhile_is_refused(perturber, tokens, tmp_path, what):
    folder = prepared(perturber, tokens, tmp_path / "s")
    if what == "tokens":
        tokens.take([0, 1]).save(folder / "work" / "tokens", force=True)
    else:
        held = json.loads((folder / "work" / "plan.json").read_text())
        held["plan"]["kind"] = "mask"
        (folder / "work" / "plan.json").write_text(json.dumps(held))
    with pytest.raises(OutputError, match="is not what it was when the screen began|its content is not what was written"):
        run_unit(folder, 0, device="cpu")


def test_a_unit_of_a_folder_that_is_finished_or_another(whole, tmp_path):
    with pytest.raises(OutputError, match="is finished, or was stopped before it was prepared"):
        run_unit(whole.folder, 0, device="cpu")
    with pytest.raises(OutputError, match="is not a rankcell result"):
        run_unit(tmp_path, 0, device="cpu")


# parts


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("n", [2, 4])
def test_parts_put_together_are_the_whole(perturber, tokens, whole, tmp_path, shared, n):
    folders = [tmp_path / ("s" if shared else f"s{i}") for i in range(1, n + 1)]
    for i, folder in enumerate(folders, 1):
        done = run_screen(perturber, tokens, folder, shard=f"{i}/{n}", **WAY)
        mine = len(range(i - 1, N_UNITS, n))
        assert isinstance(done, PartDone) and (done.n_units, str(done.part)) == (N_UNITS, f"{i}/{n}")
        assert done.done == (sum(len(range(j - 1, N_UNITS, n)) for j in range(1, i + 1)) if shared else mine)
    out = tmp_path / ("s" if shared else "out")
    merge(dict.fromkeys(folders), out)
    assert tables(out) == tables(whole.folder) and names_in(out) == names_in(whole.folder)
    assert read_screen(out).manifest["settings"] == whole.manifest["settings"]
    before = tables(out), (out / "manifest.json").stat().st_mtime_ns
    merge([out] if shared else folders, out)
    run_screen(perturber, tokens, out, **WAY)  # the same screen, finished
    assert (tables(out), (out / "manifest.json").stat().st_mtime_ns) == before


def test_a_whole_run_finishes_what_parts_began(perturber, tokens, whole, tmp_path, monkeypatch):
    run_screen(perturber, tokens, tmp_path / "s", shard="2/3", **WAY)
    ran, run = [], Engine.run
    monkeypatch.setattr(Engine, "run", lambda self, rows, **how: ran.append(len(rows)) or run(self, rows, **how))
    run_screen(perturber, tokens, tmp_path / "s", **WAY)
    assert len(ran) == N_UNITS - 3 and tables(tmp_path / "s") == tables(whole.folder)


def test_merge_into_one_of_the_parts(perturber, tokens, whole, tmp_path):
    for i in (1, 2):
        run_screen(perturber, tokens, tmp_path / f"s{i}", shard=f"{i}/2", **WAY)
    merge([tmp_path / "s1", tmp_path / "s2"], tmp_path / "s2")
    assert tables(tmp_path / "s2") == tables(whole.folder)
    assert len(list((tmp_path / "s1" / "shards").glob("screen-*"))) == 5


def test_merge_refuses(perturber, tokens, whole, tmp_path):
    s = {i: tmp_path / f"s{i}" for i in (1, 2, 3)}
    for i in (1, 2):
        run_screen(perturber, tokens, s[i], shard=f"{i}/3", **WAY)
    out = tmp_path / "out"
    with pytest.raises(OutputError, match=r"^3 of 9 units are missing \(2, 5, 8; shard 3/3\): run what is missing, then merge$"):
        merge([s[1], s[2]], out)
    run_screen(perturber, tokens, s[3], shard="1/3", **WAY)
    with pytest.raises(OutputError, match=r"^unit 0 is in .*s1 and in .*s3: leave one of them out"):
        merge([s[1], s[2], s[3]], out)
    run_screen(perturber, tokens, s[3], shard="3/3", force=True, **(WAY | {"toward": ["kind=y"]}))
    with pytest.raises(OutputError, match=r"s1 and .*s3 are parts of different screens \(toward: \['kind=x'\] .*s1, \['kind=y'\] .*s3"):
        merge([s[1], s[2], s[3]], out)
    with pytest.raises(OutputError, match="is a finished screen, not a part of one"):
        merge([s[1], whole.folder], out)
    with pytest.raises(SettingsError, match="is named twice"):
        merge([s[1], s[2], s[1]], out)
    with pytest.raises(InputError, match="no results folder"):
        merge([s[1], tmp_path / "none"], out)
    with pytest.raises(OutputError, match="lies inside the input"):
        merge([s[1], s[2]], s[1] / "out")
    assert not (out / "screen.parquet").exists()


def test_parts_of_other_machines_agree_to_rounding(perturber, tokens, whole, tmp_path):
    other = call(Perturber, perturber.checkpoint, device="cpu", tokens_per_batch=41)
    run_screen(perturber, tokens, tmp_path / "s1", shard="1/2", **WAY)
    run_screen(other, tokens, tmp_path / "s2", shard="2/2", **WAY)
    with pytest.warns(RankcellWarning, match=r"computed differently \(tokens_per_batch: 40 .*s1, 41 .*s2\): .* agree to rounding"):
        found = merge([tmp_path / "s1", tmp_path / "s2"], tmp_path / "out").table().to_pandas()
    pd.testing.assert_frame_equal(found, whole.table().to_pandas(), atol=1e-6)


def test_locks_of_parts(perturber, tokens, tmp_path):
    folder = tmp_path / "s"
    run_screen(perturber, tokens, folder, shard="1/2", **WAY)
    with locked(folder, shared=True), locked(folder, name=Part(2, 2).lock):  # as while the second part runs
        for how in (dict(shard="2/2"), {}, dict(shard="1/2", force=True)):
            with pytest.raises(OutputError, match="another process is writing to"):
                run_screen(perturber, tokens, folder, **(WAY | how))
        with pytest.raises(OutputError, match="another process is writing to"):
            merge([folder], folder)
        run_screen(perturber, tokens, folder, shard="1/2", **WAY)
    with locked(folder), pytest.raises(OutputError, match="another process is writing to"):
        run_screen(perturber, tokens, folder, shard="2/2", **WAY)


@pytest.mark.parametrize("text", ["0/3", "4/3", "x", "1/0", "1", "1/2/3", "-1/2", ""])
def test_bad_parts(perturber, tokens, tmp_path, text):
    with pytest.raises(SettingsError, match="expected I/N with I from 1 to N, such as shard='1/4'"):
        run_screen(perturber, tokens, tmp_path / "s", shard=text, **WAY)
    assert not (tmp_path / "s").exists()


# devices


def test_several_devices_give_the_same_bytes(small, tokens, whole, tmp_path):
    several = call(Perturber, small[1], device="cpu,cpu", tokens_per_batch=40)
    seen = []
    run_screen(several, tokens, tmp_path / "s", progress=lambda *at: seen.append(at), **WAY)
    assert tables(tmp_path / "s") == tables(whole.folder)
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1]


def test_an_error_on_a_device_comes_home(small, tokens, tmp_path):
    several = call(Perturber, small[1], device="cpu,cpu", tokens_per_batch=40)
    folder = prepared(call(Perturber, small[1], device="cpu", tokens_per_batch=40), tokens, tmp_path / "s")
    (folder / "shards").rmdir()
    (folder / "shards").write_text("in the way")
    with pytest.raises((OutputError, rc.errors.ModelError)):
        run_screen(several, tokens, folder, **WAY)


@pytest.mark.parametrize(
    ("device", "says"), [("cpu,", "several of these"), ("cuda:0,cuda:0", "named twice"), ("auto,cpu", "name it alone"), ("tpu", "unknown")]
)
def test_bad_devices(small, tokens, tmp_path, device, says):
    with pytest.raises(SettingsError, match=says):
        run_screen(call(Perturber, small[1], device=device), tokens, tmp_path / "s")
    assert not (tmp_path / "s").exists()


# killed, stopped, full

KILLS = """
import json, os, random, signal, sys
import torch
torch.set_num_threads(1)
from rankcell.model.options import Compute
from rankcell.perturb import Exact, Measure, Perturber, ScreenConfig
from rankcell.tokens import TokenSet

base, model, data, seed = sys.argv[1:]
os.fsync = lambda fd: None  # a process that is killed loses nothing that the system has
chance = random.Random(int(seed))
tokens, perturber = TokenSet.open(data), Perturber(model, Compute("cpu", tokens_per_batch=40))
config = ScreenConfig(toward="kind=x", measure=Measure(affected=True, affected_top=2), method=Exact(tokens_per_unit=1))
EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")

def go(folder):
    perturber.perturb(tokens, folder, config)

def child(folder, die_at):
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    steps = [0]
    def hook(event, args):
        if event in EVENTS and args and str(args[0]).startswith(folder):
            steps[0] += 1
            if steps[0] == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    try:
        go(folder)
    except BaseException as e:
        print(type(e), e, flush=True)
        os._exit(1)
    with open(os.path.join(base, "steps"), "w") as f:
        f.write(str(steps[0]))
    os._exit(0)

go(os.path.join(base, "warm"))  # all that a child needs is loaded
assert child(os.path.join(base, "run0"), 0) == 0
with open(os.path.join(base, "steps")) as f:
    most = int(f.read())
print(most)
kills, number, code = 0, 1, 1
while kills < 20 or code:
    # mostly in the first part of what is left to do; after 20 kills what is begun is finished
    code = child(os.path.join(base, f"run{number}"), 0 if kills >= 20 else chance.randint(1, most if kills % 3 else most // 3))
    assert code in (0, -signal.SIGKILL)
    kills += code != 0
    if code == 0 and kills < 20:
        number, code = number + 1, 1
print(number)
"""


@posix
@pytest.mark.skipif(sys.platform == "darwin", reason="forks a process that holds libraries which do not like that there")
@pytest.mark.parametrize("seed", [3])
def test_killed_at_random_moments(small, place, whole, tmp_path, seed):
    call = [sys.executable, "-W", "ignore", "-c", KILLS, str(tmp_path), str(small[1]), str(place / "cells.dataset"), str(seed)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    steps, number = map(int, done.stdout.split())
    assert steps > 60 and number >= 1
    for i in range(number + 1):
        assert tables(tmp_path / f"run{i}") == tables(whole.folder)
        assert names_in(tmp_path / f"run{i}") == names_in(whole.folder)


@pytest.mark.parametrize("at", range(0, 28, 3))
def test_a_full_disk_leaves_nothing_half_written(perturber, tokens, whole, tmp_path, monkeypatch, at):
    """The disk is full at the n-th table; with room again, the same call goes on."""
    write, rows, left = pq.write_table, pq.ParquetWriter.write_table, [at]

    def full(real, *args, **how):
        real(*args, **how)
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "write_table", lambda *args, **how: full(write, *args, **how))
    monkeypatch.setattr(pq.ParquetWriter, "write_table", lambda *args, **how: full(rows, *args, **how))
    with pytest.raises(OutputError, match="the disk is full: .* was not written; free some space and run again"):
        run_screen(perturber, tokens, tmp_path / "s", **WAY)
    assert not list(tmp_path.rglob("*.part-*")) and not (tmp_path / "s" / "screen.parquet").exists()
    for path in (tmp_path / "s").rglob("*.parquet"):
        pq.read_table(path)
    monkeypatch.undo()
    run_screen(perturber, tokens, tmp_path / "s", **WAY)
    assert tables(tmp_path / "s") == tables(whole.folder)


def test_a_run_goes_on_with_as_many_threads_as_it_began_with(perturber, tokens, whole, tmp_path):
    import torch

    prepared(perturber, tokens, tmp_path / "s")
    torch.set_num_threads(2)
    try:
        with pytest.warns(RankcellWarning, match="going on with 1 threads, as this run began, not 2"):
            run_screen(perturber, tokens, tmp_path / "s", **WAY)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert tables(tmp_path / "s") == tables(whole.folder)


def test_a_second_start_surveys_and_embeds_nothing(perturber, tokens, whole, tmp_path, monkeypatch):
    from rankcell.perturb.run import driver as job
    from rankcell.perturb.run.survey import Survey

    prepared(perturber, tokens, tmp_path / "s")

    def never(*_, **__):
        raise AssertionError("not again")

    monkeypatch.setattr(Survey, "of", never)
    monkeypatch.setattr(job, "embed_states", never)
    run_screen(perturber, tokens, tmp_path / "s", **WAY)
    assert tables(tmp_path / "s") == tables(whole.folder)


# tables


def test_cells_and_edits(whole, tokens, small):
    rows = [i for i in range(10) if i != 4]
    cells = whole.cells().to_pylist()
    assert cells == [
        {
            "cell_id": f"c{i}",
            "n_tokens": len(tokens.row(i)),
            "n_genes": len(tokens.genes(i)),
            "kind": "xyxyxyxyxy"[i],
            "obs_n_genes": i,
        }
        for i in rows
    ]
    edits = whole.edits().to_pylist()
    assert len(edits) == 12
    for gene, e in enumerate(edits):
        ranks = [tokens.genes(i).tolist().index(gene + 4) for i in rows if gene + 4 in tokens.genes(i)]
        assert (e["edit"], e["kind"]) == (f"delete:ENSG{gene:011d}", "delete") and (e["genes"], e["symbols"]) == (
            f"ENSG{gene:011d}",
            f"G{gene}",
        )
        assert (e["n_cells"], e["detection"], e["expression"]) == (len(ranks), len(ranks) / 9, None)
        assert e["mean_rank"] == (None if not ranks else pytest.approx(np.mean(ranks)))


def test_expression_is_that_of_the_counts(place, tmp_path):
    screen_cells(place / "counts.h5ad", tmp_path / "s", model=place / "model", device="cpu", obs="donor", genes="G1,G2", group=True, any=True
    )
    x = ad.read_h5ad(place / "counts.h5ad").X.toarray()
    levels = np.log1p(10_000 * x / x.sum(1, keepdims=True))
    (edit,) = read_screen(tmp_path / "s").edits().to_pylist()
    assert edit["expression"] == pytest.approx(levels[:, [1, 2]].mean(), rel=1e-5)
    assert edit["n_cells"] == int((x[:, [1, 2]] > 0).all(1).sum())
    found = rc.get.screen_df(tmp_path / "s", obs=True)
    donors = dict(zip((f"cell{i}" for i in range(8)), "ppqqppqq", strict=True))
    assert found["donor"].tolist() == [donors[c] for c in found["cell_id"]] and found.attrs["symbols"]
    assert "n_tokens_x" not in found and "donor" not in rc.get.screen_df(tmp_path / "s")


def test_affected_genes_of_each_cell(perturber, tokens, whole, tmp_path):
    raw = run_screen(perturber, tokens, tmp_path / "raw", affected_raw=True, affected=True).affected("raw").to_pandas()
    assert list(raw) == ["cell_id", "edit", "genes", "affected", "cos"]
    mean = whole.affected().to_pandas().set_index(["edit", "affected"])
    again = raw.groupby(["edit", "affected"])["cos"].agg(["count", "mean"])
    np.testing.assert_allclose(again["mean"], mean.loc[again.index, "mean_cos"], rtol=0, atol=1e-9)
    assert (again["count"] == mean.loc[again.index, "n"]).all() and len(again) == len(mean)
    top = rc.get.affected_df(whole.folder, which="top")
    best = raw.sort_values("cos", kind="stable").groupby(["cell_id", "edit"]).head(2)
    assert sorted(zip(top.cell_id, top.edit, top.cos.round(9), strict=True)) == sorted(
        zip(best.cell_id, best.edit, best.cos.round(9), strict=True)
    )
    with pytest.raises(OutputError, match="has no affected_raw.parquet: run the screen with affected_raw=True"):
        whole.affected("raw")


def test_tables_are_written_in_a_stream(perturber, tokens, whole, tmp_path, monkeypatch):
    """Row groups of whole units, and affected genes in several goes: the same numbers."""
    monkeypatch.setattr(results, "ROW_GROUP", 10)
    monkeypatch.setattr(results, "_KEYS", 25)
    found = run_screen(perturber, tokens, tmp_path / "s", **WAY)
    assert found.table().equals(whole.table()) and found.affected().equals(whole.affected())
    meta = pq.read_metadata(tmp_path / "s" / "screen.parquet")
    assert 1 < meta.num_row_groups < N_UNITS


# a look before


def test_dry_run(place, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    call = [
        "perturb",
        "cells.dataset",
        "-o",
        str(tmp_path / "s"),
        "--model",
        "model",
        "--device",
        "cpu",
        "--tokens-per-unit",
        "50",
        "--dry-run",
    ]
    assert main(call) == 0
    lines = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    n_edits = sum(len(TokenSet.open("cells.dataset").genes(i)) for i in range(10))
    assert (lines["cells"], lines["edits"]) == ("9", str(n_edits)) and "tokens a second" in lines["time"] and "kB" in lines["room on disk"]
    assert sorted(place.rglob("*")) == before and not (tmp_path / "s").exists()
    assert main([*call[:-1]]) == 0
    manifest = read_screen(tmp_path / "s").manifest
    assert (manifest["n_rows"], manifest["n_cells"], str(manifest["n_units"])) == (n_edits, 9, lines["units of work"])
    assert isinstance(screen_cells(place / "counts.h5ad", tmp_path / "t", model=place / "model", device="cpu", dry_run=True), Estimate)


# options


@pytest.mark.filterwarnings("ignore:.*has nothing to run")  # some of these screens are one unit
@pytest.mark.parametrize(
    "how",
    [
        dict(kind="overexpress", genes=["G1"]),
        dict(kind="inhibit", quarters=2),
        dict(kind="activate"),
        dict(kind="mask"),
        dict(kind="move", to_rank=1),
        dict(kind="delete", genes=["G1", "G2", "G3"], pairs=True, any=True),
        dict(kind="delete", anchor="G3"),
        dict(kind="mask", sets={"a": ["G1", "G2"], "b": ["G4"]}, any=True),
        dict(kind="delete", distance="euclidean", readout_compat="geneformer"),
    ],
)
def test_every_way_in_parts(perturber, tokens, tmp_path, how):
    """The plan survives its file: parts, which read it, give what one process gives."""
    whole = run_screen(perturber, tokens, tmp_path / "whole", tokens_per_unit=100, toward=["kind=x"], **how)
    for i in (1, 2):
        run_screen(perturber, tokens, tmp_path / "s", tokens_per_unit=100, toward=["kind=x"], shard=f"{i}/2", **how)
    merge([tmp_path / "s"], tmp_path / "s")
    assert tables(tmp_path / "s") == tables(whole.folder) and len(whole.table())
    n_edits = len(whole.table()) + (whole.manifest["n_skipped"] or 0)
    assert how.get("genes") is None or n_edits == 9 * len(whole.edits())


def test_refill(small, place, tokens, tmp_path):
    counts = ad.read_h5ad(place / "counts.h5ad")
    long = rc.Tokenizer(small[0], rc.Tokenizing(max_len=7, keep_uncropped=True)).tokenize(counts)
    perturber = call(Perturber, small[1], device="cpu")
    for name, given in (("memory", long), ("folder", tmp_path / "long.dataset")):
        if name == "folder":
            long.save(given)
        table = run_screen(perturber, given, tmp_path / name, refill=True).table()
        assert "shift_genes_refill" in table.schema.names
    assert tables(tmp_path / "memory") == tables(tmp_path / "folder")
    with pytest.raises(TokensError, match="these tokens were made without them: tokenize again with keep_uncropped=True"):
        run_screen(perturber, tokens, tmp_path / "none", refill=True)
    assert screen_cells(place / "counts.h5ad", tmp_path / "counts", model=small[1], device="cpu", refill=True).manifest["complete"]


def test_a_part_of_an_anndata(small, place):
    adata = ad.read_h5ad(place / "counts.h5ad")
    table = perturb_df(adata[adata.obs.kind == "b"], model=small[1], device="cpu", genes="G1", kind="overexpress")
    assert set(table["cell_id"]) <= {"cell1", "cell3", "cell5", "cell7"} and len(table)


SETS = {
    "a.gmt": "first\tabout\tG0\tG1\nsecond\t\tG5\n",
    "a.json": '{"first": ["G0", "G1"], "second": ["G5"]}',
    "a.tsv": "# sets\nfirst\tG0\nsecond\tG5\nfirst\tG1\n",
}


@pytest.mark.parametrize("name", SETS)
def test_gene_sets(tmp_path, name):
    (tmp_path / name).write_text(SETS[name])
    assert named_sets(tmp_path / name) == {"first": ["G0", "G1"], "second": ["G5"]}


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.json", "{", "is not a file of gene sets"),
        ("a.json", '["G0"]', "expected {name: .genes.}"),
        ("a.json", "{}", "holds no set of genes"),
        ("a.json", '{"s": []}', "the set 's' in .* has no genes"),
        ("a.gmt", "s\tabout\n", "the set 's' in .* has no genes"),
        ("a.gmt", "s G0 G1\n", "line 1 has no tab"),
        ("a.gmt", "s\t\tG0\ns\t\tG1\n", "line 2: the set 's' stands in it twice"),
        ("a.tsv", "s\tG0\ns\n", "line 2 has 1 columns"),
        ("a.tsv", "", "holds no set of genes"),
    ],
)
def test_bad_gene_sets(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=says):
        named_sets(tmp_path / name)


BAD = {
    "a gene of the list as its anchor": ("--genes G1,G2 --anchor ENSG00000000002", "is among the genes to pair it with"),
    "a pair of a gene with itself": ("--genes G1,ENSG00000000001 --pairs", "makes no pair with itself"),
    "pairs of all": ("--pairs", "pairs need genes that are named"),
    "group and pairs": ("--genes G1,G2 --group --pairs", "exclude each other"),
    "sets and genes": ("--sets sets.gmt --genes G1", "--sets and --genes are both given"),
    "no such sets": ("--sets none.gmt", "no such file: none.gmt"),
    "a set with an unknown gene": ("--sets bad.gmt", "gene 'NOPE' is not in vocabulary"),
    "no quarters": ("--kind inhibit --quarters 0", "quarters is 0; one of 1, 2, 3, 4"),
    "five quarters": ("--kind activate --quarters 5", "quarters is 5"),
    "quarters of another kind": ("--quarters 1", "quarters is for inhibit and activate"),
    "a rank below none": ("--kind move --to-rank -1", "move needs the rank to move to"),
    "a rank of another kind": ("--to-rank 1", "is for move, and --kind is delete"),
    "refill of another kind": ("--kind mask --refill", "refill is for delete"),
    "refill without": ("--refill", "--keep-uncropped"),
    "the start as goal": ("--start kind=x --toward kind=x", "cells cannot move toward the state that they are in"),
    "no such column": ("--obs donor", "no cell column 'donor'"),
    "no such cell": ("--explain nobody", "there is no cell 'nobody' to explain"),
    "unknown distance": ("--distance hamming", "distance is hamming; one of cos, euclidean"),
    "no affected genes": ("--affected-top 0", "affected-top is 0; at least 1"),
    "top and raw": ("--affected-top 2 --affected-raw", "leave one out"),
    "part nought": ("--shard 0/3", "expected I/N"),
    "part and merge": ("--shard 1/3 --merge", "exclude each other"),
    "part and look": ("--shard 1/3 --dry-run", "exclude each other"),
    "explain a part": ("--shard 1/3 --explain c0", "--explain is of a finished screen"),
    "merge of tokens": ("--merge", "is not a rankcell result"),
    "a state of nobody": ("--toward kind=nan", "no cell has kind = 'nan'; there are x, y"),
    "states of another model": ("--states other.parquet", "states were made with another model"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_options_in_one_line(place, tmp_path, case, capsys, monkeypatch):
    from rankcell.perturb import StateEmbeddings

    options, says = BAD[case]
    monkeypatch.chdir(place)
    (place / "bad.gmt").write_text("s\t\tG0\tNOPE\n")
    StateEmbeddings({("far", "cell"): np.arange(16.0)}, "0" * 64).save(place / "other.parquet")
    before = sorted(place.rglob("*"))
    assert main(["perturb", "cells.dataset", "-o", str(tmp_path / "s"), "--model", "model", "--device", "cpu", *options.split()]) == 2
    lines = [x for x in capsys.readouterr().err.strip().splitlines() if not x.startswith("rankcell: note:")]
    assert len(lines) == 1 and lines[0].startswith("rankcell: ") and says in lines[0], lines
    assert not (tmp_path / "s").exists() and sorted(place.rglob("*")) == before


def test_cells_that_say_nothing_of_their_state(small, perturber, tmp_path):
    spec = TokenSpec.of(small[0], frame=small[0].frame, max_len=10)
    cells = TokenSet.from_rows([[2, 5, 3], [2, 6, 7, 3], [2, 3]], spec, obs={"kind": [None, "nan", "x"], "age": [float("nan"), 1.5, 2.0]})
    assert run_screen(perturber, cells, tmp_path / "a", start="kind=nan").cells()["cell_id"].to_pylist() == ["1"]
    with pytest.raises(SettingsError, match=r"no cell has age = 'nan'; there are 1.5, 2.0; of 1 of 3 cells it says nothing"):
        run_screen(perturber, cells, tmp_path / "b", start="age=nan")
    with pytest.raises(SettingsError, match="none of the 1 cells to perturb has genes: nothing to do"):
        run_screen(perturber, cells, tmp_path / "c", start="kind=x")


def test_inputs_in_the_way(whole, place, tmp_path):
    with pytest.raises(SettingsError, match="is a results folder: give the counts or tokens, or merge=True"):
        screen_cells(whole.folder, tmp_path / "s")
    with pytest.raises(SettingsError, match="several inputs are the parts of a screen, for merge=True"):
        screen_cells([place / "counts.h5ad", place / "cells.dataset"], tmp_path / "s")
    with pytest.raises(OutputError, match="lies inside the input"):
        screen_cells(place / "cells.dataset", place / "cells.dataset" / "s", model=place / "model")
    with pytest.raises(InputError, match="no such file"):
        screen_cells(place / "none.h5ad", tmp_path / "s")


# what is said


def test_what_is_said_of_the_rank(small, tmp_path, capsys):
    """The demo model's deletions follow the rank, and less so in place."""
    adata = rc.datasets.pbmc68k()[:2].copy()
    adata.write_h5ad(tmp_path / "two.h5ad")
    cell = adata.obs_names[0]
    call = [
        "perturb",
        str(tmp_path / "two.h5ad"),
        "-o",
        str(tmp_path / "s"),
        "--model",
        "demo",
        "--device",
        "cpu",
        "--cells",
        "1",
        "--explain",
        cell,
    ]
    assert main(call) == 0
    said = capsys.readouterr()
    assert "how far each score follows the gene's rank in the cell (median Spearman): cos_genes" in said.out
    (note,) = [line for line in said.err.splitlines() if line.startswith("rankcell: note:") and "position" in line]
    assert "cos_genes" in note and "rank by cos_genes_in_place" in note
    assert (tmp_path / "s" / f"explain-{cell}.png").read_bytes()[:4] == b"\x89PNG"
    jobs_lines, notes = rank_lines(read_screen(tmp_path / "s"))
    assert len(jobs_lines) == 2 and len(notes) == 1
    shown = repr(rc.Screen(tmp_path / "s")).splitlines()
    assert [f"  {line}" for line in jobs_lines] + [f"  note: {notes[0]}"] == shown[-3:]
    assert "follows the gene&#x27;s rank" in rc.Screen(tmp_path / "s")._repr_html_()


def test_nothing_is_said_of_few_edits(place, tmp_path, capsys):
    assert (
        main(["perturb", str(place / "cells.dataset"), "-o", str(tmp_path / "s"), "--model", str(place / "model"), "--device", "cpu"]) == 0
    )
    assert "median Spearman" not in capsys.readouterr().out


def test_parts_at_the_command_line(place, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call = ["perturb", str(place / "counts.h5ad"), "--model", str(place / "model"), "--device", "cpu", "--tokens-per-unit", "40"]
    assert main([*call, "-o", "whole"]) == 0
    for i in (1, 2, 3):
        assert main([*call, "-o", f"s{i}", "--shard", f"{i}/3"]) == 0
        said = capsys.readouterr().out
        assert f"s{i}: part {i}/3 is done, " in said
        assert f"(parts in folders of their own: rankcell perturb s{i} OTHERS... -o s{i} --merge)" in said
    assert main(["perturb", "s1", "s2", "-o", "out", "--merge"]) == 2
    assert "--shard 3/3" in capsys.readouterr().err
    assert main(["perturb", "s1", "s2", "s3", "-o", "out", "--merge"]) == 0
    assert tables(tmp_path / "out") == tables(tmp_path / "whole")
    assert isinstance(read_screen("out").table(), pa.Table)


def test_a_part_without_units_says_so(perturber, tokens, tmp_path):
    parts = N_UNITS + 1
    with pytest.warns(RankcellWarning, match=rf"shard='{parts}/{parts}' has nothing to run: the screen has {N_UNITS} units of work, fewer than {parts} parts"):
        done = run_screen(perturber, tokens, tmp_path / "s", shard=f"{parts}/{parts}", **WAY)
    assert (done.done, done.n_units) == (0, N_UNITS)


def test_the_line_after_a_part_says_how_its_screen_is_put_together():
    from rankcell.cli.part_lines import part_lines
    from rankcell.store.parts import Part, PartDone

    merge = "rankcell perturb 'my screen' -o 'my screen' --merge"
    apart = " (parts in folders of their own: rankcell perturb 'my screen' OTHERS... -o 'my screen' --merge)"
    for done, end in (
        (3, f"3 of 8 units are there; when all parts are done: {merge}{apart}"),  # 0, 3 and 6 are of this part
        (2, f"2 of 8 units are there; when all parts are done: {merge}{apart}"),
        (5, f"5 of 8 units are there; when all parts are done: {merge}"),  # of another part too: they share the folder
        (8, f"8 of 8 units are there; put them together: {merge}"),
    ):
        assert part_lines(PartDone(Path("my screen"), Part(1, 3), done, 8)) == [f"my screen: part 1/3 is done, {end}"]
    assert [Part(i, 3).n_units(8) for i in (1, 2, 3)] == [3, 3, 2]


# readouts


def test_readouts(perturber, tokens, whole, tmp_path, small, place):
    every = whole.table().to_pandas()
    found = run_screen(perturber, tokens, tmp_path / "cls", toward=["kind=x"], readout="cls").table().to_pandas()
    scores = list(found.columns[6:])
    assert scores == [c for c in every.columns[6:] if "cls" in c]
    for name in scores:
        np.testing.assert_allclose(found[name], every[name], rtol=0, atol=1e-6)
    both = run_screen(perturber, tokens, tmp_path / "both", readout=["cell", "genes"]).table()
    assert [n for n in both.schema.names if n.startswith("cos_")] == ["cos_genes", "cos_cell", "cos_genes_in_place", "cos_cell_in_place"]
    ranked = rc.tl.rank_edits(tmp_path / "cls")
    assert ranked.attrs["by"] == "cos_cls_in_place"
    assert (
        main(
            [
                "perturb",
                str(place / "cells.dataset"),
                "-o",
                str(tmp_path / "s"),
                "--model",
                str(small[1]),
                "--readout",
                "cls",
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    assert pq.read_schema(tmp_path / "s" / "screen.parquet").names[6:8] == ["cos_cls", "cos_cls_in_place"]
    assert main(["plot", str(tmp_path / "s"), "-o", str(tmp_path / "report.html")]) == 0


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (dict(readout="gene"), "readout is gene; one of genes, cell, cls"),
        (dict(readout=[]), "readout is empty; one of genes, cell, cls"),
        (dict(readout="genes", toward=["kind=x"]), "movement toward a state is read from the cell or the CLS readout"),
        (dict(readout="cls", affected=True), "affected genes need the readout of genes, and only cls is asked for"),
    ],
)
def test_readouts_that_cannot_be(perturber, tokens, tmp_path, how, message):
    with pytest.raises(SettingsError, match=message):
        run_screen(perturber, tokens, tmp_path / "s", **how)
    assert not (tmp_path / "s").exists()


def test_cls_alone_needs_a_cls(small, tmp_path):
    from builders import make_checkpoint, make_vocab

    vocab = make_vocab(12, special=("<pad>", "<mask>"))
    bare = call(Perturber, make_checkpoint(tmp_path / "m", vocab), device="cpu")
    rows = TokenSet.from_rows([[2, 3, 4]], TokenSpec.of(vocab, frame=vocab.frame, max_len=10), cell_ids=["a"])
    with pytest.raises(SettingsError, match="only the CLS readout is asked for, and these tokens have no CLS"):
        run_screen(bare, rows, tmp_path / "s", readout="cls")


def test_a_folder_of_another_job_is_refused(perturber, tokens, small, tmp_path):

    from rankcell.store import ShardedRun

    (tmp_path / "other").mkdir()
    ShardedRun.open(tmp_path / "other", {"what": "something else"})
    for chosen in (perturber, call(Perturber, small[1], device="cpu", precision="fp32")):
        with pytest.raises(OutputError, match="holds another run"):
            run_screen(chosen, tokens, tmp_path / "other")


@pytest.mark.parametrize("how", [{}, dict(any=True)])
def test_a_survey_of_large_sets(small, tokens, how):
    from rankcell.perturb.run.survey import Survey

    rng = np.random.default_rng(4)
    sets = {f"s{i}": [f"G{g}" for g in rng.permutation(12)[:n]] for i, n in enumerate((1, 2, 5, 7, 3))}
    plan = edit_plan(small[0], kind="delete", sets=sets, frame=tokens.frame, max_len=10, **how)
    rows = np.flatnonzero(tokens.n_genes > 0)
    found = Survey.of(tokens, rows, plan, small[0])
    assert found.edits.tolist() == [plan.count(tokens.row(i)) for i in rows]
    whole = [sum(set(genes) <= set(tokens.genes(i).tolist()) for i in rows) for genes in plan.targets]
    assert found.cells_per_target.tolist() == whole and sum(whole) > 0


@posix
@pytest.mark.parametrize(("number", "to_all"), [("SIGTERM", True), ("SIGHUP", False)])
def test_terminated_with_processes_of_its_own(place, whole, tmp_path, number, to_all):
    """As a scheduler does: the exit code says which signal, no process stays, and the same command goes on."""
    number, out = getattr(signal, number), tmp_path / "s"
    words = ["perturb", str(place / "cells.dataset"), "-o", str(out), "--model", str(place / "model"), "--device", "cpu,cpu"]
    words += ["--tokens-per-batch", "40", "--tokens-per-unit", "1", "--toward", "kind=x", "--affected", "--affected-top", "2"]
    code = "import sys\nfrom rankcell.cli import main\nsys.exit(main())"
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True
    )
    until = time.monotonic() + 600
    while not list(out.glob("shards/screen-*.parquet")) and time.monotonic() < until and process.poll() is None:
        time.sleep(0.002)
    if process.poll() is None:
        os.killpg(process.pid, number) if to_all else process.send_signal(number)
    _, said = process.communicate(timeout=600)
    assert process.returncode in (128 + number, 0), said
    if process.returncode:
        assert said.splitlines()[-1].startswith("rankcell: stopped; ")
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert main([w.replace("cpu,cpu", "cpu") for w in words]) == 0
    assert tables(out) == tables(whole.folder)
