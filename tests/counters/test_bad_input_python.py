"""Arguments in Python are as strict as options: what is meant is taken, everything else is one line in Python's words."""

import inspect
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import make_adata, make_vocab
from flat_options import call

import rankcell as rc
from rankcell.arguments import checked
from rankcell.errors import RankcellError, SettingsError
from rankcell.wording import python_verb


@pytest.fixture
def adata():
    return make_adata(np.random.default_rng(0).poisson(2, (4, 12)) + 1, kind=list("abab"))


@checked
def verb(
    data, k: int = 1, *, rate: float = 0.5, on: bool | None = None, name: str = "x", several: "str | list" = "", out: Path | str = ""
) -> None:
    return locals()


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"k": "10"}, 10),
        ({"k": 10.0}, 10),
        ({"k": np.int64(3)}, 3),
        ({"rate": "0.25"}, 0.25),
        ({"rate": 1}, 1.0),
        ({"rate": np.float32(0.5)}, 0.5),
        ({"on": np.True_}, True),
        ({"on": None}, None),
        ({"name": np.str_("y")}, "y"),
        ({"name": ("y",)}, "y"),
    ],
)
def test_what_is_meant_is_taken(given, taken):
    (name,) = given
    value = verb(None, **given)[name]
    assert value == taken and (type(value) is type(taken) or isinstance(value, str))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"k": "ten"}, "k is 'ten'; a whole number"),
        ({"k": 1.5}, "k is 1.5; a whole number"),
        ({"k": True}, "k is True; a whole number"),
        ({"k": None}, "k is None; a whole number"),
        ({"k": float("nan")}, "k is nan; a whole number"),
        ({"k": [7]}, "k is [7]; a whole number"),
        ({"rate": "half"}, "rate is 'half'; a number"),
        ({"on": "no"}, "on is 'no'; True or False or None"),
        ({"on": 1}, "on is 1; True or False or None"),
        ({"name": 3}, "name is 3; a name"),
        ({"name": b"x"}, "name is b'x'; a name"),
        ({"name": pd.DataFrame({"a": range(3)})}, "name is of type DataFrame; a name"),
    ],
)
def test_what_cannot_be_is_one_line(given, says):
    with pytest.raises(SettingsError) as e:
        verb(None, **given)
    assert str(e.value) == says


def test_a_call_that_does_not_fit_is_pythons_own_error():
    with pytest.raises(TypeError, match="missing"):
        verb()
    with pytest.raises(TypeError, match="nmae"):
        verb(None, nmae="y")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: rc.pp.tokenize(None, max_len=6), "tokenize() has no parameter 'max_len': give tokenizing=rc.Tokenizing(max_len=6)"),
        (lambda: rc.pp.tokenize(None, vcb=1, raw=True), "tokenize() has no parameter 'raw': give counts=rc.Counts(raw=True)"),
        (lambda: rc.pp.tokenize(None, filter="x" * 50), "tokenize() has no parameter 'filter': give tokenizing=rc.Tokenizing(filter=...)"),
        (lambda: rc.Tokenizer("demo", max_len=6), "Tokenizer() has no parameter 'max_len': give tokenizing=rc.Tokenizing(max_len=6)"),
        (lambda: rc.Tokenizer("demo").tokenize(None, cls=True), "Tokenizer.tokenize() has no parameter 'cls': give rc.Tokenizing(cls=True)"),
        (lambda: rc.tl.embed(None, device="cpu"), "embed() has no parameter 'device': give compute=rc.Compute(device='cpu')"),
        (lambda: rc.tl.perturb(None, rc.Delete(), audit=0.2), "perturb() has no parameter 'audit': give method=rc.Fast(audit=0.2)"),
        (lambda: rc.tl.embed(None, max_len=6), "embed() got an unexpected keyword argument 'max_len'"),  # of no class that it takes
    ],
)
def test_a_misplaced_keyword_is_told_its_class(call, says):
    with pytest.raises(TypeError) as e:
        call()
    assert str(e.value) == says


def test_other_type_errors_of_a_verb_are_left_as_they_are():
    @python_verb()
    def wrong(adata, counts: rc.Counts = rc.Counts()):
        raise TypeError("of its own")

    with pytest.raises(TypeError, match="^of its own$"):
        wrong(None)

    @python_verb()
    def takes_all(adata, counts: rc.Counts = rc.Counts(), **more):
        return more

    assert takes_all(None, raw=True) == {"raw": True}


WRONG = [
    (rc.pp.tokenize, {"max_len": "long"}),
    (rc.pp.tokenize, {"cls": "no"}),
    (rc.pp.tokenize, {"obs": 3}),
    (rc.pp.tokenize, {"obs": {"kind": 1}}),
    (rc.pp.tokenize, {"obs": ["kind", 3]}),
    (rc.pp.tokenize, {"raw": "yes"}),
    (rc.pp.tokenize, {"counts_layer": 0}),
    (rc.pp.tokenize, {"workers": "many"}),
    (rc.pp.tokenize, {"workers": 0}),
    (rc.pp.tokenize, {"filter": ["kind == 'a'", "kind == 'b'"]}),
    (rc.pp.tokenize, {"vocab": 5}),
    (rc.pp.tokenize, {"vocab": ["demo"]}),
    (rc.pp.tokenize, {"max_len": -1}),
    (rc.pp.align_genes, {"min_known": "all"}),
    (rc.pp.align_genes, {"gene_column": 1}),
    (rc.pp.align_genes, {"allow_non_counts": None}),
    (rc.pp.align_genes, {"counts_layer": "nothing"}),
    (rc.tl.score_embedding, {"label": "kind", "k": "a"}),
    (rc.tl.score_embedding, {"label": "kind", "key": 3}),
    (rc.tl.score_embedding, {"label": 5}),
    (rc.tl.embed, {"pool": 3, "model": "demo"}),
    (rc.tl.embed, {"key_added": ["a", "b"], "model": "demo"}),
    (rc.tl.embed, {"tokens_per_batch": "big", "model": "demo"}),
    (rc.tl.rank_bias, {"cells": "some", "model": "demo"}),
]


@pytest.mark.parametrize(("function", "given"), WRONG, ids=lambda x: x.__name__ if callable(x) else repr(x))
def test_the_counters_refuse_in_one_line(adata, function, given):
    more = {"vocab": make_vocab()} if "tokenize" in function.__name__ or "align" in function.__name__ else {}
    with pytest.raises(RankcellError) as e:
        call(function, adata, **(more | given))
    assert "\n" not in str(e.value) and "--" not in str(e.value)


@pytest.mark.parametrize("given", [None, 3, [], {}, "", pd.DataFrame({"a": [1]}), np.ones((2, 2)), b"x.h5ad", [None], Path("nothing.h5ad")])
@pytest.mark.parametrize("function", [rc.pp.tokenize, rc.pp.align_genes, rc.Tokenizer(make_vocab()).tokenize])
def test_what_is_no_input_is_one_line(function, given):
    more = {"vocab": make_vocab()} if function.__name__ != "tokenize" or not hasattr(function, "__self__") else {}
    with pytest.raises(RankcellError) as e:
        function(given, **more)
    assert "\n" not in str(e.value)


def test_columns_in_every_plain_form(adata):
    for obs in ("kind", ["kind"], ("kind",), {"kind"}, np.array(["kind"]), pd.Index(["kind"])):
        assert rc.pp.tokenize(adata, vocab=make_vocab(), obs=obs).obs("kind").tolist() == list("abab")


def test_numbers_as_text(adata):
    tokens = rc.pp.tokenize(adata, vocab=make_vocab(), tokenizing=rc.Tokenizing(max_len="6", workers="1"))
    assert tokens.spec.max_len == 6
    assert rc.Tokenizer(make_vocab(), rc.Tokenizing(max_len=np.int64(6))).tokenize(adata).spec.max_len == 6
    with pytest.raises(SettingsError, match="max_len is 'six'; a whole number or None"):
        rc.Tokenizer(make_vocab(), rc.Tokenizing(max_len="six"))


@pytest.mark.parametrize(
    "function",
    [getattr(counter, name) for counter in (rc.pp, rc.tl) for name in counter.__all__],
    ids=lambda function: function.__name__,
)
def test_every_counter_refuses_what_is_no_input(function):
    """With whatever else it needs: a model, a vocabulary, a text for each further argument."""
    parameters = inspect.signature(function).parameters.values()
    first, *others = (p.name for p in parameters if p.default is p.empty)
    more = {name: "x" for name in others} | {p.name: "demo" for p in parameters if p.name in ("model", "vocab")}
    for given in (None, 3, "", [], {}, b"x", np.ones((2, 2)), pd.DataFrame({"a": [1]}), "nothing.h5ad", object(), [None], ("a", "b"), True):
        with pytest.raises(RankcellError) as e:
            function(**{first: given}, **more)
        assert "\n" not in str(e.value), given
