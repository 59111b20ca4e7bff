"""Stopped from outside: SIGTERM (a scheduler, `kill`) and SIGHUP (a closed terminal) end a run as Ctrl-C does, and clean up."""

import contextlib
import signal

_NUMBERS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Terminated(KeyboardInterrupt):
    """What a signal raises in the main thread; everything that cleans up after a Ctrl-C does so after it too."""

    def __init__(self, number: int):
        super().__init__(f"signal {number}")
        self.number = number


def heed_signals() -> None:
    """From now on these signals raise Terminated; one that is ignored, as under nohup, stays so."""

    def stop(number: int, frame: object) -> None:
        raise Terminated(number)

    with contextlib.suppress(ValueError):  # only the main thread may set them
        for number in _NUMBERS:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, stop)


def ignore_signals() -> None:
    """What comes from now on is too late to change anything."""
    for number in (signal.SIGINT, *_NUMBERS):
        signal.signal(number, signal.SIG_IGN)


def exit_code(stop: KeyboardInterrupt) -> int:
    """130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + getattr(stop, "number", signal.SIGINT)


def is_stop(code: int) -> bool:
    """Whether an exit code is one of these."""
    return code in {128 + number for number in (signal.SIGINT, *_NUMBERS)}
