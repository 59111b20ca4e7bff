"""Progress: what a bar and a line say, where which is shown, and the one switch."""

import io
import sys
import warnings

import numpy as np
import pytest
from builders import make_adata, make_vocab
from flat_options import call, perturb_df

import rankcell as rc
from rankcell import progress as shown
from rankcell.errors import RankcellWarning, SettingsError
from rankcell.perturb.run.counting import Amount, EditCount
from rankcell.wording import note


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """`clock[0]`: the seconds that time.monotonic tells to the progress module."""
    now = [100.0]
    monkeypatch.setattr(shown.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def verbosity():
    before = rc.settings.verbosity
    yield
    rc.settings.verbosity = before


def run(clock, steps, job="embed", **how):
    """Ticks `steps`: (seconds, done, total)."""
    with shown.progress(job, **how) as tick:
        for seconds, done, total in steps:
            clock[0] += seconds
            if tick:
                tick(done, total)
    return tick


def test_lines_tell_share_rate_and_time_left(clock, capsys):
    run(clock, [(1, 50, 1000), (4, 250, 1000), (1, 299, 1000), (4, 500, 1000), (10, 1000, 1000)], lines=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "cells embedded: 25 %, 250 of 1,000, 50 cells/s, 15 s left",
        "cells embedded: 50 %, 500 of 1,000, 50 cells/s, 10 s left",
        "cells embedded: 100 %, 1,000 of 1,000, 50 cells/s",
    ]


def test_what_an_earlier_run_did_is_not_in_the_rate(clock, capsys):
    run(clock, [(0.1, 900, 1000), (10, 910, 1000)], lines=True)
    assert "910 of 1,000, 1.0 cells/s, 1 min 30 s left" in capsys.readouterr().err


def test_loading_is_not_in_the_rate(clock, capsys):
    run(clock, [(60, 10, 100), (1, 20, 100)], lines=True)
    assert capsys.readouterr().err.splitlines() == [
        "cells embedded: 10 %, 10 of 100",
        "cells embedded: 20 %, 20 of 100, 10 cells/s, 8 s left",
    ]


def test_a_quick_job_says_nothing(clock, capsys):
    run(clock, [(0.5, 5, 10), (0.5, 10, 10)], lines=True)
    run(clock, [(60, 10, 10)], lines=True)  # one step: the verb's own closing line tells it
    assert capsys.readouterr() == ("", "")


def test_a_long_job_says_something_every_five_minutes(clock, capsys):
    run(clock, [(3, 1, 10**6), *[(60, 2 + i, 10**6) for i in range(11)]], lines=True)
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_a_bar_on_a_terminal(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with shown.progress("pretrain") as tick:
        tick(0, 60)
        clock[0] += 2
        tick(30, 60, "loss 3.142")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            note("something")  # takes the bar off the line
        assert screen.getvalue().endswith(" \r")
        clock[0] += 2
        tick(60, 60)
    states = screen.getvalue().split("\r")
    assert "training steps: 50 % |##########----------|, 30 of 60, 15 steps/s, 2 s left, loss 3.142" in [s.rstrip() for s in states]
    assert states[-1] == states[-1].rstrip("\n") + "\n" and "100 % |####################|, 60 of 60" in states[-1]
    assert max(len(s) for s in states) < 100


def test_nothing_is_shown_where_nobody_looks(clock, capsys, verbosity):
    """stderr is a file here: lines only when they are asked for."""
    steps = [(3, 500, 1000), (3, 900, 1000)]
    assert run(clock, steps) is None
    rc.settings.verbosity = 2
    assert run(clock, steps) is not None
    assert capsys.readouterr().err.startswith("cells embedded: 50 %")
    rc.settings.verbosity = 0
    assert run(clock, steps, lines=True) is None
    assert capsys.readouterr().err == ""


def test_verbosity_is_checked_and_silences_notes(verbosity):
    for wrong in (3, -1, "loud", None, 1.5, True, [1]):
        with pytest.raises(SettingsError, match="verbosity is"):
            rc.settings.verbosity = wrong
    with pytest.raises(SettingsError, match="has no 'verbose'"):
        rc.settings.verbose = 2
    assert rc.settings.verbosity == 1 and repr(rc.settings) == "Settings(verbosity=1)"
    with pytest.warns(RankcellWarning, match="a thing"):
        note("a thing")
    rc.settings.verbosity = 0
    note("a thing")  # a warning would be an error here


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (60, "1 min"), (250, "4 min 10 s"), (7500, "2 h 5 min"), (273_600, "3 d 4 h")]
)
def test_durations(seconds, text):
    assert shown.duration(seconds) == text


@pytest.mark.parametrize(("rate", "text"), [(1234.5, "1,234 cells/s"), (4.23, "4.2 cells/s"), (0.1, "6 cells/min")])
def test_rates(rate, text):
    assert shown.rate(rate, "cells") == text


def test_a_screen_counts_edits_and_cells():
    told = []
    count = EditCount({0: Amount(100, 10, 2), 1: Amount(300, 20, 3)}, lambda *ticked: told.append(ticked))
    count.tick(0, 50)
    count.finish(0)
    count.tick(1, 150)
    count.tick(1, 900)  # more than was reckoned
    count.finish(1)
    assert told == [(5, 30), (10, 30), (20, 30), (30, 30), (30, 30)]


def test_the_counters_show_it(clock, capsys, verbosity, small, monkeypatch, one_thread):
    """Every step takes three seconds here, so that lines are due."""
    monkeypatch.setattr(shown.time, "monotonic", lambda: clock.__setitem__(0, clock[0] + 3) or clock[0])
    _, model = small
    adata = make_adata(np.random.default_rng(0).poisson(2, (6, 12)) + 1, kind=list("ababab"))
    rc.settings.verbosity = 2
    rc.tl.embed(adata, model, compute=rc.Compute("cpu", tokens_per_batch=32))
    rc.tl.state_embeddings(adata, "kind", model, compute=rc.Compute("cpu", tokens_per_batch=32))
    perturb_df(adata, model, genes=["G1", "G2"], device="cpu", tokens_per_unit=20)
    err = capsys.readouterr().err
    assert err.count("cells embedded: ") > 2 and "edits screened: " in err and " of 6 cells" in err
    rc.settings.verbosity = 0
    rc.tl.embed(adata, model, compute=rc.Compute("cpu", tokens_per_batch=32))
    assert capsys.readouterr().err == ""


def test_several_passes_are_one_job(clock, capsys):
    ticks = []
    passes = shown.Passes(lambda *ticked: ticks.append(ticked), 30)
    for rows in (10, 20):
        passes.begin("a pass")
        passes.add(rows // 2, rows)
        passes.add(rows, rows)
    assert ticks == [(0, 30), (5, 30), (10, 30), (10, 30), (20, 30), (30, 30)]
    with shown.progress("compare", lines=True) as tick:
        passes = shown.Passes(tick, 30)
        for name in ("model", "random weights"):
            clock[0] += 3
            passes.begin(name)
            passes.add(15, 15)
    assert "50 %, 15 of 30, model\n" in capsys.readouterr().err
    shown.Passes(None, 1).begin()  # nobody looks


@pytest.fixture
def cells():
    return make_adata(np.random.default_rng(0).poisson(2, (12, 12)) + 1, kind=list("ab" * 6))


SCORES = {"k": 2, "folds": 2, "resolution": (), "device": "cpu", "tokens_per_batch": 32}


def test_comparing_poolings_counts_the_cells_of_every_model(small, cells, one_thread):
    from rankcell.assess.compare_cells import compare_cells

    ticks = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankcellWarning)
        call(compare_cells, cells, "kind", model=small[1], pool=["mean", "cls"], n_random=2, **SCORES, progress=lambda *t: ticks.append(t))
    done = [d for d, _ in ticks]
    assert {t for _, t in ticks} == {36} and done == sorted(done) and done[-1] == 36 and len(set(done)) > 6


def test_rank_bias_counts_its_edited_cells(small, cells, one_thread):
    from rankcell.assess import rank_bias

    ticks, embedder = [], rc.Embedder(small[1], rc.Compute("cpu", tokens_per_batch=64))
    tokens = rc.Tokenizer(embedder.checkpoint.vocab, rc.Tokenizing(max_len=embedder.checkpoint.max_len)).tokenize(cells)
    ranks = rc.RankBins(how=("drop", "mask"), n_bins=3)
    rank_bias(tokens, embedder, pool=["mean"], layer=[-2], ranks=ranks, progress=lambda *t: ticks.append(t))
    done = [d for d, _ in ticks]
    assert {t for _, t in ticks} == {12 * (1 + 2 * 4)} and done == sorted(done) and done[-1] == 108 and len(set(done)) > 5


def test_annotating_counts_the_cells_of_both_inputs(small, cells, one_thread, tmp_path):
    from rankcell.assess.annotate import annotate

    ticks, out = [], tmp_path / "labels.csv"
    how = {"label": "kind", "model": small[1], "k": 2, "device": "cpu", "tokens_per_batch": 32}
    query = cells[:4].copy()
    query.obs_names = [f"query {name}" for name in query.obs_names]
    call(annotate, query, cells, out, **how, progress=lambda *t: ticks.append(t))
    done = [d for d, _ in ticks]
    assert {t for _, t in ticks} == {16} and done == sorted(done) and done[-1] == 16 and len(set(done)) > 4


def test_the_assessments_show_it(clock, capsys, verbosity, small, cells, monkeypatch, one_thread, tmp_path):
    from rankcell.cli import main

    monkeypatch.setattr(shown.time, "monotonic", lambda: clock.__setitem__(0, clock[0] + 3) or clock[0])
    rc.settings.verbosity = 2
    call(rc.tl.compare_poolings, cells, "kind", small[1], pool="mean", **SCORES)
    assert "cells embedded: 50 %, 12 of 24, " in capsys.readouterr().err
    rc.tl.rank_bias(cells, small[1], pool="mean", compute=rc.Compute("cpu"), bins=rc.RankBins(n_bins=3))
    assert " of 156, " in capsys.readouterr().err
    rc.settings.verbosity = 0
    call(rc.tl.compare_poolings, cells, "kind", small[1], pool="mean", **SCORES)
    assert capsys.readouterr().err == ""
    rc.settings.verbosity = 1
    cells.write_h5ad(tmp_path / "a.h5ad")
    words = f"compare {tmp_path}/a.h5ad --label kind --model {small[1]} --pool mean --k 2 --folds 2 --resolution 0 --device cpu"
    assert main(words.split()) == 0
    assert "cells embedded: " in capsys.readouterr().err


NOTEBOOK = """
import time
from rankcell import progress

progress._FIRST, progress._NotebookBar.every = 0.05, 0.1
with progress.progress({job!r}) as tick:
    for i in range(1, {stop}):
        tick and tick(i, 40, "a detail")
        time.sleep(0.01)
"""


def test_a_saved_notebook_keeps_one_line_of_a_bar():
    import nbformat
    from nbclient import NotebookClient

    codes = [
        NOTEBOOK.format(job="embed", stop=41),
        NOTEBOOK.format(job="perturb", stop=31) + "print('after')",
        "print('before')" + NOTEBOOK.format(job="check", stop=41) * 2,
        NOTEBOOK.format(job="embed", stop=41).replace("0.05", "60"),  # too quick for a bar
        "import rankcell\nrankcell.settings.verbosity = 0" + NOTEBOOK.format(job="embed", stop=41),
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in codes])
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    outputs = [[o.get("text") or o["data"]["text/plain"] for o in cell.outputs] for cell in notebook.cells]
    assert [len(o) for o in outputs] == [1, 2, 3, 0, 0]
    assert outputs[0][0].startswith("cells embedded: 100 %, 40 of 40, ") and outputs[0][0].endswith(", a detail")
    assert outputs[1][0].startswith("edits screened: 75 %, 30 of 40, ") and outputs[1][1] == "after\n"
    assert not any(c in text for o in outputs for text in o for c in "\r#|") and max(len(o[0]) for o in outputs if o) < 100


def test_a_notebooks_bar_is_written_over_once_a_second(clock, monkeypatch):
    states = []
    monkeypatch.setattr(shown, "_is_notebook", lambda stream: True)
    monkeypatch.setattr(shown._NotebookBar, "write", lambda self, text: states.append(text))
    run(clock, [(0.25, i, 400) for i in range(1, 401)])
    assert 80 <= len(states) <= 101 and states[-1].startswith("cells embedded: 100 %")


def test_a_shell_command_of_a_notebook_writes_rarely(clock, monkeypatch):
    """It has a terminal of its own, and every write to it is an output of the cell."""
    for name, least, most in (("JPY_PARENT_PID", 11, 14), ("OTHER", 101, 500)):
        with monkeypatch.context() as patch:
            patch.delenv("JPY_PARENT_PID", raising=False)
            patch.setenv(name, "1")
            screen = Screen()
            patch.setattr(sys, "stderr", screen)
            run(clock, [(0.25, i, 400) for i in range(1, 401)])
        assert least <= screen.getvalue().count("\r") <= most and screen.getvalue().endswith("400 of 400, 4.0 cells/s\n")


def test_tokenizing_in_memory_ticks():
    ticks = []
    tokens = rc.Tokenizer(make_vocab()).tokenize(make_adata(np.ones((5, 12))), progress=lambda done, total: ticks.append((done, total)))
    assert len(tokens) == 5 and ticks[-1] == (5, 5)
