"""Arguments in the forms that people give them in Python -> the one form that jobs work with; else one line, in Python's words."""

import numbers
import os
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np

from rankcell.errors import CellError, SettingsError
from rankcell.wording import option

_FORMS = "'COL=STATE', ('COL', 'STATE') or {'COL': 'STATE'}"


def whole_number(value: Any, name: str) -> int | None:
    """A whole number given as int, as numpy's, as a float without a fraction, or as text; None stays."""
    if value is None:
        return None
    try:
        number = int(value) if isinstance(value, (str, numbers.Integral)) else float(value)
    except (TypeError, ValueError):
        number = None
    if (
        number is None
        or isinstance(value, (bool, np.bool_))
        or number != number
        or number in (float("inf"), -float("inf"))
        or number != int(number)
    ):
        raise SettingsError(f"{name} is {value!r}; a whole number")
    return int(number)


def one_text(value: Any, name: str) -> str | None:
    """A name, also as a list of one; None stays."""
    if value is None or isinstance(value, str):
        return value
    several = list(value) if isinstance(value, Iterable) else [value]
    if len(several) != 1 or not isinstance(several[0], str):
        raise SettingsError(f"{name} is {value!r}; one name")
    return several[0]


def one_layer(value: Any) -> int:
    """A layer of the model, also as a list of one."""
    several = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    if len(several) != 1:
        raise SettingsError(f"layer is {value!r}; one layer: a screen compares the states of one")
    return whole_number(several[0], "layer")


def gene_names(value: Any) -> Any:
    """ "all" (also for None), a text as it is, or a list of names; of a set in order of the alphabet."""
    if value is None:
        return "all"
    if isinstance(value, (str, bytes)) or hasattr(value, "obs_names"):
        if isinstance(value, str):
            return value
        raise SettingsError(f"genes is a {type(value).__name__}; 'all', a name or a list of names")
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        raise SettingsError(
            f"genes is {value!r}; 'all', a name or a list of names" + (" (sets takes {name: genes})" if isinstance(value, Mapping) else "")
        )
    names = sorted(value, key=str) if isinstance(value, AbstractSet) else list(value)
    wrong = next((n for n in names if not isinstance(n, str)), None)
    if wrong is not None or any(not n for n in names):
        raise SettingsError(f"genes holds {wrong!r}; names of genes" if wrong is not None else "genes holds an empty name")
    return [str(n) for n in names]


def named_sets(value: Any) -> Any:
    """Named sets as {name: list of genes}; a path as it is. The genes of a set may be one text with commas."""
    if isinstance(value, (str, os.PathLike)) or value is None:
        return value
    if not isinstance(value, Mapping):
        raise SettingsError(f"sets is a {type(value).__name__}; {{name: genes}}, or a file of sets")
    return {str(name): _genes_of_set(genes, name) for name, genes in value.items()}


def _genes_of_set(genes: Any, name: Any) -> list[str]:
    if isinstance(genes, str):
        return [g.strip() for g in genes.split(",") if g.strip()]
    if genes is None or isinstance(genes, Mapping) or not isinstance(genes, Iterable):
        raise SettingsError(f"the set '{name}' is {genes!r}; a list of genes")
    return gene_names(genes)


def states_as_text(value: Any, name: str) -> list[str]:
    """States as COL=STATE each: a text, (COL, STATE), {COL: STATE or several}, or a list of these."""
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
        raise SettingsError(f"{option(name)} is {type(value).__name__} {str(value)[:40]!r}; {_FORMS}")
    return [text for v in value for text in states_as_text(v, name)]


def start_cells(value: Any, source: Any) -> tuple[str | None, list[str] | None]:
    """`start` as (COL=STATE, ids of cells), of which one is None: a state, a mask of the cells of `source`, or their ids."""
    if value is None or isinstance(value, (str, Mapping)) or (isinstance(value, tuple) and len(value) == 2):
        texts = states_as_text(value, "start")
        if len(texts) > 1:
            raise SettingsError(f"start names {len(texts)} states; one, or a mask or ids of the cells of several")
        return (texts[0] if texts else None), None
    if not isinstance(value, Iterable) or hasattr(value, "obs_names"):
        raise SettingsError(f"start is a {type(value).__name__}; {_FORMS}, a boolean mask of the cells or their ids")
    values = np.asarray(value if hasattr(value, "__array__") else list(value))
    if values.dtype == bool or (values.dtype == object and len(values) and all(isinstance(v, (bool, np.bool_)) for v in values)):
        return None, _masked(value, values.astype(bool), source)
    texts = [str(v) for v in values.tolist()]
    if not all(isinstance(v, str) for v in values.tolist()):
        raise SettingsError(f"start is a list of {type(values.tolist()[0]).__name__}; {_FORMS}, a boolean mask of the cells or their ids")
    return (texts[0], None) if len(texts) == 1 and "=" in texts[0] else (None, texts)


def _masked(value: Any, mask: np.ndarray, source: Any) -> list[str]:
    """Ids of the cells where a mask is true; one with an index is taken by its ids."""
    ids: Sequence[str] | None = getattr(source, "obs_names", None)
    ids = getattr(source, "cell_ids", None) if ids is None else ids
    if ids is None:
        raise SettingsError("start is a mask, and the input is a file: give the AnnData or the TokenSet that the mask is of")
    ids = [str(i) for i in ids]
    if len(mask) != len(ids):
        raise SettingsError(f"start is a mask of {len(mask):,} cells, and the input has {len(ids):,}")
    index = getattr(value, "index", None)
    if index is None or callable(index):
        return [i for i, on in zip(ids, mask, strict=True) if on]
    order = [str(i) for i in index]
    if order != ids and set(order) != set(ids):
        raise CellError(f"the index of the mask in start has other cells than the input (such as {order[0]}, and {ids[0]} there)")
    on = {i for i, m in zip(order, mask, strict=True) if m}
    return [i for i in ids if i in on]


def state_source(value: Any) -> Any:
    """`states` as they are; SettingsError for what cannot be a table of them."""
    if hasattr(value, "obs_names"):
        raise SettingsError("states is an AnnData; the DataFrame of rc.tl.state_embeddings, or a file of states")
    if value is None or isinstance(value, (str, os.PathLike)) or hasattr(value, "columns") or hasattr(value, "vectors"):
        return value
    raise SettingsError(f"states is a {type(value).__name__}; the DataFrame of rc.tl.state_embeddings, or a file of states")
