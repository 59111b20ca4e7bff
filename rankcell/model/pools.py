"""Ways to make one vector of a cell's token states. A new one is one more entry in POOLS.

Every pool is given rows of one length, without padding: there is nothing that could be counted by mistake.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rankcell.errors import SettingsError
from rankcell.model.devices import wide
from rankcell.vocab import Frame

DAMPING, TOLERANCE, MOST_STEPS = 0.85, 1e-7, 200


@dataclass(frozen=True)
class States:
    """What a pool sees: rows of equal length.

    hidden_btd
        float32 [rows, tokens, width].
    frame
        What stands around the genes of each row.
    attention_btt
        float32 [rows, queries, keys], the largest attention over the heads of all blocks so far; None unless a pool asks for it.
    """

    hidden_btd: Any
    frame: Frame
    attention_btt: Any = None

    @property
    def genes_btd(self) -> Any:
        """The states of the genes alone."""
        first, last = self.frame.span(self.hidden_btd.shape[1])
        return self.hidden_btd[:, first:last]


@dataclass(frozen=True)
class Pool:
    """A pooling kind.

    compute
        States -> [rows, width].
    position
        For a kind that is the state of one token: where that token stands, given the frame.
    needs_cls, needs_attention
        What it cannot do without.
    """

    name: str
    compute: Callable[[States], Any]
    position: Callable[[Frame], int] | None = None
    needs_cls: bool = False
    needs_attention: bool = False


def _at(position: Callable[[Frame], int]) -> Callable[[States], Any]:
    return lambda s: s.hidden_btd[:, position(s.frame)]


def _median(s: States) -> Any:
    """The middle value of each dimension, the mean of the two middle ones for an even number."""
    ordered = s.genes_btd.sort(1).values
    n = ordered.shape[1]
    return (ordered[:, (n - 1) // 2] + ordered[:, n // 2]) / 2


def _norm(s: States) -> Any:
    """The Euclidean norm of each dimension over the genes."""
    return torch.linalg.vector_norm(s.genes_btd, dim=1)


def _parti(s: States) -> Any:
    """Genes weighted by the PageRank of the attention among them (Pool PaRTI, Tartici et al. 2024).

    The graph leads from each gene to those it attends to, weighted by the largest attention over all heads and blocks up to
    the layer; damping 0.85, power iteration until the sum of changes is below 1e-7. The ranks of a cell add up to one.
    """
    first, last = s.frame.span(s.hidden_btd.shape[1])
    links = wide(s.attention_btt[:, first:last, first:last])
    out = links.sum(2, keepdim=True)
    n = links.shape[1]
    links = torch.where(out > 0, links / out, 1 / n).transpose(1, 2)  # a gene that attends to no gene leads everywhere
    rank = links.new_full((len(links), n, 1), 1 / n)
    for _ in range(MOST_STEPS):
        new = DAMPING * (links @ rank) + (1 - DAMPING) / n
        moved, rank = (new - rank).abs().sum(1).max().item(), new
        if moved < TOLERANCE:
            break
    weight = (rank / rank.sum(1, keepdim=True)).float().to(s.genes_btd.device)
    return (weight * s.genes_btd).sum(1)


def _cls(frame: Frame) -> int:
    return 0


def _first(frame: Frame) -> int:
    return len(frame.head)


POOLS: dict[str, Pool] = {
    p.name: p
    for p in (
        Pool("cls", _at(_cls), _cls, needs_cls=True),  # the state of the CLS token
        Pool("first", _at(_first), _first),  # the state of the top-ranked gene
        Pool("position0", _at(_cls), _cls),  # the state of whatever comes first: CLS where there is one
        Pool("mean", lambda s: s.genes_btd.mean(1)),  # over the genes, as are all below that do not say otherwise
        Pool("mean_all", lambda s: s.hidden_btd.mean(1)),  # over genes and special tokens
        Pool("max", lambda s: s.genes_btd.amax(1)),
        Pool("min", lambda s: s.genes_btd.amin(1)),
        Pool("std", lambda s: s.genes_btd.std(1, correction=0)),  # of the population, so 0 for a single gene
        Pool("var", lambda s: s.genes_btd.var(1, correction=0)),
        Pool("median", _median),
        Pool("norm", _norm),
        Pool("parti", _parti, needs_attention=True),
    )
}


@dataclass(frozen=True)
class Output:
    """One output of an embedding: the pools that stand side by side in it, and the layer.

    name
        `<pool>_layer<n>` with the layer as typed; several pools are joined by `+`.
    """

    pools: tuple[Pool, ...]
    layer: int
    n_blocks: int

    @property
    def pool(self) -> str:
        return "+".join(p.name for p in self.pools)

    @property
    def name(self) -> str:
        return f"{self.pool}_layer{self.layer}"

    @property
    def needs_attention(self) -> bool:
        return any(p.needs_attention for p in self.pools)

    def describe(self, width: int) -> dict[str, Any]:
        """Pool and layer; of several pools side by side also `parts`, {pool: [first column, the one after its last]}: plain JSON."""
        described = {"pool": self.pool, "layer": self.layer}
        parts = {p.name: [i * width, (i + 1) * width] for i, p in enumerate(self.pools)}
        return described | ({"parts": parts} if len(parts) > 1 else {})

    def compute(self, states: States) -> Any:
        """float32 [rows, width of all parts]."""
        return torch.cat([p.compute(states) for p in self.pools], 1)


def choose_pools(names: Sequence[str], frame: Frame) -> list[tuple[Pool, ...]]:
    """The pools by name, `a+b` as several. SettingsError for an unknown one, or one that needs a CLS token that the rows lack."""
    chosen = [tuple(_pool(part.strip(), frame) for part in name.split("+")) for name in names]
    if not chosen:
        raise SettingsError("no pooling was asked for")
    for name, parts in zip(names, chosen, strict=True):
        if len(set(parts)) < len(parts):
            raise SettingsError(f"pooling '{name}' holds the same kind twice")
    return chosen


def _pool(name: str, frame: Frame) -> Pool:
    if name not in POOLS:
        raise SettingsError(f"unknown pooling '{name}'; one of {', '.join(sorted(POOLS))}, or several joined by + (mean+var)")
    if POOLS[name].needs_cls and not frame.has_cls:
        raise SettingsError(
            f"pooling '{name}' needs a CLS token and these tokens have none: use mean or first, or tokens and a model of a vocabulary with <cls>"
        )
    return POOLS[name]


def choose_outputs(pools: Sequence[str], layers: dict[int, int], frame: Frame) -> list[Output]:
    """Every pool of every layer ({layer as typed: number of blocks}). SettingsError also for attention of the embedding layer."""
    chosen = choose_pools(pools, frame)
    outputs = [Output(parts, layer, n) for layer, n in layers.items() for parts in chosen]
    for o in outputs:
        if o.needs_attention and not o.n_blocks:
            raise SettingsError(
                f"pooling '{o.pool}' needs attention, and layer {o.layer} is the embedding layer, before any: choose another layer"
            )
    return list({o.name: o for o in outputs}.values())
