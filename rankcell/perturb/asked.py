"""What a screen is asked for: which edits, of which cells, compared with what. All that can be refused is refused here, without torch."""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rankcell.errors import RankcellWarning, SettingsError, TokensError
from rankcell.perturb.edits import EditPlan
from rankcell.perturb.engine import READOUTS
from rankcell.perturb.kinds import KINDS
from rankcell.perturb.states import cells_of, split_state
from rankcell.tokens.tokenset import TokenSet
from rankcell.vocab import Vocabulary

TOKENS_PER_UNIT = 250_000
COMPAT = ("rankcell", "geneformer")
DISTANCES = ("cos", "euclidean")
_NAMED = 6  # genes that a manifest's text names


@dataclass(frozen=True)
class Asked:
    """The options of rankcell.perturb.Perturber.perturb, which says what each means."""

    kind: str = "delete"
    genes: str | Sequence[str] = "all"
    group: bool = False
    any: bool = False
    pairs: bool = False
    anchor: str | None = None
    sets: Mapping[str, Sequence[str]] | None = None
    quarters: int | None = None
    to_rank: int | None = None
    refill: bool = False
    start: str | None = None
    toward: str | Sequence[str] = ()
    distance: str = "cos"
    readout: str | Sequence[str] = READOUTS
    affected: bool = False
    affected_top: int | None = None
    affected_raw: bool = False
    readout_compat: str = "rankcell"
    cells: int | None = None
    seed: int | None = None
    tokens_per_unit: int = TOKENS_PER_UNIT

    def check(self) -> None:
        """SettingsError for what needs neither tokens nor a vocabulary to be seen."""
        if self.tokens_per_unit < 1:
            raise SettingsError(f"tokens_per_unit is {self.tokens_per_unit}; at least 1")
        if self.readout_compat not in COMPAT:
            raise SettingsError(f"unknown readout compatibility '{self.readout_compat}'; one of {', '.join(COMPAT)}")
        if self.distance not in DISTANCES:
            raise SettingsError(f"unknown distance '{self.distance}'; one of {', '.join(DISTANCES)} (euclidean: beside the cosines)")
        unknown = [r for r in self.readouts if r not in READOUTS]
        if unknown or not self.readouts:
            raise SettingsError(f"unknown readout '{unknown[0] if unknown else ''}'; one or several of {', '.join(READOUTS)}")
        if self.states_asked and not {"cell", "cls"} & set(self.readouts):
            raise SettingsError("movement toward a state is read from the cell or the CLS readout, and only genes is asked for")
        if self.collects and "genes" not in self.readouts:
            raise SettingsError(f"affected genes need the readout of genes, and only {', '.join(self.readouts)} is asked for")
        if self.affected_top is not None and self.affected_top < 1:
            raise SettingsError(f"affected_top is {self.affected_top}; at least 1")
        if self.affected_top is not None and self.affected_raw:
            raise SettingsError("affected_top is a part of affected_raw: leave one out")
        if self.cells is not None and self.cells < 1:
            raise SettingsError(f"cells is {self.cells}; at least 1")
        ends = {split_state(t, "--toward"): t for t in self.states_asked}
        if self.start is not None and split_state(self.start, "--start") in ends:
            raise SettingsError(f"--start and --toward are both {self.start}: cells cannot move toward the state that they are in")

    @property
    def states_asked(self) -> list[str]:
        """COL=STATE of every state, each once."""
        return [self.toward] if isinstance(self.toward, str) else list(dict.fromkeys(self.toward))

    @property
    def readouts(self) -> list[str]:
        """The readouts asked for, in their order."""
        named = [self.readout] if isinstance(self.readout, str) else self.readout
        several = [r.strip() for part in named for r in part.split(",")]
        return [r for r in READOUTS if r in several] + [r for r in several if r not in READOUTS]

    @property
    def collects(self) -> list[str]:
        """Which tables of affected genes are asked for: "mean", "top", "raw"."""
        held = {"mean": self.affected, "top": self.affected_top is not None, "raw": self.affected_raw}
        return [name for name, on in held.items() if on]

    def plan(self, vocab: Vocabulary, tokens: TokenSet, max_len: int) -> EditPlan:
        names = ("kind", "genes", "group", "any", "pairs", "anchor", "sets", "quarters", "to_rank", "refill")
        plan = EditPlan.make(vocab, frame=tokens.frame, max_len=max_len, **{n: getattr(self, n) for n in names})
        if self.readouts == ["cls"] and not tokens.frame.has_cls:
            raise SettingsError("only the CLS readout is asked for, and these tokens have no CLS")
        room, most = max_len - len(tokens.frame), plan.genes.shape[1]
        if KINDS[self.kind].inserts and most > room:
            raise SettingsError(f"{most} genes to {self.kind} do not fit a row of {max_len} tokens")
        if self.refill and not tokens.has_uncropped:
            raise TokensError(
                "refill needs the genes that did not fit a cell's row, and these tokens were made without them: "
                "tokenize again with --keep-uncropped, or give the count file itself"
            )
        return plan

    def choose(self, tokens: TokenSet) -> np.ndarray:
        """The rows to perturb, in the caller's order; cells without genes are left out and counted in a warning."""
        rows = np.arange(len(tokens)) if self.start is None else cells_of(tokens, self.start, "--start")
        if not len(rows):
            raise SettingsError("there are no cells to perturb")
        if self.cells is not None and self.cells < len(rows):
            chosen = np.random.default_rng(self.seed).choice(rows, self.cells, replace=False) if self.seed is not None else rows
            rows = np.sort(chosen[: self.cells])
        empty = tokens.n_genes[rows] <= 0
        if empty.all():
            raise SettingsError(f"none of the {len(rows):,} cells to perturb has genes: nothing to do")
        if empty.any():
            warnings.warn(f"{int(empty.sum()):,} of {len(rows):,} cells have no genes and give no rows", RankcellWarning, stacklevel=3)
        return rows[~empty]

    def words(self, plan: EditPlan, vocab: Vocabulary) -> dict[str, Any]:
        """What a manifest says of the edits in words that differ where the edits do; `plan_hash` covers the rest."""
        labels = plan.set_names or plan.labels(vocab)
        named = "all" if plan.every_gene else ", ".join(labels[:_NAMED]) + (" ..." if len(labels) > _NAMED else "")
        held = {"kind": plan.kind, "genes": named, "n_targets": len(plan.targets)}
        ways = ("group", "any", "pairs", "anchor", "quarters", "to_rank", "refill")
        return held | {n: getattr(self, n) for n in ways if getattr(self, n) not in (None, False)}


def rows_hash(rows: np.ndarray) -> str:
    """sha256 of row numbers."""
    return hashlib.sha256(np.asarray(rows).astype("<i8").tobytes()).hexdigest()
