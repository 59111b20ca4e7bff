"""Units on several devices: a process for each, which is told one unit after the other and ends when whoever told it is gone."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rankcell import errors, wording
from rankcell.errors import ModelError, RankcellError
from rankcell.perturb.units import Count

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from rankcell.perturb.devices import serve; serve(*sys.argv[2:])"
_PATIENCE = 5  # seconds that a process is given to end


def run_on(folder: Path, units: Iterable[int], devices: Sequence[str], count: Count) -> None:
    """Run units of a prepared screen, each on the first device that is free. The first error ends all."""
    left, said = iter(units), queue.SimpleQueue()
    with contextlib.ExitStack() as stack:
        helpers = {n: stack.enter_context(_helper(folder, device, n, said)) for n, device in enumerate(devices)}
        busy = {n for n, helper in helpers.items() if helper.give(next(left, None))}
        while busy:
            n, word, value = said.get()
            if word == "tick":
                count.tick(helpers[n].unit, value)
            elif word == "done":
                count.finish(value)
                if not helpers[n].give(next(left, None)):
                    busy.discard(n)
            elif word == "error":
                raise getattr(errors, value["type"], RankcellError)(value["message"])
            else:
                raise ModelError(
                    f"the process on device '{devices[n]}' has ended (exit code {helpers[n].process.wait()}), perhaps for want of memory: "
                    "what is done is kept, and the same command goes on from there"
                )


@dataclass
class _Helper:
    process: subprocess.Popen
    unit: int = -1

    def give(self, unit: int | None) -> bool:
        """Tell the process its next unit, if there is one."""
        if unit is None:
            return False
        self.unit = unit
        with contextlib.suppress(BrokenPipeError):  # it has ended, which its output says as well
            print(unit, file=self.process.stdin, flush=True)
        return True


@contextlib.contextmanager
def _helper(folder: Path, device: str, number: int, said: queue.SimpleQueue) -> Iterator[_Helper]:
    """A process of one device; what it says goes to `said` as (number, word, value)."""
    command = [sys.executable, "-c", _START, json.dumps(sys.path), str(folder), device, json.dumps(wording.current())]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    with subprocess.Popen(command, **pipes) as process:
        listener = threading.Thread(target=_listen, args=(process.stdout, number, said), daemon=True)
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


def _listen(stream: TextIO, number: int, said: queue.SimpleQueue) -> None:
    for line in stream:
        with contextlib.suppress(ValueError):
            word, value = json.loads(line)
            said.put((number, word, value))
    said.put((number, "ended", None))


def serve(folder: str, device: str, spelling: str) -> None:
    """What such a process does: read unit numbers from its standard input, say on its standard output how far it is."""
    import warnings

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # they are for whoever gives the units, after whom this process ends too
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    wording.adopt(json.loads(spelling))
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    units: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_read_units, args=(units,), daemon=True).start()

    def say(word: str, value: Any) -> None:
        print(json.dumps([word, value]), file=out, flush=True)

    try:
        _serve(folder, device, units, say)
    except RankcellError as e:
        say("error", {"type": type(e).__name__, "message": str(e)})
    os._exit(0)


def _serve(folder: str, device: str, units: queue.SimpleQueue, say: Any) -> None:
    from rankcell.perturb.prepared import read_prepared
    from rankcell.perturb.units import Worker, threads_as_begun

    work = read_prepared(folder)
    with threads_as_begun(work):
        worker = Worker.open(work, device)
        while True:
            unit = units.get()
            worker.run(unit, lambda n: say("tick", n))
            say("done", unit)


def _read_units(units: queue.SimpleQueue) -> None:
    for line in sys.stdin:
        units.put(int(line))
    os._exit(0)  # whoever gave them is gone, or has no more
