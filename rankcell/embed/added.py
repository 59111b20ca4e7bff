"""Names of what a verb adds to an AnnData or a table: never empty, and never those of what stands there and was not added before."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from rankcell.errors import CellError, SettingsError
from rankcell.wording import option, shortened


def added_name(key_added: str | None, default: str) -> str:
    """`key_added`, or `default` for None; SettingsError for an empty one."""
    if key_added is None:
        return default
    if not key_added.strip():
        raise SettingsError(f"{option('key_added')} is {shortened(key_added)}; a name that is not empty")
    return key_added


def require_free(names: Iterable[str], taken: Collection[str], where: str) -> None:
    """CellError when one of `names` is in `taken`, the names that stand in `where` and are not to be replaced."""
    if replaced := [name for name in names if name in taken]:
        raise CellError(
            f"{where} has '{replaced[0]}' already, which the result would replace: name the result otherwise with {option('key_added')}"
        )


def label_columns(name: str) -> tuple[str, str, str]:
    """The columns that labels carried over go by: the label, its confidence and the distance."""
    return name, f"{name}_confidence", f"{name}_distance"


def foreign_columns(names: Sequence[str], there: Collection[str]) -> list[str]:
    """Those of `there` that are not the result of an earlier run of the same name, which has all of `names`."""
    return [] if set(names) <= set(there) else list(there)


def foreign_keys(obsm: Collection[str], entry: Any, own: str) -> list[str]:
    """Keys of obsm that no embedding by rankcell went by: those that `uns["rankcell"]` does not name and that do not begin as `own`."""
    outputs = entry.get("outputs", {}) if isinstance(entry, Mapping) else {}
    own_outputs = outputs if isinstance(outputs, Mapping) else {}
    return [key for key in obsm if key not in own_outputs and not key.startswith(own)]
