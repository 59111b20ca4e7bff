"""Options: settings declared once, as fields of frozen dataclasses.

A field carries its default, and in `Annotated[type, Help(...)]` its help sentence, unit and check. Python signatures take the classes,
rankcell.cli.flags makes flags of the fields, manifests write `settings()`, engines read the values. A new setting is a new field.
"""

import dataclasses
import difflib
import inspect
import re
import textwrap
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

from rankcell.arguments import convert, hint_of
from rankcell.errors import SettingsError
from rankcell.wording import option, own, shortened

__all__ = ["Choice", "Help", "Options", "at_least", "fields_of", "flag_words", "integer_or", "is_set", "names_in", "one_of", "share"]


@dataclass(frozen=True)
class Help:
    """What a field says of itself.

    text
        Its help sentence, at the command line and in the docstring of its class; `{other_option}` names another as either writes it.
    metavar
        The value's place in `--help`.
    check
        Value (not None) -> what is expected where the value is none of it, else None.
    parse
        Value as given -> the one form that the engine reads; it may raise a RankcellError.
    cli
        The type that the command line reads, where it is not the field's own.
    flags
        At the command line in place of `--the-name`: `("--out", "-o")`. A truth value that is not False by default can be given both ways: `--cls`, `--no-cls`.
    hidden
        Former names, whose flags are still accepted and in no --help, unless another option of the verb has the name now.
    python_only
        The option has no flag.
    """

    text: str
    metavar: str | None = None
    check: Callable[[Any], str | None] | None = None
    parse: Callable[[Any], Any] | None = None
    cli: Any = None
    flags: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    python_only: bool = False

    def spelled(self, *, flags: bool) -> str:
        """The help sentence, with other options as flags or as parameters."""
        return re.sub(r"{(\w+)}", lambda m: "--" + m[1].replace("_", "-") if flags else f"`{m[1]}`", self.text)

    def __repr__(self) -> str:
        return f"Help({self.text!r})"


@dataclass(frozen=True)
class Choice:
    """One of several classes of options, which the flag `--name` chooses between: `Annotated[Edit, Choice(...)]`."""

    name: str
    help: Help
    variants: Mapping[str, type["Options"]]

    def __post_init__(self) -> None:
        for variant, cls in self.variants.items():
            if _is_public(cls.__name__):
                own(f"{self.name}={variant}", f"rc.{cls.__name__}()")

    def options(self) -> "dict[str, tuple[Field, list[str]]]":
        """{option: (its field, the variants that have it)}."""
        fields: dict[str, tuple[Field, list[str]]] = {}
        for variant, cls in self.variants.items():
            for field in fields_of(cls):
                fields.setdefault(field.name, (field, []))[1].append(variant)
        return fields

    def build(self, variant: str, arguments: Mapping[str, Any]) -> "Options":
        """An instance of the variant; SettingsError for an unknown variant, or an option of another."""
        cls = self._require(variant)
        for name, (_, variants) in self.options().items():
            if name in arguments and variant not in variants:
                raise SettingsError(f"{option(name)} is for {' and '.join(variants)}, and {option(self.name)} is {variant}: leave it out")
        return cls(**arguments)

    def _require(self, variant: str) -> type["Options"]:
        if variant in self.variants:
            return self.variants[variant]
        near = difflib.get_close_matches(str(variant).lower(), self.variants, n=1, cutoff=0.6)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise SettingsError(f"unknown {self.name} '{variant}'; one of {', '.join(self.variants)}{meant}")


@dataclass(frozen=True)
class Field:
    """One option: its name and default in the class, its type, and what it says of itself."""

    name: str
    default: Any
    hint: Any
    help: Help


def _is_public(name: str) -> bool:
    import rankcell

    return name in dir(rankcell)


class _PlainSignature:
    """The signature of a class of options, with the types of its fields alone."""

    def __get__(self, instance: Any, owner: type) -> inspect.Signature:
        parameters = []
        for field in dataclasses.fields(owner):
            kind = inspect.Parameter.KEYWORD_ONLY if field.kw_only else inspect.Parameter.POSITIONAL_OR_KEYWORD
            default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
            parameters.append(inspect.Parameter(field.name, kind, default=default, annotation=split_hint(field.type)[0]))
        return inspect.Signature(sorted(parameters, key=lambda p: p.kind))


@dataclass(frozen=True)
class Options:
    """Base of the classes of options: values are compared with types and checks, and taken in one form. SettingsError for the first that cannot be.

    The docstring of a class goes on with its fields.
    """

    __signature__ = _PlainSignature()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.__name__.startswith("_") and _is_public(cls.__name__):
            for name, _, _, help in _annotated(cls):  # the fields' defaults are not known yet
                if isinstance(help, Help):
                    own(name, f"rc.{cls.__name__}({{}})")
        cls.__repr__ = Options.__repr__  # type: ignore[method-assign]  # dataclass leaves it: what is given, without the defaults
        cls.__doc__ = _Documented(cls.__dict__.get("__doc__") or "")  # type: ignore[assignment]

    def __repr__(self) -> str:
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in options.items() if v != defaults[n])})"

    def __post_init__(self) -> None:
        for field in fields_of(type(self)):
            object.__setattr__(self, field.name, _taken(field, getattr(self, field.name)))
        self.check()

    def check(self) -> None:
        """SettingsError for values that contradict each other."""

    def settings(self) -> dict[str, Any]:
        """{name: value} of all fields, as plain JSON where the values are."""
        return {f.name: getattr(self, f.name) for f in fields_of(type(self))}

    def non_defaults(self) -> dict[str, Any]:
        """{name: value} of the fields that differ from their default."""
        return {f.name: value for f in fields_of(type(self)) if (value := getattr(self, f.name)) != f.default}

    @classmethod
    def option_words(cls) -> dict[str, str]:
        """{option: `rc.Class({})`} of the class and its parts; of a base class that users do not have, of its subclasses that they have."""
        classes = [cls] if _is_public(cls.__name__) else [c for c in cls.__subclasses__() if _is_public(c.__name__)]
        words: dict[str, str] = {}
        for public in classes:
            for name in names_in(public):
                words.setdefault(name, f"rc.{public.__name__}({{}})")
        return words

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Of the settings in a manifest, those that are fields of this class; a field that they lack has its default."""
        return cls(**{f.name: settings[f.name] for f in fields_of(cls) if f.name in settings})


def fields_of(cls: type[Options]) -> list[Field]:
    """The options of a class, those of its bases first; parts that are classes of options themselves are not among them."""
    own = cls.__dict__.get("_own_fields")
    if own is None:
        own = [Field(name, default, hint, help) for name, default, hint, help in _annotated(cls) if isinstance(help, Help)]
        type.__setattr__(cls, "_own_fields", own)
    return own


def members_of(cls: type[Options]) -> list[tuple[str, Any]]:
    """(name, Field, class of options or Choice) of all fields, in the order in which they are declared."""
    own = {field.name: field for field in fields_of(cls)}
    return [(name, own.get(name) or (help if isinstance(help, Choice) else hint)) for name, _, hint, help in _annotated(cls)]


def parts_of(cls: type[Options]) -> list[tuple[str, Any]]:
    """(name, class of options or Choice) of the fields that are options themselves."""
    return [(name, help if isinstance(help, Choice) else hint) for name, _, hint, help in _annotated(cls) if not isinstance(help, Help)]


def _annotated(cls: type) -> Iterator[tuple[str, Any, Any, Any]]:
    """(name, default, type, Help or Choice) of every field; of a part, which carries neither, its class and None."""
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        hints |= inspect.get_annotations(base)
    defaults = {f.name: f.default for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else {}
    for name, hint in hints.items():
        kind, meta = split_hint(hint)
        if meta is not None or is_options(kind):
            yield name, defaults.get(name, dataclasses.MISSING), kind, meta


def split_hint(hint: Any) -> tuple[Any, Help | Choice | None]:
    """`Annotated[X, Help(...)]` -> (X, the Help); another hint -> (hint, None)."""
    if typing.get_origin(hint) is Annotated:
        kind, *metas = typing.get_args(hint)
        return kind, next((m for m in metas if isinstance(m, (Help, Choice))), None)
    return hint, None


def is_options(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Options)


def names_in(hint: Any) -> list[str]:
    """Names of the options in a class, or in any of the variants of a choice; [] for another hint."""
    kind, meta = split_hint(hint)
    if isinstance(meta, Choice):
        return [meta.name, *dict.fromkeys(n for variant in meta.variants.values() for n in names_in(variant))]
    if not is_options(kind):
        return []
    own = [f.name for f in fields_of(kind)]
    return [*own, *(n for _, part in parts_of(kind) for n in names_in(Annotated[Options, part] if isinstance(part, Choice) else part))]


def _taken(field: Field, value: Any) -> Any:
    """A value in the form that the field has; SettingsError when it cannot be."""
    help = field.help
    if value is field.default:
        return value
    if help.parse is not None:
        value = help.parse(value)
    elif (hint := hint_of(field.hint)) is not None:
        value = convert(field.name, value, *hint)
    if value is not None and help.check is not None and (expected := help.check(value)):
        raise SettingsError(f"{option(field.name)} is {_plain(value)}; {expected}")
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Any) -> str:
    """A value for a message: several as a list of words."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "empty"
    return value if isinstance(value, str) else shortened(value)


class _Documented:
    """The docstring of a class, with its fields as a numpydoc section of parameters; made when it is read."""

    def __init__(self, text: str):
        self.text = text

    def __get__(self, instance: Any, owner: type) -> str:
        helps = {name: _help_text(hint, meta) for name, _, hint, meta in _annotated(owner)}
        entries = [_entry(p, helps[p.name]) for p in inspect.signature(owner).parameters.values() if p.name in helps]
        parameters = "Parameters\n----------\n" + "\n".join(entries) if entries else ""
        return "\n\n".join(filter(None, (inspect.cleandoc(self.text), parameters)))


def _help_text(hint: Any, meta: Help | Choice | None) -> str:
    """The help sentence of a field; of a part, which has none, the first sentence of its class."""
    if meta is None:
        return inspect.cleandoc(hint.__doc__ or "").partition("\n")[0]
    return (meta if isinstance(meta, Help) else meta.help).spelled(flags=False)


def _entry(parameter: inspect.Parameter, text: str) -> str:
    """A parameter in numpydoc: `name : type, default value`, and the help beneath."""
    kind = re.sub(r"\b(?:\w+\.)+(\w)", r"\1", inspect.formatannotation(parameter.annotation))
    default = "" if parameter.default is inspect.Parameter.empty else f", default {parameter.default!r}"
    return f"{parameter.name} : {kind}{default}\n{textwrap.indent(textwrap.fill(text, 110), '    ')}"


def is_set(value: Any) -> bool:
    """Whether an option is set: None, False and an empty list are not; 0 is."""
    return not (value is None or value is False or (isinstance(value, (list, tuple)) and not value))


def flag_words(options: Mapping[str, Any]) -> list[str]:
    """Options as words of a command line: `--min-cells 5`, `--raw`, `--no-cls`."""
    words: list[str] = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        words += [f"--{'no-' if value is False else ''}{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return words


# Checks: value -> what is expected, or None where it is as expected


def at_least(least: float) -> Callable[[Any], str | None]:
    return lambda value: None if value >= least else f"at least {least}"


def share(value: float) -> str | None:
    return None if 0 < value <= 1 else "a share above 0, at most 1"


def one_of(*names: Any) -> Callable[[Any], str | None]:
    """Check that a value, or each of several, is one of `names`."""

    def check(value: Any) -> str | None:
        several = [value] if isinstance(value, str) or not isinstance(value, (list, tuple)) else value
        return None if several and all(v in names for v in several) else f"one of {', '.join(map(str, names))}"

    return check


def integer_or(word: str, least: int) -> Callable[[Any], str | None]:
    """Check for a whole number of at least `least`, or a word."""
    return lambda value: None if value == word or (isinstance(value, int) and value >= least) else f"a number of at least {least}, or {word}"


