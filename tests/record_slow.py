"""Makes tests/slow.txt anew: the tests that `pytest -m "not slow"` leaves out.

    pytest --durations=0 --durations-min=0.1 > log; python tests/record_slow.py log

A test is slow when its calls and set-ups take more than a second together, over all its parameters.
"""

import collections
import pathlib
import re
import sys

LEAST = 1.0  # seconds


def slow_tests(log: str) -> list[str]:
    seconds: dict[str, float] = collections.Counter()
    for taken, name in re.findall(r"^([\d.]+)s (?:call|setup|teardown) +(\S+?::\w+)", log, re.M):
        seconds[name] += float(taken)
    return sorted(name for name, taken in seconds.items() if taken > LEAST)


if __name__ == "__main__":
    names = slow_tests(pathlib.Path(sys.argv[1]).read_text())
    pathlib.Path(__file__).with_name("slow.txt").write_text("".join(f"{name}\n" for name in names))
    print(f"{len(names)} slow tests")
