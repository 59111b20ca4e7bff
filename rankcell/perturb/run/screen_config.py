"""What a screen is asked for: which edits, of which cells, compared with what. All that can be refused is refused here, without torch."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rankcell.errors import CellError, SettingsError, TokensError
from rankcell.perturb.edits.kinds import KINDS
from rankcell.perturb.edits.plan import EditPlan
from rankcell.perturb.exact.states import cells_of, split_state
from rankcell.perturb.fast.effort import AUTO
from rankcell.scores import READOUTS
from rankcell.tokens.tokenset import TokenSet
from rankcell.vocab import Vocabulary
from rankcell.wording import note, option

TOKENS_PER_UNIT = 250_000  # edited tokens, where nothing else is asked for, at least
COMPAT = ("rankcell", "geneformer")
DISTANCES = ("cos", "euclidean")
METHODS = ("exact", "fast")
FAST = {"audit": 0.02, "verify_top": 0, "verify_screen": 0, "verify_by": None, "splits": 16, "projections": 32, "min_recall": None}
FAST |= {"epistasis": 0, "verify_pairs": 10}
_LEAST = {"verify_top": 0, "verify_screen": 0, "splits": 2, "projections": 0, "epistasis": 2, "verify_pairs": 0}
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
    tokens_per_unit: int | None = None
    method: str = "exact"
    audit: float | None = None
    verify_top: int | None = None
    verify_screen: int | None = None
    verify_by: str | None = None
    splits: int | str | None = None
    projections: int | str | None = None
    min_recall: float | None = None
    epistasis: int | None = None
    verify_pairs: int | None = None
    only: Sequence[str] | None = None
    skip_unknown: bool = False

    def check(self) -> None:
        """SettingsError for what needs neither tokens nor a vocabulary to be seen."""
        if self.tokens_per_unit is not None and self.tokens_per_unit < 1:
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
        self._check_method()
        ends = {split_state(t, "toward"): t for t in self.states_asked}
        if self.start is not None and split_state(self.start, "start") in ends:
            raise SettingsError(
                f"{option('start')} and {option('toward')} are both {self.start}: cells cannot move toward the state that they are in"
            )

    def _check_method(self) -> None:
        if self.method not in METHODS:
            raise SettingsError(f"unknown method '{self.method}'; one of {', '.join(METHODS)}")
        given = [n for n in FAST if getattr(self, n) is not None]
        if self.method == "exact" and given:
            raise SettingsError(
                f"{option(given[0])} is for predictions, and this screen is run exactly: leave it out, or add {option('method', 'fast')}"
            )
        for name in ("audit", "min_recall"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise SettingsError(f"{option(name, value)}: a share above 0, at most 1")
        if self.verify_pairs is not None and self.epistasis is None:
            raise SettingsError(
                f"{option('verify_pairs')} is of the pairs of {option('epistasis', placeholder='N')}, which is not asked for"
            )
        held = {name: _whole(name, getattr(self, name)) for name in _LEAST}
        if AUTO in held.values() and self.min_recall is None:
            name = next(n for n, v in held.items() if v == AUTO)
            raise SettingsError(f"{option(name, AUTO)} needs the recall that is to be reached: add {option('min_recall')}")

    @property
    def is_fast(self) -> bool:
        return self.method == "fast"

    def fast(self, name: str) -> Any:
        """What one of FAST comes to; splits and projections may be "auto"."""
        value = getattr(self, name)
        if value is None and name in ("splits", "projections") and self.min_recall is not None:
            return AUTO
        return FAST[name] if value is None else _whole(name, value) if name in _LEAST else value

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
        options = {n: getattr(self, n) for n in names} | self._known(vocab)
        plan = EditPlan.make(vocab, frame=tokens.frame, max_len=max_len, **options)
        if self.readouts == ["cls"] and not tokens.frame.has_cls:
            raise SettingsError("only the CLS readout is asked for, and these tokens have no CLS")
        room, most = max_len - len(tokens.frame), plan.genes.shape[1]
        if KINDS[self.kind].inserts and most > room:
            raise SettingsError(f"{most} genes to {self.kind} do not fit a row of {max_len} tokens")
        if self.refill and not tokens.has_uncropped:
            raise TokensError(
                "refill needs the genes that did not fit a cell's row, and these tokens were made without them: "
                f"tokenize again with {option('keep_uncropped', True)}, or give the count file itself"
            )
        return plan

    def unknown_genes(self, vocab: Vocabulary) -> list[str]:
        """Genes asked for that the vocabulary lacks and that are gone without, by skip_unknown."""
        if not self.skip_unknown:
            return []
        named = [] if isinstance(self.genes, str) and self.genes == "all" else [self.genes] if isinstance(self.genes, str) else self.genes
        return vocab.unknown([*named, *(g for genes in (self.sets or {}).values() for g in genes)])

    def _known(self, vocab: Vocabulary) -> dict[str, Any]:
        """`genes` and `sets` without those; SettingsError when none is left, else a note that names them."""
        unknown = self.unknown_genes(vocab)
        if not unknown:
            return {}
        lost, kept = set(unknown), {}
        if self.sets is not None:
            kept["sets"] = {n: left for n, genes in self.sets.items() if (left := [g for g in genes if str(g) not in lost])}
        elif not isinstance(self.genes, str):
            kept["genes"] = [g for g in self.genes if str(g) not in lost]
        n = len(unknown) + len({str(g) for g in kept.get("genes", [g for genes in kept.get("sets", {}).values() for g in genes])})
        said = vocab.describe_unknown(unknown, n)
        if not any(kept.values()):
            raise SettingsError(f"{said}; no gene is left to perturb")
        note(f"{said}; the screen goes on without")
        return kept

    def choose(self, tokens: TokenSet) -> np.ndarray:
        """The rows to perturb, in the caller's order; cells without genes are left out and counted in a warning."""
        rows = np.arange(len(tokens)) if self.start is None else cells_of(tokens, self.start, "start")
        if self.only is not None:
            rows = rows[np.isin(rows, self._named(tokens))]
        if not len(rows):
            both = self.only is not None and self.start is not None
            raise SettingsError(
                "there are no cells to perturb" + (f": none of {option('only')} is among those of {option('start')}" if both else "")
            )
        if self.cells is not None and self.cells < len(rows):
            chosen = np.random.default_rng(self.seed).choice(rows, self.cells, replace=False) if self.seed is not None else rows
            rows = np.sort(chosen[: self.cells])
        empty = tokens.n_genes[rows] <= 0
        if empty.all():
            raise SettingsError(f"none of the {len(rows):,} cells to perturb has genes: nothing to do")
        if empty.any():
            note(f"{int(empty.sum()):,} of {len(rows):,} cells have no genes and give no rows")
        return rows[~empty]

    def _named(self, tokens: TokenSet) -> np.ndarray:
        """The rows of the cells of `only`, ascending."""
        wanted = set(map(str, self.only))
        if not wanted:
            raise SettingsError(f"{option('only')} names no cell: give the ids of those to perturb")
        rows = [i for i, cell in enumerate(tokens.cell_ids) if cell in wanted]
        ids = tokens.cell_ids
        unknown = wanted - {ids[i] for i in rows}
        if unknown:
            raise CellError(f"there is no cell '{min(unknown)}' ({option('only')}; {len(ids):,} cells, such as {', '.join(ids[:2])})")
        return np.array(rows, np.int64)

    def words(self, plan: EditPlan, vocab: Vocabulary) -> dict[str, Any]:
        """What a manifest says of the edits in words that differ where the edits do; `plan_hash` covers the rest."""
        labels = plan.set_names or plan.labels(vocab)
        named = "all" if plan.every_gene else ", ".join(labels[:_NAMED]) + (" ..." if len(labels) > _NAMED else "")
        held = {"kind": plan.kind, "genes": named, "n_targets": len(plan.targets)}
        ways = ("group", "any", "pairs", "anchor", "quarters", "to_rank", "refill")
        return held | {n: getattr(self, n) for n in ways if getattr(self, n) not in (None, False)}


def _whole(name: str, value: int | str | None) -> int | str | None:
    """A number as it is or as text, or "auto" where it may be chosen."""
    can_be_auto = name in ("splits", "projections")
    if value is None or (can_be_auto and value == AUTO):
        return value
    try:
        number = int(str(value))
    except ValueError:
        number = -1
    if number < _LEAST[name]:
        raise SettingsError(f"{option(name, value)}: a number of at least {_LEAST[name]}{', or auto' if can_be_auto else ''}")
    return number


def rows_hash(rows: np.ndarray) -> str:
    """sha256 of row numbers."""
    return hashlib.sha256(np.asarray(rows).astype("<i8").tobytes()).hexdigest()
