"""A long job in a folder: a manifest that says what it is, and shards that are each either whole or absent."""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rankcell.errors import OutputError
from rankcell.store.atomic import remove_parts, writing
from rankcell.store.jsonio import HASH, content_hash, read_sealed_json, write_sealed_json
from rankcell.store.lock import LOCK
from rankcell.store.own import Own, part_of, remove_folder, remove_own, require_own, require_unlinked
from rankcell.store.whole import damage, file_facts
from rankcell.wording import option

MANIFEST = "manifest.json"
SHARDS = "shards"
_EMPTIED = ""
_LOCKS = re.compile(rf"{re.escape(LOCK)}(-[\w-]+)?")
SHARD_FILES = (f"{SHARDS}/", re.compile(rf"{SHARDS}/[a-z_]+(?:-[0-9a-f]{{12}})?-\d{{6,}}\.(parquet|arrow)"))
RUN_FILES = (MANIFEST, _LOCKS, *SHARD_FILES)
_TYPES = {"fingerprint": str, "settings": dict, "complete": bool, "files": dict}


class ShardedRun:
    """The folder of one job: `manifest.json` with the settings that decide its result, and `shards/`.

    Opening the same folder with the same settings goes on where an earlier run stopped; with other settings it is
    refused with what differs. Once it is complete the manifest holds size and hash of every table (`files`).

    is_sealed
        Whether the manifest holds its own hash, and so the shards theirs; those of early versions do not.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], *, is_sealed: bool = True):
        self.folder = folder
        self.manifest = manifest
        self.is_sealed = is_sealed

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike,
        settings: dict[str, Any],
        *,
        force: bool = False,
        resume: bool = False,
        shared: bool = False,
        own: Sequence[Own] = (),
    ) -> "ShardedRun":
        """Start or go on with the job that `settings` (plain JSON values) describe; the folder's lock must be held.

        `force` starts anew whatever stands there; with `resume` only when it is another job. With `shared`, other processes may
        be writing shards. `own`: patterns of the files that such a job writes beside its shards; a folder that holds any other is
        never emptied.
        """
        folder = result_folder(folder)
        require_unlinked(folder / SHARDS)
        if not shared:
            remove_parts(folder)
        remove_parts(folder / SHARDS, alone=not shared)
        path = folder / MANIFEST
        if path.is_file():
            there = cls._to_replace(folder) if force and not resume else cls.read(folder)
            if there.manifest["fingerprint"] == content_hash(settings):
                if resume or not force:
                    return there
            elif not force and there.manifest["fingerprint"] != _EMPTIED:
                raise _another_run(folder, there.manifest["settings"], settings)
        _empty(folder, own)
        manifest = {"fingerprint": content_hash(settings), "settings": settings, "complete": False}
        with writing(folder):
            (folder / SHARDS).mkdir(exist_ok=True)
        write_sealed_json(path, manifest)
        return cls(folder, manifest)

    @classmethod
    def require_equal_settings(cls, folder: Path, settings: Mapping[str, Any]) -> None:
        """OutputError when `folder` holds a job in which one of `settings` is another."""
        if (folder / MANIFEST).is_file():
            manifest = cls.read(folder).manifest
            here = json.loads(json.dumps(settings))
            old = {name: manifest["settings"].get(name) for name in here}
            if manifest["fingerprint"] != _EMPTIED and old != here:
                raise _another_run(folder, old, here)

    @classmethod
    def _to_replace(cls, folder: Path) -> "ShardedRun":
        """The job that is to be replaced; what its manifest says does not matter."""
        try:
            return cls.read(folder)
        except OutputError:
            return cls(folder, {"fingerprint": _EMPTIED, "settings": {}})

    @classmethod
    def read(cls, folder: str | os.PathLike) -> "ShardedRun":
        """The job in `folder`, whatever its settings. OutputError when there is none, or its manifest is damaged."""
        folder = Path(folder)
        path = folder / MANIFEST
        if not os.path.lexists(path):
            raise OutputError(f"{folder} is not a rankcell result: it has no {MANIFEST}")
        try:
            fault = damage(path)
            if fault is not None:
                raise ValueError(fault)
            manifest = read_sealed_json(path)
            is_sealed = manifest.pop(HASH, None) is not None
        except (ValueError, OSError) as e:
            raise OutputError(f"{path} is damaged ({e}): bring it back, or delete {folder} and run again") from e
        wrong = next((k for k, kind in _TYPES.items() if not isinstance(manifest.get(k, kind()), kind)), None)
        if wrong is not None or "fingerprint" not in manifest:
            raise OutputError(
                f"{path} is not a rankcell manifest{f' ({wrong} is no {_TYPES[wrong].__name__})' if wrong else ''}: choose another folder"
            )
        return cls(folder, {"settings": {}} | manifest, is_sealed=is_sealed)

    @property
    def complete(self) -> bool:
        return bool(self.manifest.get("complete"))

    def shard(self, kind: str, unit: int, suffix: str = ".parquet") -> Path:
        return self.folder / SHARDS / f"{kind}-{unit:06d}{suffix}"

    def note(self, **facts: Any) -> None:
        """Add entries to the manifest, for later starts of the same job."""
        if any(self.manifest.get(k) != v for k, v in facts.items()):
            self.manifest |= facts
            write_sealed_json(self.folder / MANIFEST, self.manifest)

    def finish(self, files: Iterable[str] = (), **facts: Any) -> None:
        """Complete the manifest: the results, and size and hash of `files` in the folder."""
        self.manifest |= facts | {"complete": True}
        self.manifest |= {"files": by_file} if (by_file := {name: file_facts(self.folder / name) for name in files}) else {}
        write_sealed_json(self.folder / MANIFEST, self.manifest)


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
    """The checked result folder (see `check_result_folder`), created where there is none. OutputError also when it cannot be created."""
    folder = check_result_folder(path)
    with writing(folder):
        folder.mkdir(exist_ok=True)
    return folder


def _is_ours(name: str) -> bool:
    """Whether a run killed before its manifest was written may have left this."""
    part = part_of(name)
    return _LOCKS.fullmatch(name) is not None or (part is not None and part["name"] == MANIFEST)


def _empty(folder: Path, own: Sequence[Own]) -> None:
    """Remove what a run put into `folder`. The manifest goes first to one that says so: killed here, it can be started anew.

    OutputError when something else is there, or the folder is reached by a link.
    """
    if (folder / MANIFEST).exists():
        require_unlinked(folder)
    require_own(folder, (*RUN_FILES, *own))
    write_sealed_json(folder / MANIFEST, {"fingerprint": _EMPTIED, "settings": {}, "complete": False})
    remove_own(folder, (*SHARD_FILES, *own))


def remove_run(folder: Path, own: Sequence[Own] = ()) -> None:
    """Remove a run's folder, its manifest after all else: killed meanwhile, it is still known for what it is. What is not the run's stays."""
    if not folder.is_symlink():
        remove_own(folder, (*SHARD_FILES, *own))
        remove_folder(folder, RUN_FILES)


def _another_run(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> OutputError:
    remedy = f"choose another output, or pass {option('force', True)} to replace it"
    return OutputError(f"{folder} holds another run ({differences(old, new)}): {remedy}")


def differences(old: dict[str, Any], new: dict[str, Any], there: Any = "there", now: Any = "now") -> str:
    """Describe the first four settings that differ."""
    rows = [f"{k}: {_short(old.get(k))} {there}, {_short(new.get(k))} {now}" for k in {**old, **new} if old.get(k) != new.get(k)]
    return "; ".join(rows[:4]) + (f"; and {len(rows) - 4} more" if len(rows) > 4 else "")


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else text[:37] + "..."
