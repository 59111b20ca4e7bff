"""The `datasets` folder layout with pyarrow alone: arrow stream files, dataset_info.json, state.json.

`datasets.load_from_disk` reads what is written here, and what it writes is read here; a test holds both to it. The
list feature is declared as "Sequence", which datasets 2 to 5 all read ("List" is unknown before 4).
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from rankcell.errors import TokensError

_NAMES = {"double": "float64", "float": "float32", "halffloat": "float16"}


def _feature(t: pa.DataType) -> dict[str, Any]:
    if pa.types.is_list(t):
        return {"feature": _feature(t.value_type), "_type": "Sequence"}
    return {"dtype": _NAMES.get(str(t), str(t)), "_type": "Value"}


def features(schema: pa.Schema) -> dict[str, Any]:
    """The `datasets` features of an arrow schema of lists and plain values."""
    return {field.name: _feature(field.type) for field in schema}


class DatasetWriter:
    """Writes record batches into a new `datasets` folder, one arrow stream file; nothing accumulates.

    `spec`: the TokenSpec of what is written, set by the caller.
    """

    spec: Any = None

    def __init__(self, folder: Path, schema: pa.Schema):
        folder.mkdir()
        self.folder = folder
        info = json.dumps({"info": {"features": features(schema)}})
        self.schema = schema.with_metadata({"huggingface": info})
        self._file = "data-00000-of-00001.arrow"
        self._sink = pa.OSFile(str(folder / self._file), "wb")
        self._stream = pa.ipc.new_stream(self._sink, self.schema)

    def write(self, batch: pa.RecordBatch) -> None:
        self._stream.write_batch(batch.cast(self.schema))

    def close(self) -> None:
        """Close the data file, also when its end cannot be written."""
        try:
            self._stream.close()
        finally:
            self._sink.close()

    def describe(self, fingerprint: str) -> None:
        """Write the two json files that make the folder a dataset."""
        info = {"citation": "", "description": "", "features": features(self.schema), "homepage": "", "license": ""}
        state = {
            "_data_files": [{"filename": self._file}],
            "_fingerprint": fingerprint[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        }
        for name, value in (("dataset_info.json", info), ("state.json", state)):
            (self.folder / name).write_text(json.dumps(value, indent=2) + "\n")


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
