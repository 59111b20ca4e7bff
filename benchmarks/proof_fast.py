"""The fast screen against the exact one: how well every score of every kind of edit is predicted, and what each part of the method adds.

python benchmarks/proof_fast.py -o FOLDER [--model demo] [--tokens FOLDER] [--vocab V] [--twin SEED] [--cells 6] [--layers=-2,-1]
    [--kinds delete,mask,inhibit,activate,overexpress] [--length 500] [--most-edits 150] [--effort] [--keep FOLDER] [--sharpen 4]
python benchmarks/proof_fast.py -o FOLDER --together NAME,NAME,...

Of some cells every edit (`--most-edits`: so many at random of each) is run exactly and predicted:
raw        without any exact run
corrected  with the sample that `rankcell perturb --method fast` takes by default; the edits of the sample are in no comparison
Then, at the first of `--layers`, with a part of the method exchanged for something plainer, each derivative by autograd and not by
the tape: the gradient of a gate on each token's key (deletions), or of a token's own embedding (other kinds), in place of the
exchange; the shift by its slope at the base alone; exact values at split points and straight lines between. `--effort`: samples
and projections of other sizes.

Writes NAME.md (tables), NAME.tsv (every cell), and pictures. Default tokens: scanpy's 700 PBMCs (rc.datasets.pbmc68k), toward CD14+
monocytes; without `--toward` other tokens have the mean of eight cells that are not screened for a state. `--keep` keeps exact values.
`--sharpen` multiplies all queries, so that attention goes to fewer genes. `--together`: one table and picture of what was written.
"""

import argparse
import dataclasses
import math
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import machine

import rankcell as rc
from rankcell.embed import Embedder
from rankcell.model import open_checkpoint
from rankcell.model.options import Compute
from rankcell.model.tape import weights_of
from rankcell.model.twin import random_twin
from rankcell.perturb import EditPlan
from rankcell.perturb.edits.options import EDIT_CHOICE
from rankcell.perturb.exact.engine import Engine
from rankcell.perturb.exact.states import embed_states
from rankcell.perturb.fast.calibration import calibrate
from rankcell.perturb.fast.fast_engine import AUDIT, LEAST_IN_PLACE, PROJECTIONS, SPLITS, cost
from rankcell.perturb.fast.response import Context, predictors
from rankcell.tokens.tokenset import TokenSet

IN_PLACE = "_in_place"
KINDS = ("delete", "mask", "inhibit", "activate", "overexpress")
TOWARD = "bulk_labels=CD14+ Monocyte"
N_STATE, DECILES = 8, 10
SAMPLES, MANY = (8, 16, 32, 64, 128), (8, 16, 32, 64, 128)


def sizes(name: str) -> bool:
    return name.startswith("cos_")


@dataclasses.dataclass
class Case:
    """A cell, a layer and a kind of edit.

    test
        int64: the edits that are compared.
    sample
        {pass: int64}: edits of the sample, by pass.
    exact
        {score: float64 [edits]}: sizes as 1 - cosine; NaN where not run.
    """

    engine: Engine
    weights: list[Any]
    row: np.ndarray
    held: Any
    place: np.ndarray
    new: np.ndarray
    test: np.ndarray
    sample: dict[str, np.ndarray]
    exact: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, engine: Engine, weights: list[Any], row: np.ndarray, most: int | None, rng: np.random.Generator) -> "Case":
        held = engine.plan.of_row(row)
        held = held.chosen(np.flatnonzero(held.n_perturbed == 1))
        place = held.where.max(1)
        if engine.plan.kind == "delete":
            new = np.full(len(place), -1)
        elif engine.plan.kind == "mask":
            new = place
        else:
            new = (held.apply(np.arange(len(held)))[0] == row[place][:, None]).argmax(1)
        test = np.arange(len(place)) if most is None else np.sort(rng.choice(len(place), min(most, len(place)), replace=False))
        return cls(engine, weights, row, held, place, new, test, sampled(held.rank, engine.plan.passes, SPLITS, rng))

    @property
    def span(self) -> tuple[int, int]:
        return self.engine.plan.frame.span(len(self.row))

    def exact_of(self, name: str) -> np.ndarray:
        """The part that is due to positions, too."""
        plain = name.removesuffix("_position")
        return self.exact[name] if name == plain else self.exact[plain] - self.exact[plain + IN_PLACE]

    def run(self, file: Path | None, more: np.ndarray) -> None:
        """The exact values, of the edits `more` too; kept in `file`."""
        if file is not None and file.exists():
            with np.load(file) as held:
                self.exact = dict(held)
            return
        found = {}
        for which in self.engine.plan.passes:
            at = np.unique(np.concatenate([self.test, self.sample[which], more]))
            values = self.engine.run_edits([self.row], [self.held.chosen(at)], passes=[which]).scores
            for name in self.engine.plain_names:
                found[name + which] = np.full(len(self.held), np.nan)
                found[name + which][at] = 1 - values[name + which] if sizes(name) else values[name + which]
        self.exact = found
        if file is not None:
            np.savez(file, **found)

    def predict(self, projections: int, seed: int) -> dict[str, np.ndarray]:
        """{score: predictors [edits, n]}"""
        context = Context(
            self.row.astype(np.int64), *self.span, None, np.ones(len(self.row), bool), self.place, self.new, self.engine.plan.mask
        )
        found = predictors(self.engine, self.weights, context, projections=projections, rng=np.random.default_rng(seed))
        both = {"": found.whole, IN_PLACE: found.in_place}
        return {name + which: both[which][name] for which in self.engine.plan.passes for name in found.whole}


def sampled(rank: np.ndarray, passes: Any, least: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A sample as the fast screen draws it: one edit of each stretch of ranks, the passes in turn."""
    order = np.argsort(rank, kind="stable")
    n = min(len(order), max(least, math.ceil(AUDIT * len(order))))
    edges = np.linspace(0, len(order), n + 1).astype(np.int64)
    chosen = order[rng.integers(edges[:-1], edges[1:])]
    return {which: chosen[i :: len(passes)] for i, which in enumerate(passes)}


# How well


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.stats import spearmanr

    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a, b).statistic)


def recall(exact: np.ndarray, predicted: np.ndarray, k: int, of: int) -> float:
    """The share of the k largest (either way) that are among the `of` largest predicted."""
    top, found = np.argsort(-np.abs(exact), kind="stable")[:k], np.argsort(-np.abs(predicted), kind="stable")[:of]
    return len(np.intersect1d(top, found)) / k


def agreement(exact: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    error = float(np.sqrt(np.mean((predicted - exact) ** 2) / np.mean(exact**2))) if exact.any() else float("nan")
    found = {"spearman": spearman(exact, predicted), "error": error, "n": len(exact), "size": float(np.median(np.abs(exact)))}
    return found | {"recall_20": recall(exact, predicted, 20, 20), "recall_60": recall(exact, predicted, 20, 60)}


def in_deciles(exact: np.ndarray, predicted: np.ndarray, rank: np.ndarray, top: int) -> dict[str, float]:
    """Spearman within each tenth of the cell's ranks."""
    tenth = np.minimum(rank * DECILES // max(1, top), DECILES - 1)
    return {f"decile_{d + 1}": spearman(exact[tenth == d], predicted[tenth == d]) for d in range(DECILES)}


def beside(case: Case, found: dict[str, np.ndarray], sample: dict[str, np.ndarray]) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """(score, way, numbers of the edits that are compared, predicted) of every score, raw and corrected."""
    for name, x in found.items():
        run = np.sort(sample[IN_PLACE if name.endswith(IN_PLACE) else ""])
        rest = np.setdiff1d(case.test, run)
        least = LEAST_IN_PLACE if name.endswith("_in_place") else -np.inf
        fixed = calibrate(x, case.held.rank, run, case.exact[name][run], least_factor=least).values
        for way, values in (("raw", x.sum(1)), ("corrected", fixed)):
            yield name, way, rest, (np.maximum(values, 0) if sizes(name) else values)[rest]


# Plainer ways, by autograd


def embedded(case: Case, ids: np.ndarray, positions: np.ndarray) -> Any:
    return case.engine.encoder.embedded(ids, positions).detach().float()


def gated(case: Case, x: Any, gates: Any) -> Any:
    """States of the layer, with a gate on each token's key for all the others: attention by the book."""
    import torch
    import torch.nn.functional as F

    n = len(x)
    others = 1 - torch.eye(n)
    for number in range(case.engine.n_blocks):
        b = case.engine.encoder.block(number)
        q, k, v = (t.view(n, b.heads, -1).transpose(0, 1) for t in F.linear(x, b.qkv.weight, b.qkv.bias).chunk(3, -1))
        p = ((q @ k.transpose(1, 2)) * math.log(2) + gates.log() * others).softmax(-1)
        x = norm(x + F.linear((p @ v).transpose(0, 1).reshape(n, -1), b.out.weight, b.out.bias), b.out_norm)
        up = F.linear(x, b.up.weight, b.up.bias)
        up = F.relu(up) if b.up.activation == "relu" else b.up.activation(up)
        x = norm(x + F.linear(up, b.down.weight, b.down.bias), b.down_norm)
    return x


def norm(x: Any, held: Any) -> Any:
    import torch.nn.functional as F

    return F.layer_norm(x, (x.shape[-1],), held.weight, held.bias, held.eps)


def gradients(case: Case, positions: np.ndarray, state: np.ndarray, readout: str) -> tuple[np.ndarray, Any, Any]:
    """(of the gates float64 [tokens], of the embeddings [tokens, width], the embeddings) of the cosine with a state."""
    import torch

    first, last = case.span
    x = embedded(case, case.row, positions).clone().requires_grad_()
    gates = torch.ones(len(x), requires_grad=True)
    with torch.enable_grad():
        states = gated(case, x, gates)
        own = states[first:last].mean(0) if readout == "cell" else states[0]
        value = torch.cosine_similarity(own.double(), torch.as_tensor(state), dim=0)
        by_gate, by_token = torch.autograd.grad(value, [gates, x], allow_unused=True)
    n = last - first
    scale = n / (n - 1) if readout == "cell" else 1.0
    by_gate = torch.zeros(len(x)) if by_gate is None else by_gate
    return by_gate.double().numpy() * scale, by_token.detach() * scale, x.detach()


def plainer(case: Case, found: dict[str, np.ndarray]) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """(score, way, numbers of the edits that are compared, predicted) of each movement toward a state in other ways."""
    kind, at = case.engine.plan.kind, np.arange(len(case.row))
    first, last = case.span
    for name in [n for n in found if n.startswith("toward_") and not n.endswith(IN_PLACE)]:
        readout = name.rsplit("_", 1)[1]
        state = case.engine.states.vectors[name.removeprefix("toward_").rsplit("_", 1)[0], readout]
        by_gate, slope, x = gradients(case, at, state, readout)
        exchange, shift = found[name][:, 0], found[name].sum(1) - found[name][:, 0]
        base = np.zeros(len(case.place))
        for step in (-1, 1):
            move = (case.new != case.place) if step < 0 else (case.new >= 0)
            frm, to = (case.place + 1, np.where(case.new < 0, len(at), case.new + 1)) if step < 0 else (case.new, case.place)
            move &= to > frm
            if not move.any():
                continue
            moved = at.copy()
            part = slice(first + 1, None if kind == "delete" else last) if step < 0 else slice(first, last - 1)
            moved[part] += step
            along = np.r_[0.0, np.cumsum(((embedded(case, case.row, moved) - x) * slope).sum(-1).double().numpy())]
            base[move] += along[to[move]] - along[frm[move]]
        if kind == "delete":
            plain = -by_gate[case.place]
            yield name + IN_PLACE, "gate gradient", case.test, plain[case.test]
            yield name + IN_PLACE, "exchange", case.test, exchange[case.test]
            part = case.exact_of(name + "_position")
            yield name + "_position", "slope at the base", case.test, base[case.test]
            yield name + "_position", "trapezoid", case.test, shift[case.test]
            for m in (16, 48):
                line = between(case, part, m)
                rest = np.setdiff1d(case.test, split_points(case, m))
                yield name, f"exact in place, {m} split points", rest, (case.exact[name + IN_PLACE] + line)[rest]
                yield name, f"gate gradient, {m} split points", rest, (plain + line)[rest]
                yield name, f"exchange, {m} split points", rest, (exchange + line)[rest]
        else:
            ids, to = (np.full(len(case.place), case.engine.plan.mask), case.place) if kind == "mask" else (case.row[case.place], case.new)
            plain = ((embedded(case, ids, to) - x[case.place]) * slope[case.place]).sum(-1).double().numpy()
        ways = {"gradient + trapezoid": plain + shift, "exchange + base": exchange + base, "exchange + trapezoid": exchange + shift}
        for way, values in ways.items():
            yield name, way, case.test, values[case.test]


def split_points(case: Case, m: int) -> np.ndarray:
    """So many edits, evenly spaced in rank."""
    return np.argsort(case.held.rank, kind="stable")[np.unique(np.linspace(0, len(case.place) - 1, m).astype(int))]


def between(case: Case, values: np.ndarray, m: int) -> np.ndarray:
    at = split_points(case, m)
    return np.interp(case.held.rank, case.held.rank[at], values[at])


# Tables and pictures

SHORT = {"whole": "", "in place": IN_PLACE, "position": "_position"}


def summary(values: pd.Series, worst: str, digits: int = 3) -> str:
    """median (worst)"""
    if values.notna().sum() == 0:
        return "-"
    return f"{values.median():.{digits}f} ({getattr(values, worst)():.{digits}f})"


def split_name(name: str) -> str:
    """A score in words."""
    which = next((w for w, end in SHORT.items() if end and name.endswith(end)), "whole")
    name = name.removesuffix(SHORT[which])
    what = f"1 - cos {name[4:]}" if sizes(name) else f"toward, {name.rsplit('_', 1)[1]}"
    return f"{what}, {which}"


def written(rows: list[list[str]], header: list[str]) -> str:
    return "\n".join("| " + " | ".join(map(str, r)) + " |" for r in [header, ["---"] * len(header), *rows])


def main_table(t: pd.DataFrame) -> str:
    measures = {"spearman": ("Spearman", "min"), "recall_20": ("top 20 in 20", "min"), "recall_60": ("in 60", "min")}
    measures |= {"error": ("relative error", "max")}
    rows = []
    for (kind, score), part in t.groupby(["kind", "score"], sort=False):
        cells = [
            summary(part.loc[part.way == w, m], worst, 3 if m == "spearman" else 2) for m, (_, worst) in measures.items() for w in WAYS
        ]
        rows.append([kind, score, f"{part['size'].median():.1e}", *cells])
    return written(rows, ["kind", "score", "median size", *(f"{words}, {w}" for words, _ in measures.values() for w in WAYS)])


WAYS = ("raw", "corrected")


def by_layer(t: pd.DataFrame) -> str:
    layers = list(dict.fromkeys(t.layer))
    rows = []
    for (kind, score), part in t.groupby(["kind", "score"], sort=False):
        cells = [summary(part.loc[(part.layer == n) & (part.way == w), "spearman"], "min") for n in layers for w in WAYS]
        rows.append([kind, score, *cells])
    return written(rows, ["kind", "score", *(f"layer {n}, {w}" for n in layers for w in WAYS)])


def by_decile(t: pd.DataFrame) -> str:
    part = t[t.way == "corrected"]
    rows = [
        [kind, score, *(summary(p[f"decile_{d + 1}"], "min", 2) for d in range(DECILES))]
        for (kind, score), p in part.groupby(["kind", "score"], sort=False)
    ]
    return written(rows, ["kind", "score", *(f"{d + 1}" for d in range(DECILES))])


def ablation_table(t: pd.DataFrame) -> str:
    rows = [
        [
            kind,
            score,
            way,
            summary(p.spearman, "min"),
            summary(p.recall_20, "min", 2),
            summary(p.recall_60, "min", 2),
            summary(p.error, "max", 2),
        ]
        for (kind, score, way), p in t.groupby(["kind", "score", "way"], sort=False)
    ]
    return written(rows, ["kind", "score", "by", "Spearman", "top 20 in 20", "in 60", "relative error"])


def effort_table(t: pd.DataFrame) -> str:
    """A row per score and number of projections, a column per sample: median Spearman / recall / passes."""
    samples = list(dict.fromkeys(t["sample"]))
    rows = []
    for (score, k), part in t.groupby(["score", "projections"], sort=False):
        held = [part[part["sample"] == n] for n in samples]
        rows.append([score, k or "-", *(f"{p.spearman.median():.3f} / {p.recall_20.median():.2f} / {p.passes.median():.0f}" for p in held)])
    return written(rows, ["score", "projections", *(f"sample {n}" for n in samples)])


def draw_deciles(t: pd.DataFrame, path: Path) -> None:
    """Spearman within each tenth of the ranks: median over cells, a panel per kind."""
    from rankcell.report.pictures.axes import plain_axes
    from rankcell.report.pictures.colours import PALETTE
    from rankcell.report.pictures.figures import new_figure, save

    kinds, scores = list(dict.fromkeys(t.kind)), [s for s in dict.fromkeys(t.score) if "cls" not in s]
    figure = new_figure(3.0 * len(kinds) + 0.6, 3.7)
    for ax, kind in zip(figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0], kinds, strict=True):
        for i, score in enumerate(scores):
            for way, style in (("raw", ":"), ("corrected", "-")):
                p = t[(t.kind == kind) & (t.score == score) & (t.way == way)]
                if len(p):
                    y = [p[f"decile_{d + 1}"].median() for d in range(DECILES)]
                    ax.plot(range(1, DECILES + 1), y, color=PALETTE[i % len(PALETTE)], ls=style, lw=1.4, label=f"{score}, {way}")
        ax.set_title(kind, loc="left", fontsize=11)
        ax.set_xlabel("tenth of the cell's ranks (1: top)", fontsize=9)
        ax.axhline(0, color="#cccccc", lw=0.7)
        plain_axes(ax)
    first = figure.axes[0]
    first.set_ylabel("Spearman within the tenth", fontsize=9)
    first.set_ylim(min(-0.05, first.get_ylim()[0]), 1.02)
    handles = {
        label: h for ax in figure.axes for h, label in zip(*ax.get_legend_handles_labels(), strict=True) if label.endswith("corrected")
    }
    handles = {k.removesuffix(", corrected"): h for k, h in handles.items()}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(3, 1 + len(kinds)), frameon=False, fontsize=8)
    figure.suptitle("solid: corrected by the sample; dotted: no exact run", fontsize=9, x=0.01, ha="left")
    save(figure, path)


def draw_points(shown: list[tuple[str, dict]], path: Path) -> None:
    """Predicted against exact, (title, {way: (exact, predicted)}) a panel: sizes on log axes, movements on axes that are linear
    up to the median size and logarithmic beyond."""
    from rankcell.report.pictures.axes import plain_axes
    from rankcell.report.pictures.colours import DOWN, GREY
    from rankcell.report.pictures.figures import new_figure, save

    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(3.1 * columns, 3.1 * rows + 0.2)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(shown) :]:
        ax.set_axis_off()
    for ax, (title, ways) in zip(axes, shown, strict=False):
        every = np.concatenate([np.concatenate(pair) for pair in ways.values()])
        least = float(np.median(np.abs(ways["raw"][0])))
        is_size = (ways["raw"][0] >= 0).all()
        floor = 1e-3 * least
        low, high = (max(floor, every.min()), every.max()) if is_size else (every.min(), every.max())
        how = {"value": "log"} if is_size else {"value": "symlog", "linthresh": least}
        ax.set_xscale(**how)
        ax.set_yscale(**how)
        line = np.linspace(low, high, 400)
        ax.plot(line, line, color="#bbbbbb", lw=0.8, zorder=0)
        for (way, (x, y)), colour in zip(ways.items(), (GREY, DOWN), strict=False):
            x, y = (np.maximum(v, floor) if is_size else v for v in (x, y))
            ax.scatter(x, y, s=5, c=colour, alpha=0.6, linewidths=0, label=way)
        ax.set_title(title, fontsize=8, loc="left")
        plain_axes(ax)
        ax.tick_params(labelsize=7)
        for axis in (ax.xaxis, ax.yaxis):
            if is_size and high < 10 * low:
                axis.set_tick_params(which="minor", labelsize=6)
            else:
                axis.set_minor_formatter("")
            if not is_size:
                tens = 10.0 ** np.arange(math.ceil(math.log10(3 * least)), math.floor(math.log10(max(-low, high))) + 1)
                axis.set_ticks([v for v in (*-tens[::-1], 0.0, *tens) if 1.1 * low <= v <= high])
        ax.xaxis.set_tick_params(which="both", rotation=45)
    axes[0].set_ylabel("predicted", fontsize=8)
    axes[0].set_xlabel("exact", fontsize=8)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    save(figure, path)


def draw_effort(t: pd.DataFrame, path: Path) -> None:
    """Against passes: movements by the sample; sizes by the number of projections, and by the sample."""
    from rankcell.report.pictures.axes import plain_axes
    from rankcell.report.pictures.colours import PALETTE
    from rankcell.report.pictures.figures import new_figure, save

    figure = new_figure(10.4, 6.0)
    axes = figure.subplots(2, 3, sharey="row")
    least = t["sample"].unique()[np.abs(t["sample"].unique() - SPLITS).argmin()]
    is_size = t.score.str.startswith("1 - cos")
    parts = {
        "toward states, sample of 8 to 128": t[~is_size],
        f"sizes, sample of {least}, K of 8 to 128": t[is_size & (t["sample"] == least)],
    }
    parts[f"sizes, K = {PROJECTIONS}, sample of 8 to 128"] = t[is_size & (t.projections == PROJECTIONS)]
    colours = {score: PALETTE[i % len(PALETTE)] for i, score in enumerate(dict.fromkeys(t.score))}
    drawn = {}
    for column, (title, part) in zip(axes.T, parts.items(), strict=True):
        for ax, (measure, words) in zip(column, {"spearman": "Spearman", "recall_20": "top 20 in 20"}.items(), strict=True):
            for score, p in part.groupby("score", sort=False):
                p = p.groupby(["sample", "projections"])[["passes", measure]].median()
                drawn[score] = ax.plot(p.passes, p[measure], "o-", ms=3, lw=1.2, color=colours[score])[0]
            ax.set_xscale("log")
            ticks = [v for v in (20, 50, 100, 200, 500) if 0.7 * part.passes.min() < v < 1.4 * part.passes.max()]
            ax.set_xticks(ticks, [str(v) for v in ticks])
            ax.set_xticks([], minor=True)
            ax.set_ylabel(words if part is parts[next(iter(parts))] else "", fontsize=9)
            plain_axes(ax)
        column[0].set_title(title, fontsize=9, loc="left")
        column[1].set_xlabel("passes a cell for this score", fontsize=9)
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    save(figure, path)


def together(tables: list[pd.DataFrame], out: Path) -> None:
    """One table of the deletions of several models, one picture of all kinds."""
    tables = [t[t.layer == t.layer.iloc[0]] for t in tables]
    t = pd.concat(tables)
    rows = []
    for (score, model), part in t[(t.kind == "delete") & ~t.score.str.contains("cls")].groupby(["score", "model"], sort=False):
        held = [part[part.way == way] for way in WAYS]
        cells = [summary(p.spearman, "min") for p in held] + [summary(p.recall_20, "min", 2) for p in held]
        rows.append([score, model, *cells, summary(held[1].recall_60, "min", 2), summary(held[1].error, "max", 2)])
    rows.sort(key=lambda r: r[0], reverse=True)
    header = [
        "score",
        "model",
        "Spearman, raw",
        "corrected",
        "top 20 in 20, raw",
        "corrected",
        "in 60, corrected",
        "relative error, corrected",
    ]
    (out / "models.md").write_text(written(rows, header) + "\n")
    draw_models(t, out / "fast_models.png")
    print(written(rows, header))


def draw_models(t: pd.DataFrame, path: Path) -> None:
    """Spearman of each cell, a panel per score, a row per model and kind: hollow raw, filled corrected."""
    from rankcell.report.pictures.axes import plain_axes
    from rankcell.report.pictures.colours import DOWN, GREY, UP
    from rankcell.report.pictures.figures import new_figure, save

    scores = sorted((s for s in set(t.score) if "cls" not in s), reverse=True)
    rows = list(dict.fromkeys(zip(t.model, t.kind, strict=True)))
    figure = new_figure(2.1 * len(scores) + 1.6, 0.26 * len(rows) + 1.3)
    for ax, score in zip(figure.subplots(1, len(scores), sharey=True, squeeze=False)[0], scores, strict=True):
        for y, (model, kind) in enumerate(rows):
            part = t[(t.model == model) & (t.kind == kind) & (t.score == score)]
            raw, fixed = (part.loc[part.way == way, "spearman"] for way in WAYS)
            ax.scatter(raw, np.full(len(raw), y - 0.14), s=13, facecolors="none", edgecolors=GREY, linewidths=0.9)
            ax.scatter(fixed, np.full(len(fixed), y + 0.14), s=13, c=np.where(fixed < 0.9, UP, DOWN), linewidths=0)
        ax.set_title(score, fontsize=9, loc="left")
        ax.axvline(0.9, color="#cccccc", lw=0.8, zorder=0)
        ax.set_xlim(min(0.4, ax.get_xlim()[0]), 1.02)
        ax.set_xlabel("Spearman in a cell", fontsize=8)
        plain_axes(ax)
        ax.tick_params(labelsize=8)
    figure.axes[0].set_yticks(range(len(rows)), [f"{m}: {k}" for m, k in rows], fontsize=8)
    figure.axes[0].invert_yaxis()
    save(figure, path)


# The work


class Proof:
    def __init__(self, a: argparse.Namespace, tmp: Path):
        self.a, self.rng = a, np.random.default_rng(a.seed)
        checkpoint = open_checkpoint(a.model, vocab=a.vocab)
        self.checkpoint = checkpoint if a.twin is None else random_twin(checkpoint, tmp / "twin", seed=a.twin)
        tokens, toward = self.tokens()
        self.screened, self.toward = self.drawn(tokens, toward)
        self.embedder = Embedder(self.checkpoint, Compute("cpu", precision=a.precision))
        if a.sharpen != 1:
            sharpen(self.embedder.encoder, self.checkpoint, a.sharpen)
        self.rows: list[dict] = []
        self.plain: list[dict] = []
        self.effort: list[dict] = []
        self.points: list[tuple] = []
        self.rounding: list[dict] = []
        self.full = None if a.precision == "fp32" else Embedder(self.checkpoint, Compute("cpu", precision="fp32")).encoder
        self.seconds = {"exact": 0.0, "predicted": 0.0}

    def tokens(self) -> tuple[TokenSet, str | None]:
        if self.a.tokens:
            try:
                tokens, toward = TokenSet.open(self.a.tokens), self.a.toward
            except rc.errors.TokensError:
                tokens, toward = TokenSet.open(self.a.tokens, vocab=self.checkpoint.vocab), self.a.toward
        else:
            tokens = rc.pp.tokenize(rc.datasets.pbmc68k(), self.checkpoint.vocab, obs=["bulk_labels"])
            toward = self.a.toward or TOWARD
        length = min(self.a.length or self.checkpoint.max_positions, self.checkpoint.max_positions)
        obs = {c: tokens.obs(c) for c in tokens.obs_columns}
        rows = [cropped(tokens.row(i), length, tokens.frame) for i in range(len(tokens))]
        return TokenSet.from_rows(rows, dataclasses.replace(tokens.spec, max_len=length), obs=obs), toward

    def drawn(self, tokens: TokenSet, toward: str | None) -> tuple[list[np.ndarray], tuple[TokenSet, str]]:
        """Rows to screen, none of the state's own; the tokens of the state and its name."""
        order = self.rng.permutation(len(tokens))
        if toward is None:
            group = np.full(len(tokens), "screened", object)
            group[order[:N_STATE]] = "others"
            tokens = TokenSet.from_rows(list(tokens), tokens.spec, obs={"group": group})
            toward = "group=others"
        column, state = toward.split("=", 1)
        there = [i for i in order if tokens.obs(column)[i] != state and tokens.n_genes[i] >= 2 * SPLITS]
        return [tokens.row(int(i)) for i in there[: self.a.cells]], (tokens, toward)

    def run(self) -> None:
        for number, layer in enumerate(self.a.layers):
            states = embed_states(self.embedder, self.toward[0], [self.toward[1]], layer=layer)
            encoder, n_blocks = self.embedder.encoder, self.checkpoint.resolve_layer(layer)
            weights = weights_of(encoder, n_blocks)
            for kind in self.a.kinds:
                plan = EditPlan.make(self.checkpoint.vocab, EDIT_CHOICE.build(kind, {}), frame=self.toward[0].frame, max_len=self.checkpoint.max_positions)
                engine = Engine(encoder, plan, n_blocks, states, self.embedder.tokens_per_batch)
                for cell, row in enumerate(self.screened):
                    self.one(Case.of(engine, weights, row, self.a.most_edits, np.random.default_rng(cell)), layer, cell, number == 0)
                    print(f"layer {layer}, {kind}, cell {cell} of {len(row)} tokens: {self.seconds}", flush=True)

    def one(self, case: Case, layer: int, cell: int, first: bool) -> None:
        kind = case.engine.plan.kind
        file = None if self.a.keep is None else self.a.keep / f"{self.a.name}_{layer}_{kind}_{cell}.npz"
        more = [split_points(case, m) for m in (16, 48)] if first and kind == "delete" else []
        effort = {n: sampled(case.held.rank, case.engine.plan.passes, n, np.random.default_rng(n)) for n in SAMPLES}
        effort = effort if first and self.a.effort and kind == "delete" else {}
        start = time.perf_counter()
        case.run(file, np.concatenate([np.empty(0, np.int64), *more, *(s for held in effort.values() for s in held.values())]))
        middle = time.perf_counter()
        found = case.predict(self.a.projections, cell)
        self.seconds["exact"] += middle - start
        self.seconds["predicted"] += time.perf_counter() - middle
        head = {"model": self.a.name, "layer": layer, "kind": kind, "cell": cell, "tokens": len(case.row)}
        top = int(case.held.rank.max()) + 1
        for name, way, at, values in beside(case, found, case.sample):
            exact = case.exact[name][at]
            tell = head | {"score": split_name(name), "way": way}
            self.rows.append(tell | agreement(exact, values) | in_deciles(exact, values, case.held.rank[at], top))
            if first:
                self.points.append((tell, exact, values))
        if first and not self.a.no_ablations:
            for name, way, at, values in plainer(case, found):
                self.plain.append(head | {"score": split_name(name), "way": way} | agreement(case.exact_of(name)[at], values))
        if self.full is not None:
            self.of_rounding(case, head, found)
        for k in MANY if effort else ():
            self.of_effort(case, head, k, case.predict(k, cell), effort)

    def of_rounding(self, case: Case, head: dict, found: dict) -> None:
        """The same edits run in fp32: who is nearer to them, the exact values in the lower precision or the raw predictions?"""
        full = dataclasses.replace(case, engine=dataclasses.replace(case.engine, encoder=self.full))
        full.run(None, np.empty(0, np.int64))
        for name, x in found.items():
            low, high, predicted = case.exact[name][case.test], full.exact[name][case.test], x.sum(1)[case.test]
            pairs = {"exact, exact fp32": (low, high), "predicted, exact": (predicted, low), "predicted, exact fp32": (predicted, high)}
            self.rounding.append(head | {"score": split_name(name)} | {k: spearman(*v) for k, v in pairs.items()})

    def of_effort(self, case: Case, head: dict, k: int, found: dict, effort: dict) -> None:
        n = len(case.place)
        for least, sample in effort.items():
            for name, way, at, values in beside(case, found, sample):
                if way == "raw" or (not sizes(name) and k != MANY[0]):
                    continue
                passes = min(passes_of(name, n, least, k), n * len(case.engine.plan.passes))
                tell = {"sample": sum(map(len, sample.values())), "projections": k if sizes(name) else 0, "passes": passes}
                self.effort.append(head | {"score": split_name(name)} | tell | agreement(case.exact[name][at], values))

    def write(self) -> None:
        a, out = self.a, self.a.out / self.a.name
        t = pd.DataFrame(self.rows)
        t.to_csv(f"{out}.tsv", sep="\t", index=False, float_format="%.5g")
        main = t[t.layer == a.layers[0]]
        n = "every edit" if a.most_edits is None else f"{a.most_edits} random edits"
        lengths = [len(r) for r in self.screened]
        head = f"{a.name}: {len(lengths)} cells of {min(lengths)} to {max(lengths)} tokens, {n} of each; layer {a.layers[0]}, K = {a.projections}, {a.precision}"
        parts = [f"# {head}", machine(), f"{self.seconds['exact']:.0f} s exact, {self.seconds['predicted']:.0f} s predicted"]
        parts += [
            "Each figure: median over cells (worst cell).",
            main_table(main),
            "## Spearman within tenths of the ranks, corrected",
            by_decile(main),
        ]
        if len(a.layers) > 1:
            parts += ["## By layer, Spearman", by_layer(t)]
        if self.plain:
            parts += ["## By plainer ways", ablation_table(pd.DataFrame(self.plain))]
        if self.rounding:
            r = pd.DataFrame(self.rounding)
            pairs = list(r.columns[-3:])
            rows = [[*at, *(summary(p[c], "min") for c in pairs)] for at, p in r.groupby(["kind", "score"], sort=False)]
            parts += [f"## Spearman of values in {a.precision} and in fp32", written(rows, ["kind", "score", *pairs])]
        if self.effort:
            e = pd.DataFrame(self.effort)
            parts += ["## Cost against recall (delete): Spearman / top 20 in 20 / passes a cell for this score alone", effort_table(e)]
            e.to_csv(f"{out}_effort.tsv", sep="\t", index=False, float_format="%.5g")
            draw_effort(e, self.a.out / f"fast_{a.name}_effort.png")
        Path(f"{out}.md").write_text("\n\n".join(parts) + "\n")
        if self.plain:
            pd.DataFrame(self.plain).to_csv(f"{out}_plain.tsv", sep="\t", index=False, float_format="%.5g")
        draw_deciles(main, self.a.out / f"fast_{a.name}_deciles.png")
        self.draw_cells()

    def draw_cells(self) -> None:
        """The cell in the middle of some scores, and the worst cells of all."""
        held: dict[tuple, dict] = {}
        for tell, exact, values in self.points:
            held.setdefault((tell["kind"], tell["score"], tell["cell"]), {})[tell["way"]] = (exact, values)
        rho = {key: spearman(*ways["corrected"]) for key, ways in held.items()}
        rho = {k: v for k, v in rho.items() if np.isfinite(v)}

        def panel(key: tuple) -> tuple[str, dict]:
            kind, score, cell = key
            return f"{kind}: {score}\ncell {cell}, Spearman {spearman(*held[key]['raw']):.3f} -> {rho[key]:.3f}", held[key]

        groups: dict[tuple, list] = {}
        for key in sorted(rho, key=rho.get):
            groups.setdefault(key[:2], []).append(key)
        first = [g for g in groups if g[0] == self.a.kinds[0]]
        draw_points([panel(groups[g][len(groups[g]) // 2]) for g in sorted(first)[:8]], self.a.out / f"fast_{self.a.name}_cells.png")
        worst = sorted(groups, key=lambda g: rho[groups[g][0]])[:8]
        draw_points([panel(groups[g][0]) for g in worst], self.a.out / f"fast_{self.a.name}_worst.png")


def passes_of(name: str, edits: int, splits: int, projections: int) -> float:
    """Forward passes that one score of a cell of so many edits takes, were it predicted alone."""

    def of(**how) -> float:
        held = {"toward": 0, "readouts": 1, "projections": 0} | how
        return float(cost(np.array([edits]), np.array([1]), passes=10**6, splits=splits, **held)[0])

    if not sizes(name):
        return of(toward=1)
    genes = of(projections=projections)
    return genes if "genes" in name else of(projections=projections, readouts=2) - genes + of()


def sharpen(encoder: Any, checkpoint: Any, factor: float) -> None:
    """All queries times `factor`."""
    import torch

    with torch.no_grad():
        for number in range(checkpoint.n_layers):
            qkv = encoder.block(number).qkv
            for part in (qkv.weight, qkv.bias):
                part[: checkpoint.width] *= factor


def cropped(row: np.ndarray, length: int, frame: Any) -> np.ndarray:
    """A row of at most `length` tokens, its special tokens kept."""
    if len(row) <= length:
        return row
    first, last = frame.span(len(row))
    return np.concatenate([row[: first + length - len(frame)], row[last:]])


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("-o", "--out", type=Path, required=True)
    ap.add_argument("--name", help="Of the files (default: the model's).")
    ap.add_argument("--model", default="demo")
    ap.add_argument("--vocab")
    ap.add_argument("--twin", type=int, help="Take the model's untrained twin of this seed.")
    ap.add_argument("--tokens")
    ap.add_argument("--toward", help="COLUMN=STATE of the tokens.")
    ap.add_argument("--cells", type=int, default=6)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--layers", default="-2", type=lambda s: [int(x) for x in s.split(",")])
    ap.add_argument("--kinds", default=",".join(KINDS), type=lambda s: s.split(","))
    ap.add_argument("--length", type=int, help="Crop rows to so many tokens.")
    ap.add_argument("--most-edits", type=int, help="So many edits of each cell at random (default: all).")
    ap.add_argument("--projections", type=int, default=PROJECTIONS)
    ap.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    ap.add_argument("--effort", action="store_true")
    ap.add_argument("--no-ablations", action="store_true")
    ap.add_argument("--sharpen", type=float, default=1.0)
    ap.add_argument("--together", type=lambda s: s.split(","))
    ap.add_argument("--keep", type=Path)
    a = ap.parse_args()
    a.name = a.name or Path(a.model).name
    for folder in (a.out, a.keep):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    if a.together:
        together([pd.read_csv(a.out / f"{name}.tsv", sep="\t") for name in a.together], a.out)
        return
    warnings.simplefilter("ignore", rc.errors.RankcellWarning)
    with tempfile.TemporaryDirectory() as tmp:
        proof = Proof(a, Path(tmp))
        proof.run()
        proof.write()
    print((a.out / f"{a.name}.md").read_text())


if __name__ == "__main__":
    main()
