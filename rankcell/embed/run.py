"""Embeddings into a store: computed unit by unit into shards, then written in one stream. Killed at any moment, the same run goes on."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rankcell.embed.carried import carried_columns
from rankcell.embed.contexts import gene_mean_columns, gene_names
from rankcell.embed.embedder import TOKENS_PER_UNIT, Embedder, Ticker, units_of, warn_of_empty
from rankcell.embed.gene_sums import GeneSums
from rankcell.embed.groups import Groups, check_statistic, groups_of, state_vectors
from rankcell.embed.pools import Output
from rankcell.embed.stores import STORES, check_output, require_texts, write_result
from rankcell.embed.tables import CELLS, GENE_MEANS, GENES, STATES, Block, Column, Result, Table, check_dtype, memory_table
from rankcell.embed.unit import UnitResult, Work
from rankcell.errors import SettingsError
from rankcell.model.encoder import threads_as
from rankcell.store import LOCK, ShardedRun, atomic_path, locked, remove_file, remove_run, require_unshared, result_folder
from rankcell.store.run import MANIFEST, SHARDS
from rankcell.tokens.tokenset import TokenSet
from rankcell.wording import option

INCLUDE = {"cell": CELLS, "gene": GENES, "gene_mean": GENE_MEANS, "state": STATES}
_RUN = ".run"  # ends the name of the folder beside an output that holds its shards
_SUMS = "gene_sums.npz"
_SECONDS = 30  # between two savings of the sums over genes
_GENE_BYTES = 2**26  # of a unit whose genes' states are kept
_NEW, _OVER = "new", "over"  # what a run notes when it begins to write its output: whether one stood there


@dataclass(frozen=True)
class Written:
    """What was written: `paths` (the output first), `rows` {table: number of rows}, `columns` {table: {vector: width}} and the meta."""

    paths: list[Path]
    rows: dict[str, int]
    columns: dict[str, dict[str, int]]
    meta: dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """What a run is asked for.

    include
        Any of "cell", "gene" (each gene in each cell), "gene_mean" (its mean over cells), "state" (of the cells of each category).
    by
        The cell column whose categories "gene_mean" and "state" are for.
    statistic
        Of states: "mean", or "median" (exact, of each dimension).
    dtype
        What vectors are stored as.
    """

    pool: Sequence[str]
    layer: Sequence[int]
    include: Sequence[str] = ("cell",)
    by: str | None = None
    statistic: str = "mean"
    dtype: str = "float32"

    def check(self) -> None:
        if not self.include:
            raise SettingsError(f"nothing is to be included: one or several of {', '.join(INCLUDE)}")
        unknown = [i for i in self.include if i not in INCLUDE]
        if unknown:
            raise SettingsError(f"'{unknown[0]}' cannot be included; one or several of {', '.join(INCLUDE)}")
        check_statistic(self.statistic)
        if "state" in self.include and self.by is None:
            raise SettingsError(f"states are the categories of a cell column: name it ({option('by', placeholder='COLUMN')})")
        if self.by is not None and not {"state", "gene_mean"} & set(self.include):
            raise SettingsError(f"{option('by')} is for {option('include', 'state')} and {option('include', 'gene_mean')}")
        check_dtype(self.dtype)

    @property
    def tables(self) -> list[str]:
        return [table for name, table in INCLUDE.items() if name in self.include]

    @property
    def pools(self) -> bool:
        """Whether cells are pooled at all."""
        return bool({"cell", "state"} & set(self.include))


def check_store(out: str | os.PathLike, asked: Asked, *, force: bool) -> Path:
    """`out` when what is asked for can be written there; a finished run that was killed while tidying up is tidied first."""
    asked.check()
    folder = run_folder(out)
    require_unshared(folder)
    left = ShardedRun.read(folder).manifest if (folder / MANIFEST).is_file() else {}
    is_whole = left.get("complete") or left.get("writing") == _NEW
    if os.path.exists(out) and (is_whole or _holds_nothing(folder)):
        with locked(folder):
            remove_run(folder, (_SUMS,))
    began = "writing" in left and not os.path.exists(out)  # the files beside it may be there already
    return _check_files(out, asked, force=force or began)


def _check_files(out: str | os.PathLike, asked: Asked, *, force: bool) -> Path:
    return check_output(out, force=force, n_vectors=len(asked.pool) * len(asked.layer) if asked.pools else 0, tables=asked.tables)


def _clear_begun(run: ShardedRun, out: Path, asked: Asked) -> None:
    """Remove the files beside `out` that an earlier start of this run had written when it was killed before `out` itself."""
    if "writing" in run.manifest and not out.exists():
        store = STORES[out.suffix.lower()]
        for path in store.files(out, asked.tables):
            remove_file(path, store.wrote)


def run_folder(out: str | os.PathLike) -> Path:
    """Where the shards of an output are until it is whole."""
    return Path(os.fspath(out) + _RUN)


def embed_to_store(
    embedder: Embedder,
    tokens: TokenSet,
    out: str | os.PathLike,
    asked: Asked,
    *,
    source: Path | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Compute what is asked for and write it, or go on where the same run was stopped.

    source
        The count file that an h5ad or zarr is to be a copy of.
    """
    out = check_store(out, asked, force=force)
    outputs = embedder.check(tokens, asked.pool, asked.layer)
    groups = None if asked.by is None else groups_of(tokens, asked.by)
    _require_genes(tokens, asked, groups)
    columns = carried_columns(tokens, out, named=[] if asked.by is None else [asked.by], source=source)
    require_texts(out, pa.chunked_array([pa.array(tokens.cell_ids, pa.string())]), groups.names if groups else ())
    warn_of_empty(tokens)
    with _kept_when_useful(run_folder(out)), threads_as(None if force else _threads_of(run_folder(out))):
        embedder.settle_precision(tokens, outputs)
        settings = _settings(embedder, tokens, asked, outputs)
        run = ShardedRun.open(run_folder(out), settings, force=force, resume=True, own=(_SUMS,))
        _clear_begun(run, out, asked)
        _check_files(out, asked, force=force)  # another process may have been faster
        job = _Job(embedder, tokens, asked, outputs if asked.pools else [], groups, run)
        job.compute(progress)
        result = job.result(embedder.meta(tokens, job.outputs), columns)
        run.note(writing=_OVER if out.exists() else _NEW)
        paths = write_result(result, out, source=source, force=force)
        run.finish()
        remove_run(run.folder, (_SUMS,))
    widths = {t.name: {c.name: c.width for c in t.vectors} for t in result.tables.values()}
    return Written(paths, {t.name: t.n_rows for t in result.tables.values()}, widths, result.meta)


@contextlib.contextmanager
def _kept_when_useful(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder; when it is stopped before its first shard is whole, nothing is left of it."""
    result_folder(folder)
    require_unshared(folder)  # somebody may have made it just before
    with locked(folder):
        try:
            yield
        except BaseException:
            if not (folder / _SUMS).exists() and not any((folder / SHARDS).glob("[!.]*.arrow")):
                with contextlib.suppress(OSError):
                    remove_run(folder, (_SUMS,))
            raise


def _threads_of(folder: Path) -> int | None:
    """How many threads the run in `folder` began with: with as many it goes on, wherever that is, and ends with equal bytes."""
    return ShardedRun.read(folder).manifest.get("settings", {}).get("threads") if (folder / MANIFEST).is_file() else None


def _holds_nothing(folder: Path) -> bool:
    return folder.is_dir() and all(p.name == LOCK for p in folder.iterdir())


def _require_genes(tokens: TokenSet, asked: Asked, groups: Groups | None) -> None:
    """SettingsError when means over cells are asked for and no cell that counts has a gene."""
    if "gene_mean" in asked.include and not ((tokens.n_genes > 0) & (True if groups is None else groups.codes >= 0)).any():
        raise SettingsError(f"no cell {'of a category ' if groups else ''}has genes: there is nothing to take means of")


def _settings(embedder: Embedder, tokens: TokenSet, asked: Asked, outputs: list[Output]) -> dict[str, Any]:
    """All that decides the result: plain JSON."""
    from rankcell import __version__

    return {
        "model": embedder.checkpoint.name,
        "model_hash": embedder.checkpoint.hash,
        **embedder.checkpoint.remarks,
        "vocabulary": embedder.checkpoint.vocab.name,
        "tokens_hash": tokens.fingerprint,
        "outputs": [o.name for o in outputs],
        "include": list(asked.include),
        "by": asked.by,
        "statistic": asked.statistic,
        "dtype": asked.dtype,
        "tokens_per_batch": embedder.asked_tokens_per_batch,
        "tokens_per_unit": TOKENS_PER_UNIT,
        "version": __version__,
    } | embedder.encoder.description


class _Job:
    """The units of one run."""

    def __init__(self, embedder: Embedder, tokens: TokenSet, asked: Asked, outputs: list[Output], groups: Groups | None, run: ShardedRun):
        self.embedder, self.tokens, self.asked, self.outputs, self.groups, self.run = embedder, tokens, asked, outputs, groups, run
        layers = embedder.layers(asked.layer)
        self.width = embedder.checkpoint.width
        self.gene_layers = layers if "gene" in asked.include else {}
        self.sums = None
        if "gene_mean" in asked.include:
            self.sums = GeneSums(embedder.checkpoint.vocab.n_ids, self.width, layers, None if groups is None else groups.codes)
        most = _GENE_BYTES // (4 * self.width * len(layers)) if self.gene_layers else TOKENS_PER_UNIT
        self.units = units_of(tokens.lengths, min(TOKENS_PER_UNIT, most))

    def compute(self, progress: Callable[[int, int], None] | None) -> None:
        """Every unit that is not done yet."""
        work = Work(self.outputs, self.gene_layers, self.sums)
        tick, saved = Ticker(self.tokens, progress), time.monotonic()
        summed = 0 if self.sums is None else self.sums.load(self.run.folder / _SUMS)
        self.embedder.hold_budget(self.run.manifest.get("tokens_per_batch"))
        for unit, (a, b) in enumerate(self.units):
            if all(p.exists() for p in self._shards(unit)) and (self.sums is None or unit < summed):
                tick.add(int((self.tokens.n_genes[a:b] > 0).sum()))
                continue
            self._keep(unit, self.embedder.run(self.tokens, np.arange(a, b), work, tick=tick.add))
            self.run.note(tokens_per_batch=self.embedder.tokens_per_batch)
            if self.sums is not None and time.monotonic() - saved > _SECONDS:
                self.sums.save(self.run.folder / _SUMS, unit + 1)
                saved = time.monotonic()

    def _shards(self, unit: int) -> list[Path]:
        kinds = [GENES] * bool(self.gene_layers) + [CELLS] * bool(self.outputs)
        return [self.run.shard(kind, unit, ".arrow") for kind in kinds]

    def _keep(self, unit: int, found: UnitResult) -> None:
        if self.gene_layers:
            _write_arrow(self.run.shard(GENES, unit, ".arrow"), {f"layer{n}": x for n, x in found.genes.items()}, self.asked.dtype)
        if self.outputs:
            _write_arrow(self.run.shard(CELLS, unit, ".arrow"), found.cells, self.asked.dtype)

    def result(self, meta: dict[str, Any], obs_columns: Sequence[str]) -> Result:
        """All tables, and the cells' annotations of these names."""
        makers = {CELLS: self._cells, GENES: self._genes, GENE_MEANS: self._gene_means, STATES: self._states}
        asked = {"include": list(self.asked.include), "dtype": self.asked.dtype}
        if self.asked.by is not None:
            asked |= {"by": self.asked.by, "statistic": self.asked.statistic}
        tables = {name: makers[name]() for name in self.asked.tables}
        obs = self.tokens.table.select(obs_columns).append_column("cell_id", pa.array(self.tokens.cell_ids, pa.string()))
        return Result(tables, meta | asked, obs, dict(self.tokens.spec.categories))

    def _vectors(self) -> list[Column]:
        return [Column(o.name, self.asked.dtype, self.width * len(o.pools)) for o in self.outputs]

    def _cells(self) -> Table:
        ids = pa.array(self.tokens.cell_ids, pa.string())

        def blocks(names: Sequence[str]) -> Iterator[Block]:
            for unit, (a, b) in enumerate(self.units):
                held = _read_arrow(self._shards(unit)[-1], [n for n in names if n != "cell_id"])
                yield held | ({"cell_id": ids.slice(a, b - a)} if "cell_id" in names else {})

        return Table(CELLS, len(self.tokens), (Column("cell_id", "text"), *self._vectors()), blocks)

    def _genes(self) -> Table:
        ids, genes = pa.array(self.tokens.cell_ids, pa.string()), gene_names(self.embedder.checkpoint.vocab)
        n_genes = np.maximum(self.tokens.n_genes, 0)

        def texts(a: int, b: int, names: Sequence[str]) -> Block:
            n, held = n_genes[a:b], {}
            if "cell_id" in names:
                held["cell_id"] = ids.take(pa.array(np.repeat(np.arange(a, b), n)))
            if "gene" in names:
                held["gene"] = genes.take(pa.array(np.concatenate([np.empty(0, np.int64), *(self.tokens.genes(i) for i in range(a, b))])))
            if "rank" in names:
                held["rank"] = (np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)).astype(np.int32)
            return held

        def blocks(names: Sequence[str]) -> Iterator[Block]:
            for unit, (a, b) in enumerate(self.units):
                yield texts(a, b, names) | _read_arrow(self._shards(unit)[0], [x for x in names if x.startswith("layer")])

        vectors = [Column(f"layer{n}", self.asked.dtype, self.width) for n in self.gene_layers]
        columns = (Column("cell_id", "text"), Column("gene", "text"), Column("rank", "int32"), *vectors)
        return Table(GENES, int(n_genes.sum()), columns, blocks)

    def _gene_means(self) -> Table:
        return memory_table(GENE_MEANS, gene_mean_columns(self.sums, self.groups, self.embedder.checkpoint.vocab, self.asked.dtype))

    def _states(self) -> Table:
        cells, keep = self._cells(), self.tokens.n_genes > 0
        vectors = {o.name: state_vectors(cells, o.name, self.groups, keep, self.asked.statistic) for o in self.outputs}
        counts = self.groups.counts(keep)
        held = {"state": self.groups.names, "n_cells": counts} | {k: v.astype(self.asked.dtype) for k, v in vectors.items()}
        return memory_table(STATES, held)


def _write_arrow(path: Path, columns: dict[str, np.ndarray], dtype: str) -> None:
    arrays = {k: pa.FixedSizeListArray.from_arrays(pa.array(v.astype(dtype).ravel()), v.shape[1]) for k, v in columns.items()}
    table = pa.table(arrays)
    with atomic_path(path, force=True) as part:
        with pa.OSFile(str(part), "wb") as f, pa.ipc.new_file(f, table.schema) as writer:
            writer.write_table(table)


def _read_arrow(path: Path, names: Sequence[str]) -> Block:
    if not names:
        return {}
    with pa.memory_map(str(path)) as f:
        table = pa.ipc.open_file(f).read_all()
        return {n: _matrix(table[n].combine_chunks(), table.schema.field(n).type.list_size) for n in names}


def _matrix(column: Any, width: int) -> np.ndarray:
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    return np.asarray(column.flatten()).reshape(-1, width)
