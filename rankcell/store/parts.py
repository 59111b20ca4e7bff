"""A job cut into parts for several machines that share a folder."""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rankcell.errors import SettingsError
from rankcell.store.lock import LOCK, locked
from rankcell.wording import option

_PREPARING = f"{LOCK}-preparing"


@dataclass(frozen=True)
class Part:
    """The `number`-th of `parts` parts of a job: every unit u with u % parts == number - 1."""

    number: int = 1
    parts: int = 1

    @classmethod
    def parse(cls, text: str | None) -> "Part | None":
        """`i/n` with 1 <= i <= n."""
        if text is None:
            return None
        match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", str(text))
        number, parts = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= number <= parts:
            raise SettingsError(
                f"{option('shard', text)}: expected I/N with I from 1 to N, such as {option('shard', '1/4')} for the first of four parts"
            )
        return cls(number, parts)

    def has(self, unit: int) -> bool:
        return unit % self.parts == self.number - 1

    def n_units(self, n_units: int) -> int:
        """The number of units of this part, of a job of `n_units`."""
        return len(range(self.number - 1, n_units, self.parts))

    @property
    def lock(self) -> str:
        """The name of the lock of whoever runs this part; it stays, and so says later of how many parts a folder was made."""
        return f".lock-{self.number}of{self.parts}"

    def __str__(self) -> str:
        return f"{self.number}/{self.parts}"


@dataclass(frozen=True)
class PartDone:
    """The outcome of a part: `done` of all `n_units` units are in `folder`."""

    folder: Path
    part: Part
    done: int
    n_units: int


@contextlib.contextmanager
def preparing(folder: str | os.PathLike, *, force: bool) -> Iterator[None]:
    """Parts that start together wait for each other; one that starts anew must be alone."""
    with locked(folder, shared=not force), locked(folder, name=_PREPARING, wait=True):
        yield
