"""Progress of long jobs, at the command line and in Python: a bar on a terminal, one line of output in a notebook, lines in a log.

A room is given `tick(done, total)` and calls it whenever some work is done; a counter or a verb makes one with `progress(JOB)`.
All go to stderr, but for a notebook's: each write there would be one more output of the cell, so one output is written over.
Rooms that know more (a loss, how many cells) give it as a third argument, which is shown at the end of the line.
"""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator

from rankcell.config import settings

__all__ = ["JOBS", "Passes", "Progress", "Tick", "clear", "progress", "report"]

JOBS = {  # job -> (what is done, the unit of its rate)
    "annotate": ("cells embedded", "cells"),
    "check": ("cells read", "cells"),
    "compare": ("cells embedded", "cells"),
    "demo": ("demo", "%"),
    "embed": ("cells embedded", "cells"),
    "gene_embeddings": ("cells embedded", "cells"),
    "perturb": ("edits screened", "edits"),
    "pretrain": ("training steps", "steps"),
    "rank_bias": ("edited cells embedded", "cells"),
    "state_embeddings": ("cells embedded", "cells"),
    "tokenize": ("cells tokenized", "cells"),
    "vocab build": ("cells counted, all passes", "cells"),
    "vocab tally": ("cells counted", "cells"),
}
Progress = Callable[[int, int], None] | None  # (done, total)
_SETTLING = 0.5  # seconds after the first tick in which the finished parts of an earlier run are counted
_FIRST, _AT_LEAST = 2.0, 300.0  # seconds before anything is shown, between two lines at most
_EVERY, _EVERY_IN_NOTEBOOK, _EVERY_IN_SHELL = 0.1, 1.0, 10.0  # seconds between two states of a bar: on a terminal, in a notebook, of its `!command`

Tick = Callable[..., None]  # (done, total) or (done, total, detail)
_OPEN: list["_TerminalBar"] = []


@contextlib.contextmanager
def progress(job: str, *, lines: bool | None = None) -> Iterator[Tick | None]:
    """`tick(done, total, detail="")` that shows how far `job` (of JOBS) is; None where nothing is to be shown.

    lines
        Whether lines are written where there is neither terminal nor notebook; None: where `settings.verbosity` is 2.
    """
    lines = settings.verbosity > 1 if lines is None else lines
    kind = _NotebookBar if _is_notebook(sys.stderr) else _TerminalBar if _is_terminal(sys.stderr) else _Lines if lines else None
    if not settings.verbosity or kind is None:
        yield None
        return
    shown = kind(*JOBS[job])
    try:
        yield shown
    finally:
        shown.close()


def report(tick: Tick | None, done: int, total: int, detail: str) -> None:
    """Call `tick`, with the detail where it is one of `progress` (a caller's own function takes done and total)."""
    if isinstance(tick, _Shown):
        tick(done, total, detail)
    elif tick:
        tick(done, total)


def clear() -> None:
    """Erase the open bars, so that something else can be written on their line; they come back with the next tick."""
    for bar in _OPEN:
        bar.clear()


class Passes:
    """The progress of one job of several passes, over `total` rows in all, with what is being done (`detail`) at the end of the line."""

    def __init__(self, tick: Tick | None, total: int):
        self._tick, self._total = tick, total
        self._before = self._done = 0  # rows of the passes before this one, and of this one too
        self._detail = ""

    def begin(self, detail: str = "") -> None:
        """A new pass, or work on what the passes gave."""
        self._before, self._detail = self._done, detail
        report(self._tick, self._done, self._total, detail)

    def add(self, done: int, total: int) -> None:
        """`done` of the `total` rows of this pass: the `progress` of an embedder."""
        self._done = self._before + done
        report(self._tick, self._done, self._total, self._detail)


class _Shown:
    """State of a running job: rows done, the rate since it settled, the time remaining."""

    def __init__(self, label: str, unit: str):
        self.label, self.unit, self.detail = label, unit, ""
        self.began = self.shown_at = time.monotonic()
        self.first_at = self.settled_at = self.ticked_at = None  # of the first tick, the one that rates are counted from, and the last
        self.settled = self.done = self.total = 0

    def __call__(self, done: int, total: int, detail: str = "") -> None:
        now = time.monotonic()
        if self.first_at is None:  # what came before it was loading
            self.first_at = now
        if now - self.first_at < _SETTLING:
            self.settled_at, self.settled = now, done
        self.done, self.total, self.detail, self.ticked_at = done, total, detail, now
        self.show(now)

    def text(self, now: float, bar: str = "") -> str:
        """`cells embedded: 57 %, 1,200 of 2,100, 310 cells/s, 3 s left`"""
        share = f"{100 * self.done // max(1, self.total)} %"
        parts = [share + bar] + ([f"{self.done:,} of {self.total:,}"] if self.unit != "%" else [])
        done, seconds = self.done - self.settled, now - self.settled_at
        if done > 0 and seconds > 0:
            if self.unit != "%":
                parts.append(rate(done / seconds, self.unit))
            if self.done < self.total:
                parts.append(f"{duration((self.total - self.done) * seconds / done)} left")
        return f"{self.label}: {', '.join(parts + ([self.detail] if self.detail else []))}"

    def show(self, now: float) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


class _Lines(_Shown):
    """A line at every tenth of the way and every five minutes; none for a job of two seconds or of one step."""

    tenth = -1  # of the last line; -1 before the first

    def show(self, now: float) -> None:
        tenth = 10 * self.done // max(1, self.total)
        is_due = tenth > self.tenth if self.tenth >= 0 else tenth < 10 and now - self.began >= _FIRST
        if is_due or (self.tenth >= 0 and now - self.shown_at >= _AT_LEAST):
            self.tenth, self.shown_at = tenth, now
            print(self.text(now), file=sys.stderr, flush=True)


class _Live(_Shown):
    """One line that is written over and over; none for a job of two seconds or of one step."""

    every = 0.0  # seconds between two states of it
    _is_begun = _is_full = False

    def show(self, now: float) -> None:
        is_last = self.done >= self.total
        if not self._is_begun and (is_last or now - self.began < _FIRST):
            return
        if now - self.shown_at >= self.every or (is_last and not self._is_full):
            self.shown_at, self._is_begun, self._is_full = now, True, is_last
            self.write(self.text(now, self.bar()))

    def bar(self) -> str:
        filled = min(20, 20 * self.done // max(1, self.total))
        return f" |{'#' * filled}{'-' * (20 - filled)}|"

    def write(self, text: str) -> None:
        raise NotImplementedError


class _TerminalBar(_Live):
    """On stderr, after a carriage return."""

    _width = 0

    def __init__(self, label: str, unit: str):
        super().__init__(label, unit)
        self.file = sys.stderr
        self.every = _EVERY_IN_SHELL if "JPY_PARENT_PID" in os.environ else _EVERY  # which a notebook's kernel hands on to its children
        _OPEN.append(self)

    def write(self, text: str) -> None:
        text = text[: shutil.get_terminal_size((100, 24)).columns - 1]
        self.file.write("\r" + text.ljust(self._width))
        self.file.flush()
        self._width = len(text)

    def clear(self) -> None:
        if self._width:
            self.file.write("\r" + " " * self._width + "\r")
            self.file.flush()
            self._width = 0

    def close(self) -> None:
        _OPEN.remove(self)
        if self._width:
            self.write(self.text(self.ticked_at, self.bar() if self.done >= self.total else ""))
            self.file.write("\n")
            self.file.flush()


class _NotebookBar(_Live):
    """One output of the cell, which each state replaces; a saved notebook keeps the last line."""

    every = _EVERY_IN_NOTEBOOK
    _output = None

    def write(self, text: str) -> None:
        if self._output is None:
            from IPython.display import display

            self._output = display({"text/plain": text}, raw=True, display_id=True)
        else:
            self._output.update({"text/plain": text}, raw=True)

    def close(self) -> None:
        if self._output is not None:
            self.write(self.text(self.ticked_at))


def rate(per_second: float, unit: str) -> str:
    """`310 cells/s`, `4.2 edits/s`, `7 steps/min`"""
    if per_second < 0.5:
        return f"{per_second * 60:.2g} {unit}/min"
    return f"{per_second:,.0f} {unit}/s" if per_second >= 10 else f"{per_second:.1f} {unit}/s"


def duration(seconds: float) -> str:
    """`3 s`, `4 min 10 s`, `2 h 5 min`, `3 d 4 h`"""
    seconds = int(seconds + 0.5)
    for large, small, n in (("d", "h", 86_400), ("h", "min", 3_600), ("min", "s", 60)):
        if seconds >= n:
            remainder = seconds % n // {"h": 3_600, "min": 60, "s": 1}[small]
            return f"{seconds // n} {large}" + (f" {remainder} {small}" if remainder else "")
    return f"{seconds} s"


def _is_terminal(stream: object) -> bool:
    return bool(getattr(stream, "isatty", bool)())


def _is_notebook(stream: object) -> bool:
    return "ipykernel" in sys.modules and type(stream).__module__.startswith("ipykernel")
