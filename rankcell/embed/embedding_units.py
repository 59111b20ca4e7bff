"""The units of an embedding run: computed into shards, here or by a process of each of several devices, and read again for the store."""

import contextlib
import functools
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rankcell.embed.contexts import gene_mean_columns, gene_names
from rankcell.embed.embedder import Embedder, units_of
from rankcell.embed.embedding_tables import CELLS, GENE_MEANS, GENES, STATES, Block, Column, Result, Table, memory_table
from rankcell.embed.gene_sums import GeneSums
from rankcell.embed.groups import Groups, groups_of, state_vectors
from rankcell.embed.options import EmbedConfig
from rankcell.embed.unit_cells import UnitResult, Work
from rankcell.errors import OutputError
from rankcell.model import Checkpoint, open_checkpoint
from rankcell.model.devices import has_idle_processor
from rankcell.model.encoder import threads_as
from rankcell.model.options import Compute
from rankcell.model.pools import Output
from rankcell.store import ShardedRun, atomic_path, inside, read_sealed_json, write_sealed_json
from rankcell.store.sharded_run import differences
from rankcell.tokens.token_folder import DATASET_FILES
from rankcell.tokens.tokenset import TokenSet
from rankcell.vocab.folder import FILES
from rankcell.wording import option

_SUMS, WORK, TOKENS, VOCAB = "gene_sums", "work.json", "tokens", "vocabulary"
OWN = (re.compile(rf"{_SUMS}(-[\w-]+)?\.npz"), WORK, *inside(TOKENS, DATASET_FILES), *inside(VOCAB, FILES))  # what a run's folder holds beside its manifest and shards
OPENS = "rankcell.embed.embedding_units:open_units"
_SECONDS = 30  # between two savings of the sums over genes
_GENE_BYTES = 2**26  # of a unit whose genes' states are kept


class Units:
    """The units of one run, and what computes them on one device (rankcell.execute.Worker).

    name
        Of whoever computes: the sums over genes of several are kept apart, each with the units that are in it.
    """

    def __init__(
        self, embedder: Embedder, tokens: TokenSet, config: EmbedConfig, outputs: list[Output], groups: Groups | None, run: ShardedRun, name: str = ""
    ):
        self.embedder, self.tokens, self.config, self.groups, self.run = embedder, tokens, config, groups, run
        self.outputs = outputs if config.pools else []
        self.is_alone = not name  # others may be writing into the folder too
        layers = embedder.layers(config.layer)
        self.width = embedder.checkpoint.width
        self.gene_layers = layers if "gene" in config.include else {}
        per_unit = run.manifest["settings"]["tokens_per_unit"]
        most = _GENE_BYTES // (4 * self.width * len(layers)) if self.gene_layers else per_unit
        self.units = units_of(tokens.lengths, min(per_unit, most))
        self.sums, self._saved = None, time.monotonic()
        self._sums_path = run.folder / f"{_SUMS}{name and '-'}{name}.npz"
        if "gene_mean" in config.include:
            self.sums = GeneSums(embedder.checkpoint.vocab.n_ids, self.width, layers, None if groups is None else groups.codes)
            self.sums.load(self._sums_path)
            self._summed = self.sums.units.union(*(s.units for s in self._other_sums()))
        self._work = Work(self.outputs, self.gene_layers, self.sums)

    def pending(self, part: Any = None) -> list[int]:
        """The units that are not done, of all or of a part."""
        summed = set(range(len(self.units))) if self.sums is None else self.sums.units.union(*(s.units for s in self._other_sums()))
        wanted = [u for u in range(len(self.units)) if part is None or part.has(u)]
        return [u for u in wanted if u not in summed or not all(p.exists() for p in self._shards(u))]

    def cells(self, units: Sequence[int]) -> int:
        """Cells with genes in some units."""
        return int(sum((self.tokens.n_genes[a:b] > 0).sum() for a, b in (self.units[u] for u in units)))

    @property
    def leaves_processor_idle(self) -> bool:
        return has_idle_processor(self.embedder.encoder.device)

    def compute(self, unit: int, tick: Callable[[int], None] | None) -> Callable[[], None]:
        """Compute a unit and add it to the sums; what is returned writes its shards. Either may be there already."""
        a, b = self.units[unit]
        result = self.embedder.run(self.tokens, np.arange(a, b), self._work_of(unit), tick=tick)
        if self.sums is not None:
            self.sums.units.add(unit)
            if time.monotonic() - self._saved > _SECONDS:
                self.finish()
        return functools.partial(self._keep, unit, result, self.embedder.tokens_per_batch)

    def _work_of(self, unit: int) -> Work:
        """What is to be computed of a unit; one that is in the sums of an earlier start, and lacks shards, is not added again."""
        if self.sums is None or unit not in self._summed:
            return self._work
        sums = self.sums
        return replace(self._work, sums=GeneSums(sums.n_tokens, sums.width, sums.layers, sums.groups))

    def finish(self) -> None:
        """Save the sums of the units computed so far."""
        if self.sums is not None and self.sums.units:
            self.sums.save(self._sums_path)
            self._saved = time.monotonic()

    def _other_sums(self) -> list[GeneSums]:
        """The sums of whoever else has computed units of this run."""
        others = []
        for path in sorted(self.run.folder.glob(f"{_SUMS}*.npz")):
            if path != self._sums_path:
                other = GeneSums(self.sums.n_tokens, self.sums.width, self.sums.layers, self.sums.groups)
                other.load(path)
                others.append(other)
        return others

    def _shards(self, unit: int) -> list[Path]:
        kinds = [GENES] * bool(self.gene_layers) + [CELLS] * bool(self.outputs)
        return [self.run.shard(kind, unit, ".arrow") for kind in kinds]

    def _keep(self, unit: int, unit_result: UnitResult, tokens_per_batch: int) -> None:
        if self.gene_layers:
            _write_arrow(self.run.shard(GENES, unit, ".arrow"), {f"layer{n}": x for n, x in unit_result.genes.items()}, self.config.dtype)
        if self.outputs:
            _write_arrow(self.run.shard(CELLS, unit, ".arrow"), unit_result.cells, self.config.dtype)
        if self.is_alone:
            self.run.note(tokens_per_batch=tokens_per_batch)

    def result(self, meta: dict[str, Any], obs_columns: Sequence[str]) -> Result:
        """All tables, and the cells' annotations of these names."""
        makers = {CELLS: self._cells, GENES: self._genes, GENE_MEANS: self._gene_means, STATES: self._states}
        facts = {"include": list(self.config.include), "dtype": self.config.dtype}
        if self.config.by is not None:
            facts |= {"by": self.config.by, "statistic": self.config.statistic}
        tables = {name: makers[name]() for name in self.config.tables}
        obs = self.tokens.table.select(obs_columns).append_column("cell_id", pa.array(self.tokens.cell_ids, pa.string()))
        return Result(tables, meta | facts, obs, dict(self.tokens.spec.categories))

    def _vectors(self) -> list[Column]:
        return [Column(o.name, self.config.dtype, self.width * len(o.pools)) for o in self.outputs]

    def _cells(self) -> Table:
        ids = pa.array(self.tokens.cell_ids, pa.string())

        def blocks(names: Sequence[str]) -> Iterator[Block]:
            for unit, (a, b) in enumerate(self.units):
                columns = _read_arrow(self._shards(unit)[-1], [n for n in names if n != "cell_id"])
                yield columns | ({"cell_id": ids.slice(a, b - a)} if "cell_id" in names else {})

        return Table(CELLS, len(self.tokens), (Column("cell_id", "text"), *self._vectors()), blocks)

    def _genes(self) -> Table:
        ids, genes = pa.array(self.tokens.cell_ids, pa.string()), gene_names(self.embedder.checkpoint.vocab)
        n_genes = np.maximum(self.tokens.n_genes, 0)

        def texts(a: int, b: int, names: Sequence[str]) -> Block:
            n, columns = n_genes[a:b], {}
            if "cell_id" in names:
                columns["cell_id"] = ids.take(pa.array(np.repeat(np.arange(a, b), n)))
            if "gene" in names:
                columns["gene"] = genes.take(pa.array(np.concatenate([np.empty(0, np.int64), *(self.tokens.genes(i) for i in range(a, b))])))
            if "rank" in names:
                columns["rank"] = (np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)).astype(np.int32)
            return columns

        def blocks(names: Sequence[str]) -> Iterator[Block]:
            for unit, (a, b) in enumerate(self.units):
                yield texts(a, b, names) | _read_arrow(self._shards(unit)[0], [x for x in names if x.startswith("layer")])

        vectors = [Column(f"layer{n}", self.config.dtype, self.width) for n in self.gene_layers]
        columns = (Column("cell_id", "text"), Column("gene", "text"), Column("rank", "int32"), *vectors)
        return Table(GENES, int(n_genes.sum()), columns, blocks)

    def _gene_means(self) -> Table:
        for other in self._other_sums():
            self.sums.merge(other)
        return memory_table(GENE_MEANS, gene_mean_columns(self.sums, self.groups, self.embedder.checkpoint.vocab, self.config.dtype))

    def _states(self) -> Table:
        cells, keep = self._cells(), self.tokens.n_genes > 0
        vectors = {o.name: state_vectors(cells, o.name, self.groups, keep, self.config.statistic) for o in self.outputs}
        counts = self.groups.counts(keep)
        columns = {"state": self.groups.names, "n_cells": counts} | {k: v.astype(self.config.dtype) for k, v in vectors.items()}
        return memory_table(STATES, columns)


def write_work(run: ShardedRun, tokens: TokenSet, checkpoint: Checkpoint, config: EmbedConfig, *, model: str, tokens_folder: Path | None) -> None:
    """All that another process needs to take part in a run.

    model
        How any process opens the checkpoint: its folder, or a hub name.
    tokens_folder
        Where the tokens are; None: in memory, so that they are saved in the run's folder.
    """
    if (run.folder / WORK).exists():
        return
    if tokens_folder is None:
        tokens.save(run.folder / TOKENS, force=True)
        tokens = TokenSet.open(run.folder / TOKENS)
    own_vocabulary = not (checkpoint.folder / VOCAB).is_dir()
    if own_vocabulary:
        checkpoint.vocab.save(run.folder / VOCAB, force=True)
    place = {"model": model, "own_vocabulary": own_vocabulary, "tokens": None if tokens_folder is None else str(tokens_folder.resolve())}
    write_sealed_json(run.folder / WORK, place | {"tokens_hash": tokens.fingerprint, "config": config.settings()})


@contextlib.contextmanager
def open_units(folder: str, device: str, name: str) -> Iterator[Units]:
    """A run that `write_work` has prepared, on one device. OutputError where that would not give the bytes that the run began with."""
    home, run = Path(folder), ShardedRun.read(folder)
    settings, work = run.manifest["settings"], read_sealed_json(home / WORK)
    vocab = home / VOCAB if work["own_vocabulary"] else None
    checkpoint = open_checkpoint(work["model"], vocab=vocab, vocab_mismatch_ok="vocab_mismatch" in settings)
    place = Path(work["tokens"] or home / TOKENS)
    tokens = TokenSet.open(place, vocab=None if (place / "rankcell.json").exists() else checkpoint.vocab)
    for label, digest, expected in ((work["model"], checkpoint.hash, settings["model_hash"]), (place, tokens.fingerprint, work["tokens_hash"])):
        if digest != expected:
            raise OutputError(f"{label} is not what it was when {folder} was begun: bring it back, or start anew with {option('force', True)}")
    budget = run.manifest.get("tokens_per_batch") or settings["tokens_per_batch"]
    embedder = Embedder(checkpoint, Compute(device, settings["precision"], budget))
    with threads_as(settings["threads"], quiet=True):
        now = embedder.description
        if any(settings[k] != v for k, v in now.items()):
            raise OutputError(f"{folder} began on another machine ({differences({k: settings[k] for k in now}, now)}): give this one an output of its own")
        config = EmbedConfig(**work["config"])
        outputs = embedder.check(tokens, config.pool, config.layer)
        yield Units(embedder, tokens, config, outputs, None if config.by is None else groups_of(tokens, config.by), run, name)


def _write_arrow(path: Path, columns: dict[str, np.ndarray], dtype: str) -> None:
    arrays = {k: pa.FixedSizeListArray.from_arrays(pa.array(v.astype(dtype).ravel()), v.shape[1]) for k, v in columns.items()}
    table = pa.table(arrays)
    with atomic_path(path, force=True, sweep=False) as part:
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
