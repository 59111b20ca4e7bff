"""Who runs the units of a job: this process (local), a process for each of several devices (processes). A unit is a pure function of a folder
and a number, so that any engine gives the same bytes; a further one is one more file, and one more case in `run_units`."""

from rankcell.lazy import door

_PLACES = {
    "Count": "rankcell.execute.local",
    "UnitJob": "rankcell.execute.engine",
    "Worker": "rankcell.execute.local",
    "run_here": "rankcell.execute.local",
    "run_units": "rankcell.execute.engine",
}
__getattr__, __dir__ = door(__name__, _PLACES)
