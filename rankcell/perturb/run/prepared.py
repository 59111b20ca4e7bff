"""What a results folder holds before its first unit is run: all that decides the result, so that any process, anywhere, can go on.

`manifest.json` says which model and tokens; `work/` holds what else there is to know until the screen is finished: the plan and
the units (`plan.json`), which rows are screened (`rows.npy`), and the tokens themselves where they are in no folder of their own.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rankcell.errors import OutputError
from rankcell.model import Checkpoint, open_checkpoint
from rankcell.perturb.edits.plan import EditPlan
from rankcell.perturb.exact.states import StateEmbeddings, read_states
from rankcell.perturb.results.screen_tables import (
    AFFECTED,
    AUDIT,
    AUDIT_CELLS,
    CELLS,
    EDITS,
    EPISTASIS,
    SCREEN,
    SHORT,
    STATES,
    shard_damage,
    write_table,
)
from rankcell.perturb.run.cells_table import write_cells
from rankcell.perturb.run.run_plan import RunPlan
from rankcell.perturb.run.survey import Survey
from rankcell.store import (
    ShardedRun,
    atomic_path,
    content_hash,
    damage,
    file_facts,
    inside,
    read_sealed_json,
    remove_own,
    write_sealed_json,
    writing,
)
from rankcell.store.sharded_run import MANIFEST, SHARD_FILES
from rankcell.tokens.token_folder import DATASET_FILES, dataset_folder
from rankcell.tokens.tokenset import TokenSet
from rankcell.vocab.folder import FILES
from rankcell.wording import command, note, option

WORK, TOKENS, VOCAB, PLAN, ROWS = "work", "tokens", "vocabulary", "plan.json", "rows.npy"
STAGED = "tables"  # in WORK: the tables of a screen until all of them are written
TABLES = (CELLS, EDITS, STATES)
_RESULTS = (SCREEN, AUDIT, AUDIT_CELLS, SHORT, EPISTASIS, *AFFECTED.values())
_WORK = inside(WORK, (PLAN, ROWS, *inside(STAGED, _RESULTS), *inside(VOCAB, FILES), *inside(TOKENS, DATASET_FILES)))
OWN = (*TABLES, *_RESULTS, "explain-*.png", *_WORK)  # what a screen writes
_AT_ONCE = 10_000  # cells whose tokens are copied at once


@dataclass(frozen=True)
class Prepared:
    """A run and what its units are made of: rows `rows[edges[u]:edges[u + 1]]` of `tokens` are unit u."""

    run: ShardedRun
    checkpoint: Checkpoint
    tokens: TokenSet
    rows: np.ndarray
    plan: EditPlan
    edges: Sequence[int]
    unit_tokens: Sequence[int]
    unit_edits: Sequence[int]
    states: StateEmbeddings

    @property
    def n_units(self) -> int:
        return len(self.edges) - 1

    @property
    def settings(self) -> dict[str, Any]:
        return self.run.manifest["settings"]

    def is_done(self, unit: int) -> bool:
        return self.run.shard("screen", unit).exists()

    def drop_damaged(self, unit: int, kinds: Sequence[str]) -> None:
        """Of a unit that is done, remove the shard that says so when a shard of any of `kinds` is damaged: it is run again, with a warning."""
        if not self.is_done(unit):
            return
        damages = {kind: shard_damage(self.run, kind, unit) for kind in kinds}
        damaged = next((kind for kind, damage_ in damages.items() if damage_), None)
        if damaged is not None:
            note(f"{self.run.shard(damaged, unit)} is damaged ({damages[damaged]}): unit {unit} is run again")
            self.run.shard("screen", unit).unlink()


def is_prepared(folder: Path) -> bool:
    """Whether nothing is left to be prepared there (or all is done)."""
    return (folder / WORK / PLAN).is_file()


def settings_in(folder: Path) -> dict[str, Any]:
    """The settings of the run in a folder; empty where there is none."""
    return ShardedRun.read(folder).manifest.get("settings", {}) if (folder / MANIFEST).is_file() else {}


def is_begun(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether the same screen is finished there, or prepared."""
    stored = settings_in(folder)
    is_equal = all(stored.get(k) == v for k, v in settings.items())
    return is_equal and (is_prepared(folder) or ShardedRun.read(folder).complete)


def prepare(run: ShardedRun, plan: RunPlan, survey: Survey) -> None:
    """Write everything but the states. `work/plan.json` comes last: with it, the folder is prepared.

    survey
        Of the plan, with the tokens that the method takes.
    """
    folder, work = run.folder, run.folder / WORK
    vocab, tokens, rows = plan.checkpoint.vocab, plan.tokens, plan.rows
    with writing(folder):
        work.mkdir(exist_ok=True)
    write_cells(tokens, rows, folder / CELLS)
    write_table(survey.edits_table(plan.edits, vocab), folder / EDITS)
    place = {"model": plan.model, "vocab": None, "tokens": TOKENS, "tokens_hash": run.manifest["settings"]["tokens_hash"]}
    vocab.save(work / VOCAB, force=True)  # for checkpoints without one, and to put parts together where no model is
    if not (plan.checkpoint.folder / VOCAB).is_dir():
        place["vocab"] = VOCAB
    if plan.tokens_folder is None:
        rows = _save_tokens(tokens, rows, work / TOKENS)
        place["tokens_hash"] = TokenSet.open(work / TOKENS).fingerprint
    else:
        place["tokens"] = str(plan.tokens_folder.resolve())
    with atomic_path(work / ROWS, force=True) as part, open(part, "wb") as f:
        np.save(f, rows.astype(np.int64))
    edges = survey.edges(plan.tokens_per_unit)
    content = {"place": place, "plan": plan.edits.to_json(), "edges": edges}
    content["unit_tokens"] = np.add.reduceat(survey.tokens, edges[:-1]).tolist()
    content["unit_edits"] = np.add.reduceat(survey.edits, edges[:-1]).tolist()
    content |= {"n_edits": int(survey.edits.sum()), "n_skipped": skipped(survey, plan.edits)}
    content["files"] = {name: file_facts(folder / name) for name in (*TABLES, f"{WORK}/{ROWS}") if (folder / name).exists()}
    write_sealed_json(work / PLAN, content, indent=None)


def skipped(survey: Survey, plan: EditPlan) -> int | None:
    """Pairs of cell and target without a row (the cell lacks the gene, or nothing would change); None where the targets are the
    cell's own genes."""
    return None if plan.every_gene else int(len(survey.edits) * len(plan.targets) - survey.edits.sum())


def _save_tokens(tokens: TokenSet, rows: np.ndarray, folder: Path) -> np.ndarray:
    """Save the chosen rows as a TokenSet of their own; their numbers in it."""
    with dataset_folder(folder, tokens.table.schema.remove_metadata(), force=True) as sink:
        for a in range(0, len(rows), _AT_ONCE):
            for batch in tokens.take(rows[a : a + _AT_ONCE]).table.to_batches():
                sink.write(batch.replace_schema_metadata(None))
        sink.spec = tokens.spec
    return np.arange(len(rows))


def read_plan(folder: Path) -> dict[str, Any]:
    """Read work/plan.json, as `prepare` wrote it. OutputError when the folder has none, or a damaged one."""
    path = folder / WORK / PLAN
    if not os.path.lexists(path):
        raise OutputError(
            f"{folder} has no {WORK}/{PLAN}: it is finished, or was stopped before it was prepared; give the {command('perturb')} again"
        )
    try:
        content = read_sealed_json(path)
        {k: content[k] for k in ("place", "plan", "edges", "unit_tokens", "n_skipped")}
        return content
    except (OSError, ValueError, KeyError) as e:
        raise _damaged(path, e, folder) from e


def check_files(folder: Path) -> None:
    """OutputError when a file that `prepare` wrote beside the plan is damaged."""
    for name, facts in read_plan(folder).get("files", {}).items():
        reason = damage(folder / name, facts)
        if reason is not None:
            raise _damaged(folder / name, reason, folder)


def _damaged(path: Path, reason: object, folder: Path) -> OutputError:
    return OutputError(f"{path} is damaged ({reason}): bring it back, or delete {folder} and give the same {command('perturb')} again")


def read_prepared(folder: str | os.PathLike, *, checkpoint: Checkpoint | None = None, tokens: TokenSet | None = None) -> Prepared:
    """Open a prepared folder, its model and its tokens, each checked to be what it was.

    checkpoint, tokens
        Those of the manifest, where they are open already.
    """
    folder = Path(folder)
    run, content = ShardedRun.read(folder), read_plan(folder)
    check_files(folder)
    settings, place, work = run.manifest["settings"], content["place"], folder / WORK
    if checkpoint is None:
        checkpoint = open_checkpoint(
            place["model"], vocab=place["vocab"] and work / place["vocab"], vocab_mismatch_ok="vocab_mismatch" in settings
        )
        _require_unchanged(checkpoint.hash, settings["model_hash"], f"the model of {folder}, {place['model']},")
    if tokens is None or place["tokens"] == TOKENS:
        own = place["tokens"] == TOKENS
        tokens = TokenSet.open(work / TOKENS if own else place["tokens"], vocab=None if own else _vocab_for(place["tokens"], checkpoint))
        _require_unchanged(tokens.fingerprint, place["tokens_hash"], f"the token set of {folder}, {work / TOKENS if own else place['tokens']},")
    plan = EditPlan.from_json(content["plan"], checkpoint.vocab)
    _require_unchanged(content_hash(content["plan"]), settings["plan_hash"], f"the plan of {folder}")
    states = read_states(folder / STATES) if settings["states"] else StateEmbeddings({})
    rows = np.load(work / ROWS)
    return Prepared(
        run, checkpoint, tokens, rows, plan, content["edges"], content["unit_tokens"], content.get("unit_edits", content["unit_tokens"]), states
    )


def _vocab_for(tokens: str, checkpoint: Checkpoint) -> Any:
    """The vocabulary to open a token folder with: that of the checkpoint where the folder does not say its own."""
    return None if (Path(tokens) / "rankcell.json").exists() else checkpoint.vocab


def _require_unchanged(actual: str, recorded: str, label: str) -> None:
    if actual != recorded:
        raise OutputError(f"{label} is not what it was when the screen began: bring it back, or start anew with {option('force', True)}")


def remove_work(folder: Path) -> None:
    """Remove the shards and files that only an unfinished screen needs."""
    remove_own(folder, (*SHARD_FILES, *_WORK))
