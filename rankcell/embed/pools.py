"""Ways to make one vector of a cell's token states. A new one is one more entry in POOLS."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rankcell.errors import SettingsError
from rankcell.vocab import Frame


@dataclass(frozen=True)
class States:
    """What a pool sees: `hidden_btd` (float32), `body_bt` (bool: a gene stands there), and the rows' frame."""

    hidden_btd: Any
    body_bt: Any
    frame: Frame


@dataclass(frozen=True)
class Pool:
    """A pooling kind: its name, whether it needs a CLS token, and states -> [rows, width]."""

    name: str
    compute: Callable[[States], Any]
    needs_cls: bool = False


def _cls(s: States) -> Any:
    return s.hidden_btd[:, 0]


def _first(s: States) -> Any:
    return s.hidden_btd[:, len(s.frame.head)]


def _mean(s: States) -> Any:
    weight_bt = s.body_bt.to(s.hidden_btd.dtype)
    return (weight_bt[:, None, :] @ s.hidden_btd)[:, 0] / weight_bt.sum(1, keepdim=True)


POOLS: dict[str, Pool] = {
    p.name: p
    for p in (
        Pool("cls", _cls, needs_cls=True),  # the state of the CLS token
        Pool("first", _first),  # the state of the top-ranked gene
        Pool("mean", _mean),  # the mean state over the genes, special tokens and padding left out
    )
}


def choose_pools(names: list[str], frame: Frame) -> list[Pool]:
    """The pools by name. SettingsError for an unknown one, or one that needs a CLS token that the rows lack."""
    chosen = []
    for name in names:
        if name not in POOLS:
            raise SettingsError(f"unknown pooling '{name}'; one of {', '.join(sorted(POOLS))}")
        if POOLS[name].needs_cls and not frame.has_cls:
            raise SettingsError(
                f"pooling '{name}' needs a CLS token and these tokens have none: use mean or first, or tokens and a model of a vocabulary with <cls>"
            )
        chosen.append(POOLS[name])
    if not chosen:
        raise SettingsError("no pooling was asked for")
    return chosen
