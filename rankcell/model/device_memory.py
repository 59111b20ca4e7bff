"""Memory that runs out: the same work again in smaller pieces, or one line that says what is lacking.

What runs in pieces is pure: it returns its results and changes nothing else, and whoever asked for them keeps them. A piece whose
memory runs out, wherever on its way, has then left nothing behind, and the numbers of a retry are those of an undisturbed run.
"""

import functools
import gc
import os
import re
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from rankcell.errors import ModelError, is_out_of_memory
from rankcell.model.batches import plan_batches
from rankcell.wording import note, offers, option

T = TypeVar("T")

_SIZE = r"[\d.,]+ ?(?:[KMGTPE]i?B|bytes?)"
_NEEDED = re.compile(rf"(?:tried|trying|unable) to allocate ({_SIZE})", re.IGNORECASE)
_FREE = re.compile(rf"of which ({_SIZE}) is free")


class Memory:
    """What the memory of one device was found to hold, for as long as what runs there is the same (a loaded model, say).

    most
        {what: so many at once}, of what had to be done in smaller pieces: "tokens", "projections".
    """

    def __init__(self, device: Any, *, precision: str = "fp32"):
        self.device, self.precision, self.most = device, precision, {}

    def limit(self, kind: str, wanted: int) -> int:
        """`wanted` of a kind ("tokens", "projections") at once, or less where that is known not to fit."""
        return min(wanted, self.most.get(kind, wanted))

    def attempt(self, work: Callable[[], T]) -> tuple[T | None, str | None]:
        """(result, None), or (None, what is lacking) where memory ran out; then all that `work` held is given back."""
        try:
            return work(), None
        except Exception as e:
            if not is_out_of_memory(e):
                raise
            text = str(e)
            traceback.clear_frames(e.__traceback__)  # its frames hold tensors
        release(self.device)
        return None, lacking(text, self.device)

    def batches(
        self,
        lengths: Sequence[int] | np.ndarray,
        work: Callable[[np.ndarray], T],
        *,
        tokens_per_batch: int,
        give_back: Callable[[], Any] = lambda: None,
    ) -> Iterator[tuple[np.ndarray, T]]:
        """(row numbers, `work(row numbers)`) for all rows, in batches that the memory holds.

        lengths
            Tokens of each row.
        work
            Pure. Where memory runs out in it, the same rows come again in batches of half as many tokens, as all later ones do.
        give_back
            Drops what is kept between batches and can be made again; called before a retry.

        Raises ModelError when one row alone does not fit, twice.
        """
        lengths = np.asarray(lengths, np.int64)
        todo = deque(plan_batches(lengths, tokens_per_batch=self.limit("tokens", tokens_per_batch)))
        is_second = False
        while todo:
            at, budget = todo.popleft(), self.limit("tokens", tokens_per_batch)
            n = int(lengths[at].sum())
            if n > budget and len(at) > 1:
                parts = [at[part] for part in plan_batches(lengths[at], tokens_per_batch=budget)]
                todo.extendleft(reversed(parts))
                continue
            result, lack = self.attempt(functools.partial(work, at))
            if lack is None:
                is_second = False
                yield at, result
                del result
                continue
            give_back()
            if len(at) > 1:
                self._halve_tokens(n, budget)
            elif is_second:
                raise self.too_small(f"one row of {n:,} tokens", lack)
            is_second = len(at) == 1
            todo.appendleft(at)

    def _halve_tokens(self, n: int, budget: int) -> None:
        self.most["tokens"] = fewer = max(1, min(budget, n) // 2)
        starts = f" ({option('tokens_per_batch', fewer)} starts so)" if offers("tokens_per_batch") else ""
        note(f"out of memory with {n:,} tokens a batch: going on with {fewer:,}{starts}")

    def at_once(self, kind: str, most: int, work: Callable[[int], T], *, of: str) -> T:
        """`work(n)` with `most` at first, and half as many each time that memory runs out.

        kind
            Of which `n` are worked on at once ("projections").
        of
            What does not fit where one at once is too much, for the message.
        """
        n, is_second = self.limit(kind, most), False
        while True:
            result, lack = self.attempt(functools.partial(work, n))
            if lack is None:
                return result
            if n == 1 and is_second:
                raise self.too_small(of, lack)
            is_second = n == 1
            if not is_second:
                n = self.most[kind] = n // 2
                note(f"out of memory: going on with {n} {kind} at once")

    def run(self, work: Callable[[], T], content: str, *, tries: int = 2, smaller: Sequence[str] = ()) -> T:
        """Run `work()`, once more where memory runs out; ModelError when it does not fit.

        content
            What it puts into memory, for the message.
        tries
            1 for what cannot be repeated.
        smaller
            Options of which a smaller value needs less, for the message.
        """
        for _ in range(tries):
            result, lack = self.attempt(work)
            if lack is None:
                return result
        raise self.too_small(content, lack, smaller)

    def joined(self, parts: Sequence[Any], axis: int = 0) -> np.ndarray:
        """Tensors as one array in the processor's memory; joined on the device, and so copied at once, where that fits."""
        joined, lack = self.attempt(lambda: torch.cat(list(parts), axis).cpu().numpy())
        return joined if lack is None else np.concatenate([part.cpu().numpy() for part in parts], axis)

    def too_small(self, content: str, lack: str, smaller: Sequence[str] = ()) -> ModelError:
        """The error where nothing is left to be made smaller.

        smaller
            Options of which a smaller value needs less.
        """
        remedies = [f"another {option('device')}"] if offers("device") else []
        if self.precision in ("fp32", "tf32") and offers("precision"):
            remedies.append(option("precision", "bf16"))
        remedies += [f"a smaller {option(name)}" for name in smaller if offers(name)]
        advice = f": choose {', or '.join(remedies)}" if remedies else ""
        return ModelError(f"the memory of device '{self.device}' does not hold {content} ({lack}){advice}")


def release(device: Any) -> None:
    """Give back what nobody holds any more: cycles of objects, and what torch keeps of a device for later."""
    gc.collect()
    backend = getattr(torch, torch.device(device).type, None)
    getattr(backend, "empty_cache", lambda: None)()


def lacking(text: str, device: Any) -> str:
    """What an error of memory says was needed, beside what is free now: `2.00 GiB more needed, 1.20 GiB free`."""
    needed, at_the_time = _NEEDED.search(text), _FREE.search(text)
    first = (text.splitlines() or [""])[0].strip().rstrip(".")[:160]
    free = _free_bytes(device)
    parts = [f"{_sized(needed[1])} more needed" if needed else first]
    if at_the_time or free is not None:
        parts.append(f"{at_the_time[1] if at_the_time else _gib(free)} free")
    return ", ".join(filter(None, parts)) or "no more is known"


def _sized(text: str) -> str:
    number, _, unit = text.replace(",", "").partition(" ")
    return _gib(int(number)) if unit.startswith("byte") and number.isdigit() else text


def _gib(n: int) -> str:
    return f"{n / 2**30:,.2f} GiB" if n >= 2**30 else f"{n / 2**20:,.2f} MiB"


def _free_bytes(device: Any) -> int | None:
    """Bytes of a device that are free now, where it can be told."""
    device = torch.device(device)
    try:
        if device.type == "cpu":
            return _free_here()
        return int(getattr(torch, device.type).mem_get_info(device)[0])
    except (AttributeError, ImportError, OSError, RuntimeError, StopIteration, ValueError, AssertionError):
        return None


def _free_here() -> int:
    """Bytes of the machine's memory that are free, or left to this process under its limit (ulimit -v), on Linux."""
    import resource

    with open("/proc/meminfo") as f:
        free = next(int(line.split()[1]) * 1024 for line in f if line.startswith("MemAvailable"))
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return free
    with open("/proc/self/statm") as f:
        return min(free, max(0, limit - int(f.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")))
