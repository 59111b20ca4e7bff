"""Pairs by the fast method beside pairs that were run: joint effects and interactions of anchors with all genes of a cell.

python benchmarks/proof_pairs.py [--model demo] [--tokens DIR --vocab DIR] [--cells 3] [--length 4096] [--projections 32]

Of each cell the three genes that move it most (toward the state, cell readout, in place) and one at random are anchors. Writes a table in
markdown: Spearman over the partners, and the relative error (root mean square of predicted - exact over that of exact).
"""

import argparse
import dataclasses
import warnings

import numpy as np

from rankcell.errors import RankcellWarning
from rankcell.model import Encoder, open_checkpoint
from rankcell.perturb import Delete, EditPlan, StateEmbeddings
from rankcell.perturb.exact.engine import Engine
from rankcell.perturb.exact.shift_precision import spearman
from rankcell.perturb.fast.fast_engine import FastEngine, pair_predictors
from rankcell.tokens import TokenSet


def cells_and_state(args, checkpoint) -> tuple[TokenSet, list[np.ndarray], list[np.ndarray]]:
    """Tokens, the rows to perturb, the rows whose mean is the state."""
    from rankcell import datasets
    from rankcell.tokens.cells import tokenize_cells

    tokens = (
        TokenSet.open(args.tokens, vocab=checkpoint.vocab)
        if args.tokens
        else tokenize_cells(datasets.pbmc68k(), checkpoint.vocab)
    )
    chosen = np.random.default_rng(args.seed).permutation(len(tokens))
    rows = [tokens.row(int(i))[: args.length] for i in chosen[: args.cells + 8]]
    return tokens, rows[: args.cells], rows[args.cells :]


def measured(engine: Engine, projections: int, row: np.ndarray, rng: np.random.Generator) -> list[dict]:
    """One dict a score and anchor: Spearman and relative error of the joint effect and of the interaction."""
    fast, found = FastEngine(engine, projections=projections), []
    held, single = engine.plan.of_row(row), engine.run([row]).scores
    place = held.where.max(1)
    by = next(n for n in engine.score_names if n.startswith("toward_") and n.endswith("_cell_in_place"))
    anchors = [*np.argsort(-np.abs(single[by]))[:3], rng.integers(len(place))]
    for a in anchors:
        seed = int(rng.integers(2**32))
        others = np.flatnonzero(np.arange(len(place)) != a)
        targets = tuple((int(row[place[a]]), int(row[place[b]])) for b in others)
        pairs = EditPlan("delete", targets, engine.plan.frame, engine.plan.max_len)
        joint = dataclasses.replace(engine, plan=pairs).run([row]).scores
        base = fast.predict_row(row, held, np.random.default_rng(seed))
        both = pair_predictors(fast, row.astype(np.int64), place[others], int(place[a]), np.random.default_rng(seed))
        for which, of in (("_in_place", "in_place"), ("", "whole")):
            for name in engine.plain_names:
                size = (lambda v: 1 - v) if name.startswith("cos_") else (lambda v: v)
                alone, exact = size(single[name + which]), size(joint[name + which])
                predicted, own = (getattr(p, of)[name].sum(1) for p in (both, base))
                interaction = exact - alone[a] - alone[others]
                guess = predicted - alone[a] - own[others]
                found.append({"score": name + which, "joint": compared(predicted, exact), "interaction": compared(guess, interaction)})
    return found


def compared(predicted: np.ndarray, exact: np.ndarray) -> tuple[float, float]:
    return spearman(predicted, exact), float(np.sqrt(np.mean((predicted - exact) ** 2) / np.mean(exact**2)))


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--model", default="demo")
    ap.add_argument("--vocab")
    ap.add_argument("--tokens")
    ap.add_argument("--cells", type=int, default=3)
    ap.add_argument("--length", type=int, default=4096)
    ap.add_argument("--layer", type=int, default=-2)
    ap.add_argument("--projections", type=int, default=32)
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    warnings.simplefilter("ignore", RankcellWarning)
    checkpoint = open_checkpoint(args.model, vocab=args.vocab)
    tokens, rows, others = cells_and_state(args, checkpoint)
    encoder = Encoder(checkpoint, device="cpu", precision="fp32")
    n_blocks = checkpoint.resolve_layer(args.layer)
    plan = EditPlan.make(checkpoint.vocab, Delete(), frame=tokens.frame, max_len=checkpoint.max_positions)
    engine = Engine(encoder, plan, n_blocks, StateEmbeddings({}), 8192)
    means = []
    for row in others:
        first, last = tokens.frame.span(len(row))
        states = encoder.states(_batch(row), [n_blocks])[n_blocks]
        means.append((states[first:last].double().mean(0), states[0].double()))
    vectors = {("state", r): np.mean([m[i].numpy() for m in means], axis=0) for i, r in enumerate(("cell", "cls"))}
    engine = dataclasses.replace(
        engine, states=StateEmbeddings({k: v for k, v in vectors.items() if k[1] == "cell" or tokens.frame.has_cls})
    )
    rng = np.random.default_rng(args.seed)
    found = [x for row in rows for x in measured(engine, args.projections, row, rng)]
    print("| score | joint: Spearman | relative error | interaction: Spearman | relative error |\n|---|---|---|---|---|")
    for score in dict.fromkeys(x["score"] for x in found):
        here = [x for x in found if x["score"] == score]
        cells = []
        for what in ("joint", "interaction"):
            rho, error = np.array([x[what] for x in here]).T
            cells += [f"{np.median(rho):.3f} ({rho.min():.3f})", f"{np.median(error):.2f} ({error.max():.2f})"]
        print(f"| `{score}` | {' | '.join(cells)} |")


def _batch(row: np.ndarray):
    from rankcell.model import collate

    return collate([row], np.arange(1))


if __name__ == "__main__":
    main()
