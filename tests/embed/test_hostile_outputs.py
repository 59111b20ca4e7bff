"""Outputs among other people's files: nothing that was not written here is removed, cut short or followed; the umask is kept."""

import os
import stat
import warnings

import numpy as np
import pytest
from builders import make_adata

from rankcell.cli import main
from rankcell.demo import PAGE
from rankcell.demo import _own as demo_files
from rankcell.embed import store_run as embed_run
from rankcell.errors import OutputError
from rankcell.model.options import Compute
from rankcell.store import ShardedRun, atomic_path, locked, require_new
from rankcell.tokens import TokenSet, TokenSpec, opening
from rankcell.train import Recipe, pretrain

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.skipif(os.name != "posix", reason="links and modes are posix")]
STORES = ("h5ad", "zarr", "parquet", "npz", "npy", "safetensors", "sqlite")
RECIPE = Recipe(layers=1, width=8, heads=2, epochs=1, holdout=0.4, batch_size=4)


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    path = tmp_path_factory.mktemp("counts") / "c.h5ad"
    make_adata(np.random.default_rng(0).integers(0, 5, (6, 12)) + 1).write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def tokens(small):
    rng = np.random.default_rng(1)
    rows = [[2, *rng.permutation(12)[:6] + 4, 3] for _ in range(12)]
    return TokenSet.from_rows(rows, TokenSpec.of(small[0], frame=small[0].frame, max_len=12), cell_ids=[str(i) for i in range(12)])


@pytest.fixture
def victim(tmp_path):
    """Somebody's folder with a file, and what is in it."""
    home = tmp_path / "victim"
    home.mkdir()
    (home / "file").write_text("precious")
    yield home
    assert [p.name for p in home.iterdir()] == ["file"] and (home / "file").read_text() == "precious"


def embed(counts, small, out, *more):
    return main([str(a) for a in ("embed", counts, "--model", small[1], "-o", out, "--device", "cpu", *more)])


def contents(folder):
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def refusal(capsys, *facts):
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("rankcell: ") and all(str(fact) in lines[0] for fact in facts), lines


@pytest.mark.parametrize("name", ["notes.txt", "obs/mine.csv", "obsm/2026-notes", "link"])
def test_a_zarr_with_a_foreign_file_is_kept(counts, small, victim, tmp_path, capsys, name):
    out = tmp_path / "e.zarr"
    assert embed(counts, small, out) == 0
    (out / name).symlink_to(victim) if name == "link" else (out / name).write_text("mine")
    capsys.readouterr()
    assert embed(counts, small, out, "--force") == 2
    refusal(capsys, name, "rankcell did not write there")
    assert os.path.lexists(out / name) and embed_run.STORES[".zarr"].read(out, None).cell_ids
    (out / name).unlink()
    assert embed(counts, small, out, "--force") == 0


@pytest.mark.parametrize("kind", STORES)
def test_an_output_that_is_a_link(counts, small, victim, tmp_path, capsys, kind):
    """Of a folder's kind it leads to an earlier output, of a file's to somebody's file."""
    out, real = tmp_path / f"e.{kind}", tmp_path / "real.zarr"
    if kind == "zarr":
        assert embed(counts, small, real) == 0
    out.symlink_to(real if kind == "zarr" else victim / "file")
    before, _ = contents(tmp_path), capsys.readouterr()
    for force in ([], ["--force"]):
        assert embed(counts, small, out, *force) == 2
        refusal(capsys, out, "is a link to", "name that place itself")
    assert contents(tmp_path) == before and out.is_symlink()


@pytest.mark.parametrize("name", ["e.genes.parquet", "e.cells.txt", "e.json"])
def test_a_file_beside_an_output_that_somebody_wrote(counts, small, tmp_path, capsys, name):
    out = tmp_path / ("e.parquet" if name.endswith("parquet") else "e.npy")
    more = ["--include", "cell,gene"] if name.endswith("parquet") else []
    assert embed(counts, small, out, *more) == 0
    assert embed(counts, small, out, *more, "--force") == 0  # its own are replaced
    for mine in ('["mine"]', '{"stored": 1}', ""):
        (tmp_path / name).write_text(mine)
        if name == "e.cells.txt":
            (tmp_path / "e.json").write_text(mine)
        before, _ = contents(tmp_path), capsys.readouterr()
        assert embed(counts, small, out, *more, "--force") == 2
        refusal(capsys, "which belongs to this output, exists and rankcell did not write it")
        assert contents(tmp_path) == before


def test_a_run_that_goes_on_keeps_what_is_beside_its_output(counts, small, tmp_path, capsys):
    """It was killed while it wrote its files; somebody's stands there now."""
    out, more = tmp_path / "e.parquet", ("--include", "cell,gene")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embed_run, "write_result", interrupt)
        assert embed(counts, small, out, *more) == 130
    assert (tmp_path / "e.parquet.run" / "manifest.json").is_file()
    (tmp_path / "e.genes.parquet").write_text("mine")
    capsys.readouterr()
    assert embed(counts, small, out, *more) == 2
    refusal(capsys, "e.genes.parquet", "rankcell did not write it")
    assert (tmp_path / "e.genes.parquet").read_text() == "mine"
    (tmp_path / "e.genes.parquet").unlink()
    assert embed(counts, small, out, *more) == 0


def interrupt(*args, **how):
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["notes.txt", "vocabulary/mine.tsv", "checkpoint.pt"])
def test_a_checkpoint_with_a_foreign_file_is_kept(tokens, small, tmp_path, name):
    out = tmp_path / "model"
    pretrain(tokens, out, vocab=small[0], recipe=RECIPE, compute=Compute("cpu"))
    pretrain(tokens, out, vocab=small[0], recipe=RECIPE, compute=Compute("cpu"), force=True)  # all that was written is known
    (out / name).write_text("mine")
    with pytest.raises(OutputError, match=f"holds {name}, which rankcell did not write"):
        pretrain(tokens, out, vocab=small[0], recipe=RECIPE, compute=Compute("cpu"), force=True)
    assert (out / name).read_text() == "mine" and (out / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["thesis.docx", "vocabulary/mine.tsv", "b_to_monocyte/mine.csv", "tokens.dataset/mine"])
def test_a_demo_folder_with_a_foreign_file_is_kept(tmp_path, capsys, name):
    out = tmp_path / "demo"
    (out / name).parent.mkdir(parents=True)
    (out / PAGE).write_text("page")
    require_new(out, force=True, marker=PAGE, own=demo_files())
    (out / name).write_text("mine")
    assert main(["demo", "--out", str(out), "--force"]) == 2
    refusal(capsys, f"holds {name}, which rankcell did not write")
    assert (out / name).read_text() == "mine"


def test_what_comes_into_the_folder_meanwhile_is_kept(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mark").touch()
    with (
        pytest.raises(OutputError, match=r"holds late\.txt"),
        atomic_path(out, force=True, marker="mark", own=("mark",)) as part,
    ):
        part.mkdir()
        (out / "late.txt").write_text("mine")
    assert (out / "late.txt").read_text() == "mine" and [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("target", ["file", "gone", "."])
def test_a_lock_that_is_a_link(victim, counts, small, tmp_path, capsys, target):
    """The lock of a name that is not there yet, and that of a folder."""
    (tmp_path / ".t.dataset.lock").symlink_to(victim / target)
    assert main(["tokenize", str(counts), "-o", str(tmp_path / "t.dataset"), "--vocab", str(small[1] / "vocabulary")]) == 2
    refusal(capsys, ".t.dataset.lock is a link")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(victim / target)
    with pytest.raises(OutputError, match="is a link"), locked(tmp_path / "run"):
        raise AssertionError


def test_a_lock_that_is_somebodys_file_is_not_cut_short(tmp_path):
    (tmp_path / ".out.lock").write_text("mine")
    os.link(tmp_path / ".out.lock", tmp_path / "hard")
    with atomic_path(tmp_path / "out", exclusive=True) as part:
        part.write_text("x")
    assert (tmp_path / "hard").read_text() == "mine"


def test_a_run_folder_that_is_a_link(counts, small, victim, tmp_path, capsys):
    (tmp_path / "e.npz.run").symlink_to(victim)
    assert embed(counts, small, tmp_path / "e.npz", "--force") == 2
    refusal(capsys, "e.npz.run, where the work for this output is kept, is a link")
    (tmp_path / "e.npz.run").unlink()
    done = tmp_path / "done"
    done.mkdir()
    ShardedRun.open(done, {}).finish()
    (tmp_path / "e.npz.run").symlink_to(done)
    assert embed(counts, small, tmp_path / "e.npz") == 2
    assert (done / "manifest.json").is_file() and not (tmp_path / "e.npz").exists()


def test_a_finished_run_folder_keeps_foreign_files(counts, small, tmp_path):
    folder = tmp_path / "e.npz.run"
    folder.mkdir()
    ShardedRun.open(folder, {}).finish()
    (folder / "shards" / "mine.txt").write_text("mine")
    embed(counts, small, tmp_path / "e.npz")
    assert (folder / "shards" / "mine.txt").read_text() == "mine"


def test_shards_that_are_a_link(victim, tmp_path):
    (tmp_path / "run").mkdir()
    ShardedRun.open(tmp_path / "run", {})
    (tmp_path / "run" / "shards").rmdir()
    (tmp_path / "run" / "shards").symlink_to(victim)
    (victim / ".x.part-y").write_text("mine")
    with pytest.raises(OutputError, match="shards is a link to"):
        ShardedRun.open(tmp_path / "run", {})
    (victim / ".x.part-y").unlink()


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_tokens_kept_beside_an_output(counts, small, victim, tmp_path, capsys, monkeypatch, kind):
    monkeypatch.setattr(opening, "_IN_MEMORY", 0)
    kept = tmp_path / ".e.npz.tokens"
    if kind == "link":
        kept.symlink_to(victim)
    else:
        kept.mkdir()
        (kept / "mine").write_text("mine")
    assert embed(counts, small, tmp_path / "e.npz") == 2
    refusal(capsys, kept, "choose another output")
    assert kept.is_symlink() if kind == "link" else (kept / "mine").read_text() == "mine"


def test_the_facts_beside_a_table_are_not_replaced_unasked(tmp_path):
    import pandas as pd

    from rankcell.stats.ranked_tables import write_ranked

    (tmp_path / "t.tsv.json").write_text("mine")
    for force in (False, True):
        with pytest.raises(OutputError, match=r"t\.tsv\.json, which belongs to this output, exists and rankcell did not write it"):
            write_ranked(pd.DataFrame({"a": [1]}), tmp_path / "t.tsv", facts={}, force=force)
    assert (tmp_path / "t.tsv.json").read_text() == "mine" and not (tmp_path / "t.tsv").exists()
    (tmp_path / "t.tsv.json").unlink()
    (tmp_path / "t.tsv.json").symlink_to(tmp_path / "victim")
    (tmp_path / "victim").write_text("mine")
    with pytest.raises(OutputError, match="is a link to"):
        write_ranked(pd.DataFrame({"a": [1]}), tmp_path / "t.tsv", facts={}, force=True)
    assert (tmp_path / "victim").read_text() == "mine" and (tmp_path / "t.tsv.json").is_symlink()
    (tmp_path / "t.tsv.json").unlink()
    for _ in range(2):
        write_ranked(pd.DataFrame({"a": [1]}), tmp_path / "t.tsv", facts={}, force=True)


def wrong_modes(root, mask):
    """Files and folders below `root` whose permissions are not those of new ones."""
    modes = {p: stat.S_IMODE(p.stat().st_mode) for p in root.rglob("*")}
    return {str(p): oct(m) for p, m in modes.items() if m != (0o777 if p.is_dir() else 0o666) & ~mask}


@pytest.mark.parametrize("mask", [0o002, 0o027, 0o077])
def test_outputs_follow_the_umask(counts, tokens, small, tmp_path, mask):
    source = tmp_path / "source.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata announces zarr 3
        make_adata(np.ones((3, 12))).write_zarr(source)
    out = tmp_path / "out"
    before = os.umask(mask)
    try:
        source.chmod(0o755)
        out.mkdir()
        for kind in STORES:
            pool = ("--pool", "mean") if kind == "npy" else ()
            assert embed(counts, small, out / f"e.{kind}", *pool) == 0
        assert embed(source, small, out / "copy.zarr") == 0
        assert main(["tokenize", str(counts), "-o", str(out / "t.dataset"), "--vocab", str(small[1] / "vocabulary")]) == 0
        assert main(["vocab", "build", str(counts), "-o", str(out / "vocab")]) == 0
        pretrain(tokens, out / "model", vocab=small[0], recipe=RECIPE, compute=Compute("cpu"))
        assert embed(counts, small, out / "all.parquet", "--include", "cell,gene") == 0
        assert main(["vocab", "tally", str(counts), "-o", str(out / "t.tally.parquet")]) == 0
        screened(counts, small, out)
    finally:
        os.umask(before)
    assert {"s", "r.tsv", "r.tsv.json", "p.html", "p.png", "p.svg", "copy.zarr", "model"} < {p.name for p in out.iterdir()}
    assert not wrong_modes(out, mask)


def screened(counts, small, out, *more):
    """A screen `s`, its table `r.tsv`, its page and two pictures; `more` goes to the last three."""
    if not (out / "s").exists():
        assert main([str(a) for a in ("perturb", counts, "-o", out / "s", "--model", small[1], "--genes", "G1,G2", "--device", "cpu")]) == 0
    codes = [main([str(a) for a in ("stats", out / "s", "-o", out / "r.tsv", *more)])]
    codes += [main([str(a) for a in ("plot", out / "s", "-o", out / "p.html", *more)])]
    codes += [main([str(a) for a in ("plot", out / "s", "--what", "rank", "-o", out / f"p.{kind}", *more)]) for kind in ("png", "svg")]
    return codes


def test_tables_pages_and_pictures_over_links(counts, small, victim, tmp_path, capsys):
    assert screened(counts, small, tmp_path) == [0] * 4
    assert screened(counts, small, tmp_path, "--force") == [0] * 4
    for name in ("r.tsv", "p.html", "p.png", "p.svg"):
        (tmp_path / name).unlink()
        (tmp_path / name).symlink_to(victim / "file")
    capsys.readouterr()
    assert screened(counts, small, tmp_path, "--force") == [2] * 4
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rankcell: ")]
    assert len(lines) == 4 and all("is a link to" in line for line in lines)


@pytest.mark.parametrize("name", ["notes.txt", "work/mine.npy", "shards/mine.parquet", "drafts/"])
def test_a_screen_with_a_foreign_file_is_kept(counts, small, tmp_path, capsys, name):
    command = [str(a) for a in ("perturb", counts, "-o", tmp_path / "s", "--model", small[1], "--device", "cpu", "--genes")]
    assert main([*command, "G1"]) == 0
    place = tmp_path / "s" / name
    place.parent.mkdir(exist_ok=True)
    place.mkdir() if name.endswith("/") else place.write_text("mine")
    before, _ = contents(tmp_path), capsys.readouterr()
    assert main([*command, "G2", "--force"]) == 2
    refusal(capsys, f"holds {name.rstrip('/')}, which rankcell did not write there")
    assert contents(tmp_path) == before


@pytest.mark.parametrize(("verb", "marker"), [("tokenize", "rankcell.json"), ("build", "vocabulary.json")])
@pytest.mark.parametrize("name", ["thesis.tex", "data-mine.arrow", "cache-mine.arrow", "sub/genes.tsv", "empty/"])
def test_token_folders_and_vocabularies(counts, small, tmp_path, capsys, verb, marker, name):
    out = tmp_path / "out"
    vocab = ("--vocab", small[1] / "vocabulary")
    command = [str(a) for a in (("tokenize", counts, *vocab) if verb == "tokenize" else ("vocab", "build", counts))] + ["-o", str(out)]
    assert main(command) == 0 == main([*command, "--force"]) and (out / marker).is_file()
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).mkdir() if name.endswith("/") else (out / name).write_text("mine")
    before, _ = contents(tmp_path), capsys.readouterr()
    assert main([*command, "--force"]) == 2
    refusal(capsys, f"holds {name.rstrip('/')}, which rankcell did not write there")
    assert contents(tmp_path) == before
