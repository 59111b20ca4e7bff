"""Held-out masked-gene accuracy, beside two baselines that know no cell biology."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rankcell.model import collate, plan_batches
from rankcell.train.collate import IGNORE, mask_row
from rankcell.vocab import Frame


@dataclass(frozen=True)
class Question:
    """One row with genes masked: `shown` (int), `where` (masked positions), `answers` (the genes there)."""

    shown: np.ndarray
    where: np.ndarray
    answers: np.ndarray


def questions(rows: Sequence[np.ndarray], frame: Frame, *, mask: int, mask_rate: float, draws: int, seed: int) -> list[Question]:
    """Each row with a share `mask_rate` of its genes masked, `draws` times over; the same ones for every model."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(draws):
        for row in rows:
            shown, labels, _ = mask_row(row, frame, mask=mask, mask_rate=mask_rate, drop=0, rng=rng)
            where = np.flatnonzero(labels != IGNORE)
            out.append(Question(shown, where, labels[where]))
    return out


def masked_accuracy(model: Any, asked: Sequence[Question], *, pad: int, device: Any, tokens_per_batch: int = 4_096) -> dict[str, float]:
    """{"loss", "top1", "top10"} of a masked-language model over all masked genes, in evaluation mode."""
    import torch
    import torch.nn.functional as F

    was_training = model.training
    model.eval()
    loss = top1 = top10 = n = 0.0
    with torch.inference_mode():
        for rows in plan_batches([len(q.shown) for q in asked], tokens_per_batch=tokens_per_batch):
            ids, here = (torch.from_numpy(x).to(device) for x in collate([asked[i].shown for i in rows], rows).padded(pad))
            logits = model(input_ids=ids, attention_mask=None if here.all() else here.long()).logits
            line = np.repeat(np.arange(len(rows)), [len(asked[i].where) for i in rows])
            picked = logits[torch.from_numpy(line).to(device), torch.from_numpy(np.concatenate([asked[i].where for i in rows])).to(device)]
            answer = torch.from_numpy(np.concatenate([asked[i].answers for i in rows])).long().to(device)
            best = picked.topk(10, -1).indices
            loss += F.cross_entropy(picked.float(), answer, reduction="sum").item()
            top1 += (best[:, 0] == answer).sum().item()
            top10 += (best == answer[:, None]).any(1).sum().item()
            n += len(answer)
    model.train(was_training)
    return {"loss": loss / n, "top1": top1 / n, "top10": top10 / n}


def baseline_accuracy(train: Sequence[np.ndarray], asked: Sequence[Question], frame: Frame, *, n_ids: int) -> dict[str, dict[str, float]]:
    """{"frequent": ..., "frequent_at_rank": ...}, each {"top1", "top10"}: guessing the genes that most training cells show and
    this row does not show yet, and the genes that stand most often at the masked rank."""
    seen = np.zeros(n_ids)
    at_rank = np.zeros((max(len(r) for r in train), n_ids))
    for row in train:
        first, last = frame.span(len(row))
        seen[row[first:last]] += 1
        at_rank[np.arange(last - first), row[first:last]] += 1
    guesses = {"frequent": _frequent(asked, seen), "frequent_at_rank": _at_rank(asked, at_rank, seen, len(frame.head))}
    out = {}
    for name, guess in guesses.items():
        hits = np.array([(g == a) for g, a in guess])
        out[name] = {"top1": float(hits[:, 0].mean()), "top10": float(hits.any(1).mean())}
    return out


def _frequent(asked: Sequence[Question], seen: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    for q in asked:
        left = seen.copy()
        left[q.shown] = -1
        best = np.argsort(-left, kind="stable")[:10]
        yield from ((best, a) for a in q.answers)


def _at_rank(asked: Sequence[Question], at_rank: np.ndarray, seen: np.ndarray, head: int) -> Iterator[tuple[np.ndarray, int]]:
    best = np.argsort(-(at_rank + 1e-6 * seen), axis=1, kind="stable")[:, :10]
    for q in asked:
        for position, answer in zip(q.where, q.answers, strict=True):
            yield best[min(position - head, len(best) - 1)], answer
