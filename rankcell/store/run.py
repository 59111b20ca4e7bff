"""A long job in a folder: a manifest that says what it is, and shards that are each either whole or absent."""

import os
import shutil
from pathlib import Path
from typing import Any

from rankcell.errors import OutputError
from rankcell.store.atomic import remove_parts, writing
from rankcell.store.jsonio import content_hash, read_json, write_json
from rankcell.store.lock import LOCK

MANIFEST = "manifest.json"
SHARDS = "shards"
_EMPTIED = ""


class ShardedRun:
    """The folder of one job: `manifest.json` with the settings that decide its result, and `shards/`.

    Opening the same folder with the same settings goes on where an earlier run stopped; with other settings it is
    refused with what differs.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]):
        self.folder = folder
        self.manifest = manifest

    @classmethod
    def open(
        cls, folder: str | os.PathLike, settings: dict[str, Any], *, force: bool = False, resume: bool = False, shared: bool = False
    ) -> "ShardedRun":
        """Start or go on with the job that `settings` (plain JSON values) describe; the folder's lock must be held.

        `force` starts anew whatever stands there; with `resume` only when it is another job. With `shared`, other processes may
        be writing shards.
        """
        folder = result_folder(folder)
        if not shared:
            remove_parts(folder)
            remove_parts(folder / SHARDS)
        held = folder / MANIFEST
        if held.is_file():
            manifest = cls.read(folder).manifest
            if manifest.get("fingerprint") == content_hash(settings):
                if resume or not force:
                    return cls(folder, manifest)
            elif not force and manifest["fingerprint"] != _EMPTIED:
                raise OutputError(
                    f"{folder} holds another run ({differences(manifest.get('settings', {}), settings)}): "
                    "choose another output, or pass --force to replace it"
                )
        _empty(folder)
        manifest = {"fingerprint": content_hash(settings), "settings": settings, "complete": False}
        with writing(folder):
            (folder / SHARDS).mkdir()
        write_json(held, manifest)
        return cls(folder, manifest)

    @classmethod
    def read(cls, folder: str | os.PathLike) -> "ShardedRun":
        """The job in `folder`, whatever its settings."""
        folder = Path(folder)
        try:
            manifest = read_json(folder / MANIFEST)
        except FileNotFoundError:
            raise OutputError(f"{folder} is not a rankcell result: it has no {MANIFEST}") from None
        except ValueError as e:
            raise OutputError(f"{folder / MANIFEST} cannot be read: {e}") from e
        if not isinstance(manifest, dict) or "fingerprint" not in manifest:
            raise OutputError(f"{folder / MANIFEST} is not a rankcell manifest: choose another folder")
        return cls(folder, manifest)

    @property
    def complete(self) -> bool:
        return bool(self.manifest.get("complete"))

    def shard(self, kind: str, unit: int, suffix: str = ".parquet") -> Path:
        return self.folder / SHARDS / f"{kind}-{unit:06d}{suffix}"

    def note(self, **facts: Any) -> None:
        """Record what a later start of the same job is to know."""
        if any(self.manifest.get(k) != v for k, v in facts.items()):
            self.manifest |= facts
            write_json(self.folder / MANIFEST, self.manifest)

    def finish(self, **facts: Any) -> None:
        """Record what came out, and that nothing is missing."""
        self.manifest |= facts | {"complete": True}
        write_json(self.folder / MANIFEST, self.manifest)


def check_result_folder(path: str | os.PathLike) -> Path:
    """`path` when a run could be kept there: a new name in an existing folder, or a folder of ours.

    OutputError when it is a file, or holds something that is not a result.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file: this writes a folder, choose another name")
    if not folder.parent.is_dir():
        raise OutputError(f"the folder {folder.parent} does not exist: make it first")
    if folder.is_dir() and not (folder / MANIFEST).is_file() and any(not _is_ours(p.name) for p in folder.iterdir()):
        raise OutputError(f"{folder} exists and is not a rankcell result: choose another output")
    return folder


def result_folder(path: str | os.PathLike) -> Path:
    """The same as an existing folder, made where there is none. OutputError also when it cannot be made."""
    folder = check_result_folder(path)
    with writing(folder):
        folder.mkdir(exist_ok=True)
    return folder


def _is_ours(name: str) -> bool:
    """Whether a run killed before its manifest was written may have left this."""
    return name.startswith(LOCK) or name.startswith(f".{MANIFEST}.part-")


def _empty(folder: Path) -> None:
    """Remove what a run put into `folder`. The manifest goes first to one that says so: killed here, it can be started anew."""
    write_json(folder / MANIFEST, {"fingerprint": _EMPTIED, "settings": {}, "complete": False})
    for item in folder.iterdir():
        if item.name == MANIFEST or item.name.startswith(LOCK):
            continue
        if item.is_dir():
            shutil.rmtree(item)
        else:
            item.unlink()


def differences(old: dict[str, Any], new: dict[str, Any], there: Any = "there", now: Any = "now") -> str:
    """The settings that differ, in words, the first four of them."""
    rows = [f"{k}: {_short(old.get(k))} {there}, {_short(new.get(k))} {now}" for k in {**old, **new} if old.get(k) != new.get(k)]
    return "; ".join(rows[:4]) + (f"; and {len(rows) - 4} more" if len(rows) > 4 else "")


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else text[:37] + "..."
