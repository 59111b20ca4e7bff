"""The training loop: steps, learning rate, held-out checks, the best state, and its end by steps, by time or by Ctrl-C."""

import contextlib
import dataclasses
import functools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from rankcell.errors import SettingsError
from rankcell.model.device_memory import Memory
from rankcell.train.collate import IGNORE, MaskedBatch, Masking, collate_masked, length_groups
from rankcell.train.evaluate import MaskedExample, masked_accuracy
from rankcell.train.recipe import Recipe
from rankcell.vocab import Frame, Vocabulary
from rankcell.wording import command, note, option

CHECKS = 50  # held-out checks in a run of so many epochs or more; else half as many
_TRAINING_SHARE = 0.9  # of the minutes allowed: the rest is for the last figures and for writing
_CHECKING_SHARE = 0.1  # of limited time that held-out checks may take
_TRIAL_STEPS = 5  # that the time is estimated from
_WORTH_SAYING = 60.0  # seconds of training that are announced

Progress = Callable[[int, int, str], None] | None


@dataclass
class Best:
    """The weights with the lowest held-out loss so far, and the point of the curve at which they stood."""

    point: dict[str, float] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)

    def offer(self, point: dict[str, float], model: Any) -> None:
        if not self.point or point["heldout_loss"] < self.point["heldout_loss"]:
            self.point = point
            self.weights = {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}


class Loop:
    """Trains `model` on `rows` by a fitted recipe.

    After `run`: `curve` (a point per held-out check), `best`, `n_steps` done, and `ended`: "steps", "time" or "interrupt".
    """

    def __init__(self, model: Any, rows: list[np.ndarray], frame: Frame, vocab: Vocabulary, recipe: Recipe, accelerator: Any):
        self.model, self.rows, self.frame, self.vocab, self.recipe, self.accelerator = model, rows, frame, vocab, recipe, accelerator
        self.memory = Memory(accelerator.device)
        optimizer = torch.optim.AdamW(_groups(model, recipe.weight_decay), lr=recipe.lr, betas=(0.9, 0.98))
        self._objective, self._optimizer = self.memory.run(
            lambda: accelerator.prepare(_objective(model, recipe), optimizer), "the model", tries=1, smaller=("width", "layers")
        )
        self._average = _Average(model, recipe.average)
        self._lengths = np.array([len(row) for row in rows])
        self._masking = Masking(vocab.mask, recipe.mask_rate, recipe.drop, recipe.row_genes)
        self.per_epoch = math.ceil(len(rows) / recipe.batch_size)
        self.planned_steps = self.per_epoch * recipe.epochs
        self.n_steps, self.ended, self.curve, self.best = 0, "", [], Best()
        self._check_seconds = 0.0
        self._losses: list[float] = []  # since the last check
        self._recent: deque[float] = deque(maxlen=20)

    def run(self, examples: list[MaskedExample], rng: np.random.Generator, progress: Progress) -> None:
        """Train until the steps are done, the time is over, or Ctrl-C."""
        self._began, self._examples = time.perf_counter(), examples
        try:
            for batch in self._batches(rng):
                self._step(batch)
                if progress and self.accelerator.is_main_process:
                    progress(self.n_steps, self.planned_steps, f"loss {np.mean(self._recent):.2f}")
                if self._is_over():
                    self.ended = "time"
                    break
            self.ended = self.ended or "steps"
        except KeyboardInterrupt:
            self.ended = "interrupt"
            return
        if not self.curve or self.curve[-1]["step"] != self.n_steps:
            self._check()

    def _batches(self, rng: np.random.Generator) -> Iterator[MaskedBatch]:
        for _ in range(self.recipe.epochs):
            for cells in length_groups(self._lengths, self.recipe.batch_size, rng):
                rows = [self.rows[int(i)] for i in cells]
                yield collate_masked(rows, self.frame, self._masking, pad=self.vocab.pad, n_ids=self.vocab.n_ids, rng=rng)

    def _step(self, batch: MaskedBatch) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self.recipe.lr * _rate(min(1.0, self._share(self.n_steps + 1)), self.recipe.warmup)
        update = functools.partial(_update, self._objective, self._optimizer, self.accelerator, batch, self.recipe.clip)
        step = "a training step of {:,} cells, {:,} tokens each".format(*batch.input_ids.shape)
        loss = self.memory.run(update, step, tries=1, smaller=("batch_size", "row_genes", "width", "layers"))  # weights may be halfway
        self._require_finite(loss)
        self._losses.append(loss)
        self._recent.append(loss)
        self._average.update(self.model)
        self.n_steps += 1
        if self.n_steps == _TRIAL_STEPS:
            self._announce()
        if self._is_due():
            self._check()

    def _require_finite(self, loss: float) -> None:
        """SettingsError, with nothing written, where the training has diverged: no later step would mend the weights."""
        if not math.isfinite(loss):
            raise SettingsError(
                f"the training diverged: the loss is {loss} at step {self.n_steps + 1:,} of {self.planned_steps:,}; "
                f"try a lower {option('lr')} than {self.recipe.lr:g} (nothing is written)"
            )

    def _elapsed(self) -> float:
        return time.perf_counter() - self._began

    def _share(self, step: int) -> float:
        """How much of the training is done, from 0 to 1: by steps, or by time where that is limited and runs out first."""
        by_steps = step / self.planned_steps
        if self.recipe.max_minutes is None:
            return by_steps
        return max(by_steps, self._elapsed() / (60 * self.recipe.max_minutes * _TRAINING_SHARE))

    def _is_over(self) -> bool:
        return self.recipe.max_minutes is not None and self.n_steps < self.planned_steps and self._share(self.n_steps) >= 1

    def _is_due(self) -> bool:
        """Whether a held-out check is due: CHECKS times at most, at the ends of epochs where there are many and time is not limited."""
        if self.recipe.max_minutes is None and self.recipe.epochs >= CHECKS:
            epoch, within = divmod(self.n_steps, self.per_epoch)
            return within == 0 and (epoch == 1 or epoch % (self.recipe.epochs // CHECKS) == 0)
        if self.recipe.max_minutes is not None and self._check_seconds > _CHECKING_SHARE * self._elapsed():
            return False
        return self._share(self.n_steps) * CHECKS / 2 >= len(self.curve) + 1

    def _check(self) -> None:
        began = time.perf_counter()
        with self._average.swapped(self.model):
            accuracy = masked_accuracy(
                self.model, self._examples, pad=self.vocab.pad, device=self.accelerator.device, exclude_shown=True, memory=self.memory
            )
            point = {"epoch": round(self.n_steps / self.per_epoch, 3), "step": self.n_steps, "train_loss": float(np.mean(self._losses))}
            self._require_finite(accuracy["loss"])
            self.curve.append(point | {f"heldout_{name}": value for name, value in accuracy.items()})
            self.best.offer(self.curve[-1], self.model)
        self._losses = []
        self._check_seconds += time.perf_counter() - began

    def _announce(self) -> None:
        """Say how long the training takes, and what would make it shorter."""
        per_step = self._elapsed() / self.n_steps
        seconds, limit = per_step * self.planned_steps, self.recipe.max_minutes
        if seconds < _WORTH_SAYING or not self.accelerator.is_main_process:
            return
        total = (
            f"{self.planned_steps:,} steps of {self.recipe.batch_size} cells take about {_duration(seconds)} here ({per_step:.2g} s each)"
        )
        if limit is None:
            note(f"{total}; {option('max_minutes', placeholder='N')} ends in time with the best state, Ctrl-C keeps the best state so far")
        elif seconds > 60 * limit * _TRAINING_SHARE:
            steps = int(60 * limit * _TRAINING_SHARE / per_step)
            note(f"{total}; about {steps:,} ({steps / self.per_epoch:.1f} epochs) fit into {limit:g} minutes: {self._shorter()}")

    def _shorter(self) -> str:
        """What would make steps shorter, as options of this verb and another vocabulary."""
        smaller = {"row_genes": (self.recipe.row_genes or int(self._lengths.mean())) // 2, "width": self.recipe.width // 2}
        options = [option(name, value) for name, value in smaller.items() if value >= 32]
        genes = f"a vocabulary of fewer genes ({len(self.vocab):,} now; {command('vocab build', '--min-cells N')})"
        return f"{' or '.join([*options, genes])} makes steps shorter"


def _duration(seconds: float) -> str:
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"


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


def _update(objective: Any, optimizer: Any, accelerator: Any, batch: MaskedBatch, clip: float) -> float:
    """One update; the masked-language-model loss."""
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
    class Objective(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, t: dict[str, Any]) -> tuple[Any, Any]:
            out = self.model.bert(
                input_ids=t["input_ids"], position_ids=t["position_ids"], attention_mask=t["attend"], output_hidden_states=r.cell_weight > 0
            )
            at = t["labels"] != IGNORE
            excluded_nv = t["excluded_bv"][at.nonzero()[:, 0]]
            logits = self.model.cls(out.last_hidden_state[at]).float().masked_fill(excluded_nv, -1e4)
            masked = F.cross_entropy(logits, t["labels"][at])
            if not r.cell_weight:
                return masked, masked
            return masked + r.cell_weight * self._cell(out.hidden_states[r.cell_layer], t), masked

        def _cell(self, hidden_btd: Any, t: dict[str, Any]) -> Any:
            """Each readout must name the genes that the row does not show, among all candidates."""
            body_bt = t["body"].to(hidden_btd.dtype)
            line = torch.arange(len(body_bt), device=body_bt.device)
            first = t["body"].argmax(1)
            random_place = torch.multinomial(t["body"], 1)[:, 0]
            mean = (body_bt[:, None, :] @ hidden_btd)[:, 0] / body_bt.sum(1, keepdim=True)
            loss = 0.0
            for readout in (hidden_btd[:, 0], mean, hidden_btd[line, first], hidden_btd[line, random_place]):
                logits = self.model.cls(readout).float().masked_fill(t["excluded_bv"], -1e4)
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
        if now:
            model.load_state_dict(self.weights)
        yield
        if now:
            model.load_state_dict(now)
