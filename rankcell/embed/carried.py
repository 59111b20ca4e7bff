"""Which cell columns an output gets beside the embeddings, decided before the model runs."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from rankcell.counts import find_inputs, open_at_counts
from rankcell.embed.stores import STORES, reasons_against
from rankcell.errors import CellError, InputError, SettingsError
from rankcell.tokens.job import column_types, names_of_obs
from rankcell.tokens.tokenset import TokenSet
from rankcell.wording import note

_SHOWN = 6


def carried_columns(tokens: TokenSet, out: str | os.PathLike, *, required: Sequence[str] = (), source: Path | None = None) -> list[str]:
    """The cell columns of `tokens` that the format of `out` can hold; a note names the others.

    required
        Columns that the user asked for: SettingsError when one cannot be held.
    source
        The count file that `out` may be a copy of.
    """
    reasons = reasons_against(out, {c: tokens.table[c] for c in tokens.obs_columns}, source=source)
    for name in required:
        if (carried := tokens.obs_name(name)) in reasons:
            raise SettingsError(
                f"the cell column {name!r} {reasons[carried]}, so {out} cannot have it: rename or change it, or write .parquet"
            )
    note_omitted_columns(reasons, out)
    return [c for c in tokens.obs_columns if c not in reasons]


def note_omitted_columns(reasons: Mapping[str, str], out: str | os.PathLike) -> None:
    """Name the cell columns that an output does not get ({column: why, in words that follow its name}); nothing where there are none."""
    if reasons:
        shown = ", ".join(f"{name!r} ({reason})" for name, reason in list(reasons.items())[:_SHOWN])
        more = f" and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
        note(f"{len(reasons)} cell column{'s are' if len(reasons) > 1 else ' is'} left out of {out}: {shown}{more}")


def columns_to_carry(source: str | os.PathLike, out: str | os.PathLike, *, required: Sequence[str] = ()) -> list[str]:
    """The cell columns of count files that an AnnData `out` is to have, where `out` is no copy of it that has them anyway.

    Of several files those that all of them have. A note names what tokens or `out` cannot hold, but for the columns in `required`,
    which whoever needs them refuses.
    """
    store = STORES[Path(out).suffix.lower()]
    if not store.has_obs or store.copies(Path(source)):
        return []
    inputs, columns, reasons = find_inputs(source), {}, {}
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(open_at_counts(item)) for item in inputs.items]
        for name in [c for c in dict.fromkeys(opened[0].obs_columns) if all(c in one.obs_columns for one in opened)]:
            try:
                obs = [{name: one.obs(name)} for one in opened]
                column_types(obs, inputs)
                columns[name] = pa.chunked_array([obs[0][name]])
            except (InputError, CellError) as e:
                reasons[name] = f"cannot be read or carried: {str(e)[:150]}"
        tables = {c: "holds a table or records, not one value a cell" for c in opened[0].obs_tables}
    names = names_of_obs(columns, several=inputs.several)
    reasons |= {names[name]: why for name, why in reasons_against(out, {name: columns[c] for name, c in names.items()}).items()}
    note_omitted_columns(tables | {c: reasons[c] for c in opened[0].obs_columns if c in reasons and c not in required}, out)
    return [c for c in columns if c not in reasons]
