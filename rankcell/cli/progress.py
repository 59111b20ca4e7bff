"""Progress of a verb, and one line when it is stopped."""

import contextlib
import sys
from collections.abc import Callable, Iterator

import typer

from rankcell.cli.stopping import exit_code
from rankcell.progress import Tick
from rankcell.progress import progress as shown

AGAIN = "nothing half-written is left, the same command starts again"


@contextlib.contextmanager
def progress(job: str, *, stopped: Callable[[], str] = lambda: AGAIN, lines: bool = True) -> Iterator[Tick | None]:
    """`tick(done, total, detail="")` for a job of rankcell.progress.JOBS: a bar on a terminal, with `lines` lines of progress elsewhere.

    Ctrl-C or SIGTERM inside it ends the program with its exit code and one line, which `stopped()` completes.
    """
    try:
        with shown(job, lines=lines) as tick:
            yield tick
    except KeyboardInterrupt as e:
        print(f"rankcell: stopped; {stopped()}", file=sys.stderr)
        raise typer.Exit(exit_code(e)) from None
