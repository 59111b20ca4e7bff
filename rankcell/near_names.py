"""Near matches of a misspelled name. A leaf."""

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["missing_attribute", "near_names", "suggest_names"]


def near_names(name: str, names: Sequence[str]) -> str:
    """The one or two of `names` nearest to `name`, in quotes and joined by "or"; "" where none is near."""
    import difflib

    lower = {n.lower(): n for n in names}
    return " or ".join(f"'{lower[n]}'" for n in difflib.get_close_matches(name.lower(), lower, n=2, cutoff=0.75))


def missing_attribute(module: str, name: str, names: Sequence[str]) -> AttributeError:
    """The error for a name that a module lacks: near matches first, then all public names."""
    near = near_names(name, names)
    has = f"did you mean {near}? It has" if near else "it has"
    # with `name`, the interpreter adds no suggestion of its own behind ours
    return AttributeError(f"module '{module}' has no attribute '{name}'; {has} {', '.join(names)}", name=name, obj=None)


def suggest_names(module: str, names: Sequence[str]) -> Callable[[str], Any]:
    """A module's `__getattr__` that refuses every name, near matches of the public `names` named."""

    def __getattr__(name: str) -> Any:
        raise missing_attribute(module, name, names)

    return __getattr__
