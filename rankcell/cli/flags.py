"""Flags of the command line, made of classes of options (rankcell.options): one flag a field, and the class made again of what was given."""

import dataclasses
import functools
import inspect
import os
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from rankcell.errors import SettingsError
from rankcell.options import Choice, Field, Help, Options, fields_of, is_options, is_set, members_of, parts_of, split_hint
from rankcell.wording import option

_FORMER = "former_"


def flat(function: Callable[..., None]) -> Callable[..., None]:
    """Decorator of a verb: a parameter that is a class of options becomes a flag for each of its fields.

    A parameter `Annotated[X, Help(...)]` becomes one flag; others are the parser's own (typer's) as they stand.
    """
    parameters: list[inspect.Parameter] = []
    builders: dict[str, Callable[[Mapping[str, Any]], Any]] = {}
    single: list[Field] = []
    for p in inspect.signature(function).parameters.values():
        kind, meta = split_hint(p.annotation)
        if isinstance(meta, Help):
            single.append(Field(p.name, p.default, kind, meta))
            parameters.append(_parameter(single[-1]))
        elif is_options(kind) or isinstance(meta, Choice):
            part = meta if isinstance(meta, Choice) else kind
            parameters += _parameters(part)
            builders[p.name] = functools.partial(_build, part)
        else:
            parameters.append(p.replace(kind=p.KEYWORD_ONLY))
    names = {p.name for p in inspect.signature(function).parameters.values()}
    former = list(_former(parameters))
    parameters += former

    @functools.wraps(function)
    def command(**values: Any) -> None:
        for p in former:
            value = values.pop(p.name)
            if is_set(value):
                values[p.name.removeprefix(_FORMER)] = value
        for field in single:
            _require(field, values[field.name])
        function(**{n: v for n, v in values.items() if n in names} | {name: build(values) for name, build in builders.items()})

    del command.__wrapped__
    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in parameters]
    required_first = sorted(parameters, key=lambda p: p.default is not inspect.Parameter.empty)
    command.__signature__ = inspect.Signature(required_first)
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _require(field: Field, value: Any) -> None:
    """SettingsError when a flag of no class of options fails the check of its Help."""
    if value is not None and field.help.check is not None and (expected := field.help.check(value)):
        raise SettingsError(f"{option(field.name)} is {value}; {expected}")


def _parameters(part: type[Options] | Choice) -> Iterator[inspect.Parameter]:
    """The flags of a class, and of the parts of its own."""
    if isinstance(part, Choice):
        first = next(iter(part.variants))
        yield _parameter(Field(part.name, first, str, part.help))
        for field, variants in part.options().values():
            yield _parameter(_without_default(field, "" if len(variants) == len(part.variants) else f"{', '.join(variants)}: "))
        return
    for _, member in members_of(part):
        if isinstance(member, Field):
            if not member.help.python_only:
                yield _parameter(member)
        else:
            yield from _parameters(member)


def _without_default(field: Field, prefix: str) -> Field:
    """The option of a variant, as a flag of which it can be told whether it was given: the default moves into the help."""
    text, default = field.help.text, field.default
    if is_set(default) and default is not dataclasses.MISSING:
        text = f"{text.removesuffix('.')} (default {default})."
    if prefix and text[1:2].islower():
        text = text[:1].lower() + text[1:]
    return dataclasses.replace(
        field, default=False if default is False else () if isinstance(default, tuple) else None, help=dataclasses.replace(field.help, text=prefix + text)
    )


def _parameter(field: Field) -> inspect.Parameter:
    help, several = field.help, _takes_several(field.hint)
    kind = help.cli or (list[str] if several else _cli_type(field.hint))
    flags = list(help.flags) or (["--" + field.name.replace("_", "-")] if kind is bool and field.default is False else [])
    flag = typer.Option(*flags, metavar=help.metavar, help=help.spelled(flags=True))
    flag.former = ["--" + name.replace("_", "-") for name in help.hidden]
    default = field.default
    if default in (dataclasses.MISSING, inspect.Parameter.empty):
        default = inspect.Parameter.empty
    elif typing.get_origin(kind) is list:
        default = [default] if isinstance(default, str) else list(default or ())
    elif default is None or kind is bool:
        kind = kind | None if default is None else kind
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, flag])


def _former(parameters: Sequence[inspect.Parameter]) -> Iterator[inspect.Parameter]:
    """A hidden option for the former flags of each, but for those that another option has now."""
    taken = {flag for p in parameters for meta in _metas(p) for flag in (*(meta.param_decls or ()), "--" + p.name.replace("_", "-"))}
    for p in parameters:
        kind, metas = split_hint(p.annotation)[0], _metas(p)
        if flags := [flag for meta in metas for flag in getattr(meta, "former", ()) if flag not in taken]:
            hidden = Annotated[kind | None, typer.Option(*flags, hidden=True)]
            yield p.replace(name=_FORMER + p.name, default=None, annotation=hidden, kind=p.KEYWORD_ONLY)


def _metas(p: inspect.Parameter) -> list[Any]:
    """The parser's own (typer's) description of an option."""
    return [meta for meta in getattr(p.annotation, "__metadata__", ()) if hasattr(meta, "param_decls")]


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union else (hint,)


def _takes_several(hint: Any) -> bool:
    return any(typing.get_origin(p) in (Sequence, list, tuple) for p in _alternatives(hint))


def _cli_type(hint: Any) -> Any:
    """The one plain type that the parser reads for an annotation: a path, a text or a number."""
    parts = _alternatives(hint)
    if os.PathLike in parts or Path in parts:
        return Path
    return next((kind for kind in (str, float, int, bool) if kind in parts), str)


def _build(part: type[Options] | Choice, values: Mapping[str, Any]) -> Options:
    """Build the options of a class from a command line."""
    if isinstance(part, Choice):
        return _build_variant(part, values)
    own = {f.name: _plain(values[f.name], f.default) for f in fields_of(part) if not f.help.python_only}
    return part(**own, **{name: _build(inner, values) for name, inner in parts_of(part)})


def _build_variant(choice: Choice, values: Mapping[str, Any]) -> Options:
    fields = {name: field for name, (field, _) in choice.options().items()}
    return choice.build(values[choice.name], {n: _plain(v, f.default) for n, f in fields.items() if is_set(v := values[n])})


def _plain(value: Any, default: Any) -> Any:
    """A value of the parser as the class takes it: a list as a tuple, or as the default itself where it says the same."""
    if isinstance(value, list):
        value = tuple(value)
        return default if value == default or value == (default,) or (not value and default is None) else value
    return value
