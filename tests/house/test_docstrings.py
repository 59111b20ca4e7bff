"""Public docstrings are numpydoc: sections that tools render, and parameters that are those of the signature."""

import importlib
import inspect

import pytest
from numpydoc.docscrape import get_doc_object
from numpydoc.validate import validate

import rankcell
from rankcell.config import Settings
from rankcell.options import Options
from rankcell.scores import Score

COUNTERS = ("datasets", "get", "pl", "pp", "tl")
OBJECTS = ("Embedder", "Perturber", "Screen", "TokenSet", "Tokenizer", "Vocabulary")
CHECKED = {
    *("GL05", "GL06", "GL07", "GL08"),  # no tabs; known sections, in their order; a docstring at all
    *("SS01", "SS02", "SS03", "SS04", "SS06"),  # a summary of one line, from a capital letter to a full stop
    *("PR01", "PR02", "PR03", "PR07", "PR10"),  # every parameter, no other, in order, each with a text
    *("RT01", "RT02", "RT03", "YD01"),  # what comes back, with a text
}
# Left out: GL01 and GL02 (where quotes stand: summaries begin beside them), GL03 (blank lines); SS05, which takes a noun in the plural
# for a verb; PR04 to PR06 (types stand in the signature) and PR08 and PR09 (descriptions may be names in backquotes, or end in a list);
# RT04 and RT05 likewise; ES, SA and EX: no text is longer for the sake of a section.
PARAMETERS = {"PR01", "PR02", "PR03"}


def public_objects():
    """(name, object) of what users call: verbs, classes, their methods and properties, options, errors and settings."""
    for counter in COUNTERS:
        module = importlib.import_module(f"rankcell.{counter}")
        yield from ((f"{counter}.{name}", getattr(module, name)) for name in module.__all__)
    yield from ((f"errors.{name}", getattr(rankcell.errors, name)) for name in rankcell.errors.__all__)
    classes = {name: getattr(rankcell, name) for name in OBJECTS} | {"Score": Score, "Settings": Settings, "errors.InputError": rankcell.errors.InputError}
    for name, cls in classes.items():
        yield name, cls
        for key, value in vars(cls).items():
            if not key.startswith("_") and (callable(value) or isinstance(value, (classmethod, property)) or hasattr(value, "func")):
                yield f"{name}.{key}", getattr(value, "__func__", value)
    yield from ((name, cls) for name in rankcell.__all__ if inspect.isclass(cls := getattr(rankcell, name)) and issubclass(cls, Options))


OBJECTS_BY_NAME = dict(public_objects())


def test_public_objects_are_seen():
    assert {"tl.perturb", "pl.volcano", "Screen.rank", "TokenSet.open", "TokenSet.lengths", "Vocabulary.hash", "Fast", "Settings"} <= set(OBJECTS_BY_NAME)


@pytest.mark.parametrize("name", OBJECTS_BY_NAME)
def test_docstring_is_numpydoc(name):
    value = OBJECTS_BY_NAME[name]
    errors = [(code, text) for code, text in validate(get_doc_object(value))["errors"] if code in CHECKED]
    if inspect.isclass(value) and issubclass(value, Exception) and "__init__" not in vars(value):
        errors = [e for e in errors if e[0] not in PARAMETERS]  # documented where the constructor is
    assert errors == []
