"""Arguments of public functions, converted to their annotations or refused in one line."""

import functools
import inspect
import numbers
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rankcell.errors import SettingsError

__all__ = ["checked", "checked_arguments", "convert", "hint_of", "layer_list", "one_layer"]

_PLAIN = {bool, int, float, str, os.PathLike, type(None)}


def checked(function: Callable) -> Callable:
    """Decorator: call `function` with its arguments as `checked_arguments` gives them."""

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = checked_arguments(function, args, kwargs)
        return function(*args, **kwargs)

    return called


def checked_arguments(function: Callable, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Convert the arguments of a call to the types that `function` is annotated with; SettingsError for the first that cannot be.

    Text that is a number is taken where a number is wanted, numpy's numbers and truth values as Python's, a list of one name for the name.
    Parameters that take anything (Any, an object of some class) are left as they are.
    """
    signature, hints = _signature(function)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:  # the call itself says which argument is missing or unknown
        return args, kwargs
    for name, value in bound.arguments.items():
        if name in hints:
            bound.arguments[name] = convert(name, value, *hints[name])
        elif (classes := _option_classes(signature.parameters[name].annotation)) and not isinstance(value, classes):
            raise SettingsError(f"{name} is {_shown(value)}; give {' or '.join(_calls(classes))}")
    return bound.args, bound.kwargs


@functools.cache
def _signature(function: Callable) -> tuple[inspect.Signature, dict[str, tuple[frozenset, bool]]]:
    """(its signature, parameter -> (plain types, whether several are taken)) for the parameters that take nothing but these."""
    hints = {}
    for name, hint in inspect.get_annotations(function).items():
        plain = None if name == "return" else hint_of(hint)
        if plain is not None:
            hints[name] = plain
    return inspect.signature(function), hints


def _option_classes(hint: Any) -> tuple[type, ...]:
    """The classes of options that an annotation takes (rankcell.options), where it takes nothing else."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union else (hint,)
    return kinds if all(hasattr(kind, "option_words") for kind in kinds) else ()


def _calls(classes: Iterable[type]) -> list[str]:
    """How options are written: `rc.Counts(...)`; of a base class that is not public itself, each class made from it."""
    import rankcell

    public = [[cls] if cls.__name__ in rankcell.__all__ else cls.__subclasses__() for cls in classes]
    return [f"rc.{kind.__name__}(...)" for kinds in public for kind in kinds]


def _shown(value: Any) -> str:
    shown = f"the class {value.__name__}" if isinstance(value, type) else repr(value)
    return shown if len(shown) <= 60 and "\n" not in shown else f"of type {type(value).__name__}"


def hint_of(hint: Any) -> tuple[frozenset, bool] | None:
    """(plain types, whether several are taken) of an annotation that takes nothing but these, else None."""
    if isinstance(hint, str):  # a class of a library that is not loaded for its name
        return None
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union else (hint,)
    several = [p for p in parts if typing.get_origin(p) is Sequence]
    plain = frozenset(p for p in parts if p in _PLAIN) | frozenset(typing.get_args(p)[0] for p in several)
    either = str in plain and not plain.isdisjoint({int, float})  # a name or a number: the verb knows
    if either or len(several) + sum(p in _PLAIN for p in parts) != len(parts) or not plain <= _PLAIN:
        return None
    return plain, bool(several)


def convert(name: str, value: Any, plain: frozenset, several: bool) -> Any:
    """A value as one of the plain types; SettingsError, which names the parameter, when it cannot be."""
    if value is None:
        if type(None) in plain:
            return None
        raise SettingsError(f"{name} is None; {_words(plain, several)}")
    is_list = isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping, os.PathLike))
    is_list = is_list and not hasattr(value, "obs_names") and not hasattr(value, "columns")  # an AnnData, a DataFrame
    if several and (is_list or (str not in plain and bool not in plain)):
        return value  # of numbers, the verb knows which
    if is_list and plain <= {str, os.PathLike, type(None)} and len(items := list(value)) == 1:
        value = items[0]
    for kind in (bool, int, float, str, os.PathLike):
        if kind in plain and (taken := _CONVERT[kind](value)) is not None:
            return taken
    raise SettingsError(f"{name} is {_shown(value)}; {_words(plain, several)}")


def _truth(value: Any) -> bool | None:
    return bool(value) if _is_truth(value) else None


def _is_truth(value: Any) -> bool:
    """Whether it is True or False, numpy's too (which need not be loaded)."""
    return isinstance(value, bool) or (type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"))


def _integer(value: Any) -> int | None:
    if _is_truth(value):
        return None
    try:
        number = int(value) if isinstance(value, (str, numbers.Integral)) else float(value)
        return int(number) if isinstance(value, (str, numbers.Real)) and number == int(number) else None
    except (TypeError, ValueError, OverflowError):
        return None


def _real(value: Any) -> float | None:
    if _is_truth(value) or not isinstance(value, (str, numbers.Real)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def layer_list(layer: Any) -> list[int]:
    """Model layers as a list without repeats, from one or several. SettingsError for what is no whole number."""
    several = [layer] if isinstance(layer, str) or not hasattr(layer, "__iter__") else list(layer)
    layers = [_integer(n) for n in several]
    if None in layers:
        raise SettingsError(f"layer is {_shown(layer)}; a whole number such as -1 (the last block's output) or -2, or a list of them")
    return list(dict.fromkeys(layers))


def one_layer(layer: Any) -> int:
    """One model layer, also from a list of one. SettingsError for several."""
    layers = layer_list(layer)
    if len(layers) != 1:
        raise SettingsError(f"layer is {layer!r}; one layer: a screen compares the states of one")
    return layers[0]


_CONVERT: dict[type, Callable[[Any], Any]] = {
    bool: _truth,
    int: _integer,
    float: _real,
    str: lambda value: value if isinstance(value, str) else None,
    os.PathLike: lambda value: value if isinstance(value, os.PathLike) else None,
}


def _words(plain: frozenset, several: bool) -> str:
    """The values that a parameter takes, in words."""
    names = {bool: "True or False", int: "a whole number", float: "a number", str: "a path" if os.PathLike in plain else "a name"}
    words = [names[kind] for kind in (bool, int, float, str) if kind in plain and not (kind is int and float in plain)]
    return " or ".join([*words, *(["a list of them"] if several else []), *(["None"] if type(None) in plain else [])])
