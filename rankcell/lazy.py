"""Doors of rooms that load nothing before a name is taken through them (PEP 562). A leaf."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from rankcell.near_names import missing_attribute

__all__ = ["door"]


def door(room: str, places: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for the `__init__` of `room`; `places`: public name -> module that defines it.

    Source: PEP 562.
    """

    def __getattr__(name: str) -> Any:
        if name not in places:
            raise missing_attribute(room, name, sorted(places))
        value = getattr(importlib.import_module(places[name]), name)
        setattr(sys.modules[room], name, value)
        return value

    return __getattr__, lambda: sorted(places)
