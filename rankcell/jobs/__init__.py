"""One function a verb: files in, files out. The command line and the counters (pp, tl) both stand on these."""

from rankcell.jobs.plots import plot
from rankcell.jobs.stats import stats

__all__ = [
    "plot",
    "stats",
]
