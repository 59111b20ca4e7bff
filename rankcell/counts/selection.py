"""Cell filters: expressions over cell annotations, such as `cell_type == 'B' and n_genes > 500`."""

import re
from typing import Any

import numpy as np

from rankcell.counts.source import CountSource, first_names
from rankcell.errors import CellError

_TRUE = {"1", "1.0", "true", "True", "TRUE"}
_FALSE = {"0", "0.0", "false", "False", "FALSE", ""}


def select_rows(source: CountSource, expression: str) -> np.ndarray:
    """Evaluate a cell filter: bool per cell of a pandas query over obs; a column name by itself stands for its truth (1, True, "1").

    Missing values are not kept. CellError when the expression cannot be evaluated, names no column, or does not give a truth
    value per cell.
    """
    columns = _columns_of(source, expression)
    if expression.strip().strip("`") in source.obs_columns:
        return _truth(source, expression.strip().strip("`"))
    if not columns:
        raise CellError(f'{source.name}: the filter "{expression}" names no cell column; there are {first_names(source.obs_columns, 12)}')
    import pandas as pd

    frame = pd.DataFrame({c: source.obs(c).to_pandas() for c in columns})
    try:
        truth: Any = frame.eval(expression, engine="python")
    except MemoryError:
        raise
    except Exception as e:  # pandas and Python raise what they like at an expression
        raise CellError(
            f'{source.name}: the filter "{expression}" cannot be evaluated ({type(e).__name__}: {e}); cell columns are '
            f"{first_names(source.obs_columns, 12)}; text needs quotes, names with spaces need backticks{_meant(expression)}"
        ) from e
    if not isinstance(truth, pd.Series) or str(truth.dtype) not in ("bool", "boolean", "object") or len(truth) != source.n_cells:
        raise CellError(f'{source.name}: the filter "{expression}" does not say yes or no for each cell{_meant(expression)}')
    return truth.fillna(False).to_numpy(dtype=bool)


def column_values(source: CountSource, expression: str) -> dict[str, list[str]]:
    """The distinct values of each obs column that an expression names."""
    values_of_column = {}
    for column in _columns_of(source, expression):
        values = source.obs(column)
        known = values.dictionary if hasattr(values, "dictionary") else values.unique()
        values_of_column[column] = [str(v) for v in known.to_pylist()]
    return values_of_column


def _columns_of(source: CountSource, expression: str) -> list[str]:
    return [c for c in source.obs_columns if re.search(rf"(?<![\w.]){re.escape(c)}(?!\w)", expression)]


def _meant(expression: str) -> str:
    return "; to compare, write ==" if re.search(r"[^=!<>]=[^=]", expression) else ""


def _truth(source: CountSource, column: str) -> np.ndarray:
    """A column of truth values, of 0 and 1, or of their names."""
    values = ["" if v is None else str(v) for v in source.obs(column).to_pylist()]
    odd = set(values) - _TRUE - _FALSE
    if odd:
        raise CellError(
            f"{source.name}: cell column '{column}' holds '{sorted(odd)[0]}': a filter by its name alone needs 0 and 1, or True and False"
        )
    return np.array([v in _TRUE for v in values])
