"""State embeddings: the mean readout over all input cells of a state, before any edit; from the cells or from a file."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rankcell import wording
from rankcell.embed import Embedder
from rankcell.embed.stores import STORES, read_embeddings
from rankcell.errors import InputError, SettingsError
from rankcell.model import Checkpoint
from rankcell.perturb.exact.state_names import split_state
from rankcell.store import atomic_path, read_lines
from rankcell.tokens.tokenset import TokenSet
from rankcell.wording import command

_MODEL = b"rankcell.model_hash"  # in the schema of a table of states


@dataclass(frozen=True)
class StateEmbeddings:
    """One vector per state and readout ("cell": mean over genes; "cls"), float64, and where known the hash of the model they are of."""

    vectors: dict[tuple[str, str], np.ndarray]
    model_hash: str | None = None

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(state for state, _ in self.vectors))

    def check(self, checkpoint: Checkpoint) -> None:
        """SettingsError when these are not states of the model `checkpoint`."""
        if self.model_hash not in (None, checkpoint.hash):
            raise SettingsError(
                f"the states were made with another model ({self.model_hash[:12]}) than '{checkpoint.name}' ({checkpoint.hash[:12]}): "
                "make them with the model of the screen"
            )
        self.check_width(checkpoint.width, checkpoint.name)

    def check_width(self, width: int, model: str) -> None:
        for (state, readout), v in self.vectors.items():
            if len(v) != width:
                raise SettingsError(f"state '{state}' ({readout}) has {len(v)} numbers; the states of model '{model}' have {width}")
            if not np.isfinite(v).all():
                raise SettingsError(f"state '{state}' ({readout}) holds NaN or infinite numbers")
            if not v.any():
                raise SettingsError(f"state '{state}' ({readout}) is zero throughout: no direction leads toward it")

    def save(self, path: str | os.PathLike) -> None:
        """Write a parquet table `state`, `readout`, `embedding`, which `read_states` reads."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        names, readouts = zip(*self.vectors, strict=True)
        table = pa.table({"state": list(names), "readout": list(readouts), "embedding": [v.tolist() for v in self.vectors.values()]})
        if self.model_hash is not None:
            table = table.replace_schema_metadata({_MODEL: self.model_hash})
        with atomic_path(path, force=True) as part:
            pq.write_table(table, part)


def read_states(source: Any, *, layers: Sequence[int] = ()) -> StateEmbeddings:
    """State embeddings from a table.

    source
        A parquet table (`state`, `readout`, `embedding`), a csv (`state,readout,` and the numbers), any store that
        `rankcell embed --include state` wrote, or the DataFrame of rc.tl.state_embeddings.
    layers
        For the last two, which hold a column per pooling and layer: the layer, in each way that it may be typed. `mean` is then
        the cell readout and `cls` the CLS readout.
    """
    name = "the table of states" if hasattr(source, "columns") else str(source)
    try:
        rows, model_hash = _rows_of(source, layers)
        rows = list(rows)
        states = [((s, r), np.array([float(x) for x in v])) for s, r, v in rows]
    except (ValueError, TypeError, IndexError, KeyError, OSError) as e:
        raise InputError(f"{name} is not a table of states (columns state, readout, embedding): {e}") from e
    if not states:
        raise InputError(f"{name} holds no state")
    for (state, readout), n in Counter(key for key, _ in states).items():
        if readout not in ("cell", "cls"):
            raise InputError(f"{name}: readout '{readout}' is not known; a state's readout is cell or cls")
        if n > 1:
            raise InputError(f"{name}: state '{state}' ({readout}) stands in it twice")
    return StateEmbeddings(dict(states), model_hash)


def _rows_of(source: Any, layers: Sequence[int]) -> tuple[Iterable[tuple[str, str, Any]], str | None]:
    """Rows (state, readout, numbers) of a table or store of states, and the hash of their model where it is stored."""
    if hasattr(source, "columns"):
        meta = getattr(source, "attrs", {}).get("rankcell", {})
        return _pooled_rows({str(c): source[c].tolist() for c in source.columns}, layers), meta.get("model_hash")
    path = Path(source)
    if not path.exists():
        raise InputError(f"no such file: {path}")
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq

        schema = pq.read_schema(path)
        if "readout" in schema.names:
            model_hash = (schema.metadata or {}).get(_MODEL)
            return _parquet_rows(path), None if model_hash is None else model_hash.decode()
    elif path.suffix.lower() not in STORES:
        return _csv_rows(path), None
    stored = read_embeddings(path, tables=["states"])
    if "states" not in stored.tables:
        raise ValueError(f"it holds embeddings of cells and no states: make them with {command('embed', '--include state --by COLUMN')}")
    return _pooled_rows(stored.tables["states"], layers), stored.meta.get("model_hash")


def _pooled_rows(table: Mapping[str, Any], layers: Sequence[int]) -> Iterator[tuple[str, str, Any]]:
    candidates = [(readout, f"{pool}_layer{n}") for readout, pool in (("cell", "mean"), ("cls", "cls")) for n in layers]
    columns = {readout: table[name] for readout, name in candidates if name in table}
    if "state" not in table or not columns:
        at = f" ({wording.option('layer', layers[0])})" if layers else ""
        stored_columns = ", ".join(c for c in table if c not in ("state", "n_cells")) or "nothing"
        raise ValueError(
            f"it holds {stored_columns}; a screen reads states pooled with {wording.option('pool', 'mean')} or {wording.option('pool', 'cls')} at its own layer{at}: embed them so"
        )
    return ((str(s), readout, v) for readout, vectors in columns.items() for s, v in zip(table["state"], vectors, strict=True))


def _parquet_rows(path: Path) -> list[tuple[str, str, list[float]]]:
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["state", "readout", "embedding"])
    return list(zip(*(table[c].to_pylist() for c in table.column_names), strict=True))


def _csv_rows(path: Path) -> list[tuple[str, str, list[float]]]:
    import csv

    head, *rows = csv.reader(read_lines(path, "a table of states"))
    if head[:2] != ["state", "readout"]:
        raise ValueError(f"its first columns are {head[:2]}")
    return [(r[0], r[1], [float(x) for x in r[2:]]) for r in rows]


def cells_of(tokens: TokenSet, text: str, name: str) -> np.ndarray:
    """The rows of the cells in a state; SettingsError when no cell is in it. A cell of which the column says nothing is in none."""
    column, state = split_state(text, name)
    labels = tokens.obs(column)
    known = np.array([v is not None and v == v for v in labels.tolist()], bool)
    values = labels.astype(str)
    rows = np.flatnonzero((values == state) & known)
    if not known.any():
        raise SettingsError(f"cell column '{column}' says nothing about any of the {len(known):,} cells: name another than {wording.option(name, text)}")
    if not len(rows):
        states = sorted(set(values[known]))
        unknown = f"; of {int((~known).sum()):,} of {len(known):,} cells it says nothing" if not known.all() else ""
        examples = f"{', '.join(states[:8])}{' ...' if len(states) > 8 else ''}"
        raise SettingsError(f"no cell has {column} = '{state}'; there are {examples}{unknown}")
    return rows


def rows_of_states(tokens: TokenSet, toward: Sequence[str]) -> dict[str, np.ndarray]:
    """{state: rows of its cells that have genes} for each COL=STATE."""
    rows_by_state: dict[str, np.ndarray] = {}
    for text in dict.fromkeys(toward):
        rows = cells_of(tokens, text, "toward")
        rows = rows[tokens.n_genes[rows] > 0]
        _, state = split_state(text, "toward")
        if not len(rows):
            raise SettingsError(f"all cells of state '{state}' are without genes")
        if state in rows_by_state:
            raise SettingsError(f"two states are called '{state}': their columns would have one name")
        rows_by_state[state] = rows
    return rows_by_state


def embed_states(embedder: Embedder, tokens: TokenSet, toward: Sequence[str], *, layer: int) -> StateEmbeddings:
    """Embed the states of `toward` (COL=STATE), each the mean over all its cells in `tokens`, per readout of the model."""
    pools = {"cell": "mean"} | ({"cls": "cls"} if tokens.frame.has_cls else {})
    vectors = {}
    for state, rows in rows_of_states(tokens, toward).items():
        embeddings = embedder.embed(tokens.take(rows), pool=list(pools.values()), layer=layer)
        for readout, pool in pools.items():
            vectors[state, readout] = embeddings.columns[f"{pool}_layer{layer}"].astype(np.float64).mean(0)
    return StateEmbeddings(vectors)


def states_hash(states: StateEmbeddings) -> str:
    """sha256 of the names and vectors of states."""
    h = hashlib.sha256()
    for (state, readout), v in states.vectors.items():
        h.update(f"{state}|{readout}|".encode() + v.astype("<f8").tobytes())
    return h.hexdigest()
