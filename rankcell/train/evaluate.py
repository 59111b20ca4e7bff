"""Held-out masked-gene accuracy, beside two baselines that know no cell biology."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from rankcell.model import collate
from rankcell.model.device_memory import Memory
from rankcell.train.collate import IGNORE, Masking, excluded_tokens
from rankcell.vocab import Frame


@dataclass(frozen=True)
class MaskedExample:
    """One row with genes masked: `shown` (int), `where` (masked positions), `answers` (the genes there)."""

    shown: np.ndarray
    where: np.ndarray
    answers: np.ndarray


def masked_examples(
    rows: Sequence[np.ndarray], frame: Frame, *, mask: int, mask_rate: float, draws: int, seed: int, most: int | None = None
) -> list[MaskedExample]:
    """Each row with a share `mask_rate` of its genes masked, `draws` times over; the same ones for every model.

    most
        Stop when so many genes are masked: rows then come in random order.
    """
    rng = np.random.default_rng(seed)
    masking, out, n_masked = Masking(mask, mask_rate), [], 0
    n_genes = sum(frame.span(len(row))[1] - frame.span(len(row))[0] for row in rows)
    crowded = most is not None and draws * mask_rate * n_genes > most
    for _ in range(draws):
        for i in rng.permutation(len(rows)) if crowded else range(len(rows)):
            masked = masking.apply(rows[i], frame, rng)
            where = np.flatnonzero(masked.labels != IGNORE)
            out.append(MaskedExample(masked.shown, where, masked.labels[where]))
            n_masked += len(where)
            if crowded and n_masked >= most:
                return out
    return out


def masked_accuracy(
    model: Any,
    examples: Sequence[MaskedExample],
    *,
    pad: int,
    device: Any,
    tokens_per_batch: int = 4_096,
    exclude_shown: bool = False,
    memory: Memory | None = None,
) -> dict[str, float]:
    """{"loss", "top1", "top10"} of a masked-language model over all masked genes, in evaluation mode.

    exclude_shown
        The candidates are those of training (`excluded_tokens`), not all tokens.
    memory
        What the device was found to hold before.
    """
    memory = memory or Memory(device)
    score = functools.partial(_score, model, examples, pad, device, exclude_shown)
    was_training = model.training
    model.eval()
    total = np.zeros(4)
    try:
        with torch.inference_mode():
            for _, part in memory.batches([len(example.shown) for example in examples], score, tokens_per_batch=tokens_per_batch):
                total += part
    finally:
        model.train(was_training)
    loss, top1, top10, n = total.tolist()
    return {"loss": loss / n, "top1": top1 / n, "top10": top10 / n}


def _score(model: Any, examples: Sequence[MaskedExample], pad: int, device: Any, exclude_shown: bool, rows: np.ndarray) -> np.ndarray:
    """Of the masked genes of some examples: the summed loss, how many are the best guess and among the best ten, and their number."""
    padded, here = collate([examples[i].shown for i in rows], rows).padded(pad)
    ids, here = torch.from_numpy(padded).to(device), torch.from_numpy(here).to(device)
    hidden_btd = model.bert(input_ids=ids, attention_mask=None if here.all() else here.long()).last_hidden_state
    line = np.repeat(np.arange(len(rows)), [len(examples[i].where) for i in rows])
    column = np.concatenate([examples[i].where for i in rows])
    picked = model.cls(hidden_btd[torch.from_numpy(line).to(device), torch.from_numpy(column).to(device)])
    if exclude_shown:
        excluded = torch.from_numpy(excluded_tokens(padded, pad, picked.shape[1])).to(device)
        picked = picked.masked_fill(excluded[torch.from_numpy(line).to(device)], -1e4)
    answer = torch.from_numpy(np.concatenate([examples[i].answers for i in rows])).long().to(device)
    best = picked.topk(10, -1).indices
    loss = F.cross_entropy(picked.float(), answer, reduction="sum")
    return np.array([loss.item(), (best[:, 0] == answer).sum().item(), (best == answer[:, None]).any(1).sum().item(), len(answer)])


def baseline_accuracy(
    train: Sequence[np.ndarray], examples: Sequence[MaskedExample], frame: Frame, *, pad: int, n_ids: int
) -> dict[str, dict[str, float]]:
    """{"frequent": {"loss", "top1", "top10"}, "frequent_at_rank": {"top1", "top10"}}: guessing the genes that most training cells
    show and this row does not show yet, and the genes that stand most often at the masked rank.

    The loss (mean negative log-likelihood, nats) is that of gene frequencies (each gene counted once more than it comes) among the
    candidates of training. Rows with many masked genes bound every top10 that knows no ranks: ten guesses that are the
    same at each mask of a row are right at most ten times.
    """
    seen = np.zeros(n_ids)
    for row in train:
        first, last = frame.span(len(row))
        seen[row[first:last]] += 1
    best_at_rank = _best_at_rank([row[slice(*frame.span(len(row)))] for row in train], seen, n_ids)
    guesses = {"frequent": _frequent(examples, seen), "frequent_at_rank": _at_rank(examples, best_at_rank, len(frame.head))}
    out = {}
    for name, guess in guesses.items():
        hits = np.array([(g == a) for g, a in guess])
        out[name] = {"top1": float(hits[:, 0].mean()), "top10": float(hits.any(1).mean())}
    out["frequent"] = {"loss": _frequency_loss(examples, seen, pad)} | out["frequent"]
    return out


def _frequency_loss(examples: Sequence[MaskedExample], seen: np.ndarray, pad: int) -> float:
    """Mean negative log-likelihood of the masked genes by frequency among the candidates of training."""
    times, total, n = seen + 1.0, 0.0, 0
    for example in examples:
        (excluded,) = excluded_tokens(example.shown[None], pad, len(seen))
        total += float(np.log(times[~excluded].sum()) * len(example.answers) - np.log(times[example.answers]).sum())
        n += len(example.answers)
    return total / n


def _frequent(examples: Sequence[MaskedExample], seen: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    for example in examples:
        remaining = seen.copy()
        remaining[example.shown] = -1
        best = np.argsort(-remaining, kind="stable")[:10]
        yield from ((best, a) for a in example.answers)


def _best_at_rank(bodies: Sequence[np.ndarray], seen: np.ndarray, n_ids: int) -> np.ndarray:
    """The ten genes that stand most often at each rank, of equally frequent ones the more common gene; int64 [ranks, 10]."""
    ranks = np.concatenate([np.arange(len(body)) for body in bodies])
    pairs, times = np.unique(ranks * n_ids + np.concatenate(bodies), return_counts=True)
    rank, gene = np.divmod(pairs, n_ids)
    order = np.lexsort((gene, -(times + 1e-6 * seen[gene]), rank))
    rank, gene = rank[order], gene[order]
    starts = np.searchsorted(rank, np.arange(rank[-1] + 2))
    common = np.argsort(-seen, kind="stable")[:20]
    best = []
    for a, b in zip(starts[:-1], starts[1:], strict=True):
        own = gene[a : min(b, a + 10)]
        best.append(np.concatenate([own, common[~np.isin(common, own)]])[:10])
    return np.array(best)


def _at_rank(examples: Sequence[MaskedExample], best: np.ndarray, head: int) -> Iterator[tuple[np.ndarray, int]]:
    for example in examples:
        for position, answer in zip(example.where, example.answers, strict=True):
            yield best[min(position - head, len(best) - 1)], answer
