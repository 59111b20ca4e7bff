"""Frame: the special tokens around the genes of a row, decided once, by the vocabulary."""

from dataclasses import dataclass

import numpy as np

from rankcell.errors import TokensError


@dataclass(frozen=True)
class Frame:
    """The special tokens before (`head`) and after (`tail`) the genes of every row."""

    head: tuple[int, ...] = ()
    tail: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.head) + len(self.tail)

    @property
    def has_cls(self) -> bool:
        return bool(self.head)

    def body(self, row: np.ndarray) -> np.ndarray:
        """The genes of `row`, as a view."""
        return row[len(self.head) : len(row) - len(self.tail)]

    def span(self, length: int) -> tuple[int, int]:
        """First position of the genes and the position after the last one, in a row of `length` tokens."""
        return len(self.head), length - len(self.tail)

    def wrap(self, genes: np.ndarray, *, max_len: int) -> np.ndarray:
        """Frame `genes`, cropped so that the row has at most `max_len` tokens."""
        cropped = genes[: max_len - len(self)]
        return np.concatenate([np.asarray(self.head, cropped.dtype), cropped, np.asarray(self.tail, cropped.dtype)])

    def matches(self, row: np.ndarray) -> bool:
        """Whether `row` begins with the head and ends with the tail."""
        if len(row) < len(self):
            return False
        tail = row[len(row) - len(self.tail) :]
        return tuple(row[: len(self.head)].tolist()) == self.head and tuple(tail.tolist()) == self.tail

    def to_json(self) -> dict[str, list[int]]:
        return {"head": list(self.head), "tail": list(self.tail)}

    @classmethod
    def from_json(cls, value: dict[str, list[int]]) -> "Frame":
        try:
            return cls(tuple(map(int, value["head"])), tuple(map(int, value["tail"])))
        except (TypeError, KeyError, ValueError):
            raise TokensError(f"not a frame: {value!r}; expected a head and a tail of token numbers") from None
