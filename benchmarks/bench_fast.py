"""The fast screen against our own exact one: one cell, all its genes deleted one by one, scores at layer -2.

python benchmarks/bench_fast.py [--length 2048] [--edits 48] [--shape v1-10m] [--precision fp32] [--device cpu] [--repeats 2]

Three screens: `toward` (one state, the cell readout; no projections), `sizes` (1 - cos of genes and of the cell, 32 projections
each), `both`. The fast method runs with all defaults, its audit (2 % of the genes, 16 at least) counted in; the exact method runs
`edits` neighbouring genes from the middle of the row, whole and in place, and its time is scaled to all genes of the row (`--edits 0`: all
are run). Both in one process in turn, the best of `repeats`; loading the model is in none of the times. Memory: the peak of
the fast screen beyond what a process holds before it, in a process of its own.
"""

import argparse
import dataclasses
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from bench_embed import SHAPES, make_model, make_tokens
from common import best_of, machine

from rankcell.embed import Embedder
from rankcell.model.options import Compute
from rankcell.perturb import Delete, EditPlan, StateEmbeddings
from rankcell.perturb.exact.engine import Engine
from rankcell.perturb.fast.fast_engine import FastEngine

SCREENS = {"toward": (("cell",), True, 0), "sizes": (("genes", "cell"), False, 32), "both": (("genes", "cell"), True, 32)}


def engines(folder: Path, args, screen: str) -> tuple[Engine, FastEngine, np.ndarray]:
    readouts, has_state, projections = SCREENS[screen]
    model, vocab = make_model(folder / screen, SHAPES[args.shape])
    embedder = Embedder(model, Compute(args.device, precision=args.precision))
    checkpoint = embedder.checkpoint
    tokens = make_tokens(vocab, np.array([args.length]))
    plan = EditPlan.make(checkpoint.vocab, Delete(), frame=tokens.frame, max_len=args.length)
    vector = np.random.default_rng(1).normal(size=checkpoint.width)
    states = StateEmbeddings({("state", "cell"): vector} if has_state else {})
    engine = Engine(embedder.encoder, plan, checkpoint.resolve_layer(-2), states, embedder.tokens_per_batch, readouts=readouts)
    return engine, FastEngine(engine, projections=projections), tokens.row(0)


def some(engine: Engine, row: np.ndarray, edits: int):
    """(the exact screen of `edits` genes from the middle, how many times as many all are)"""
    held = engine.plan.of_row(row)
    n = min(edits or len(held), len(held))
    at = np.arange((len(held) - n) // 2, (len(held) + n) // 2)
    return lambda: engine.run_edits([row], [held.chosen(at)]), len(held) / n


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--length", type=int, default=2048)
    ap.add_argument("--edits", type=int, default=48)
    ap.add_argument("--shape", choices=SHAPES, default="v1-10m")
    ap.add_argument("--precision", default="fp32")
    ap.add_argument("--device", default="cpu")
    ap.add_argument("--repeats", type=int, default=2)
    ap.add_argument("--screens", default=",".join(SCREENS))
    ap.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = ap.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        if args.memory_of:
            return print(memory(Path(tmp), args))
        print(f"{machine()}; {args.device}, {args.precision}; {args.shape}, a row of {args.length:,} tokens")
        for screen in args.screens.split(","):
            engine, fast, row = engines(Path(tmp), args, screen)
            exact, times = some(engine, row, args.edits)
            found = fast.run([row])  # warm
            took, took_fast = best_of(args.repeats, exact, lambda fast=fast, row=row: fast.run([row]))
            bare = dataclasses.replace(fast, audit=1e-9, splits=1)
            (alone,) = best_of(args.repeats, lambda bare=bare, row=row: bare.run([row]))
            run = ", ".join(f"{int(v.sum())} {k.strip('_').replace('_', ' ') or 'whole'}" for k, v in found.exact.items())
            print(
                f"{screen}: exact {took * times:.1f} s, fast {took_fast:.2f} s ({run} of {len(found.cell):,} edits run), "
                f"{took * times / took_fast:.1f} times; without its audit {alone:.2f} s, {took * times / alone:.0f} times; memory {used(args, screen)}"
            )


def memory(folder: Path, args) -> int:
    """Bytes that a fast screen needs at its peak beyond what the process holds before it."""
    _, fast, row = engines(folder, args, args.memory_of)
    fast.engine.run_edits([row], [fast.engine.plan.of_row(row).subsample(8)])
    if args.device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        fast.run([row])
        return torch.cuda.max_memory_allocated() - before
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    fast.run([row])
    return _status("VmHWM") - before


def _status(name: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) * 1024


def used(args, screen: str) -> str:
    options = ("length", "shape", "precision", "device")
    given = [part for n in options for part in (f"--{n}", str(getattr(args, n)))]
    out = subprocess.run([sys.executable, __file__, *given, "--memory-of", screen], capture_output=True, text=True, check=True).stdout
    return f"{int(out.split()[-1]) / 1e6:,.0f} MB"


if __name__ == "__main__":
    main()
