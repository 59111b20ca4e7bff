"""Arrays that are read only, of exactly one type."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rankcell.errors import VocabularyError


def frozen_array(values: Sequence, dtype: Any) -> np.ndarray:
    """A read-only array of `dtype`. VocabularyError for whole numbers that do not fit it."""
    try:
        array = np.array(values, np.int64 if np.dtype(dtype).kind == "i" else dtype)
        if array.dtype != dtype:  # numpy before 2 does not refuse, and wraps round
            if array.size and not np.iinfo(dtype).min <= array.min() <= array.max() <= np.iinfo(dtype).max:
                raise OverflowError
            array = array.astype(dtype)
    except OverflowError:
        raise VocabularyError(f"a vocabulary's number {max(values)} does not fit {np.dtype(dtype)}") from None
    array.setflags(write=False)
    return array
