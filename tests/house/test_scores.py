"""Names of scores: made and taken apart in one place, whatever a state is called."""

import itertools

import numpy as np
import pytest
from builders import make_vocab
from flat_options import edit_plan
from hypothesis import given
from hypothesis import strategies as st

from rankcell.errors import SettingsError
from rankcell.perturb import StateEmbeddings
from rankcell.perturb.exact.engine import Engine
from rankcell.scores import IN_PLACE, POSITION, READOUTS, REFILL, UNFILLED, Score, in_place_of, score_name, scores_in

PARTS = ("", IN_PLACE, POSITION, REFILL, UNFILLED)
# whole names and pieces of names stand inside the names of states
STATES = st.one_of(
    st.text(),
    st.lists(
        st.sampled_from(
            ["cos_", "shift_", "toward_", "euclidean_", "_cell", "_cls", "_genes", "_in_place", "_position", "_refill", "_unfilled", "_", "T", "\n"]
        )
    ).map("".join),
)
SCORES = st.one_of(
    st.builds(Score, st.sampled_from(["cos", "euclidean"]), st.sampled_from(READOUTS), st.none(), st.sampled_from(PARTS)),
    st.builds(Score, st.sampled_from(["toward", "euclidean"]), st.sampled_from(["cell", "cls"]), STATES, st.sampled_from(PARTS)),
)


@given(SCORES)
def test_a_name_is_read_as_it_was_made(score):
    assert Score.parse(str(score)) == score


@given(SCORES, SCORES)
def test_different_scores_have_different_names(a, b):
    assert (str(a) == str(b)) == (a == b)


@given(st.lists(st.sampled_from(["cos", "shift", "toward", "euclidean", "T", "cell", "cls", "genes", "in", "place", "position", "refill"])))
def test_what_is_read_is_made_again(words):
    name = "_".join(words)
    score = Score.known(name)
    assert score is None or str(score) == name


@pytest.mark.parametrize(
    ("name", "score"),
    [
        ("cos_genes", Score("cos", "genes")),
        ("cos_cls_in_place", Score("cos", "cls", None, "_in_place")),
        ("shift_cell_position", Score("cos", "cell", None, "_position")),
        ("shift_genes_refill", Score("cos", "genes", None, "_refill")),
        ("cos_cell_unfilled", Score("cos", "cell", None, "_unfilled")),
        ("toward_CD14+ Monocyte_cell", Score("toward", "cell", "CD14+ Monocyte")),
        ("toward_T_cell_cls_in_place", Score("toward", "cls", "T_cell", "_in_place")),
        ("toward_B_in_place_cell_position", Score("toward", "cell", "B_in_place", "_position")),
        ("toward_cos_genes_cell", Score("toward", "cell", "cos_genes")),
        ("euclidean_cell_refill", Score("euclidean", "cell", None, "_refill")),
        ("euclidean_toward_x_cls", Score("euclidean", "cls", "x")),
    ],
)
def test_names_by_hand(name, score):
    assert Score.parse(name) == score and str(score) == name
    assert score_name(score.family, score.readout, score.state, score.part) == name


@pytest.mark.parametrize("euclidean", [False, True])
def test_every_name_that_the_engine_makes(euclidean):
    """All are read, in the columns as in each pass, and nothing of a name is lost."""
    states = ("T", "T_cell", "x_in_place", "cos_cell", "toward_y_cls")
    vocab = make_vocab()
    plan = edit_plan(vocab, kind="delete", genes="all", frame=vocab.frame, max_len=9, refill=True)
    vectors = {(state, readout): np.ones(2) for state in states for readout in ("cell", "cls")}
    engine = Engine(None, plan, 1, StateEmbeddings(vectors), 100, euclidean=euclidean)
    plain = [Score.parse(n) for n in engine.plain_names]
    assert len(plain) == (2 if euclidean else 1) * (3 + 2 * len(states))
    assert [s.state for s in plain if s.family == "toward"] == [s for s in states for _ in range(2)]
    names = [*engine.score_names, *(n + which for n in engine.plain_names for which in engine.plan.passes)]
    assert [str(Score.parse(n)) for n in names] == names and UNFILLED in engine.plan.passes
    assert scores_in(["cell_id", *engine.score_names, "exact"]) == engine.score_names
    assert len(engine.score_names) == 4 * len(plain) == len(set(engine.score_names))


@pytest.mark.parametrize(
    "name",
    [
        *("rank", "cos_", "cos_gene", "cos_cell_position", "shift_cell", "shift_cell_in_place", "shift_work", "cosine_cell", "toward_x"),
        *("toward_cell", "toward_x_genes", "euclidean_x_cell", "cos_genes_predicted", "cos_genes_interaction", "mean_cos_in_place"),
        *("cos_genes\n", "Cos_genes", "", None, 3),
    ],
)
def test_other_columns_are_no_scores(name):
    assert Score.known(name) is None and scores_in([name]) == []
    with pytest.raises(SettingsError, match="is not the name of a score") as error:
        Score.parse(name)
    assert "\n" not in str(error.value)


def test_a_near_name_is_offered():
    with pytest.raises(SettingsError, match="'cos_gene_inplace' is not the name of a score; did you mean 'cos_genes_in_place'"):
        Score.parse("cos_gene_inplace")


def test_effects():
    """1 - cosine where the column holds cosines, and back; all else as it is."""
    values = np.array([0.25, 1.0, -0.5])
    for name in ("cos_cell", "cos_genes_in_place", "cos_cls_unfilled"):
        assert Score.parse(name).effect(values).tolist() == [0.75, 0.0, 1.5]
        assert Score.parse(name).effect(Score.parse(name).effect(values)).tolist() == values.tolist()
    for name in ("shift_cell_position", "shift_cls_refill", "toward_cos_cell", "euclidean_genes", "euclidean_toward_cos_x_cell_in_place"):
        assert Score.parse(name).effect(values) is values


def test_sizes_have_no_sign():
    sizes = [n for n in _every_name() if Score.parse(n).is_size]
    assert sizes == [*(f"{f}_{r}{end}" for f in ("cos", "euclidean") for r in READOUTS for end in ("", "_in_place"))]


def test_in_place_and_back():
    columns = _every_name()
    assert in_place_of("cos_cell", columns) == "cos_cell_in_place"
    assert in_place_of("toward_a_cell", columns) == "toward_a_cell_in_place" and in_place_of("toward_b_cell", columns) is None
    assert [in_place_of(n, columns) for n in ("cos_cell_in_place", "shift_cell_position", "toward_a_cell_refill", "effect")] == [None] * 4
    assert str(Score.parse("cos_cell_in_place").plain) == "cos_cell"
    assert str(Score.parse("shift_cell_position").plain) == "shift_cell_position"


def test_scores_without_their_parts():
    names = ["cos_cell", "rank", "cos_cell_in_place", "shift_cell_position", "toward_a_cell_refill", "euclidean_toward_a_cell"]
    assert scores_in(names, parts=False) == ["cos_cell", "cos_cell_in_place", "euclidean_toward_a_cell"]


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("cos_genes", "shift of the other genes (1 - cosine)"),
        ("cos_cell_in_place", "shift of the cell mean, in place (1 - cosine)"),
        ("shift_cls_position", "shift of the CLS, due to positions (1 - cosine)"),
        ("toward_T cell_cls_in_place", "movement toward T cell, CLS, in place"),
        ("toward_T_in_place_cell_refill", "movement toward T_in_place, cell mean, due to refill"),
        ("euclidean_toward_T_cell", "distance closed toward T, cell mean"),
        ("euclidean_genes", "distance moved by the other genes"),
        (f"toward_{'a' * 30}{'b' * 30}_cell", f"movement toward {'a' * 19}\u2026{'b' * 10}, cell mean"),
    ],
)
def test_labels(name, label):
    assert Score.parse(name).label() == label


def _every_name():
    plain = [Score(f, r) for f in ("cos", "euclidean") for r in READOUTS] + [Score("toward", "cell", "a"), Score("euclidean", "cls", "a")]
    return [str(s.with_part(part)) for s, part in itertools.product(plain, ("", IN_PLACE, POSITION, REFILL))]
