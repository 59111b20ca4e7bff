"""Units of a job one after the other in this process, and what a job says of itself to whoever runs its units."""

import functools
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

WRITING = threading.Lock()  # held while the results of a unit are written


class Count(Protocol):
    """How far a job is: `n` more of a unit (tokens, cells), and a unit that is done."""

    def tick(self, unit: int, n: int) -> None: ...
    def finish(self, unit: int) -> None: ...


class Worker(Protocol):
    """What computes the units of a job on one device.

    `compute(unit, tick)` gives what writes the results: with that, the unit is done. `finish()`: what is left once no unit is.
    `leaves_processor_idle`: whether the processor has nothing to do while a unit is computed (GPUs).
    """

    @property
    def leaves_processor_idle(self) -> bool: ...
    def compute(self, unit: int, tick: Callable[[int], None]) -> Callable[[], Any]: ...
    def finish(self) -> None: ...


def run_here(worker: Worker, units: Iterable[int], count: Count) -> None:
    """Run units of a job in this process, one after the other.

    Where the processor is idle while the device computes (GPUs), the results of a unit are written by a thread while the next unit is
    computed; no unit waits behind that. An error of writing is raised once the next unit is computed, of which nothing is written. However
    this ends, it waits for what is being written.
    """
    if not worker.leaves_processor_idle:
        for unit in units:
            _write(worker.compute(unit, functools.partial(count.tick, unit)))
            count.finish(unit)
        return
    written: list[tuple[int, Future]] = []  # the unit that is being written, if any

    def settle() -> None:
        for unit, writing in written:
            writing.result()
            count.finish(unit)
        written.clear()

    with ThreadPoolExecutor(1) as thread:
        for unit in units:
            write = worker.compute(unit, functools.partial(count.tick, unit))
            settle()
            written.append((unit, thread.submit(_write, write)))
        settle()


def _write(write: Callable[[], Any]) -> None:
    with WRITING:
        write()
