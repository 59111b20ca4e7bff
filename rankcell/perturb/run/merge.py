"""From the shards of all units to the tables of a finished screen; and parts that were run in folders of their own, put together."""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rankcell.errors import InputError, OutputError, SettingsError
from rankcell.model.devices import devices_of
from rankcell.model.options import AUTO
from rankcell.perturb.edits.plan import EditPlan
from rankcell.perturb.results.screen_folder import ScreenFolder
from rankcell.perturb.results.screen_tables import AFFECTED, SCREEN, Names, join_affected, join_tables, read_shard
from rankcell.perturb.run.loaded import LoadedScreen, VerifyJob, threads_as_begun
from rankcell.perturb.run.methods import method_of
from rankcell.perturb.run.prepared import OWN, STAGED, TABLES, VOCAB, WORK, check_files, read_plan, read_prepared, remove_work
from rankcell.store import ShardedRun, atomic_path, check_result_folder, locked, publish, remove_run, require_apart, result_folder, writing
from rankcell.store.sharded_run import SHARDS, differences
from rankcell.vocab import Vocabulary
from rankcell.wording import command, note, option

NOTES = ("cropping", "effort", "input", "unknown_genes")  # of a part, what the whole screen says too
MACHINE = ("device", "attention", "threads", "torch", "tokens_per_batch")  # settings that change the last digits alone
_SHARD = re.compile(r"screen-(\d+)\.parquet")
_PART = re.compile(r"\.lock-(\d+)of(\d+)")


def finish(run: ShardedRun, sources: Sequence[ShardedRun], home: Path, verified: Mapping[int, Any]) -> None:
    """Write the tables of `run` and record that it is complete.

    sources
        Where the shards of each unit are.
    home
        A prepared folder of the same screen.
    verified
        {unit: rows that were run once the units were there} of a fast screen.
    """
    prepared, settings = read_plan(home), run.manifest["settings"]
    staged = run.folder / WORK / STAGED
    with writing(staged):
        staged.mkdir(parents=True, exist_ok=True)
    method = method_of(settings)
    n_rows = join_tables(sources, "screen", staged / SCREEN, method.joined(verified))
    facts = method.join(run, sources, verified, staged)
    for name in settings["affected"]:
        if name == "mean":
            vocab = Vocabulary.load(home / WORK / VOCAB)
            join_affected(sources, staged / AFFECTED[name], Names(EditPlan.from_json(prepared["plan"], vocab), vocab))
        else:
            join_tables(sources, f"affected_{name}", staged / AFFECTED[name])
    tables = publish(staged, run.folder)  # all are whole: what stands under a final name is final
    known = [name for name in TABLES if (run.folder / name).exists()]
    run.finish([*known, *tables], n_rows=n_rows, n_cells=prepared["edges"][-1], n_skipped=prepared["n_skipped"], n_units=len(sources), **facts)
    remove_work(run.folder)
    method.close(run)


def merge(parts: Sequence[str | os.PathLike], out: str | os.PathLike, *, device: str = AUTO, force: bool = False) -> ScreenFolder:
    """Put the parts of a screen (`--shard`) together.

    parts
        Results folders: the one that all parts were run in, or one or several for each.
    out
        A new results folder, or one of the parts.
    device
        Where the largest predictions of the whole screen are run exactly, if that was asked for (verify_screen). Nothing else needs
        the model and the tokens.

    OutputError when the parts are not of one screen, or a unit of work is in none of them, or in two.
    """
    check_result_folder(out)
    out, folders = Path(out), _folders(parts)
    is_inside = os.path.realpath(out) in map(os.path.realpath, folders)
    if not is_inside:
        require_apart(out, folders)
    for folder in folders:
        _require_part(ShardedRun.read(folder))
    with contextlib.ExitStack() as stack:
        for folder in folders:
            if os.access(folder, os.W_OK):  # a part may be on a disk that can only be read
                stack.enter_context(locked(folder))
        runs = [ShardedRun.read(folder) for folder in folders]
        if is_inside and len(runs) == 1 and runs[0].complete:
            screen = ScreenFolder(out, runs[0].manifest)
            screen.check()
            return screen
        _require_one_screen(runs)
        sources = _sources(runs)
        _require_undamaged(sources, runs[0].folder)
        if not is_inside:
            stack.enter_context(_removed_on_failure(out))
            stack.enter_context(locked(result_folder(out)))
            target = ShardedRun.open(out, runs[0].manifest["settings"], force=force, own=OWN)
        else:
            target = next(r for r in runs if os.path.samefile(r.folder, out))
        if not target.complete:
            if not is_inside:
                _copy_tables(runs[0].folder, out)
                target.note(**{k: v for k, v in runs[0].manifest.items() if k in NOTES})
            finish(target, sources, runs[0].folder, _verified(target, sources, runs[0].folder, device))
        return ScreenFolder(out, target.manifest)


@contextlib.contextmanager
def _removed_on_failure(out: Path) -> Iterator[None]:
    """Remove a folder that the block creates when the block fails, unless shards were computed in it."""
    is_new = not out.exists()
    try:
        yield
    except BaseException:
        if is_new and not any((out / SHARDS).glob("*.parquet")):
            remove_run(out, OWN)
        raise


def _verified(run: ShardedRun, sources: Sequence[ShardedRun], home: Path, device: str) -> Mapping[int, Any]:
    """The rows that are run now that all units are there; the model is opened only for these."""
    with contextlib.ExitStack() as stack:

        def load() -> LoadedScreen:
            work = read_prepared(home)
            stack.enter_context(threads_as_begun(work))
            return LoadedScreen.open(work, devices_of(device)[0], elsewhere=True)

        return method_of(run.manifest["settings"]).verify(VerifyJob(run, sources, load))


def _folders(parts: Sequence[str | os.PathLike]) -> list[Path]:
    folders = [Path(p) for p in parts]
    if not folders:
        raise SettingsError(f"{option('merge', True)} needs the results folders of the parts")
    for n, folder in enumerate(folders):
        if not folder.is_dir():
            raise InputError(f"no results folder {folder}")
        if any(os.path.samefile(folder, other) for other in folders[:n]):
            raise SettingsError(f"{folder} is named twice: name each part once")
    return folders


def _require_part(run: ShardedRun) -> None:
    if "plan_hash" not in run.manifest.get("settings", {}):
        raise OutputError(f"{run.folder} holds no part of a screen: name folders that {command('perturb')} has written with {option('shard')}")


def _require_one_screen(runs: Sequence[ShardedRun]) -> None:
    first, *others = runs
    for run in runs:
        if run.complete and len(runs) > 1:
            raise OutputError(f"{run.folder} is a finished screen, not a part of one: leave it out")
    for run in others:
        a, b = ({k: v for k, v in r.manifest["settings"].items() if k not in MACHINE} for r in (first, run))
        if a != b:
            raise OutputError(
                f"{first.folder} and {run.folder} are parts of different screens ({differences(a, b, first.folder, run.folder)})"
            )
        a, b = first.manifest["settings"], run.manifest["settings"]
        if a != b:
            note(
                f"{first.folder} and {run.folder} were computed differently ({differences(a, b, first.folder, run.folder)}): "
                f"their numbers agree to rounding, not to the last bit{_drawn_elsewhere(a, b)}"
            )


def _drawn_elsewhere(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """Text on what else differs with the device between two parts of a fast screen."""
    is_drawn = a.get("method") == "fast" and a["device"] != b["device"] and a.get("projections")
    return ", and predicted sizes of shift to the error of their random projections, which each make of device draws" if is_drawn else ""


def _sources(runs: Sequence[ShardedRun]) -> list[ShardedRun]:
    """The run that holds the shard of each unit."""
    n_units = len(read_plan(runs[0].folder)["edges"]) - 1
    run_of_unit: dict[int, ShardedRun] = {}
    for run in runs:
        for unit in _units_in(run.folder):
            if unit in run_of_unit:
                raise OutputError(
                    f"unit {unit} is in {run_of_unit[unit].folder} and in {run.folder}: leave one of them out, or run one part again"
                )
            run_of_unit[unit] = run
    missing = [u for u in range(n_units) if u not in run_of_unit]
    if missing:
        raise OutputError(f"{_missing_words(missing, n_units, [r.folder for r in runs])}: run what is missing, then merge")
    return [run_of_unit[u] for u in range(n_units)]


def _require_undamaged(sources: Sequence[ShardedRun], home: Path) -> None:
    """InputError when a shard, or a table that was written before the first, is damaged."""
    check_files(home)
    for unit, source in enumerate(sources):
        for kind in method_of(source.manifest["settings"]).shard_kinds(source.manifest["settings"]):
            read_shard(source, kind, unit, columns=[])


def _units_in(folder: Path) -> list[int]:
    names = (_SHARD.fullmatch(p.name) for p in (folder / SHARDS).glob("screen-*.parquet"))
    return sorted(int(m[1]) for m in names if m)


def parts_of(folder: Path) -> set[int]:
    """Into how many parts the screen in a folder was cut, as far as parts were run there."""
    return {int(m[2]) for m in (_PART.fullmatch(p.name) for p in folder.iterdir()) if m}


def _missing_words(missing: Sequence[int], n_units: int, folders: Sequence[Path]) -> str:
    """`2 of 6 units are missing (2, 5; --shard 3/3)`."""
    cuts = {n for folder in folders for n in parts_of(folder)}
    shards = ""
    if len(cuts) == 1:
        (n,) = cuts
        shards = f"; {option('shard')} " + ", ".join(f"{i + 1}/{n}" for i in sorted({u % n for u in missing}))
    units = ", ".join(map(str, missing[:8])) + (" ..." if len(missing) > 8 else "")
    return f"{len(missing):,} of {n_units:,} units {'is' if len(missing) == 1 else 'are'} missing ({units}{shards})"


def _copy_tables(home: Path, out: Path) -> None:
    """The tables that were written before the first unit."""
    for name in TABLES:
        if (home / name).exists():
            with atomic_path(out / name, force=True) as part:
                part.write_bytes((home / name).read_bytes())
