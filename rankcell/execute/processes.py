"""Units of a job in a process for each of several devices, which is given one unit after the other and ends when the process that gives
them is gone.

A job names how a process opens it: `module:function`, a context manager of (folder, device, name of the worker) whose value is a Worker.
"""

import contextlib
import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rankcell import errors, wording
from rankcell.errors import ModelError, RankcellError, RankcellWarning, is_out_of_memory
from rankcell.execute.local import WRITING, Count, run_here
from rankcell.wording import note

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from rankcell.execute.processes import serve; serve(*sys.argv[2:])"
_PATIENCE = 5  # seconds that a process is given to end

def run_on(task: str, folder: Path, units: Sequence[int], devices: Sequence[str], count: Count, *, prefix: str = "", fixed: bool = False) -> None:
    """Run units of a job in a folder, each on the first device that is free. The first error ends all.

    task
        `module:function`, see above.
    prefix
        Of the names of the workers, which are numbers from 0.
    fixed
        Each device has its own units, the same whenever they are shared out so.
    """
    own = [iter(units[n :: len(devices)]) for n in range(len(devices))] if fixed else [iter(units)] * len(devices)
    messages: queue.SimpleQueue = queue.SimpleQueue()
    notes: set[str] = set()
    with contextlib.ExitStack() as stack:
        helpers = {n: stack.enter_context(_helper(task, folder, device, prefix, n, messages)) for n, device in enumerate(devices)}
        busy = set(helpers)
        for n, helper in helpers.items():
            helper.give(next(own[n], None))
        while busy:
            n, word, value = messages.get()
            if word == "tick":
                count.tick(helpers[n].unit, value)
            elif word == "done":
                count.finish(value)
            elif word == "ready":
                helpers[n].give(next(own[n], None))
            elif word == "finished":
                busy.discard(n)
            elif word == "ended" and n not in busy:
                pass
            elif word == "note":
                if value not in notes:  # of whichever device says it first
                    note(f"device '{devices[n]}': {value}")
                notes.add(value)
            elif word == "error":
                raise getattr(errors, value["type"], RankcellError)(value["message"])
            else:
                end = value or f"has ended ({_cause(helpers[n].process.wait())})"
                raise ModelError(f"the process on device '{devices[n]}' {end}: what is done is kept, and the same command goes on from there")


def _cause(code: int) -> str:
    """What an exit code says of the end of a process."""
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return "killed, possibly by the kernel for want of memory" if name == "SIGKILL" else f"signal {name}"


@dataclass
class _Helper:
    process: subprocess.Popen
    unit: int = -1

    def give(self, unit: int | None) -> None:
        """Tell the process its next unit, or that there is none."""
        self.unit = -1 if unit is None else unit
        with contextlib.suppress(BrokenPipeError):  # it has ended, which its output says as well
            print(self.unit, file=self.process.stdin, flush=True)


@contextlib.contextmanager
def _helper(task: str, folder: Path, device: str, prefix: str, number: int, messages: queue.SimpleQueue) -> Iterator[_Helper]:
    """A process of one device; its messages go to `messages` as (number, word, value)."""
    command = [sys.executable, "-c", _START, json.dumps(sys.path), task, str(folder), device, f"{prefix}{number}", json.dumps(wording.current())]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    with subprocess.Popen(command, **pipes) as process:
        listener = threading.Thread(target=_listen, args=(process.stdout, number, messages), daemon=True)
        listener.start()
        try:
            yield _Helper(process)
        finally:
            with contextlib.suppress(OSError):
                process.stdin.close()
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
            listener.join()


def _listen(stream: TextIO, number: int, messages: queue.SimpleQueue) -> None:
    for line in stream:
        with contextlib.suppress(ValueError):
            word, value = json.loads(line)
            messages.put((number, word, value))
    messages.put((number, "ended", None))


def serve(task: str, folder: str, device: str, name: str, spelling: str) -> None:
    """What such a process does: read unit numbers from its standard input, say on its standard output how far it is."""
    import warnings

    for stop in ("SIGINT", "SIGTERM", "SIGHUP"):  # they are for whoever gives the units, after whom this process ends too
        if hasattr(signal, stop):
            signal.signal(getattr(signal, stop), signal.SIG_IGN)
    wording.adopt(json.loads(spelling))
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    units: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_read_units, args=(units,), daemon=True).start()

    def send(word: str, value: Any) -> None:
        print(json.dumps([word, value]), file=out, flush=True)

    def pass_on(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        send("note", str(message))

    warnings.simplefilter("ignore")
    warnings.filterwarnings("always", category=RankcellWarning)
    warnings.showwarning = pass_on
    try:
        _serve(task, folder, device, name, units, send)
    except RankcellError as e:
        send("error", {"type": type(e).__name__, "message": str(e)})
    except Exception as e:
        first = (str(e).splitlines() or [""])[0]
        if is_out_of_memory(e):
            send("error", {"type": "ModelError", "message": f"there is not enough memory on device '{device}' ({first or 'no more is known'})"})
        else:
            traceback.print_exc()
            send("failed", f"has failed ({type(e).__name__}: {first})")
    os._exit(0)


def _serve(task: str, folder: str, device: str, name: str, units: queue.SimpleQueue, send: Any) -> None:
    module, _, function = task.partition(":")
    with getattr(importlib.import_module(module), function)(folder, device, name) as worker:
        run_here(worker, _received(units, send), _Messages(send))
        worker.finish()
    send("finished", None)


def _received(units: queue.SimpleQueue, send: Callable[[str, Any], None]) -> Iterator[int]:
    """Iterate over the unit numbers that the process receives, until there is none."""
    while (unit := units.get()) >= 0:
        yield unit
        send("ready", None)


@dataclass(frozen=True)
class _Messages:
    """A Count that sends ticks and finished units to the process that started this one."""

    send: Callable[[str, Any], None]

    def tick(self, unit: int, n: int) -> None:
        self.send("tick", n)

    def finish(self, unit: int) -> None:
        self.send("done", unit)


def _read_units(units: queue.SimpleQueue) -> None:
    for line in sys.stdin:
        units.put(int(line))
    with WRITING:
        os._exit(0)  # whoever gave them is gone, or has no more
