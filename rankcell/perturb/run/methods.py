"""The methods of a screen by name: one more is one more entry."""

from collections.abc import Mapping
from typing import Any

from rankcell.perturb.run.method import ExactMethod, Method
from rankcell.perturb.run.method_fast import FastMethod

METHODS: dict[str, Method] = {method.name: method for method in (ExactMethod(), FastMethod())}


def method_of(settings: Mapping[str, Any]) -> Method:
    """The method of a screen with these settings; folders of earlier versions do not name the exact one."""
    return METHODS[settings.get("method", "exact")]
