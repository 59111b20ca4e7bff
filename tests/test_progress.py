"""Progress: what a bar and a line say, where which is shown, and the one switch."""

import io
import sys
import warnings

import numpy as np
import pytest
from conftest import make_adata, make_vocab

import rankcell as rc
from rankcell import progress as shown
from rankcell.errors import RankcellWarning, SettingsError
from rankcell.perturb.units import Amount, Count
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
    count = Count({0: Amount(100, 10, 2), 1: Amount(300, 20, 3)}, lambda *ticked: told.append(ticked))
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
    rc.tl.embed(adata, model, device="cpu", tokens_per_batch=32)
    rc.tl.state_embeddings(adata, "kind", model, device="cpu", tokens_per_batch=32)
    rc.tl.perturb(adata, model, genes=["G1", "G2"], device="cpu", tokens_per_unit=20)
    err = capsys.readouterr().err
    assert err.count("cells embedded: ") > 2 and "edits screened: " in err and " of 6 cells" in err
    rc.settings.verbosity = 0
    rc.tl.embed(adata, model, device="cpu", tokens_per_batch=32)
    assert capsys.readouterr().err == ""


def test_tokenizing_in_memory_ticks():
    ticks = []
    tokens = rc.Tokenizer(make_vocab()).tokenize(make_adata(np.ones((5, 12))), progress=lambda done, total: ticks.append((done, total)))
    assert len(tokens) == 5 and ticks[-1] == (5, 5)
