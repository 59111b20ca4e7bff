"""How far a long job is: a bar on a terminal, plain lines elsewhere; and one line when it is stopped."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from rankcell.cli.stopping import exit_code

_AGAIN = "nothing half-written is left, the same command starts again"


@contextmanager
def progress(what: str, *, stopped: Callable[[], str] = lambda: _AGAIN) -> Iterator[Callable[[int, int], None]]:
    """`tick(done, all)`: a bar on a terminal, otherwise a line about every tenth of the way.

    Ctrl-C or SIGTERM inside it ends the program with its exit code and one line, which `stopped()` completes.
    """
    try:
        with _bar(what) if sys.stderr.isatty() else _lines(what) as tick:
            yield tick
    except KeyboardInterrupt as e:
        print(f"rankcell: stopped; {stopped()}", file=sys.stderr)
        raise typer.Exit(exit_code(e)) from None


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    from tqdm import tqdm

    with tqdm(desc=what, unit_scale=True, leave=True) as bar:

        def tick(done: int, total: int, detail: str = "") -> None:
            bar.total = total
            bar.set_postfix_str(detail, refresh=False)
            bar.update(done - bar.n)

        yield tick


@contextmanager
def _lines(what: str) -> Iterator[Callable[[int, int], None]]:
    last = -1

    def tick(done: int, total: int, detail: str = "") -> None:
        nonlocal last
        tenth = 10 * done // max(1, total)
        if tenth > last:
            last = tenth
            print(f"{what}: {done:,} of {total:,}{f' ({detail})' if detail else ''}", flush=True)

    yield tick
