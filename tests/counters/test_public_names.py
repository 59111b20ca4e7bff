"""A misspelled name of a public module is answered with the one that was meant."""

import pytest

import rankcell as rc
from rankcell.near_names import near_names


@pytest.mark.parametrize(
    "module, name, meant",
    [
        ("tl", "pertub", "perturb"),
        ("pp", "tokenise", "tokenize"),
        ("pl", "vulcano", "volcano"),
        ("get", "screen_dff", "screen_df"),
        ("datasets", "pbmc68", "pbmc68k"),
        (None, "Deleet", "Delete"),
    ],
)
def test_the_near_name_is_suggested(module, name, meant):
    place = rc if module is None else getattr(rc, module)
    with pytest.raises(AttributeError, match=f"has no attribute '{name}'; did you mean '{meant}'\\? It has "):
        getattr(place, name)
    assert not hasattr(place, name)


def test_all_names_where_none_is_near():
    with pytest.raises(AttributeError, match="^module 'rankcell.pp' has no attribute 'zzz'; it has align_genes, tokenize$"):
        rc.pp.zzz  # noqa: B018
    assert near_names("zzz", ["tokenize"]) == "" and near_names("DELETE", ["Delete"]) == "'Delete'"
