"""How far a long job is: a bar on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """`tick(done, all)`: a bar on a terminal, otherwise a line about every tenth of the way."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(desc=what, unit_scale=True, leave=True) as bar:

            def tick(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            yield tick
        return
    last = -1

    def say(done: int, total: int) -> None:
        nonlocal last
        tenth = 10 * done // max(1, total)
        if tenth > last:
            last = tenth
            print(f"{what}: {done:,} of {total:,}", flush=True)

    yield say
