"""Names of states, COL=STATE, in the forms that people give them. No numpy."""

from collections.abc import Iterable, Mapping
from typing import Any

from rankcell.errors import SettingsError
from rankcell.wording import option

STATE_FORMS = "'COL=STATE', ('COL', 'STATE') or {'COL': 'STATE'}"


def split_state(text: str, name: str) -> tuple[str, str]:
    """`COL=STATE` -> (column, state). `name`: of the option."""
    column, equals, state = text.partition("=")
    if not equals or not column or not state:
        raise SettingsError(f"{option(name, text)}: expected COLUMN=STATE, such as {option(name, 'cell_type=B')}")
    return column, state


def states_as_text(value: Any, name: str = "toward") -> tuple[str, ...]:
    """States as COL=STATE, each once: of a text, (COL, STATE), {COL: STATE or several}, or a list of these."""
    return tuple(dict.fromkeys(_states(value, name)))


def _states(value: Any, name: str) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        several = ((c, [s] if isinstance(s, str) or not isinstance(s, Iterable) else list(s)) for c, s in value.items())
        return [f"{column}={state}" for column, states in several for state in states]
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str) and not any("=" in str(v) for v in value):
        return [f"{value[0]}={value[1]}"]
    if hasattr(value, "obs_names") or not isinstance(value, Iterable):
        raise SettingsError(f"{option(name)} is {type(value).__name__} {str(value)[:40]!r}; {STATE_FORMS}")
    return [text for v in value for text in _states(v, name)]


def start_state(value: Any) -> str | None:
    """`start` as COL=STATE."""
    texts = states_as_text(value, "start")
    if len(texts) > 1:
        raise SettingsError(f"{option('start')} names {len(texts)} states; one, or a mask or ids of the cells of several")
    return texts[0] if texts else None
