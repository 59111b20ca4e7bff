"""How kernels are compiled. Files with kernels are imported inside the functions that call them: numba takes half a second."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable) -> Any:
    """`function` compiled to run without the interpreter's lock, kept beside its file, else in the user's cache folder, else nowhere.

    numba looks for the two folders itself and replaces its files whole, so several processes may start at once; where it finds
    neither (a read-only installation of a user without a home), it would refuse to compile.
    """
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)
