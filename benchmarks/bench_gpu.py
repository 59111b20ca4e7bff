"""A GPU in ten minutes: the processor's numbers, the same each time, what lower precision leaves of the order of shifts; then how fast.

python benchmarks/bench_gpu.py [--device cuda] [--minutes 9] [--shapes v1-10m v2-104m v2-316m] [--lengths 1000 2048 4096] [--small]

Each step prints its line at once and is left out, by name, where too little time is left; the exit code is 1 when one of them does
not hold. Random weights and rows for speed, the demo model and 60 blood cells for numbers. MFU: operations of the matrix products
over what the card can do in half precision. The plain baseline is transformers on the same card as Geneformer runs it: float32, padded,
every hidden state, with the language-model head. --small: a dry run of all steps on any machine, whose speeds mean nothing.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_embed import SHAPES, make_model, make_tokens, plain_embeddings
from bench_perturb import plain_screen
from common import forward_flops, machine

import rankcell as rc
from rankcell.embed import Embedder
from rankcell.model import Encoder, collate, open_checkpoint
from rankcell.model.checkpoint import Checkpoint
from rankcell.model.options import Compute
from rankcell.model.pools import POOLS
from rankcell.perturb import EditPlan, StateEmbeddings
from rankcell.perturb.edits.options import EDIT_CHOICE
from rankcell.perturb.exact import sharing
from rankcell.perturb.exact import shift_precision as precisions
from rankcell.perturb.exact.engine import Engine
from rankcell.perturb.fast.fast_engine import FastEngine

PEAK = {"H200": 989e12, "H100": 989e12, "GH200": 989e12, "A100": 312e12, "L40": 181e12, "A10": 125e12, "L4": 121e12}  # half, dense
EDITS = ("delete", "overexpress", "mask")
Facts = dict[str, Any]


class Steps:
    """Runs steps, one after the other, as long as there is time; each prints one line when it is done."""

    def __init__(self, minutes: float):
        self.end = time.perf_counter() + 60 * minutes
        self.facts: dict[str, Facts] = {}
        self.failed: list[str] = []
        self.skipped: list[str] = []

    def run(self, name: str, seconds: float, work: Callable[[], Facts]) -> None:
        """`seconds`: that a step may take, without which it is not begun."""
        left = self.end - time.perf_counter()
        if left < seconds:
            self.skipped.append(name)
            print(f"skip  {name}: {max(0, left):.0f} s are left", flush=True)
            return
        start = time.perf_counter()
        try:
            self.facts[name] = work()
        except Exception as e:
            self.failed.append(name)
            where = traceback.extract_tb(e.__traceback__)[-1]
            print(f"FAIL  {name}: {type(e).__name__}: {(str(e).splitlines() or [''])[0][:300]} ({Path(where.filename).name}:{where.lineno})", flush=True)
        else:
            words = ", ".join(f"{key} {value}" for key, value in self.facts[name].items())
            print(f"ok    {name} ({time.perf_counter() - start:.1f} s): {words}", flush=True)


def engine_of(checkpoint: Checkpoint, device: str, precision: str, row: np.ndarray, *, kind: str = "delete", genes: Any = "all", budget: int | None = None) -> Engine:
    plan = EditPlan.make(checkpoint.vocab, EDIT_CHOICE.build(kind, {"genes": genes}), frame=checkpoint.vocab.frame, max_len=max(len(row), 8))
    states = StateEmbeddings({("s", "cell"): np.random.default_rng(5).normal(size=checkpoint.width)})
    embedder = Embedder(checkpoint, Compute(device, precision=precision, tokens_per_batch=budget))
    return Engine(embedder.encoder, plan, checkpoint.resolve_layer(-2), states, embedder.tokens_per_batch)


def largest_difference(a: dict[str, np.ndarray], b: dict[str, np.ndarray], *, relative: bool = False) -> float:
    """Of all scores; NaN has to stand where it stood."""
    worst = 0.0
    for name, values in a.items():
        there = np.isfinite(values)
        assert np.array_equal(there, np.isfinite(b[name])), f"{name}: NaN elsewhere"
        if there.any():
            size = np.abs(values[there]).max() if relative else 1.0
            worst = max(worst, float(np.abs(values[there] - b[name][there]).max() / max(size, 1e-12)))
    return worst


def require(value: float, limit: float, what: str) -> float:
    assert value <= limit, f"{what}: {value:.2g}, at most {limit:.0e} is expected"
    return float(f"{value:.2g}")


class Numbers:
    """Whether a device gives the processor's numbers, with the demo model."""

    def __init__(self, device: str):
        self.device = device
        self.model = open_checkpoint("demo")
        self.tokens = rc.pp.tokenize(rc.datasets.pbmc68k()[:60].copy(), vocab="demo")
        longest = np.argsort(self.tokens.lengths)
        self.rows = [self.tokens.row(int(i)) for i in longest[[-1, len(longest) // 2, 5]]]

    def engine(self, device: str, precision: str = "fp32", **how: Any) -> Engine:
        return engine_of(self.model, device, precision, self.rows[0], **how)

    def embeddings(self) -> Facts:
        columns = [
            Embedder(self.model, Compute(d, precision="fp32")).embed(self.tokens, pool=list(POOLS), layer=[-1, -2]).columns for d in ("cpu", self.device)
        ]
        return {"largest relative difference": require(largest_difference(*columns, relative=True), 1e-4, "embeddings")}

    def screens(self, least_tokens: int) -> Facts:
        """`least_tokens`: from how long a row on deletions share their first block."""
        with swapped(sharing, "LEAST_TOKENS", least_tokens):
            pairs = {kind: [self.engine(d, kind=kind).run(self.rows, most=24).scores for d in ("cpu", self.device)] for kind in EDITS}
        return {kind: require(largest_difference(*pair), 2e-5, kind) for kind, pair in pairs.items()}

    def predictions(self) -> Facts:
        """Toward a state nothing is random but the sample, which the processor draws everywhere."""
        predicted = [FastEngine(self.engine(d), projections=0).run(self.rows[:2]).predicted for d in ("cpu", self.device)]
        return {"largest relative difference": require(largest_difference(*predicted, relative=True), 1e-2, "predictions")}

    def sizes(self) -> Facts:
        """Sizes of shift, for which each device draws projections of its own.

        With as many projections as the states have directions at right angles to their own, those of the mean states do not
        depend on what is drawn. That of the genes is half the mean of K squares, each about a chi-squared number of one degree of
        freedom: a relative error of sqrt(2 / K), and of 2 / sqrt(K) between two draws. In place it is nearly another one for each
        gene, so that the root mean square over genes is close to that. The shift of all others is much alike for all genes: there
        the error is one and the same draw, for which three times as much is room.
        """
        k = self.model.width
        expected, row = 2 / np.sqrt(k), self.rows[1]
        engines = [FastEngine(self.engine(d), projections=k) for d in ("cpu", self.device)]
        both = [e.predict_row(row, e.engine.plan.of_row(row), np.random.default_rng(0)) for e in engines]
        errors = {}
        for part, room in (("in_place", 1.5), ("whole", 3.0)):
            a, b = ({n: v.sum(1) for n, v in getattr(p, part).items() if n.startswith("cos_")} for p in both)
            genes = np.log(a.pop("cos_genes") / b.pop("cos_genes"))
            errors[f"genes {part}"] = require(float(np.sqrt(np.mean(genes**2))), room * expected, f"genes {part}")
            errors[f"mean states {part}"] = require(largest_difference(a, b, relative=True), 1e-2, f"mean states {part}")
        return errors

    def twice(self) -> Facts:
        for what in (self.engine(self.device, half_of(self.device)), FastEngine(self.engine(self.device), projections=8)):
            a, b = what.run(self.rows).scores, what.run(self.rows).scores
            different = [name for name in a if a[name].tobytes() != b[name].tobytes()]
            assert not different, f"{type(what).__name__}: other bytes in {', '.join(different)}"
        return {"exact and fast": "the same bytes"}

    def no_edit(self) -> Facts:
        """The mean shift of a row that is not edited: alone, and last among 40 of it."""
        shifts = {}
        for precision in ("fp32", *halves_of(self.device)):
            encoder, row = Encoder(self.model, device=self.device, precision=precision), self.rows[0]
            alone, among = (encoder.states(collate([row] * n, np.arange(n)), [2])[2][-len(row) :].double().cpu() for n in (1, 40))
            shifts[precision] = float((1 - torch.nn.functional.cosine_similarity(alone, among)).abs().mean())
        require(shifts["fp32"], 1e-9, "fp32")
        return {name: f"{value:.1g}" for name, value in shifts.items()}

    def out_of_memory(self) -> Facts:
        """With less and less of the card's memory, until a screen runs out of it: the same numbers."""
        if not self.device.startswith("cuda"):
            return {"not tried": "no CUDA device"}
        wanted, total, seen = self.engine(self.device).run(self.rows).scores, torch.cuda.get_device_properties(0).total_memory, {}
        try:
            for mebibytes in (400, 200, 100, 60):
                torch.cuda.empty_cache()
                torch.cuda.set_per_process_memory_fraction(mebibytes * 2**20 / total)
                with warnings.catch_warnings(record=True) as notes:
                    warnings.simplefilter("always")
                    scores = self.engine(self.device, budget=100_000).run(self.rows).scores
                difference = require(largest_difference(wanted, scores), 2e-5, f"{mebibytes} MiB")
                seen[f"{mebibytes} MiB"] = f"{difference} ({sum('out of memory' in str(n.message) for n in notes)} times out of memory)"
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return seen

    def order(self, precision: str) -> Facts:
        """Spearman and relative error of shifts against fp32, worst of the scores."""
        exact, lower = (self.engine(self.device, p).run(self.rows, most=48) for p in ("fp32", precision))
        judged = [(*precisions.compare(exact, lower, name), name) for name in exact.scores if not name.endswith("_position")]
        rho, error, name = min(j for j in judged if j[0] is not None)
        return {"least Spearman": round(rho, 4), "relative error": f"{error:.2%}", "score": name}


@contextlib.contextmanager
def swapped(owner: Any, name: str, value: Any):
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def halves_of(device: str) -> tuple[str, ...]:
    return ("fp16", "bf16") if device.startswith("cuda") else ("bf16",)


def half_of(device: str) -> str:
    return halves_of(device)[0]


class Speed:
    """How fast one shape runs on a device, in one precision, with rows of one length."""

    def __init__(self, device: str, shape: str, length: int, precision: str, folder: Path, vocab: Any, *, small: bool):
        self.device, self.size, self.length, self.precision, self.folder, self.small = device, SHAPES[shape], length, precision, folder, small
        self.model, self.vocab = open_checkpoint(folder), vocab
        self.is_narrow = self.size["width"] < 512
        self.peak = next((v for k, v in PEAK.items() if device.startswith("cuda") and k in torch.cuda.get_device_name(0)), None)

    def row(self) -> np.ndarray:
        return make_tokens(self.vocab, np.array([self.length])).row(0)

    def seconds(self, work: Callable[[], Any], most: int = 3) -> float:
        """The shortest of some runs, after one that is not counted."""
        work()
        best = float("inf")
        for _ in range(1 if self.small else most):
            self._wait()
            start = time.perf_counter()
            work()
            self._wait()
            best = min(best, time.perf_counter() - start)
        return best

    def _wait(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()

    def use(self, n_tokens: int, seconds: float) -> Facts:
        """Operations a second of the blocks' matrix products, and their share of what the card can do."""
        names = {"layers": self.size["layers"] - 1, "width": self.size["width"], "intermediate": self.size["intermediate"]}
        rate = forward_flops(tokens=n_tokens, length=self.length, **names) / seconds
        return {"TFLOP/s": round(rate / 1e12, 2)} | ({"MFU": f"{rate / self.peak:.1%}"} if self.peak else {})

    def watched(self, work: Callable[[], Any]) -> Facts:
        """The share of a run in which the GPU computes, its launches and waits, and the memory it takes."""
        if not self.device.startswith("cuda"):
            return {}
        from torch.profiler import ProfilerActivity, profile

        torch.cuda.reset_peak_memory_stats()
        self._wait()
        start = time.perf_counter()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
            work()
            self._wait()
        wall, events = time.perf_counter() - start, found.key_averages()
        busy = sum(getattr(e, "self_device_time_total", 0) for e in events) / 1e6
        launches = sum(e.count for e in events if "LaunchKernel" in e.key)
        waits = sum(e.count for e in events if "Synchronize" in e.key)
        return {"busy": f"{busy / wall:.0%}", "launches": launches, "waits": waits, "peak GiB": round(torch.cuda.max_memory_allocated() / 2**30, 2)}

    def embed(self) -> Facts:
        n = 4 if self.small else max(64, 262_144 // self.length) * (4 if self.is_narrow else 1)
        embedder, tokens = Embedder(self.model, Compute(self.device, precision=self.precision)), make_tokens(self.vocab, np.full(n, self.length))
        work = lambda: embedder.embed(tokens)  # noqa: E731
        seconds = self.seconds(work)
        return {"cells/s": round(n / seconds, 1), **self.use(n * self.length, seconds), **self.watched(work)}

    def deletions(self, shared: bool) -> Facts:
        n, row = 8 if self.small else 256 if self.is_narrow else 64, self.row()
        engine = engine_of(self.model, self.device, self.precision, row)
        edits = engine.plan.of_row(row).chosen(np.arange(self.length // 2, self.length // 2 + n))
        work = lambda: engine.run_edits([row], [edits])  # noqa: E731
        with swapped(sharing, "LEAST_EDITS", 1 if shared else 10**9):
            seconds = self.seconds(work)
            return {"deletions/s, whole and in place": round(n / seconds, 1), **self.use(2 * n * self.length, seconds), **self.watched(work)}

    def one_gene(self) -> Facts:
        n, rng = 6 if self.small else 122, np.random.default_rng(0)
        tokens, gene = make_tokens(self.vocab, rng.integers(self.length // 2, self.length + 1, n)), int(self.vocab.tokens[7])
        cells = [tokens.row(i).copy() for i in range(n)]
        for row in cells:
            if gene not in row:
                row[len(row) // 2] = gene
        engine = engine_of(self.model, self.device, self.precision, max(cells, key=len), genes=[self.vocab.describe_token(gene)])
        work = lambda: engine.run(cells)  # noqa: E731
        return {"cells/s": round(n / self.seconds(work), 1), **self.watched(work)}

    def fast(self, projections: int) -> Facts:
        row = self.row()
        fast = FastEngine(engine_of(self.model, self.device, self.precision, row), projections=projections)
        work = lambda: fast.run([row])  # noqa: E731
        return {"s a cell": round(self.seconds(work, most=2), 3), **self.watched(work)}

    def plain(self) -> Facts:
        """transformers, as Geneformer runs it."""
        from transformers import BertForMaskedLM

        model = BertForMaskedLM.from_pretrained(self.folder).eval().to(self.device)
        n, n_edits = (2, 2) if self.small else (32, 16)
        tokens, row = make_tokens(self.vocab, np.full(n, self.length)), self.row()
        embed = self.seconds(lambda: plain_embeddings(model, tokens, self.device), most=1)
        screen = self.seconds(lambda: plain_screen(model, row, range(n_edits), self.device), most=1)
        return {"cells/s": round(n / embed, 1), "deletions/s, whole alone": round(n_edits / screen, 1)}


def speeds(steps: Steps, a: argparse.Namespace) -> None:
    for shape in a.shapes:
        with tempfile.TemporaryDirectory() as tmp:
            folder, vocab = make_model(Path(tmp), SHAPES[shape])
            for length in sorted({min(n, SHAPES[shape]["positions"]) for n in a.lengths}):
                for precision in ("fp32",) if a.small else (half_of(a.device), "fp32"):
                    speed = Speed(a.device, shape, length, precision, folder, vocab, small=a.small)
                    name = f"{shape}, {length} tokens, {precision}"
                    steps.run(f"{name}: embed", 20, speed.embed)
                    steps.run(f"{name}: deletions, each by itself", 20, lambda s=speed: s.deletions(False))
                    steps.run(f"{name}: deletions, shared first block", 20, lambda s=speed: s.deletions(True))
                    steps.run(f"{name}: one gene in many cells", 20, speed.one_gene)
                    steps.run(f"{name}: fast, toward a state", 20, lambda s=speed: s.fast(0))
                    if speed.is_narrow:
                        steps.run(f"{name}: fast, 32 projections", 20, lambda s=speed: s.fast(2 if s.small else 32))
                steps.run(f"{shape}, {length} tokens: plain baseline, fp32", 25, speed.plain)


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--device", help='Default: "cuda"; with --small "cpu" where there is none.')
    ap.add_argument("--minutes", type=float, default=9)
    ap.add_argument("--shapes", nargs="+", choices=SHAPES, default=["v1-10m", "v2-104m", "v2-316m"])
    ap.add_argument("--lengths", nargs="+", type=int, default=[1000, 2048, 4096])
    ap.add_argument("--small", action="store_true", help="All steps with next to no work, on any machine.")
    ap.add_argument("--json", type=Path, help="Also write all figures to this file.")
    a = ap.parse_args()
    a.device = a.device or ("cuda" if torch.cuda.is_available() or not a.small else "cpu")
    if a.device.startswith("cuda") and not torch.cuda.is_available():
        ap.error("torch sees no CUDA device here: --small tries all steps on the processor")
    if a.small:
        a.shapes, a.lengths = a.shapes if len(a.shapes) < 3 else ["demo"], [64]
    warnings.simplefilter("ignore")
    steps, numbers, d = Steps(a.minutes), Numbers(a.device), a.device
    card = torch.cuda.get_device_name(0) if d.startswith("cuda") else machine()
    print(f"{card}, torch {torch.__version__}, device {d}", flush=True)
    steps.run("embeddings as on the processor, fp32, every pooling", 30, numbers.embeddings)
    steps.run("screens as on the processor, fp32", 30, lambda: numbers.screens(10**9))
    steps.run("screens with a shared first block", 30, lambda: numbers.screens(64))
    steps.run("predictions toward a state as on the processor", 30, numbers.predictions)
    steps.run("predicted sizes as on the processor, to the error of projections", 60, numbers.sizes)
    steps.run("the same run twice", 20, numbers.twice)
    steps.run("shift of no edit", 20, numbers.no_edit)
    steps.run("memory that runs out", 30, numbers.out_of_memory)
    for precision in (*halves_of(d), *(("tf32",) if d.startswith("cuda") else ())):
        steps.run(f"shifts in {precision} against fp32", 20, lambda p=precision: numbers.order(p))
    speeds(steps, a)
    if a.json:
        a.json.write_text(json.dumps({"card": card, "torch": str(torch.__version__), "failed": steps.failed, "skipped": steps.skipped, "facts": steps.facts}, indent=1, default=str) + "\n")
    print(f"FAILED: {'; '.join(steps.failed)}" if steps.failed else f"all {len(steps.facts)} steps that were run hold, {len(steps.skipped)} were left out")
    sys.exit(bool(steps.failed))


if __name__ == "__main__":
    main()
