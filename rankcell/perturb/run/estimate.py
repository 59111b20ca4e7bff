"""Estimate of a screen: rows, tokens, units, time and room, after some real batches. Nothing is written."""

from dataclasses import dataclass

import numpy as np

from rankcell.fact_list import html_of_facts, text_of_facts
from rankcell.perturb.exact.engine import Engine
from rankcell.perturb.run.method import Method
from rankcell.perturb.run.prepared import skipped
from rankcell.perturb.run.run_plan import RunPlan, Settled
from rankcell.perturb.run.survey import tokens_of_rows
from rankcell.scores import IN_PLACE

_PER_ROW, _PER_SCORE, _PER_AFFECTED = 9, 8, 12  # bytes on disk
_PER_MEAN, _PER_SUM = 10, 6  # of a pair of perturbed and affected gene: in the finished table, and in the part of one cell
_PER_MOMENTS = 16  # of such a pair and pass: mean and deviation
_TOKEN = {False: 2, True: 6}  # bytes of a token, without and with its count


@dataclass(frozen=True)
class Estimate:
    """Cells and edits of a screen; tokens through the model, and units of work; tokens a second on one device (measured), the
    seconds of all, and bytes: of the finished folder, and of all while it runs."""

    n_cells: int
    n_edits: int
    n_skipped: int | None
    n_tokens: int
    n_units: int
    tokens_per_second: float
    n_devices: int
    seconds: float
    bytes_finished: int
    bytes_running: int

    @classmethod
    def of(cls, plan: RunPlan, method: Method, settled: Settled, engine: Engine, *, n_devices: int = 1) -> "Estimate":
        """engine: the exact one, with the model loaded."""
        work, edits = method.cost(plan, settled), plan.survey.edits
        rate, names = method.timed(plan, settled, engine)
        n_edits, n_verified = int(edits.sum()), method.n_verified(method.settings(plan))
        n_tokens = int(work.tokens.sum()) + tokens_of_rows(min(n_verified, n_edits), plan.lengths, plan.edits)
        size, running = _affected_bytes(plan)
        size += n_edits * (_PER_ROW + _PER_SCORE * len(names)) + method.result_bytes(plan, settled, len(names))
        copied = 0 if plan.tokens_folder else int(plan.lengths.sum()) * _TOKEN[plan.tokens.has_counts]
        n_units = len(work.edges(plan.tokens_per_unit)) - 1
        seconds = n_tokens / rate / max(1, min(n_devices, n_units))
        skips = skipped(work, plan.edits)
        return cls(len(plan.rows), n_edits, skips, n_tokens, n_units, rate, n_devices, seconds, size, 2 * size + copied + running)

    def lines(self) -> list[str]:
        """Sentences, one a line: as the command line prints them with `--dry-run`, and as the object shows itself."""
        return [f"{name}: {value}" for name, value in self._facts()]

    def __repr__(self) -> str:
        return text_of_facts("Estimate", self._facts())

    def _repr_html_(self) -> str:
        return html_of_facts("Estimate", self._facts())

    def _facts(self) -> list[tuple[str, str]]:
        devices = f" on each of {self.n_devices} devices" if self.n_devices > 1 else ""
        skips = f" ({self.n_skipped:,} pairs of cell and target have none)" if self.n_skipped else ""
        return [
            ("cells", f"{self.n_cells:,}"),
            ("edits", f"{self.n_edits:,}{skips}"),
            ("tokens through the model", f"{self.n_tokens:,}"),
            ("units of work", f"{self.n_units:,}"),
            ("time", f"about {_duration(self.seconds)}, at {self.tokens_per_second:,.0f} tokens a second{devices}"),
            ("room on disk", f"about {_size(self.bytes_finished)}, and {_size(self.bytes_running)} while it runs"),
        ]


def _affected_bytes(plan: RunPlan) -> tuple[int, int]:
    """Bytes of the finished tables of affected genes, and of their parts while the screen runs."""
    measure, edits, lengths = plan.config.measure, plan.survey.edits, plan.lengths
    tables, all_pairs = measure.collects, int((edits * lengths).sum())
    pairs = int((edits * np.minimum(measure.affected_top or 0, lengths)).sum()) if "top" in tables else 0
    pairs += all_pairs if "raw" in tables else 0
    sums = all_pairs if "mean" in tables else 0
    added = min(sums, len(plan.edits.targets) * plan.checkpoint.vocab.n_ids)
    moments = _PER_MOMENTS * (1 + (IN_PLACE in plan.edits.passes))
    return pairs * _PER_AFFECTED + added * (_PER_MEAN + moments), sums * (_PER_SUM + moments)


def _duration(seconds: float) -> str:
    for size, name in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.0f} seconds"


def _size(n: int) -> str:
    for power, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if n >= power:
            return f"{n / power:.1f} {name}"
    return f"{n / 1e3:.0f} kB"
