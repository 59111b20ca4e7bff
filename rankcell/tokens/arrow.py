"""The `datasets` folder layout with pyarrow alone: arrow stream files, dataset_info.json, state.json.

`datasets.load_from_disk` reads what is written here, and what it writes is read here; a test holds both to it. The
list feature is declared as "Sequence", which datasets 2 to 5 all read ("List" is unknown before 4).
"""

import contextlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from rankcell.errors import TokensError

SHARD_BYTES = 128 * 2**20
_NAMES = {"double": "float64", "float": "float32", "halffloat": "float16"}


def _feature(t: pa.DataType) -> dict[str, Any]:
    if pa.types.is_list(t):
        return {"feature": _feature(t.value_type), "_type": "Sequence"}
    return {"dtype": _NAMES.get(str(t), str(t)), "_type": "Value"}


def features(schema: pa.Schema) -> dict[str, Any]:
    """The `datasets` features of an arrow schema of lists and plain values."""
    return {field.name: _feature(field.type) for field in schema}


class DatasetWriter:
    """Writes record batches into a new `datasets` folder, in arrow stream files of about `shard_bytes`; nothing accumulates.

    Each finished file is synced to disk by a thread of its own while the next one is written. `spec`: the TokenSpec of what is
    written, set by the caller when all is written; closed without it, the writing has failed and nothing more is synced.
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
        self._synced.append(self._syncing.submit(_sync_file, self._shards[-1]))

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
        for done in self._synced:
            done.result()
        n = len(self._shards)
        self._shards = [p.rename(p.with_name(f"data-{i:05d}-of-{n:05d}.arrow")) for i, p in enumerate(self._shards)]

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
        for name, value in (("dataset_info.json", info), ("state.json", state)):
            (self.folder / name).write_text(json.dumps(value, indent=2) + "\n")


def _sync_file(path: Path) -> None:
    with open(path, "rb") as f:
        os.fsync(f.fileno())


def read_dataset(folder: str | os.PathLike) -> pa.Table:
    """The rows of a `datasets` folder, memory-mapped. TokensError when it is not one or cannot be read."""
    folder = Path(folder)
    if not folder.exists():
        raise TokensError(f"no such folder: {folder}")
    try:
        state = json.loads((folder / "state.json").read_text())
        files = [folder / f["filename"] for f in state["_data_files"]]
        lacking = [f.name for f in files if not f.is_file()]
        if lacking:
            raise TokensError(f"{folder} is not whole: {lacking[0]} is missing")
        if state.get("_indices_data_files"):
            raise TokensError(f"{folder} holds a selection (indices): save it again after dataset.flatten_indices()")
        return pa.concat_tables(pa.Table.from_batches(list(batches), schema=s) for s, batches in map(_stream, files))
    except FileNotFoundError as e:
        raise TokensError(f"{folder} is not a token set: {Path(e.filename).name} is missing") from None
    except NotADirectoryError:
        raise TokensError(f"{folder} is a file; a token set is a folder") from None
    except (pa.ArrowInvalid, OSError, ValueError, KeyError, TypeError) as e:
        raise TokensError(f"{folder} cannot be read as a token set ({type(e).__name__}: {str(e)[:150]})") from e


def _stream(path: Path) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    reader = pa.ipc.open_stream(pa.memory_map(str(path)))
    return reader.schema, reader
