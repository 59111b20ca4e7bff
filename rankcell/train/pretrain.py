"""Masked-language-model pretraining of a small or large BERT on a TokenSet."""

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rankcell.errors import SettingsError, TokensError
from rankcell.model.encoder import choose_device
from rankcell.model.heads import new_masked_lm, save_masked_lm
from rankcell.store import atomic_path, require_new, write_json
from rankcell.tokens.tokenset import TokenSet
from rankcell.train.collate import IGNORE, MaskedBatch, collate_masked, length_groups
from rankcell.train.evaluate import baseline_accuracy, masked_accuracy, questions
from rankcell.train.initial import set_initial_values
from rankcell.vocab import Vocabulary

FACTS = "training.json"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is shaped and trained.

    layers, width, heads, intermediate, positions, activation, dropout
        The BERT; `positions` None: room for every gene of the vocabulary, at most the tokens' max_len.
    epochs, batch_size, lr, warmup, weight_decay, clip, average
        Passes over the training cells, cells per batch, AdamW's highest rate (linear warm-up over a share `warmup` of the steps,
        then cosine decay to zero), decay of matrices, largest gradient norm, and the decay of a running average of the
        weights that is what is kept (0: the last weights).
    mask_rate, drop
        Share of genes masked; highest share of genes taken out of a row before (drawn anew for each row, from 0).
    cell_weight, cell_layer
        Weight of the cell objective and the layer it reads: position 0 (CLS where there is one), the mean over genes, the
        first gene and one gene drawn at random each must name, through the language-model head, the genes of the
        cell that the row does not show.
    smart_start
        Begin from smooth positions and the genes' company (rankcell.train.initial) instead of noise.
    holdout
        Share of cells kept out of training, for the curve and the accuracies.
    seed
        Of everything drawn.
    """

    layers: int = 3
    width: int = 128
    heads: int = 4
    intermediate: int = 256
    positions: int | None = None
    activation: str = "relu"
    dropout: float = 0.0
    epochs: int = 100
    batch_size: int = 16
    lr: float = 2e-3
    warmup: float = 0.05
    weight_decay: float = 0.01
    clip: float = 1.0
    average: float = 0.0
    mask_rate: float = 0.15
    drop: float = 0.0
    cell_weight: float = 0.0
    cell_layer: int = -2
    smart_start: bool = True
    holdout: float = 0.1
    seed: int = 0

    def check(self) -> None:
        """SettingsError when a value cannot be."""
        for name in ("layers", "width", "heads", "intermediate", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; at least 1")
        for name in ("mask_rate", "holdout"):
            if not 0 < getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; above 0 and below 1")
        for name in ("drop", "dropout", "average", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; at least 0 and below 1")
        if self.lr <= 0 or self.cell_weight < 0:
            raise SettingsError(f"lr is {self.lr} and cell_weight {self.cell_weight}; the first is above zero, the second not below")
        if not -self.layers - 1 <= self.cell_layer <= self.layers:
            raise SettingsError(f"cell_layer {self.cell_layer} is out of range for {self.layers} blocks")


def pretrain(
    tokens: TokenSet,
    out: str | os.PathLike,
    *,
    vocab: Vocabulary,
    recipe: Recipe = Recipe(),
    device: str = "auto",
    precision: str = "auto",
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Train a masked-language model and write its checkpoint folder `out`; returns what stands in its training.json.

    Beside weights, config and vocabulary the folder holds `training.json` (recipe, held-out accuracies, baselines),
    `loss.csv` and `loss.png`. Nothing stands under `out` before all is done. Runs under `accelerate launch` too, where
    the cells of a batch are shared out among the processes.
    """
    recipe.check()
    require_new(out, force=force, marker=FACTS)
    tokens.spec.require(vocab, what="--vocab")
    if vocab.mask is None:
        raise SettingsError(f"vocabulary '{vocab.name}' has no <mask> token: it cannot be used for masked-language modelling")
    trained = _train(tokens, vocab, recipe, device, precision, progress)
    if trained.is_main:
        with atomic_path(out, force=force, marker=FACTS) as part:
            save_masked_lm(trained.model, part, vocab)
            write_json(part / FACTS, trained.facts)
            _write_curve(trained.curve, part)
    return trained.facts


@dataclasses.dataclass
class _Trained:
    model: Any
    facts: dict[str, Any]
    curve: list[dict[str, float]]
    is_main: bool


def split_cells(tokens: TokenSet, holdout: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(training cells, held-out cells): row numbers, ascending; cells without genes are in neither."""
    filled = np.flatnonzero(tokens.n_genes > 0)
    n = round(holdout * len(filled))
    if not 0 < n < len(filled):
        raise TokensError(f"{len(filled):,} cells with genes are too few to train on and hold {holdout:.0%} out")
    order = np.random.default_rng(seed).permutation(len(filled))
    return np.sort(filled[order[n:]]), np.sort(filled[order[:n]])


def _train(
    tokens: TokenSet, vocab: Vocabulary, r: Recipe, device: str, precision: str, progress: Callable[[int, int], None] | None
) -> _Trained:
    import torch
    from accelerate import Accelerator

    chosen = choose_device(device)
    accelerator = Accelerator(cpu=chosen.type == "cpu", mixed_precision={"bf16": "bf16", "fp16": "fp16"}.get(precision, "no"))
    rng = np.random.default_rng(r.seed)
    torch.manual_seed(r.seed)
    train, held = split_cells(tokens, r.holdout, r.seed)
    rows = {int(i): tokens.row(i) for i in np.concatenate([train, held])}
    model = _new_model(tokens, vocab, r, [rows[int(i)] for i in train], longest=max(map(len, rows.values())), rng=rng)
    optimizer = torch.optim.AdamW(_groups(model, r.weight_decay), lr=r.lr, betas=(0.9, 0.98))
    objective, optimizer = accelerator.prepare(_objective(model, r), optimizer)
    average = _Average(model, r.average)
    asked = questions([rows[int(i)] for i in held], tokens.frame, mask=vocab.mask, mask_rate=r.mask_rate, draws=2, seed=r.seed)
    per_epoch = math.ceil(len(train) / r.batch_size)
    n_steps, step, began, curve = per_epoch * r.epochs, 0, time.perf_counter(), []
    lengths = np.array([len(rows[int(i)]) for i in train])
    for epoch in range(1, r.epochs + 1):
        total = 0.0
        for where in length_groups(lengths, r.batch_size, rng):
            for group in optimizer.param_groups:
                group["lr"] = r.lr * _rate((step + 1) / n_steps, r.warmup)
            batch = collate_masked(
                [rows[int(i)] for i in train[where]],
                tokens.frame,
                pad=vocab.pad,
                mask=vocab.mask,
                n_ids=vocab.n_ids,
                mask_rate=r.mask_rate,
                drop=r.drop,
                rng=rng,
            )
            total += _step(objective, optimizer, accelerator, batch, r.clip)
            average.update(model)
            step += 1
            if progress and accelerator.is_main_process:
                progress(step, n_steps)
        if epoch % max(1, r.epochs // 50) == 0 or epoch in (1, r.epochs):
            with average.swapped(model):
                found = masked_accuracy(model, asked, pad=vocab.pad, device=accelerator.device)
            curve.append({"epoch": epoch, "step": step, "train_loss": total / per_epoch} | {f"heldout_{k}": v for k, v in found.items()})
    average.final(model)
    facts = {
        "recipe": dataclasses.asdict(r) | {"positions": model.config.max_position_embeddings},
        "n_parameters": sum(p.numel() for p in model.parameters()),
        "n_train": len(train),
        "n_heldout": len(held),
        "heldout_cells": [tokens.cell_ids[i] for i in held],
        "steps": n_steps,
        "minutes": round((time.perf_counter() - began) / 60, 1),
        "tokens_hash": tokens.fingerprint,
        "device": str(accelerator.device),
        "precision": precision,
        "torch": str(torch.__version__),
        **final_figures(model, rows, train, held, tokens, vocab, r, accelerator.device),
    }
    return _Trained(model.cpu(), facts, curve, accelerator.is_main_process)


def _new_model(tokens: TokenSet, vocab: Vocabulary, r: Recipe, train: list[np.ndarray], *, longest: int, rng: np.random.Generator) -> Any:
    """The model before its first step."""
    positions = r.positions or min(tokens.spec.max_len, len(vocab) + len(tokens.frame))
    if positions < longest:
        raise SettingsError(f"positions is {positions}, but rows have up to {longest} tokens")
    model = new_masked_lm(
        vocab,
        layers=r.layers,
        width=r.width,
        heads=r.heads,
        intermediate=r.intermediate,
        positions=positions,
        dropout=r.dropout,
        activation=r.activation,
    )
    if r.smart_start:
        set_initial_values(model, [tokens.frame.body(row) for row in train], rng=rng)
    return model


def final_figures(
    model: Any,
    rows: dict[int, np.ndarray],
    train: np.ndarray,
    held: np.ndarray,
    tokens: TokenSet,
    vocab: Vocabulary,
    r: Recipe,
    device: Any,
) -> dict[str, Any]:
    """Held-out masked-gene accuracy of the model and of the baselines: 15 % masked, five draws."""
    asked = questions([rows[int(i)] for i in held], tokens.frame, mask=vocab.mask, mask_rate=0.15, draws=5, seed=r.seed + 1)
    found = masked_accuracy(model, asked, pad=vocab.pad, device=device)
    baselines = baseline_accuracy([rows[int(i)] for i in train], asked, tokens.frame, n_ids=vocab.n_ids)
    return {"heldout": found, "baselines": baselines, "n_masked": int(sum(len(q.where) for q in asked))}


def _groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices with weight decay, biases and norms without."""
    parts = {True: [], False: []}
    for p in model.parameters():
        parts[p.ndim >= 2].append(p)
    return [{"params": parts[True], "weight_decay": weight_decay}, {"params": parts[False], "weight_decay": 0.0}]


def _rate(done: float, warmup: float) -> float:
    if done < warmup:
        return done / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def _step(objective: Any, optimizer: Any, accelerator: Any, batch: MaskedBatch, clip: float) -> float:
    """One update; the masked-language-model loss."""
    import torch

    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    t = {f.name: torch.from_numpy(getattr(batch, f.name)[mine]).to(accelerator.device) for f in dataclasses.fields(batch)}
    objective.train()
    with accelerator.autocast():
        loss, masked = objective(t)
    optimizer.zero_grad(set_to_none=True)
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(objective.parameters(), clip)
    optimizer.step()
    return float(masked.detach())


def _objective(model: Any, r: Recipe) -> Any:
    """The training loss as a module, so that accelerate can wrap it whole: (loss, masked-language-model part)."""
    import torch
    import torch.nn.functional as F

    class Objective(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, t: dict[str, Any]) -> tuple[Any, Any]:
            out = self.model.bert(input_ids=t["input_ids"], attention_mask=t["attend"], output_hidden_states=r.cell_weight > 0)
            at = t["labels"] != IGNORE
            masked = F.cross_entropy(self.model.cls(out.last_hidden_state[at]).float(), t["labels"][at])
            if not r.cell_weight:
                return masked, masked
            return masked + r.cell_weight * self._cell(out.hidden_states[r.cell_layer], t), masked

        def _cell(self, hidden_btd: Any, t: dict[str, Any]) -> Any:
            """Each readout must name the genes that the row does not show, among all that it does not show."""
            body_bt = t["body"].to(hidden_btd.dtype)
            line = torch.arange(len(body_bt), device=body_bt.device)
            first = t["body"].argmax(1)
            any_one = torch.multinomial(t["body"], 1)[:, 0]
            mean = (body_bt[:, None, :] @ hidden_btd)[:, 0] / body_bt.sum(1, keepdim=True)
            loss = 0.0
            for readout in (hidden_btd[:, 0], mean, hidden_btd[line, first], hidden_btd[line, any_one]):
                logits = self.model.cls(readout).float().masked_fill(t["shown_bv"], -1e4)
                loss = loss - (t["hidden_bv"] * F.log_softmax(logits, -1)).sum(1).mean()
            return loss

    return Objective()


class _Average:
    """A running average of weights (decay rising to its full value over the first steps); with decay 0 the weights themselves."""

    def __init__(self, model: Any, decay: float):
        self.decay, self.n = decay, 0
        self.weights = {k: v.detach().clone() for k, v in model.state_dict().items()} if decay else None

    def update(self, model: Any) -> None:
        if self.weights is None:
            return
        self.n += 1
        keep = min(self.decay, (1 + self.n) / (10 + self.n))
        for k, v in model.state_dict().items():
            if v.dtype.is_floating_point:
                self.weights[k].lerp_(v, 1 - keep)

    @contextlib.contextmanager
    def swapped(self, model: Any) -> Iterator[None]:
        """The model with the averaged weights in it, for a while."""
        now = {k: v.detach().clone() for k, v in model.state_dict().items()} if self.weights else None
        self.final(model)
        yield
        if now:
            model.load_state_dict(now)

    def final(self, model: Any) -> None:
        """Put the averaged weights into the model."""
        if self.weights is not None:
            model.load_state_dict(self.weights)


def _write_curve(curve: list[dict[str, float]], folder: Path) -> None:
    import csv

    from rankcell.report.figures import draw_curve

    with open(folder / "loss.csv", "w", newline="") as f:
        writer = csv.DictWriter(f, list(curve[0]))
        writer.writeheader()
        writer.writerows({k: round(v, 6) for k, v in row.items()} for row in curve)
    draw_curve(curve, folder / "loss.png")
