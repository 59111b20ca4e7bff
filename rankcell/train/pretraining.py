"""Masked-language-model pretraining of a small or large BERT on a TokenSet."""

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from rankcell.errors import SettingsError, TokensError, VocabularyError
from rankcell.model.deterministic import deterministic
from rankcell.model.device_memory import Memory
from rankcell.model.devices import choose_device, full_name, make_current, one_device, restoring_current, restoring_generators
from rankcell.model.heads import CHECKPOINT_FILES, new_masked_lm, save_masked_lm
from rankcell.model.options import Device
from rankcell.model.precisions import pinned, precision_on
from rankcell.store import atomic_path, require_new, write_json
from rankcell.tokens.tokenset import TokenSet
from rankcell.train.evaluate import baseline_accuracy, masked_accuracy, masked_examples
from rankcell.train.initial import set_initial_values
from rankcell.train.loop import Loop, Progress
from rankcell.train.recipe import Recipe
from rankcell.vocab import Frame, Vocabulary, find_vocabulary
from rankcell.wording import option

FACTS, LOSS, CURVE = "training.json", "loss.csv", "loss.png"
OWN = (FACTS, LOSS, CURVE, *CHECKPOINT_FILES)  # all that the folder holds
MASKED_IN_CHECKS, MASKED_AT_LAST = 4_000, 20_000  # genes: a proportion of 0.5 is known to 0.008 and 0.0035 (standard error)


def pretrain(
    source: TokenSet | str | os.PathLike,
    out: str | os.PathLike,
    recipe: Recipe = Recipe(),
    *,
    vocab: str | os.PathLike | Vocabulary | None = None,
    compute: Device = Device(),
    force: bool = False,
    progress: Progress = None,
) -> dict[str, Any]:
    """Train a masked-language model and write its checkpoint folder `out`; returns what stands in its training.json.

    source
        A TokenSet, or its folder.
    vocab
        Its vocabulary; None: the one at hand that the tokens were made with.

    Beside weights, config and vocabulary the folder holds `training.json` (recipe, held-out accuracies, baselines),
    `loss.csv` and `loss.png`. What is kept are the weights with the lowest held-out loss of the checks in between. Ctrl-C writes
    them too, as far as there was a check, and goes on as KeyboardInterrupt; nothing half-written stands under `out`. Runs under
    `accelerate launch` too, where the cells of a batch are shared out among the processes. The same recipe on the same device gives the
    same weights, unless `max_minutes` ends it. torch's random generators and its current GPU are restored afterwards.
    """
    chosen = None if vocab is None else find_vocabulary(vocab)
    tokens = source if isinstance(source, TokenSet) else TokenSet.open(source, vocab=chosen)
    vocab = chosen or _vocabulary_of(tokens)
    require_new(out, force=force, marker=FACTS, own=OWN)
    tokens.spec.require(vocab, owner=option("vocab"))
    if vocab.mask is None:
        raise SettingsError(f"vocabulary '{vocab.name}' has no <mask> token: it cannot be used for masked-language modelling")
    device = choose_device(one_device(compute.device))
    precision = precision_on(compute.precision, device)
    with pinned(precision), restoring_current(device), restoring_generators():
        accelerator = _accelerator(compute.device, precision)
        with deterministic(accelerator.device):
            trained = _train(tokens, vocab, recipe, accelerator, precision, progress)
    if trained.is_main:
        with atomic_path(out, force=force, marker=FACTS, own=OWN) as part:
            save_masked_lm(trained.model, part, vocab)
            write_json(part / FACTS, trained.facts)
            _write_curve(trained.curve, part)
    if trained.facts["ended_by"] == "interrupt":
        raise KeyboardInterrupt
    return trained.facts


def _vocabulary_of(tokens: TokenSet) -> Vocabulary:
    """The vocabulary at hand that the tokens were made with; VocabularyError when there is none."""
    vocab = tokens.find_vocabulary()
    if vocab is None:
        raise VocabularyError(
            f"the tokens' vocabulary '{tokens.spec.vocabulary}' does not ship with rankcell and was not fetched: pass its folder with {option('vocab')}"
        )
    return vocab


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


def _train(tokens: TokenSet, vocab: Vocabulary, r: Recipe, accelerator: Any, precision: str, progress: Progress) -> _Trained:
    rng = np.random.default_rng(r.seed)
    torch.manual_seed(r.seed)
    train, heldout = split_cells(tokens, r.holdout, r.seed)
    train_rows, heldout_rows = ([tokens.row(int(i)) for i in cells] for cells in (train, heldout))
    r = r.fitted(np.array([len(row) for row in train_rows]))
    model = _new_model(tokens, vocab, r, train_rows, longest=max(map(len, train_rows + heldout_rows)), rng=rng)
    masked = {"mask": vocab.mask, "mask_rate": r.mask_rate, "seed": r.seed}
    examples = masked_examples(heldout_rows, tokens.frame, **masked, draws=2, most=MASKED_IN_CHECKS)
    began = time.perf_counter()
    loop = Loop(model, train_rows, tokens.frame, vocab, r, accelerator)
    loop.run(examples, rng, progress)
    if not loop.best.weights:
        raise KeyboardInterrupt
    model.load_state_dict(loop.best.weights)
    facts = {
        "recipe": dataclasses.asdict(r) | {"positions": model.config.max_position_embeddings},
        "n_parameters": sum(p.numel() for p in model.parameters()),
        "n_train": len(train),
        "n_heldout": len(heldout),
        "heldout_cells": [tokens.cell_ids[i] for i in heldout],
        "steps": loop.n_steps,
        "planned_steps": loop.planned_steps,
        "ended_by": loop.ended,
        "kept_step": loop.best.point["step"],
        "tokens_hash": tokens.fingerprint,
        "device": full_name(accelerator.device),
        "precision": precision,
        "torch": str(torch.__version__),
    }
    if loop.ended == "interrupt":  # no time for more than what the last check said
        facts |= {"heldout": {name: loop.best.point[f"heldout_{name}"] for name in ("loss", "top1", "top10")}, "baselines": {}}
    else:
        facts |= final_figures(model, train_rows, heldout_rows, tokens.frame, vocab, r, loop.memory)
    facts["minutes"] = round((time.perf_counter() - began) / 60, 1)
    return _Trained(model.cpu(), facts, loop.curve, accelerator.is_main_process)


def _accelerator(device: str, precision: str) -> Any:
    """An Accelerator on the device that was asked for; under `accelerate launch` on that of this process."""
    chosen = choose_device(one_device(device))
    if "LOCAL_RANK" not in os.environ:
        make_current(chosen)
    try:
        accelerator = Accelerator(cpu=chosen.type == "cpu", mixed_precision={"bf16": "bf16", "fp16": "fp16"}.get(precision, "no"))
    except ValueError as e:  # of an earlier training in this process, or a precision that the device has not
        raise SettingsError(f"training on {chosen} in precision {precision} cannot begin in this process: {e}") from e
    if accelerator.num_processes > 1 and device != "auto":
        raise SettingsError(f"{option('device', device)}: accelerate launch gives each process its device, leave it out")
    if accelerator.device.type != chosen.type:
        raise SettingsError(
            f"device '{device}': accelerate trains on {accelerator.device} in this process: name that, or train in a process of its own"
        )
    return accelerator


def _new_model(tokens: TokenSet, vocab: Vocabulary, r: Recipe, train: list[np.ndarray], *, longest: int, rng: np.random.Generator) -> Any:
    """The model before its first step."""
    positions = r.positions or min(tokens.spec.max_len, len(vocab) + len(tokens.frame))
    if positions < longest:
        raise SettingsError(f"{option('positions')} is {positions}, but rows have up to {longest} tokens")
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
    model: Any, train: list[np.ndarray], heldout: list[np.ndarray], frame: Frame, vocab: Vocabulary, r: Recipe, memory: Memory
) -> dict[str, Any]:
    """Held-out masked-gene accuracy of the model and of the baselines: 15 % masked, five draws or MASKED_AT_LAST genes.

    Of the model as it answers, and where genes that the row shows are no answers; the baselines never give these.
    """
    examples = masked_examples(heldout, frame, mask=vocab.mask, mask_rate=0.15, draws=5, seed=r.seed + 1, most=MASKED_AT_LAST)
    options = {"pad": vocab.pad, "device": memory.device, "memory": memory}
    accuracy, among_hidden = (masked_accuracy(model, examples, exclude_shown=excludes, **options) for excludes in (False, True))
    baselines = baseline_accuracy(train, examples, frame, pad=vocab.pad, n_ids=vocab.n_ids)
    return {
        "heldout": accuracy,
        "heldout_excluding_shown": among_hidden,
        "baselines": baselines,
        "n_masked": int(sum(len(example.where) for example in examples)),
    }


def _write_curve(curve: list[dict[str, float]], folder: Path) -> None:
    import csv

    from rankcell.report.pictures.loss_curve import draw_curve

    with open(folder / LOSS, "w", newline="") as f:
        writer = csv.DictWriter(f, list(curve[0]))
        writer.writeheader()
        writer.writerows({k: round(v, 6) for k, v in row.items()} for row in curve)
    draw_curve(curve, folder / CURVE)
