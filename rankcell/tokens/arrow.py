"""The `datasets` folder layout with pyarrow alone: arrow stream files, dataset_info.json, state.json.

`datasets.load_from_disk` reads what is written here, and what it writes is read here; a test holds both to it. The
list feature is declared as "Sequence", which datasets 2 to 5 all read ("List" is unknown before 4).
"""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from rankcell.errors import TokensError
from rankcell.store import read_json
from rankcell.tokens.fingerprint import file_hash, remember

SHARD_BYTES = 128 * 2**20
STATE, INFO, SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
_NAMES = {"double": "float64", "float": "float32", "halffloat": "float16", "date32[day]": "date32", "date64[ms]": "date64"}


def _feature(t: pa.DataType) -> dict[str, Any]:
    if pa.types.is_list(t):
        return {"feature": _feature(t.value_type), "_type": "Sequence"}
    return {"dtype": _NAMES.get(str(t), str(t)), "_type": "Value"}


def holds(t: pa.DataType) -> bool:
    """Whether a `datasets` folder can hold a column of this type."""
    if pa.types.is_list(t) or pa.types.is_large_list(t) or pa.types.is_fixed_size_list(t):
        return holds(t.value_type)
    return pa.types.is_primitive(t) or (any(f(t) for f in _STORABLE) and not pa.types.is_interval(t))


_STORABLE = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_decimal,
    pa.types.is_temporal,
)


def features(schema: pa.Schema) -> dict[str, Any]:
    """The `datasets` features of an arrow schema of lists and plain values."""
    return {field.name: _feature(field.type) for field in schema}


class DatasetWriter:
    """Writes record batches into a new `datasets` folder, in arrow stream files of about `shard_bytes`; nothing accumulates.

    Each finished file is synced to disk and hashed by a thread of its own while the next one is written. `spec`: the TokenSpec of
    what is written, set by the caller when all is written; closed without it, the writing has failed and nothing more is synced.
    `hashes`: {file: sha256} once it is closed.
    """

    spec: Any = None

    def __init__(self, folder: Path, schema: pa.Schema, *, shard_bytes: int = SHARD_BYTES):
        folder.mkdir()
        self.folder = folder
        self.shard_bytes = shard_bytes
        info = json.dumps({"info": {"features": features(schema)}})
        self.schema = schema.with_metadata({"huggingface": info})
        self._shards: list[Path] = []
        self._written = 0
        self._sink: Any = None
        self._stream: Any = None
        self._syncing = ThreadPoolExecutor(1, "sync")
        self._synced: list[Future] = []
        self.hashes: dict[Path, str] = {}

    def write(self, batch: pa.RecordBatch) -> None:
        if self._stream is None or self._written >= self.shard_bytes:
            self._finish_shard()
            self._start_shard()
        self._stream.write_batch(batch.cast(self.schema))
        self._written += batch.nbytes

    def _start_shard(self) -> None:
        path = self.folder / f"data-{len(self._shards):05d}.arrow"
        self._shards.append(path)
        self._sink, self._written = pa.OSFile(str(path), "wb"), 0
        self._stream = pa.ipc.new_stream(self._sink, self.schema)

    def _finish_shard(self) -> None:
        if self._stream is None:
            return
        try:
            self._stream.close()
        finally:
            self._sink.close()
            self._stream = None
        for done in self._synced:
            if done.done():
                done.result()  # a disk that fails is heard of now, not after the last file
        self._synced.append(self._syncing.submit(_sync_and_hash, self._shards[-1]))

    def close(self) -> None:
        """Close the last file, also when its end cannot be written; the names say how many there are."""
        if self.spec is None:
            self._drop()
            return
        try:
            if not self._shards:
                self._start_shard()
            self._finish_shard()
        finally:
            self._syncing.shutdown()
        digests = [done.result() for done in self._synced]
        n = len(self._shards)
        self._shards = [p.rename(p.with_name(f"data-{i:05d}-of-{n:05d}.arrow")) for i, p in enumerate(self._shards)]
        self.hashes = dict(zip(self._shards, digests, strict=True))
        for path, digest in self.hashes.items():
            remember(path, digest)

    def _drop(self) -> None:
        """Let go of the open file; what is wrong with it has been said, or does not matter any more."""
        self._syncing.shutdown(wait=False, cancel_futures=True)
        if self._stream is not None:
            with contextlib.suppress(OSError):
                self._stream.close()
            with contextlib.suppress(OSError):
                self._sink.close()
            self._stream = None

    def describe(self, fingerprint: str) -> None:
        """Write the two json files that make the folder a dataset."""
        info = {"citation": "", "description": "", "features": features(self.schema), "homepage": "", "license": ""}
        state = {
            "_data_files": [{"filename": p.name} for p in self._shards],
            "_fingerprint": fingerprint[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        }
        for name, value in ((INFO, info), (STATE, state)):
            (self.folder / name).write_text(json.dumps(value, indent=2) + "\n")


def _sync_and_hash(path: Path) -> str:
    with open(path, "rb") as f:
        os.fsync(f.fileno())
    return file_hash(path)


def dataset_files(folder: str | os.PathLike) -> list[Path]:
    """The files of rows that the state.json of a `datasets` folder names. TokensError when it is no such folder or not whole."""
    if not isinstance(folder, (str, os.PathLike)):
        raise TokensError(f"{type(folder).__name__} is no folder of tokens: save a dataset with save_to_disk, and give the folder")
    folder = Path(folder)
    if not folder.exists():
        raise TokensError(f"no such folder: {folder}")
    if not folder.is_dir():
        raise TokensError(f"{folder} is a file; a token set is a folder")
    if (folder / SPLITS).is_file() and not (folder / STATE).is_file():
        splits = [p.parent.name for p in sorted(folder.glob(f"*/{STATE}"))]
        raise TokensError(
            f"{folder} holds several datasets ({', '.join(splits) or 'none of them is there'}): name one, such as {folder / next(iter(splits), 'train')}"
        )
    try:
        state = read_json(folder / STATE)
        names = [f["filename"] for f in state["_data_files"]]
        is_selection = bool(state.get("_indices_data_files"))
    except FileNotFoundError:
        raise TokensError(f"{folder} is not a token set: {STATE} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise TokensError(
            f"{folder / STATE} cannot be read ({type(e).__name__}: {str(e)[:150]}): bring it back, or make the tokens again"
        ) from e
    odd = [n for n in names if not isinstance(n, str) or Path(n).name != n]
    if odd or not names:
        raise TokensError(
            f"{folder / STATE} names {f'the file {odd[0]!r}, which is not in the folder' if odd else 'no file of rows'}: make the tokens again"
        )
    if is_selection:
        raise TokensError(f"{folder} holds a selection (indices): save it again after dataset.flatten_indices()")
    lacking = [n for n in names if not (folder / n).is_file()]
    if lacking:
        raise TokensError(f"{folder} is not whole: {lacking[0]} is missing")
    return [folder / n for n in names]


def read_rows(folder: str | os.PathLike, files: Sequence[Path], *, validate: bool = True) -> pa.Table:
    """The rows of a `datasets` folder, memory-mapped. TokensError when they cannot be read.

    validate
        Look through the columns for what contradicts itself; not needed where the bytes are known to be what was written.
    """
    try:
        table = pa.concat_tables(pa.Table.from_batches(list(batches), schema=s) for s, batches in map(_stream, files))
        if validate:
            table.validate(full=True)
        return table
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as e:
        raise TokensError(f"{folder} cannot be read as a token set ({type(e).__name__}: {' '.join(str(e).split())[:150]})") from e


def _stream(path: Path) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    reader = pa.ipc.open_stream(pa.memory_map(str(path)))
    return reader.schema, reader
