"""Embeddings into a store: computed unit by unit into shards, then written in one stream. Killed at any moment, the same run goes on."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from rankcell.embed.carried import carried_columns
from rankcell.embed.embedder import TOKENS_PER_UNIT, Embedder, Ticker, warn_of_empty
from rankcell.embed.embedding_units import OPENS, OWN, Units, write_work
from rankcell.embed.groups import Groups, groups_of
from rankcell.embed.options import EmbedConfig
from rankcell.embed.stores import STORES, check_output, require_texts, write_result
from rankcell.errors import SettingsError
from rankcell.execute import UnitJob, run_units
from rankcell.model.devices import warn_of_threads
from rankcell.model.encoder import threads_as
from rankcell.model.pools import Output
from rankcell.store import LOCK, ShardedRun, locked, remove_file, remove_run, require_unshared, result_folder
from rankcell.store.parts import Part, PartDone, preparing
from rankcell.store.sharded_run import MANIFEST, SHARDS
from rankcell.tokens.tokenset import TokenSet

_RUN = ".run"  # ends the name of the folder beside an output that holds its shards
_NEW, _OVER = "new", "over"  # what a run notes when it begins to write its output: whether one stood there


@dataclass(frozen=True)
class Written:
    """What was written: `paths` (the output first), `rows` {table: number of rows}, `columns` {table: {vector: width}} and the meta."""

    paths: list[Path]
    rows: dict[str, int]
    columns: dict[str, dict[str, int]]
    meta: dict[str, Any]


def check_store(out: str | os.PathLike, config: EmbedConfig, *, force: bool) -> Path:
    """`out` when what is asked for can be written there; a finished run that was killed while tidying up is tidied first."""
    config.check()
    folder = run_folder(out)
    require_unshared(folder)
    manifest = ShardedRun.read(folder).manifest if (folder / MANIFEST).is_file() else {}
    is_complete = manifest.get("complete") or manifest.get("writing") == _NEW
    if os.path.exists(out) and (is_complete or _holds_nothing(folder)):
        with locked(folder):
            remove_run(folder, OWN)
    began = "writing" in manifest and not os.path.exists(out)  # the files beside it may be there already
    return _check_files(out, config, force=force or began)


def _check_files(out: str | os.PathLike, config: EmbedConfig, *, force: bool) -> Path:
    return check_output(out, force=force, n_vectors=len(config.pool) * len(config.layer) if config.pools else 0, tables=config.tables)


def _clear_begun(run: ShardedRun, out: Path, config: EmbedConfig) -> None:
    """Remove the files beside `out` that an earlier start of this run had written when it was killed before `out` itself."""
    if "writing" in run.manifest and not out.exists():
        store = STORES[out.suffix.lower()]
        for path in store.files(out, config.tables):
            remove_file(path, store.wrote)


def run_folder(out: str | os.PathLike) -> Path:
    """Where the shards of an output are until it is whole."""
    return Path(os.fspath(out) + _RUN)


def embed_to_store(
    embedder: Embedder,
    tokens: TokenSet,
    out: str | os.PathLike,
    config: EmbedConfig,
    *,
    source: Path | None = None,
    tokens_folder: Path | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Compute what the config says and write it, or go on where the same run was stopped. The devices of the Embedder share the units.

    source
        The count file that an h5ad or zarr is to be a copy of.
    tokens_folder
        Where the tokens are, for whoever takes part; None: in memory.
    """
    with _prepared(embedder, tokens, out, config, None, source=source, tokens_folder=tokens_folder, force=force) as (units, prepare, columns):
        _compute(units, None, prepare, progress)
        return _written(units, Path(out), source, columns, force=force)


def embed_part_to_store(
    embedder: Embedder,
    tokens: TokenSet,
    out: str | os.PathLike,
    config: EmbedConfig,
    *,
    shard: str,
    source: Path | None = None,
    tokens_folder: Path | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PartDone:
    """The part `shard` (i/n) of the units, into the folder beside `out` that all parts share; `embed_to_store` puts the parts together."""
    part = Part.parse(shard)
    with _prepared(embedder, tokens, out, config, part, source=source, tokens_folder=tokens_folder, force=force) as (units, prepare, _):
        _compute(units, part, prepare, progress)
        return PartDone(units.run.folder, part, len(units.units) - len(units.pending()), len(units.units))


@contextlib.contextmanager
def _prepared(
    embedder: Embedder,
    tokens: TokenSet,
    out: str | os.PathLike,
    config: EmbedConfig,
    part: Part | None,
    *,
    source: Path | None,
    tokens_folder: Path | None,
    force: bool,
) -> Iterator[tuple[Units, Callable[[], None], list[str]]]:
    """(the units of a run or of a part, what writes all that another process needs, the cell columns that the store gets), under the locks."""
    out = check_store(out, config, force=force)
    outputs = embedder.check(tokens, config.pool, config.layer)
    groups = None if config.by is None else groups_of(tokens, config.by)
    _require_genes(tokens, config, groups)
    columns = carried_columns(tokens, out, required=[] if config.by is None else [config.by], source=source)
    require_texts(out, pa.chunked_array([pa.array(tokens.cell_ids, pa.string())]), groups.names if groups else ())
    warn_of_empty(tokens)
    folder = run_folder(out)
    with embedder.one_run() as embedder, contextlib.ExitStack() as stack:
        stack.enter_context(_removed_when_empty(folder) if part is None else preparing(result_folder(folder), force=force))
        begun = {} if force else _settings_in(folder)
        stack.enter_context(threads_as(begun.get("threads")))  # with as many it goes on, wherever that is, and ends with equal bytes
        embedder.settle_precision(tokens, outputs)
        per_unit = begun.get("tokens_per_unit") or embedder.tokens_per_unit(TOKENS_PER_UNIT)
        settings = _settings(embedder, tokens, config, outputs, per_unit)
        run = ShardedRun.open(folder, settings, force=force, resume=True, shared=part is not None, own=OWN)
        _clear_begun(run, out, config)
        _check_files(out, config, force=force)  # another process may have been faster
        sources = {"model": embedder.model, "tokens_folder": tokens_folder}
        prepare = lambda: write_work(run, tokens, embedder.checkpoint, config, **sources)  # noqa: E731
        if part is not None:
            prepare()
            stack.pop_all().close()  # the others need not wait any longer
            stack.enter_context(threads_as(settings["threads"], quiet=True))
            stack.enter_context(locked(folder, shared=True))
            stack.enter_context(locked(folder, name=part.lock))
        units = Units(embedder, tokens, config, outputs, groups, run, "" if part is None else f"{part.number}of{part.parts}")
        yield units, prepare, columns


def _compute(units: Units, part: Part | None, prepare: Callable[[], None], progress: Callable[[int, int], None] | None) -> None:
    """The units that are not done, on the devices of the Embedder."""
    embedder, run, pending = units.embedder, units.run, units.pending(part)
    embedder.restore_budget(run.manifest.get("tokens_per_batch"))
    own = [u for u in range(len(units.units)) if part is None or part.has(u)]
    tick = Ticker(units.tokens, progress, cells=units.cells(own))
    tick.add(units.cells([u for u in own if u not in pending]))
    prefix = "" if part is None else f"{part.number}of{part.parts}-"
    job = UnitJob(OPENS, run.folder, pending, embedder.devices, prefix, fixed=units.sums is not None)

    def release(devices: Sequence[str]) -> None:
        prepare()
        warn_of_threads(devices)
        embedder.release()  # the GPU's memory is for whoever works there

    run_units(job, _Count(tick), worker=lambda: units, release=release)
    if part is not None and len(job.used_devices) < 2:
        units.finish()


@dataclass(frozen=True)
class _Count:
    ticker: Ticker

    def tick(self, unit: int, n: int) -> None:
        self.ticker.add(n)

    def finish(self, unit: int) -> None:
        """All cells of a unit have been counted by then."""


def _written(units: Units, out: Path, source: Path | None, columns: list[str], *, force: bool) -> Written:
    """The store of a run whose units are all there; the run's folder is removed."""
    run = units.run
    result = units.result(units.embedder.meta(units.tokens, units.outputs), columns)
    run.note(writing=_OVER if out.exists() else _NEW)
    paths = write_result(result, out, source=source, force=force)
    run.finish()
    remove_run(run.folder, OWN)
    widths = {t.name: {c.name: c.width for c in t.vectors} for t in result.tables.values()}
    return Written(paths, {t.name: t.n_rows for t in result.tables.values()}, widths, result.meta)


@contextlib.contextmanager
def _removed_when_empty(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder; when it is stopped before its first shard is whole, nothing is left of it."""
    result_folder(folder)
    require_unshared(folder)  # somebody may have made it just before
    with locked(folder):
        try:
            yield
        except BaseException:
            if not any(folder.glob("[!.]*.npz")) and not any((folder / SHARDS).glob("[!.]*.arrow")):
                with contextlib.suppress(OSError):
                    remove_run(folder, OWN)
            raise


def _settings_in(folder: Path) -> dict[str, Any]:
    """The settings that the run in `folder` began with; empty where there is none."""
    return ShardedRun.read(folder).manifest.get("settings", {}) if (folder / MANIFEST).is_file() else {}


def _holds_nothing(folder: Path) -> bool:
    return folder.is_dir() and all(p.name == LOCK for p in folder.iterdir())


def _require_genes(tokens: TokenSet, config: EmbedConfig, groups: Groups | None) -> None:
    """SettingsError when means over cells are asked for and no cell that counts has a gene."""
    if "gene_mean" in config.include and not ((tokens.n_genes > 0) & (True if groups is None else groups.codes >= 0)).any():
        raise SettingsError(f"no cell {'of a category ' if groups else ''}has genes: there is nothing to take means of")


def _settings(embedder: Embedder, tokens: TokenSet, config: EmbedConfig, outputs: list[Output], tokens_per_unit: int) -> dict[str, Any]:
    """All that decides the result: plain JSON."""
    from rankcell import __version__

    return {
        "model": embedder.checkpoint.name,
        "model_hash": embedder.checkpoint.hash,
        **embedder.checkpoint.remarks,
        "vocabulary": embedder.checkpoint.vocab.name,
        "tokens_hash": tokens.fingerprint,
        "outputs": [o.name for o in outputs],
        "include": list(config.include),
        "by": config.by,
        "statistic": config.statistic,
        "dtype": config.dtype,
        "tokens_per_batch": embedder.requested_tokens_per_batch,
        "tokens_per_unit": tokens_per_unit,
        "version": __version__,
    } | embedder.description
