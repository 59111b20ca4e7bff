"""Progress of a verb, and one line when it is stopped."""

import contextlib
import sys
from collections.abc import Callable, Iterator

import typer

from rankcell.progress import Tick
from rankcell.progress import progress as shown

_AGAIN = "nothing half-written is left, the same command starts again"


@contextlib.contextmanager
def progress(job: str, *, stopped: Callable[[], str] = lambda: _AGAIN, lines: bool = True) -> Iterator[Tick | None]:
    """`tick(done, total, detail="")` for a job of rankcell.progress.JOBS: a bar on a terminal, with `lines` lines of progress elsewhere.

    Ctrl-C inside it ends the program with exit code 130 and one line, which `stopped()` completes.
    """
    try:
        with shown(job, lines=lines) as tick:
            yield tick
    except KeyboardInterrupt:
        print(f"rankcell: stopped; {stopped()}", file=sys.stderr)
        raise typer.Exit(130) from None
