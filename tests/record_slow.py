"""Makes tests/slow.txt anew: the tests, and whole files, that `pytest -m "not slow"` leaves out.

    pytest --durations=0 --durations-min=0.1 > log; python tests/record_slow.py log

A test is slow when its calls and set-ups take more than two seconds together, over all its parameters; a file is when one set-up takes
more than ten, since another of its tests would pay for it.
"""

import collections
import pathlib
import re
import sys

SECONDS, SECONDS_OF_A_SETUP = 2.0, 10.0


def slow_tests(log: str) -> list[str]:
    """Node ids of slow tests and paths of slow files in the durations that pytest has printed, sorted."""
    seconds: dict[str, float] = collections.Counter()
    files = set()
    for duration, phase, name in re.findall(r"^([\d.]+)s (call|setup|teardown) +(\S+?::\w+)", log, re.M):
        seconds[name] += float(duration)
        if phase == "setup" and float(duration) > SECONDS_OF_A_SETUP:
            files.add(name.split("::")[0])
    return sorted(files | {name for name, total in seconds.items() if total > SECONDS and name.split("::")[0] not in files})


if __name__ == "__main__":
    names = slow_tests(pathlib.Path(sys.argv[1]).read_text())
    pathlib.Path(__file__).with_name("slow.txt").write_text("".join(f"{name}\n" for name in names))
    print(f"{len(names)} slow tests and files")
