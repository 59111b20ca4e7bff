"""How a message names an option: as a flag at the command line (`--counts-layer NAME`), as a parameter in Python (`counts_layer='NAME'`).

Messages are made where the fact is known, which is far below the verb that was called; the verb decides how its options are spelled.
The command line enters `command_line` around each verb, the counters mark theirs with `python_verb`; below, `option("counts_layer")`
and `offers("counts_layer")` answer for the verb that runs.
"""

import contextlib
import functools
import inspect
import os
import shlex
import sys
import typing
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar, cast

from rankcell import progress
from rankcell.config import settings
from rankcell.errors import RankcellWarning

__all__ = ["adopt", "command", "command_line", "current", "note", "offers", "one_line", "option", "python_verb", "shortened", "visible"]

Function = TypeVar("Function", bound=Callable)
_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


@dataclass(frozen=True)
class _Verb:
    """The verb that runs. `spelling`: option -> what the verb calls it; None: any option goes by its own name."""

    flags: bool = False
    spelling: Mapping[str, str] | None = field(default=None)


class _Process:
    """The verb of this process, not of a thread or context: blocks are read, and refused, in threads."""

    running = _Verb()


def option(name: str, value: Any = None, *, placeholder: str | None = None) -> str:
    """Spell the option `name` as the caller would write it.

    value
        What to give it: `--counts-layer 'my counts'`, `counts_layer='my counts'`; True: `--raw`, `raw=True`; False: `--no-cls`, `cls=False`.
    placeholder
        In place of a value, at the command line only: `--controls A,B`, `controls`.
    """
    if _Process.running.flags:
        flag = (_Process.running.spelling or {}).get(name) or "--" + name.replace("_", "-")
        if value is False:
            return f"--no-{flag.removeprefix('--')}"
        text = None if value is None or value is True else shlex.quote(str(value))
        return " ".join(part for part in (flag, text or placeholder) if part)
    if _Process.running.spelling is None:
        return name if value is None else f"{name}={value!r}"
    word = _Process.running.spelling.get(f"{name}={value}") or _OWNERS.get(f"{name}={value}") or _Process.running.spelling.get(name) or _OWNERS.get(name, name)
    if "{}" in word:
        return word.format(f"{name}=..." if value is None else f"{name}={value!r}")
    return word if value is None or word.endswith("()") else f"{word}={value!r}"


_VERBS = {"shard": "part", "merge=True": "rc.tl.merge()", "dry_run=True": "rc.tl.estimate_perturb()"}  # flags that are verbs in Python
_OWNERS: dict[str, str] = dict(_VERBS)  # option -> how it is written where it is no parameter of the verb: `rc.Measure({})`, of the first class that has it


def own(name: str, written: str) -> None:
    """Messages in Python write the option `name`, where the verb that runs has no such parameter, as in `rc.Fast({})` (or `rc.Fast()`)."""
    _OWNERS.setdefault(name, written)


_IN_PYTHON = {"tokenize": "rc.pp.tokenize", "embed": "rc.tl.embed", "perturb": "rc.tl.perturb"}


def command(verb: str, arguments: str = "") -> str:
    """Spell the command `rankcell VERB ARGUMENTS` as the caller would use it.

    At the command line in quotation marks. In Python the function that does the same; where there is none, the command with the
    remark that it is for a terminal.
    """
    if not _Process.running.flags and verb in _IN_PYTHON:
        return _IN_PYTHON[verb]
    typed = f"'{' '.join(filter(None, ('rankcell', verb, arguments)))}'"
    return typed if _Process.running.flags else f"{typed} in a terminal"


def offers(name: str) -> bool:
    """Whether the verb that runs has the option `name`; True outside of any verb."""
    return _Process.running.spelling is None or name in _Process.running.spelling


def note(text: str) -> None:
    """Warn (RankcellWarning) of something that does not stop the work, at the line outside of this package that led to it."""
    if not settings.verbosity:
        return
    progress.clear()
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and os.path.abspath(frame.f_code.co_filename).startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, RankcellWarning, stacklevel=level)


def shortened(value: Any, most: int = 60) -> str:
    """A value of somebody's file for a message: its repr, cut to `most` characters, on one line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of more digits than Python prints, lists in lists
        text = f"a {type(value).__name__}"
    text = one_line(text) if "\n" in text else text  # arrays, tables
    return text if len(text) <= most else f"{text[: most - 3]}..."


def shorten(text: str, n: int = 26) -> str:
    """At most `n` characters of a name; the middle is left out, so that what stands at either end can be told apart."""
    text = one_line(str(text))
    return text if len(text) <= n else f"{text[: n - n // 3 - 1]}…{text[len(text) - n // 3 :]}"


def current() -> dict[str, Any]:
    """How options are spelled now, as plain JSON for a process that this one starts."""
    verb = _Process.running
    return {"flags": verb.flags, "spelling": None if verb.spelling is None else dict(verb.spelling)}


def adopt(wording: Mapping[str, Any]) -> None:
    """From now on, options are spelled as in the process that started this one."""
    _Process.running = _Verb(bool(wording["flags"]), wording["spelling"])


@contextlib.contextmanager
def command_line(spelling: Mapping[str, str]) -> Iterator[None]:
    """Within it, messages name options as flags. `spelling`: option -> flag, of the verb that runs."""
    with _entered(_Verb(True, MappingProxyType(dict(spelling)))):
        yield


def python_verb(**renamed: str) -> Callable[[Function], Function]:
    """Decorator of a public function: messages name options as its parameters. `renamed`: option -> its parameter of another name.

    Arguments are compared with its annotations (rankcell.arguments). It changes nothing within `command_line`, nor within another public function.
    """

    def decorate(function: Function) -> Function:
        spelling = {name: word for name, word in _option_words(function).items() if name not in renamed.values()}
        verb = _Verb(False, MappingProxyType(spelling | renamed))
        parameters = inspect.signature(function).parameters
        takes_kwargs = any(p.kind is p.VAR_KEYWORD for p in parameters.values())

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            if _Process.running.spelling is not None:
                return function(*args, **kwargs)
            from rankcell.arguments import checked_arguments

            with _entered(verb):
                if not (takes_kwargs or parameters.keys() >= kwargs.keys()):
                    _refuse_misplaced(function, kwargs)
                args, kwargs = checked_arguments(function, args, kwargs)
                return function(*args, **kwargs)

        return cast(Function, called)

    return decorate


def _refuse_misplaced(function: Callable, kwargs: Mapping[str, Any]) -> None:
    """TypeError for the first keyword that is a field of a class of options that `function` takes: it names the class. Others are left to Python."""
    parameters = inspect.signature(function).parameters
    for name in (name for name in kwargs if name not in parameters):
        word = (_Process.running.spelling or {}).get(name, "")
        if not word.endswith("({})"):
            continue
        owner = next((p for p, parameter in parameters.items() if name in _words_of(parameter)), None)
        value = repr(kwargs[name])
        call = word.format(f"{name}={value if len(value) <= 40 and chr(10) not in value else '...'}")
        raise TypeError(f"{function.__qualname__.removesuffix('.__init__')}() has no parameter '{name}': give {f'{owner}={call}' if owner else call}")


def _option_words(function: Callable) -> dict[str, str]:
    """{option: how it is written} of a function: its parameters, and the options of the classes that it takes, as `rc.Counts({})`."""
    parameters = inspect.signature(function).parameters
    words: dict[str, str] = {}
    for parameter in parameters.values():
        for name, word in _words_of(parameter).items():
            words.setdefault(name, word)
    return words | {name: name for name in parameters}


def _words_of(parameter: inspect.Parameter) -> dict[str, str]:
    """{option: how it is written} of the classes of options that a parameter takes."""
    words: dict[str, str] = {}
    for kind in (parameter.annotation, *typing.get_args(parameter.annotation)):
        for name, word in getattr(kind, "option_words", dict)().items():
            words.setdefault(name, word)
    return words


@contextlib.contextmanager
def _entered(verb: _Verb) -> Iterator[None]:
    before, _Process.running = _Process.running, verb
    try:
        yield
    finally:
        _Process.running = before


# Text of unknown origin (cell ids, gene names, paths): one line, without characters that steer a terminal or turn a page's letters round

_STEER = {"Cc", "Cf", "Zl", "Zp", "Cs"}  # control and format characters (escape, NUL, direction marks), line separators, lone surrogates
_JOINERS = "\u200c\u200d"  # letters of some scripts need them


def one_line(text: str) -> str:
    """Blanks and line ends as single blanks, other control and direction characters as \\x1b and the like."""
    return visible(" ".join(text.split()))


def visible(text: str) -> str:
    """A line in which every character that would steer a terminal is written out."""
    return "".join(_written(c) if unicodedata.category(c) in _STEER and c not in _JOINERS else c for c in text)


def _written(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
