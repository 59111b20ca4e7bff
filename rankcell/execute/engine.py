"""Which engine runs the units of a job."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rankcell.execute.local import Count, Worker, run_here
from rankcell.execute.processes import run_on


@dataclass(frozen=True)
class UnitJob:
    """Units of a job that are to be run.

    task
        `module:function`, by which any process opens the job: a context manager of (folder, device, name of the worker).
    folder
        What the units are a function of, together with their numbers.
    numbers
        Which units, in order.
    devices
        On which they may be run, each by a worker of its own.
    prefix
        Of the names of the workers, which are numbers from 0.
    fixed
        Each device has its own units, the same whenever they are shared out so.
    """

    task: str
    folder: Path
    numbers: Sequence[int]
    devices: Sequence[str]
    prefix: str = ""
    fixed: bool = False

    @property
    def used_devices(self) -> Sequence[str]:
        """Those that get a unit."""
        return self.devices[: len(self.numbers)]


def run_units(job: UnitJob, count: Count, *, worker: Callable[[], Worker], release: Callable[[Sequence[str]], None]) -> None:
    """Run units in this process, or where there are several units and devices by a process of each device.

    worker
        Opens the job in this process; called once, where there is anything to run here.
    release
        Called with the devices before processes are started: frees what this process has on them.
    """
    if not job.numbers:
        return
    devices = job.used_devices
    if len(devices) < 2:
        run_here(worker(), job.numbers, count)
        return
    release(devices)
    run_on(job.task, job.folder, job.numbers, devices, count, prefix=job.prefix, fixed=job.fixed)
