"""Progress of long jobs, at the command line and in Python: a bar on a terminal or in a notebook, lines in a log, all on stderr.

A room is given `tick(done, total)` and calls it whenever some work is done; a counter or a verb makes one with `progress(JOB)`.
Rooms that know more (a loss, how many cells) give it as a third argument, which is shown at the end of the line.
"""

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator

from rankcell.config import settings

__all__ = ["JOBS", "Tick", "clear", "progress", "report"]

JOBS = {  # job -> (what is done, the unit of its rate)
    "annotate": ("cells embedded", "cells"),
    "check": ("cells read", "cells"),
    "compare": ("embeddings scored", "embeddings"),
    "demo": ("demo", "%"),
    "embed": ("cells embedded", "cells"),
    "gene_embeddings": ("cells embedded", "cells"),
    "perturb": ("edits screened", "edits"),
    "pretrain": ("training steps", "steps"),
    "state_embeddings": ("cells embedded", "cells"),
    "tokenize": ("cells tokenized", "cells"),
    "vocab build": ("cells counted, all passes", "cells"),
    "vocab tally": ("cells counted", "cells"),
}
_SETTLING = 0.5  # seconds after the first tick in which the finished parts of an earlier run are counted
_FIRST, _AT_LEAST, _BAR = 2.0, 300.0, 0.1  # seconds before anything is shown, between two lines at most, between two states of a bar

Tick = Callable[..., None]  # (done, total) or (done, total, detail)
_OPEN: list["_Bar"] = []


@contextlib.contextmanager
def progress(job: str, *, lines: bool | None = None) -> Iterator[Tick | None]:
    """`tick(done, total, detail="")` that shows how far `job` (of JOBS) is; None where nothing is to be shown.

    lines
        Whether lines are written where there is neither terminal nor notebook; None: where `settings.verbosity` is 2.
    """
    lines = settings.verbosity > 1 if lines is None else lines
    bar = _is_live(sys.stderr)
    if not settings.verbosity or not (bar or lines):
        yield None
        return
    shown = (_Bar if bar else _Lines)(*JOBS[job])
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
    """Take away the bar that stands on the line, so that something else can be written there; it comes back with the next tick."""
    for bar in _OPEN:
        bar.clear()


class _Shown:
    """What is done, the rate since the job settled, and the time left."""

    def __init__(self, what: str, unit: str):
        self.what, self.unit, self.detail = what, unit, ""
        self.began = self.shown_at = time.monotonic()
        self.first_at = self.settled_at = None  # of the first tick, and of the one that rates are counted from
        self.settled = self.done = self.total = 0

    def __call__(self, done: int, total: int, detail: str = "") -> None:
        now = time.monotonic()
        if self.first_at is None:  # what came before it was loading
            self.first_at = now
        if now - self.first_at < _SETTLING:
            self.settled_at, self.settled = now, done
        self.done, self.total, self.detail = done, total, detail
        self.show(now)

    def text(self, now: float, bar: str = "") -> str:
        """`cells embedded: 57 %, 1,200 of 2,100, 310 cells/s, 3 s left`"""
        share = f"{100 * self.done // max(1, self.total)} %"
        parts = [share + bar] + ([f"{self.done:,} of {self.total:,}"] if self.unit != "%" else [])
        made, seconds = self.done - self.settled, now - self.settled_at
        if made > 0 and seconds > 0:
            if self.unit != "%":
                parts.append(rate(made / seconds, self.unit))
            if self.done < self.total:
                parts.append(f"{duration((self.total - self.done) * seconds / made)} left")
        return f"{self.what}: {', '.join(parts + ([self.detail] if self.detail else []))}"

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


class _Bar(_Shown):
    """One line that is written over and over; none for a job of two seconds or of one step."""

    _width, _is_begun = 0, False

    def __init__(self, what: str, unit: str):
        super().__init__(what, unit)
        self.file = sys.stderr
        _OPEN.append(self)

    def show(self, now: float) -> None:
        if not self._is_begun and (self.done >= self.total or now - self.began < _FIRST):
            return
        if now - self.shown_at >= _BAR or self.done >= self.total:
            self.shown_at, self._is_begun = now, True
            filled = min(20, 20 * self.done // max(1, self.total))
            self._write(self.text(now, f" |{'#' * filled}{'-' * (20 - filled)}|"))

    def _write(self, text: str) -> None:
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
            self._write(self.text(self.shown_at, f" |{'#' * 20}|") if self.done >= self.total else self.text(self.shown_at))
            self.file.write("\n")
            self.file.flush()


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


def _is_live(stream: object) -> bool:
    """Whether what is written to `stream` can be written over: a terminal, or a notebook's."""
    if getattr(stream, "isatty", bool)():
        return True
    return "ipykernel" in sys.modules and type(stream).__module__.startswith("ipykernel")
