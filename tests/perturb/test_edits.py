"""Edits of token rows: hand-sized rows written out in full, and what holds for every row."""

import json

import numpy as np
import pytest
from builders import make_vocab
from flat_options import edit_plan
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_model import edit as reference_edit

from rankcell.errors import RankcellWarning, SettingsError
from rankcell.perturb import KINDS, EditPlan
from rankcell.vocab import Frame

VOCAB = make_vocab()  # pad 0, mask 1, cls 2, eos 3, G0..G11 = 4..15
C, E = 2, 3
BARE, FRAMED, HEADED = Frame(), Frame((C,), (E,)), Frame((C,))


def plan_of(kind, genes, *, frame=FRAMED, max_len=20, **how):
    return edit_plan(VOCAB, kind=kind, genes=genes, frame=frame, max_len=max_len, **how)


def written(plan, row):
    """Every edit of a row in full: (edited, pairs, gone, rank)."""
    row = np.array(row, np.int32)
    before = row.copy()
    found = [(e.edited.tolist(), e.pairs.tolist(), e.perturbed_positions.tolist(), e.rank) for e in plan.edits(row)]
    assert (row == before).all()
    return found


@pytest.mark.parametrize(
    ("frame", "genes", "row", "expected"),
    [
        (FRAMED, ["G2"], [C, 4, 6, 8, E], [([C, 4, 8, E], [[1, 1], [3, 2]], [2], 1)]),
        (HEADED, ["G0"], [C, 4, 6, 8], [([C, 6, 8], [[2, 1], [3, 2]], [1], 0)]),
        (BARE, ["G4"], [4, 6, 8], [([4, 6], [[0, 0], [1, 1]], [2], 2)]),
        (FRAMED, ["G0"], [C, 4, E], [([C, E], [], [1], 0)]),
        (BARE, ["G0"], [4], [([], [], [0], 0)]),
        (FRAMED, ["G9"], [C, 4, 6, 8, E], []),
        # several genes are several edits, in the order named and not in the row's
        (FRAMED, ["G4", "G9", "G0"], [C, 4, 6, 8, E], [([C, 4, 6, E], [[1, 1], [2, 2]], [3], 2), ([C, 6, 8, E], [[2, 1], [3, 2]], [1], 0)]),
        # the same gene named twice, by id and by symbol, is one
        (BARE, ["G1", "ENSG00000000001"], [5, 6], [([6], [[1, 0]], [0], 0)]),
    ],
)
def test_delete_singly(frame, genes, row, expected):
    assert written(plan_of("delete", genes, frame=frame), row) == expected


def test_delete_all_goes_down_the_row():
    assert written(plan_of("delete", "all"), [C, 8, 4, 6, E]) == [
        ([C, 4, 6, E], [[2, 1], [3, 2]], [1], 0),
        ([C, 8, 6, E], [[1, 1], [3, 2]], [2], 1),
        ([C, 8, 4, E], [[1, 1], [2, 2]], [3], 2),
    ]


def test_delete_group():
    row = [C, 4, 6, 8, 9, E]
    # rank is that of the first gene named, wherever the others stand
    assert written(plan_of("delete", ["G4", "G0"], group=True), row) == [([C, 6, 9, E], [[2, 1], [4, 2]], [1, 3], 2)]
    assert written(plan_of("delete", ["G4", "G7"], group=True), row) == []
    assert written(plan_of("delete", ["G7", "G4"], group=True, any=True), row) == [([C, 4, 6, 9, E], [[1, 1], [2, 2], [4, 3]], [3], None)]
    assert written(plan_of("delete", ["G7", "G8"], group=True, any=True), row) == []


@pytest.mark.parametrize(
    ("frame", "genes", "row", "expected"),
    [
        (FRAMED, ["G4"], [C, 4, 6, 8, E], [([C, 8, 4, 6, E], [[1, 2], [2, 3]], [3], 2)]),
        (HEADED, ["G2"], [C, 4, 6, 8], [([C, 6, 4, 8], [[1, 2], [3, 3]], [2], 1)]),
        (BARE, ["G2"], [4, 6, 8], [([6, 4, 8], [[0, 1], [2, 2]], [1], 1)]),
        # absent: inserted, without a rank
        (FRAMED, ["G9"], [C, 4, 6, E], [([C, 13, 4, 6, E], [[1, 2], [2, 3]], [], None)]),
        (BARE, ["G9"], [4], [([13, 4], [[0, 1]], [], None)]),
        # on top already: no row
        (FRAMED, ["G0"], [C, 4, 6, 8, E], []),
        (BARE, ["G0"], [4], []),
        (FRAMED, ["G0", "G2"], [C, 4, 6, E], [([C, 6, 4, E], [[1, 2]], [2], 1)]),
    ],
)
def test_overexpress_singly(frame, genes, row, expected):
    assert written(plan_of("overexpress", genes, frame=frame), row) == expected


def test_overexpress_all_leaves_out_the_top_gene():
    assert written(plan_of("overexpress", "all"), [C, 8, 4, 6, E]) == [
        ([C, 4, 8, 6, E], [[1, 2], [3, 3]], [2], 1),
        ([C, 6, 8, 4, E], [[1, 2], [2, 3]], [3], 2),
    ]


def test_overexpress_group():
    row = [C, 4, 6, 8, 9, E]
    # the order named, present and absent alike
    assert written(plan_of("overexpress", ["G9", "G4", "G0"], group=True), row) == [
        ([C, 13, 8, 4, 6, 9, E], [[2, 4], [4, 5]], [1, 3], None)
    ]
    assert written(plan_of("overexpress", ["G4", "G9"], group=True), row) == [([C, 8, 13, 4, 6, 9, E], [[1, 3], [2, 4], [4, 5]], [3], 2)]
    # on top in this order already: no row; in another order: a row
    assert written(plan_of("overexpress", ["G0", "G2"], group=True), row) == []
    assert written(plan_of("overexpress", ["G2", "G0"], group=True), row) == [([C, 6, 4, 8, 9, E], [[3, 3], [4, 4]], [1, 2], 1)]


@pytest.mark.parametrize(
    ("frame", "max_len", "genes", "row", "expected"),
    [
        # full length: the last gene falls off, the EOS stays
        (FRAMED, 5, ["G9"], [C, 4, 6, 8, E], ([C, 13, 4, 6, E], [[1, 2], [2, 3]], [], None)),
        (HEADED, 4, ["G9"], [C, 4, 6, 8], ([C, 13, 4, 6], [[1, 2], [2, 3]], [], None)),
        (BARE, 3, ["G9"], [4, 6, 8], ([13, 4, 6], [[0, 1], [1, 2]], [], None)),
        # one short of full: just room (Geneformer crashes here)
        (BARE, 4, ["G9"], [4, 6, 8], ([13, 4, 6, 8], [[0, 1], [1, 2], [2, 3]], [], None)),
        (FRAMED, 6, ["G9"], [C, 4, 6, 8, E], ([C, 13, 4, 6, 8, E], [[1, 2], [2, 3], [3, 4]], [], None)),
        # present at full length: nothing falls off
        (FRAMED, 5, ["G4"], [C, 4, 6, 8, E], ([C, 8, 4, 6, E], [[1, 2], [2, 3]], [3], 2)),
        # the last gene moves to the front although its place is the one that falls off
        (BARE, 3, ["G4", "G9"], [4, 6, 8], ([8, 13, 4], [[0, 2]], [2], 2)),
        # the group fills the row
        (FRAMED, 4, ["G9", "G8"], [C, 4, 6, E], ([C, 13, 12, E], [], [], None)),
    ],
)
def test_overexpress_at_full_length(frame, max_len, genes, row, expected):
    assert written(plan_of("overexpress", genes, frame=frame, max_len=max_len, group=len(genes) > 1), row) == [expected]


def test_a_group_longer_than_the_row_is_refused():
    plan = plan_of("overexpress", ["G7", "G8", "G9"], frame=FRAMED, max_len=4, group=True)
    with pytest.raises(SettingsError, match="3 genes to overexpress do not fit a row of 4 tokens"):
        list(plan.edits(np.array([C, 4, E], np.int32)))


# six genes: a quarter of them is one, two quarters are three, three quarters four
SIX = [C, 4, 5, 6, 7, 8, 9, E]


@pytest.mark.parametrize(
    ("kind", "genes", "how", "expected"),
    [
        ("inhibit", ["G0"], {}, ([C, 5, 4, 6, 7, 8, 9, E], [[2, 1], [3, 3], [4, 4], [5, 5], [6, 6]], [1], 0)),
        ("inhibit", ["G1"], dict(quarters=2), ([C, 4, 6, 7, 8, 5, 9, E], [[1, 1], [3, 2], [4, 3], [5, 4], [6, 6]], [2], 1)),
        # no further than to the end
        ("inhibit", ["G3"], dict(quarters=4), ([C, 4, 5, 6, 8, 9, 7, E], [[1, 1], [2, 2], [3, 3], [5, 4], [6, 5]], [4], 3)),
        ("inhibit", ["G5"], {}, None),
        ("activate", ["G4"], dict(quarters=2), ([C, 4, 8, 5, 6, 7, 9, E], [[1, 1], [2, 3], [3, 4], [4, 5], [6, 6]], [5], 4)),
        ("activate", ["G2"], dict(quarters=4), ([C, 6, 4, 5, 7, 8, 9, E], [[1, 2], [2, 3], [4, 4], [5, 5], [6, 6]], [3], 2)),
        ("activate", ["G0"], {}, None),
        ("activate", ["G9"], {}, None),  # absent
        # together: each by as much, those that meet at the end in their order
        ("inhibit", ["G5", "G4"], dict(group=True, quarters=2), None),
        ("inhibit", ["G5", "G3"], dict(group=True), ([C, 4, 5, 6, 8, 7, 9, E], [[1, 1], [2, 2], [3, 3], [5, 4]], [4, 6], 5)),
        ("activate", ["G1", "G4"], dict(group=True, quarters=2), ([C, 5, 8, 4, 6, 7, 9, E], [[1, 3], [3, 4], [4, 5], [6, 6]], [2, 5], 1)),
        ("mask", ["G2"], {}, ([C, 4, 5, 1, 7, 8, 9, E], [[1, 1], [2, 2], [4, 4], [5, 5], [6, 6]], [3], 2)),
        ("mask", ["G2", "G0"], dict(group=True), ([C, 1, 5, 1, 7, 8, 9, E], [[2, 2], [4, 4], [5, 5], [6, 6]], [1, 3], 2)),
        ("move", ["G4"], dict(to_rank=1), ([C, 4, 8, 5, 6, 7, 9, E], [[1, 1], [2, 3], [3, 4], [4, 5], [6, 6]], [5], 4)),
        ("move", ["G0"], dict(to_rank=99), ([C, 5, 6, 7, 8, 9, 4, E], [[2, 1], [3, 2], [4, 3], [5, 4], [6, 5]], [1], 0)),
        ("move", ["G4"], dict(to_rank=4), None),
        ("move", ["G4", "G1"], dict(to_rank=2, group=True), ([C, 4, 6, 8, 5, 7, 9, E], [[1, 1], [3, 2], [4, 5], [6, 6]], [2, 5], 4)),
    ],
)
def test_other_kinds(kind, genes, how, expected):
    assert written(plan_of(kind, genes, **how), SIX) == ([] if expected is None else [expected])


def test_refill():
    row, cell = np.array([C, 4, 5, 6, E], np.int32), np.array([4, 5, 6, 9, 8], np.int32)

    def done(genes, **how):
        plan = plan_of("delete", genes, max_len=5, refill=True, **how)
        return [(e.edited.tolist(), e.pairs.tolist(), e.perturbed_positions.tolist(), e.rank) for e in plan.edits(row, cell)]

    assert done(["G1"]) == [([C, 4, 6, 9, E], [[1, 1], [3, 2]], [2], 1)]
    assert done(["G1", "G0"], group=True) == [([C, 6, 9, 8, E], [[3, 1]], [1, 2], 1)]
    assert done(["G0", "G1", "G2"], group=True) == [([C, 9, 8, E], [], [1, 2, 3], 0)]  # the cell has no more
    # what was lost does not come back from beyond the row
    assert done(["G0", "G5"], group=True, any=True) == [([C, 5, 6, 8, E], [[2, 1], [3, 2]], [1], 0)]
    assert done(["G5"]) == []  # in the cell, and not in its row
    assert [e.edited.tolist() for e in plan_of("delete", ["G1"], refill=True).edits(row)] == [[C, 4, 6, E]]  # nothing beyond


def test_pairs_anchors_and_sets():
    row = [C, 4, 5, 6, E]
    found = plan_of("delete", ["G2", "G0", "G9"], pairs=True)
    assert found.targets == ((6, 4), (6, 13), (4, 13))
    assert [(e[0], e[2], e[3]) for e in written(found, row)] == [([C, 5, E], [1, 3], 2)]
    anchored = plan_of("delete", "all", anchor="G1")
    assert [(e[0], e[2], e[3]) for e in written(anchored, row)] == [([C, 6, E], [1, 2], 1), ([C, 4, E], [2, 3], 1)]
    assert written(anchored, [C, 4, 6, E]) == []  # without the anchor
    assert plan_of("delete", ["G2", "G0"], anchor="G1").targets == ((5, 6), (5, 4))
    sets = plan_of("delete", "all", sets={"first": ["G0", "G1"], "last": ["G2"], "none": ["G2", "G9"]})
    assert [(e[0], e[2]) for e in written(sets, row)] == [([C, 6, E], [1, 2]), ([C, 4, 5, E], [3])]
    assert sets.ids(VOCAB) == ["delete:first", "delete:last", "delete:none"]
    assert [e[0] for e in written(plan_of("delete", "all", sets={"none": ["G2", "G9"]}, any=True), row)] == [[C, 4, 5, E]]


def test_a_gene_that_stands_twice_goes_twice():
    assert written(plan_of("delete", ["G0"]), [C, 4, 5, 4, 6, E]) == [([C, 5, 6, E], [[2, 1], [4, 2]], [1, 3], 0)]
    assert [e[2] for e in written(plan_of("delete", "all"), [C, 4, 5, 4, E])] == [[1, 3], [2]]


@pytest.mark.parametrize("how", [{}, dict(anchor="G3"), dict(genes=["G1", "G0"], pairs=True), dict(sets={"a": ["G1"], "b": ["G0", "G2"]})])
def test_a_plan_is_plain_json(how):
    plan = plan_of("delete", **({"genes": "all", "refill": True, "any": True} | how))
    again = EditPlan.from_json(json.loads(json.dumps(plan.to_json())), VOCAB)
    assert again == plan and again.ids(VOCAB) == plan.ids(VOCAB)


def test_overexpress_where_a_gene_stands_twice():
    assert [e[0] for e in written(plan_of("overexpress", ["G0", "G1"], group=True), [C, 4, 4, 5, 6, E])] == [[C, 4, 5, 6, E]]
    assert [e[0] for e in written(plan_of("overexpress", ["G0", "G1"], group=True), [C, 4, 4, 6, E])] == [[C, 4, 5, 6, E]]
    assert [e[0] for e in written(plan_of("overexpress", ["G0"]), [C, 4, 4, 6, E])] == [[C, 4, 6, E]]


def test_refill_knows_how_many_genes_may_enter():
    row, cell = np.array([4], np.int32), np.array([4, 5], np.int32)  # G0, and beyond the row G1
    plan = plan_of("delete", ["G0", "G1"], frame=BARE, max_len=1, group=True, any=True, refill=True)
    found = plan.of_row(row, cell)
    assert found.length.tolist() == [0] and found.apply(np.array([0]))[0].shape == (1, 0)
    # A stands twice and B is beyond: B does not come in
    plan = plan_of("delete", ["G0", "G1"], frame=BARE, max_len=4, group=True, any=True, refill=True)
    assert [e.edited.tolist() for e in plan.edits(np.array([4, 4, 6], np.int32), np.array([4, 4, 6, 5, 7]))] == [[6, 7]]


def test_an_anchor_with_every_gene_wants_both():
    plan = plan_of("delete", "all", anchor="G1", any=True)
    assert written(plan, [C, 4, 6, E]) == [] and plan.count(np.array([C, 4, 5, 6, E])) == 2


def test_sets_with_genes_that_are_unknown():
    sets = {"a": ["G0", "NOPE"], "b": ["NOPE", "NEITHER"], "c": ["G2"]}
    with pytest.raises(
        SettingsError, match="2 of 4 genes are not in vocabulary 'small' .*: NOPE, NEITHER .first in the set 'a'.; skip_unknown=True"
    ):
        plan_of("delete", "all", sets=sets)
    with pytest.warns(RankcellWarning, match="3 genes of the sets are not in vocabulary 'small'; 1 sets have no other and are left out"):
        plan = plan_of("delete", "all", sets=sets, any=True)
    assert plan.targets == ((4,), (6,)) and plan.ids(VOCAB) == ["delete:a", "delete:c"]
    with pytest.raises(SettingsError, match="has none of the genes of these 1 sets"):
        plan_of("delete", "all", sets={"b": ["NOPE"]}, any=True)


def test_in_place_pairs_keep_their_positions():
    (e,) = plan_of("delete", ["G2"]).edits(np.array([C, 4, 6, 8, 9, E], np.int32))
    assert e.pairs_in_place.tolist() == [[1, 1], [3, 3], [4, 4]]
    assert {name for name, kind in KINDS.items() if kind.in_place} == {"delete"}


def test_names_and_labels():
    vocab = make_vocab(3)
    plan = edit_plan(vocab, kind="delete", genes=["G2", "G0"], group=True, frame=vocab.frame, max_len=9)
    assert plan.targets == ((6, 4),)
    assert plan.names(vocab) == ["ENSG00000000002+ENSG00000000000"]
    assert plan.labels(vocab) == ["G2+G0"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (dict(kind="smash"), "unknown kind 'smash'; one of delete, overexpress, inhibit, activate, mask, move"),
        (dict(kind="delete", genes=["G0", "NOPE"]), "gene 'NOPE' is not in vocabulary 'small'"),
        (dict(kind="delete", genes="all", group=True), "a group needs genes that are named"),
        (dict(kind="delete", genes=[]), "no gene to perturb was named"),
        (
            dict(kind="delete", genes=["G0", "G1", "ENSG00000000000"], pairs=True),
            "'ENSG00000000000' is named twice, and a gene makes no pair",
        ),
        (dict(kind="delete", genes=["G0"], pairs=True), "pairs need two genes or more"),
        (dict(kind="delete", genes="all", pairs=True), "pairs need genes that are named: genes with pairs=True"),
        (dict(kind="delete", genes=["G0", "G1"], anchor="G1"), "the anchor 'G1' is among the genes to pair it with"),
        (dict(kind="delete", genes=["G0", "G1"], group=True, pairs=True), "group and pairs exclude each other"),
        (dict(kind="delete", genes=["G0"], sets={"a": ["G1"]}), "sets and genes are both given"),
        (dict(kind="delete", sets={}), "no set of genes was given"),
        (dict(kind="delete", sets={"a": ["G1"], "b": []}), "the set 'b' has no genes"),
        (dict(kind="inhibit", quarters=0), "quarters is 0; one of 1, 2, 3, 4"),
        (dict(kind="delete", quarters=1), "quarters is for inhibit and activate, and kind is delete"),
        (dict(kind="move"), "move needs the rank to move to"),
        (dict(kind="move", to_rank=-1), "move needs the rank to move to, 0 .* it is -1"),
        (dict(kind="mask", to_rank=1), "to_rank is for move, and kind is mask"),
        (dict(kind="mask", refill=True), "refill is for delete, and kind is mask"),
    ],
)
def test_plans_that_cannot_be(how, message):
    with pytest.raises(SettingsError, match=message):
        plan_of(**({"genes": "all"} | how))


frames = st.sampled_from([BARE, FRAMED, HEADED])
bodies = st.lists(st.integers(4, 15), max_size=12, unique=True)
chosen = st.one_of(st.just("all"), st.lists(st.integers(0, 11), min_size=1, max_size=4, unique=True))


@settings(max_examples=150, deadline=None)
@given(
    frame=frames,
    body=bodies,
    genes=chosen,
    kind=st.sampled_from(sorted(KINDS)),
    group=st.booleans(),
    any=st.booleans(),
    room=st.integers(0, 5),
    number=st.integers(0, 5),
    refill=st.booleans(),
)
def test_every_edit(frame, body, genes, kind, group, any, room, number, refill):
    row = np.array([*frame.head, *body, *frame.tail], np.int32)
    max_len = max(len(row) + room, len(frame) + 4)
    named = genes if genes == "all" else [f"G{g}" for g in genes]
    how = {"inhibit": dict(quarters=number % 4 + 1), "activate": dict(quarters=number % 4 + 1), "move": dict(to_rank=number)}.get(kind, {})
    plan = plan_of(
        kind, named, frame=frame, max_len=max_len, group=group and genes != "all", any=any, refill=refill and kind == "delete", **how
    )
    longer = np.array([*body, *(g for g in range(4, 4 + 2 * number) if g not in body and g < 16)]) if plan.options.refill else None
    edits = list(plan.edits(row, longer))
    assert plan.count(row) == len(edits)
    in_place = len(edits) * len(row) if kind == "delete" else 0
    unfilled = sum(len(row) - len(e.perturbed_positions) for e in edits) if longer is not None else 0
    assert plan.cost(row, longer) == sum(len(e.edited) for e in edits) + in_place + unfilled
    how |= dict(longer=longer)
    targets = [[t] for t in body] if genes == "all" else ([[g + 4 for g in genes]] if group else [[g + 4] for g in genes])
    slow = [(t, reference_edit(row, kind, t, frame, max_len, need_all=not any, **how)) for t in targets]
    slow = [(t, done) for t, done in slow if done is not None]
    assert [
        (list(plan.targets[e.target]), (e.edited.tolist(), [tuple(p) for p in e.pairs.tolist()], e.perturbed_positions.tolist())) for e in edits
    ] == slow
    for e in edits:
        perturbed = set(plan.targets[e.target])
        before, after = e.baseline[e.pairs[:, 0]], e.edited[e.pairs[:, 1]]
        assert (before == after).all()
        assert not perturbed & set(before.tolist())
        assert frame.matches(e.edited) and len(e.edited) <= max_len
        genes_after = frame.body(e.edited).tolist()
        assert kind == "mask" or len(genes_after) == len(set(genes_after))
        # the genes in no pair are the perturbed, those that entered, and before the edit those that fell off the end
        entered = set() if longer is None else set(longer[len(body) :].tolist())
        here = {"overexpress": perturbed, "mask": {1}, "delete": entered & set(genes_after)}.get(kind, perturbed & set(body))
        assert set(genes_after) - set(after.tolist()) == here
        assert set(e.baseline[e.perturbed_positions].tolist()) == perturbed & set(body)
        first = plan.targets[e.target][0]
        assert e.rank == (body.index(first) if first in body else None)


@settings(max_examples=60, deadline=None)
@given(
    body=bodies, sets=st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=9, unique=True), min_size=1, max_size=6), any=st.booleans()
)
def test_sets_of_any_size(body, sets, any):
    named = {f"s{i}": [f"G{g}" for g in genes] for i, genes in enumerate(sets)}
    plan = plan_of("delete", "all", sets=named, any=any)
    assert plan.n_shown(np.unique(np.array(body, np.int64))).tolist() == [len({g + 4 for g in genes} & set(body)) for genes in sets]
    found = plan.of_row(np.array([C, *body, E], np.int32))
    held = [len({g + 4 for g in genes} & set(body)) for genes in sets]
    wanted = [i for i, (n, genes) in enumerate(zip(held, sets, strict=True)) if (n > 0 if any else n == len(genes))]
    assert found.target.tolist() == wanted and found.n_perturbed.tolist() == [held[i] for i in wanted]
