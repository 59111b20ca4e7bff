"""Work on blocks by several threads, results in order, few of them waiting."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

from rankcell.errors import SettingsError
from rankcell.wording import option

Task = TypeVar("Task")
Result = TypeVar("Result")
_MOST = 8
_PATIENCE = 0.5


def in_order(work: Callable[[Task], Result], tasks: Iterable[Task], *, workers: int | None) -> Iterator[Result]:
    """`work` of each task, in their order; at most two more than `workers` tasks are begun and not yet taken.

    `workers` None: the processors that this process may use, at most 8 (more hold more memory and wait for the disk).
    Reading, ranking and writing overlap: while the caller writes one result, the threads are at the next. When it is stopped
    before the end, nothing more is begun, and what is being done is waited for, half a second at most: a Ctrl-C is obeyed at once.
    """
    if workers is not None and workers < 1:
        raise SettingsError(f"{option('workers')} is {workers}; at least 1")
    n = workers or min(_MOST, processors())
    pool = ThreadPoolExecutor(n, "rankcell")
    begun: deque = deque()
    try:
        for task in tasks:
            begun.append(pool.submit(work, task))
            if len(begun) > n + 1:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        wait([future for future in begun if not future.cancelled()], _PATIENCE)


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
