"""The results folder of a finished screen, as it is read back.

`ScreenFolder` is the one reader, for every room: a table is compared with the size and hash that the manifest keeps of it before it is
used. rankcell.perturb.results.screen_tables.read_shard reads the parts of an unfinished one.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from rankcell.errors import InputError, OutputError, is_out_of_memory
from rankcell.perturb.results.screen_tables import AFFECTED, AUDIT, CELLS, EDITS, EPISTASIS, SCREEN, first_line
from rankcell.store import ShardedRun, damage
from rankcell.wording import command, option

_LEAST = {  # columns without which a table is none
    SCREEN: ("cell_id", "edit", "kind", "genes", "rank", "n_tokens"),
    CELLS: ("cell_id",),
    EDITS: ("edit", "genes"),
    AUDIT: ("edit", "sampled"),
    AFFECTED["mean"]: ("edit", "genes", "affected", "n", "mean_cos", "sd_cos"),
    AFFECTED["top"]: ("cell_id", "edit", "genes", "affected", "cos"),
    AFFECTED["raw"]: ("cell_id", "edit", "genes", "affected", "cos"),
}


@dataclass(frozen=True)
class ScreenFolder:
    """A finished screen: its folder and what its manifest says."""

    folder: Path
    manifest: dict[str, Any]

    def has(self, name: str) -> bool:
        """Whether the screen has a table (SCREEN, CELLS, ...), lost or not; folders of early versions: whether it is there."""
        return name in self.manifest["files"] if "files" in self.manifest else (self.folder / name).exists()

    def path(self, name: str) -> Path:
        """Where a table is. InputError when it is not as it was written (its hash is taken once by a process)."""
        path = self.folder / name
        reason = damage(path, self.manifest.get("files", {}).get(name))
        if reason is not None:
            raise self._damaged(name, reason)
        return path

    def read(self, name: str, columns: Sequence[str] | None = None, **kwargs: Any) -> pa.Table:
        """A table of the screen (SCREEN, CELLS, EDITS, AUDIT, ...), or some columns of it; InputError when it is damaged.

        kwargs
            Of pyarrow.parquet.read_table: `filters`, `read_dictionary`.
        """
        import pyarrow.parquet as pq

        path = self.path(name)
        self.columns(name)
        try:
            return pq.read_table(path, columns=columns, **kwargs)
        except (OSError, ValueError, KeyError, pa.ArrowException) as e:
            if is_out_of_memory(e):
                raise
            raise self._damaged(name, e) from e

    def columns(self, name: str = SCREEN) -> list[str]:
        """The columns of a table. InputError when it lacks one that belongs to it."""
        import pyarrow.parquet as pq

        try:
            names = pq.read_schema(self.path(name)).names
        except (OSError, ValueError, pa.ArrowException) as e:
            if is_out_of_memory(e):
                raise
            raise self._damaged(name, e) from e
        missing = [c for c in _LEAST.get(name, ()) if c not in names]
        if missing:
            raise self._damaged(name, f"it has no column {missing[0]}")
        return names

    def check(self) -> None:
        """InputError when any table is damaged."""
        for name in self.manifest.get("files", (SCREEN,)):
            self.path(name)

    def _damaged(self, name: str, reason: object) -> InputError:
        return InputError(
            f"{self.folder / name} is damaged ({first_line(reason)}): bring it back from a copy, or delete {self.folder} and give the same "
            f"{command('perturb')} again"
        )

    def table(self) -> pa.Table:
        """One row per cell and edit (see `screen_table`)."""
        return self.read(SCREEN)

    def cells(self) -> pa.Table:
        """One row per screened cell, in order: `cell_id`, `n_tokens`, `n_genes` and the cell columns that the tokens carry."""
        return self.read(CELLS)

    def edits(self) -> pa.Table:
        """One row per target: `edit`, `kind`, `genes`, `symbols`, `n_cells`, `detection`, `expression`, `mean_rank`."""
        return self.read(EDITS)

    def affected(self, which: str = "mean") -> pa.Table:
        """One row per perturbed target and affected gene ("mean"), or per edit of a cell and affected gene ("top", "raw").

        OutputError when the screen was run without it.
        """
        name = AFFECTED[which]
        if not self.has(name):
            parameter = "affected" if which == "mean" else f"affected_{which}"
            setting = option(parameter, placeholder="K") if which == "top" else option(parameter, True)
            raise OutputError(f"{self.folder} has no {name}: run the screen with {setting}")
        return self.read(name)

    def audit(self) -> pa.Table:
        """Of a fast screen, one row per edit that was run exactly: `cell_id`, `edit`, `rank`, `n_tokens`, `sampled` (drawn at random),
        then each score and `<score>_predicted`. OutputError for a screen by the exact method."""
        if not self.has(AUDIT):
            raise OutputError(f"{self.folder} has no {AUDIT}: it was not run with {option('method', 'fast')}")
        return self.read(AUDIT)

    def epistasis(self) -> pa.Table:
        """Pairs of genes of a fast screen: see rankcell.perturb.fast.audit_tables.epistasis_table. OutputError when it was run without."""
        if not self.has(EPISTASIS):
            setting = option("epistasis", placeholder="N")
            raise OutputError(f"{self.folder} has no {EPISTASIS}: run the screen with {setting}")
        return self.read(EPISTASIS)

    def symbols(self) -> dict[str, str]:
        """`genes` as in the table -> symbols joined by +."""
        t = self.edits()
        return dict(zip(t["genes"].to_pylist(), t["symbols"].to_pylist(), strict=True))


def read_screen(folder: str | os.PathLike) -> ScreenFolder:
    """Open a results folder. OutputError when it is none, or its run has not finished."""
    if not Path(folder).is_dir():
        raise InputError(f"no results folder {folder}")
    run = ShardedRun.read(folder)
    if not run.complete:
        is_cut = any(Path(folder).glob(".lock-*of*"))
        parts = f" (parts, each run with its {option('shard')}, are put together with {option('merge', True)})" if is_cut else ""
        raise OutputError(f"the screen in {folder} has not finished: give the same {command('perturb')} again to go on{parts}")
    return ScreenFolder(Path(folder), run.manifest)
