"""Which cell columns an output gets beside the embeddings, decided before the model runs."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from rankcell.embed.stores import reasons_against
from rankcell.errors import SettingsError
from rankcell.tokens.tokenset import TokenSet
from rankcell.wording import note

_SHOWN = 6


def carried_columns(tokens: TokenSet, out: str | os.PathLike, *, named: Sequence[str] = (), source: Path | None = None) -> list[str]:
    """The cell columns of `tokens` that the format of `out` can hold; a note names the others.

    named
        Columns that the user asked for: SettingsError when one cannot be held.
    source
        The count file that `out` may be a copy of.
    """
    reasons = reasons_against(out, {c: tokens.table[c] for c in tokens.obs_columns}, source=source)
    for name in named:
        if (carried := tokens.obs_name(name)) in reasons:
            raise SettingsError(
                f"the cell column {name!r} {reasons[carried]}, so {out} cannot have it: rename or change it, or write .parquet"
            )
    note_left_out(reasons, out)
    return [c for c in tokens.obs_columns if c not in reasons]


def note_left_out(reasons: Mapping[str, str], out: str | os.PathLike) -> None:
    """Name the cell columns that an output does not get ({column: why, in words that follow its name}); nothing where there are none."""
    if reasons:
        shown = ", ".join(f"{name!r} ({reason})" for name, reason in list(reasons.items())[:_SHOWN])
        more = f" and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
        note(f"{len(reasons)} cell column{'s are' if len(reasons) > 1 else ' is'} left out of {out}: {shown}{more}")
