"""The fast screen beside the exact one: what is predicted, what is run, and that nothing else is changed."""

import dataclasses
import warnings

import numpy as np
import pytest
from builders import make_checkpoint, make_vocab
from flat_options import edit_plan

from rankcell.errors import ModelError, RankcellWarning, SettingsError
from rankcell.model import Encoder, open_checkpoint
from rankcell.model.device_memory import Memory
from rankcell.perturb import KINDS as ALL_KINDS
from rankcell.perturb import StateEmbeddings
from rankcell.perturb.exact.engine import Engine
from rankcell.perturb.exact.shift_precision import spearman
from rankcell.perturb.fast import epistasis
from rankcell.perturb.fast import fast_engine as fast
from rankcell.perturb.fast import response as predict_module
from rankcell.perturb.fast.calibration import calibrate
from rankcell.perturb.fast.epistasis import interactions
from rankcell.perturb.fast.fast_engine import FastEngine, verify_score

KINDS = {"delete": {}, "mask": {}, "inhibit": {}, "activate": {"quarters": 2}, "move": {"to_rank": 20}, "overexpress": {}}
GENES, ROOM = 140, 200
LEAST = {"whole": 0.9, "in place": 0.97, "size": 0.6, "size in place": 0.9}


def calm(encoder):
    """The model with position embeddings, which are noise in random models, so small that a step of one is a small one."""
    positions = encoder._embeddings._own.position_embeddings.weight
    positions.data = positions.data * 0.1
    return encoder


class Setting:
    """A model of random weights in which every part matters, two cells, and a state."""

    def __init__(self, folder, frame):
        special = {"framed": ("<pad>", "<mask>", "<cls>", "<eos>"), "bare": ("<pad>", "<mask>")}[frame]
        self.vocab = make_vocab(GENES + 20, special=special)
        checkpoint = open_checkpoint(make_checkpoint(folder / frame, self.vocab, positions=ROOM, width=32, scale=0.2))
        self.encoder = calm(Encoder(checkpoint, device="cpu", precision="fp32"))
        self.n_blocks = checkpoint.resolve_layer(-2)
        self.frame = self.vocab.frame
        random = np.random.default_rng(1)
        self.rows = [self.row(random.permutation(GENES)[:n]) for n in (GENES, 90)]
        readouts = ["cell", "cls"] if self.frame.has_cls else ["cell"]
        self.states = StateEmbeddings({("x", r): random.normal(size=checkpoint.width) for r in readouts})

    def row(self, genes):
        return np.array([*self.frame.head, *self.vocab.tokens[genes], *self.frame.tail], np.int32)

    def engine(self, kind="delete", genes="all", **how):
        options = {n: how.pop(n) for n in ("quarters", "to_rank", "anchor", "pairs", "group", "refill") if n in how}
        plan = edit_plan(self.vocab, kind=kind, genes=genes, frame=self.frame, max_len=ROOM, **options)
        return Engine(self.encoder, plan, self.n_blocks, self.states, 4000, **how)


@pytest.fixture(scope="module", params=["framed", "bare"])
def setting(request, tmp_path_factory):
    return Setting(tmp_path_factory.mktemp("m"), request.param)


@pytest.fixture(scope="module")
def framed(tmp_path_factory):
    return Setting(tmp_path_factory.mktemp("f"), "framed")


def fast_of(engine, **how):
    return FastEngine(engine, **{"projections": 24, "splits": 12, **how})


def predicted_alone(engine, rows, monkeypatch):
    """Predictions with nothing run but the sample, and without a correction."""
    monkeypatch.setattr(fast, "cost", lambda edits, lengths, **how: np.zeros(len(edits), np.int64))
    monkeypatch.setattr(fast, "calibrate", lambda x, rank, at, exact, **how: uncalibrated(x, at))
    return fast_of(engine, projections=96).run(rows)


def uncalibrated(x, at):
    from rankcell.perturb.fast.calibration import Calibrated

    return Calibrated(x.sum(1), x.sum(1)[at])


def test_every_kind_is_predicted_here():
    assert set(KINDS) == set(ALL_KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_follow_exact_values(setting, kind, monkeypatch):
    engine = setting.engine(kind, **KINDS[kind])
    exact = engine.run(setting.rows)
    found = predicted_alone(engine, setting.rows, monkeypatch)
    for name in found.predicted:
        least = (
            LEAST["size"] if name.startswith("cos_") else LEAST["in place" if kind == "delete" and name.endswith("_in_place") else "whole"]
        )
        for cell in (0, 1):
            here = (exact.cell == cell) & np.isfinite(found.predicted[name])
            assert here.sum() > 80
            assert spearman(exact.scores[name][here], found.predicted[name][here]) > least, (name, cell)


def test_small_effects_are_exact(tmp_path, monkeypatch):
    """Where every token is a small part, what is taken as linear is linear: errors of a hundredth, whatever the kind."""
    small = Setting(tmp_path, "framed")
    for number in range(small.n_blocks):
        block = small.encoder.block(number)
        values = block.qkv.weight.clone()
        values[-values.shape[0] // 3 :] *= 0.01
        small.encoder._blocks[number] = dataclasses.replace(block, qkv=dataclasses.replace(block.qkv, weight=values))
    for kind in ("delete", "mask"):
        engine = small.engine(kind)
        exact, found = engine.run(small.rows), predicted_alone(engine, small.rows, monkeypatch)
        for name in (n for n in found.predicted if n.startswith("toward_") and (kind == "mask" or n.endswith("_in_place"))):
            a, b = exact.scores[name], found.predicted[name]
            assert np.sqrt(np.mean((a - b) ** 2)) < 0.03 * np.sqrt(np.mean(a**2)), (kind, name)


def test_what_is_run_is_exact_and_said(setting):
    engine = setting.engine()
    exact, found = engine.run(setting.rows), fast_of(engine, verify_top=5, projections=0).run(setting.rows)
    assert list(fast_of(engine).score_names) == list(exact.scores)
    assert list(found.scores) == [n for n in exact.scores if n.startswith("toward_")]  # no projections: no sizes
    for name in ("cell", "target", "rank", "n_tokens"):
        np.testing.assert_array_equal(getattr(found, name), getattr(exact, name))
    for which, run in found.exact.items():
        assert 0 < run.sum() < 0.3 * len(run)
        for name in [n + which for n in engine.plain_names if n.startswith("toward_")]:
            np.testing.assert_allclose(found.scores[name][run], exact.scores[name][run], atol=1e-6)
    both = found.exact[""] & found.exact["_in_place"]
    assert both.sum() >= 2 * 5
    assert [drawn.sum() for drawn in found.sampled.values()] == [2 * 6, 2 * 6]
    assert all((drawn <= found.exact[which]).all() for which, drawn in found.sampled.items())
    drawn = found.sampled[""] | found.sampled["_in_place"]
    assert not (found.sampled[""] & found.sampled["_in_place"]).any()
    for cell in (0, 1):  # one of each stretch of ranks
        ranks = np.sort(found.rank[(found.cell == cell) & drawn])
        assert (np.diff(ranks) > 0).all() and ranks[-1] > 0.8 * found.rank[found.cell == cell].max()
    score = verify_score(engine)
    assert score == "toward_x_cell_in_place"
    for cell in (0, 1):
        here = found.cell == cell
        size = np.where(drawn[here], 0, np.abs(found.predicted[score][here]))
        assert both[here][np.argsort(-size)[:3]].all()
    for n in engine.plain_names:  # the parts are of the scores as they stand there
        if n.startswith("toward_"):
            np.testing.assert_allclose(found.scores[f"{n}_position"], found.scores[n] - found.scores[f"{n}_in_place"], atol=1e-12)
    assert np.isfinite(found.scores["toward_x_cell"]).all()


def test_predicted_of_the_sample_is_without_itself(framed, monkeypatch):
    """Another exact value of a sampled edit changes what all others are given, not what it was predicted to be."""
    engine = framed.engine()
    fast_engine = fast_of(engine, projections=0, splits=40)
    first = fast_engine.run(framed.rows[:1])
    moved = np.flatnonzero(first.sampled["_in_place"])[3]
    run = Engine.run_edits

    def otherwise(self, rows, edits, **how):
        found = run(self, rows, edits, **how)
        for name in found.scores:
            at = found.target == first.target[moved]
            found.scores[name][at] = found.scores[name][at] + 1e-3
        return found

    monkeypatch.setattr(Engine, "run_edits", otherwise)
    second = fast_engine.run(framed.rows[:1])
    name = "toward_x_cell_in_place"
    assert second.scores[name][moved] != first.scores[name][moved]
    chosen_alike = abs(second.predicted[name][moved] - first.predicted[name][moved])
    assert chosen_alike < 0.2e-3  # how strongly is chosen by all, so that it is not quite untouched


def test_cells_do_not_depend_on_their_company(framed):
    fast_engine = fast_of(framed.engine(), projections=8)
    together, alone = fast_engine.run(framed.rows), fast_engine.run(framed.rows[1:])
    here = together.cell == 1
    for which, drawn in together.sampled.items():
        np.testing.assert_array_equal(drawn[here], alone.sampled[which])
    for name, values in together.scores.items():
        np.testing.assert_allclose(values[here], alone.scores[name], atol=1e-6)
    other = dataclasses.replace(fast_engine, seed=1).run(framed.rows)
    assert (other.sampled[""] != together.sampled[""]).any()


def test_short_cells_copies_and_absent_genes_are_run(framed):
    body = framed.vocab.tokens[:60]
    rows = [framed.row(np.arange(9)), np.array([*framed.frame.head, *body, body[3], *framed.frame.tail], np.int32), framed.row([])]
    found = fast_of(framed.engine(), projections=0, splits=8).run(rows)
    assert all(run[found.cell == 0].all() for run in found.exact.values())
    here = np.flatnonzero(found.cell == 1)
    twice = here[found.rank[here] == 3]
    assert len(twice) == 1 and all(run[twice].all() for run in found.exact.values())
    assert not found.exact[""][here].all()
    assert not (found.cell == 2).any()
    names = [f"G{i}" for i in (*range(70), GENES + 5)]
    engine = framed.engine("overexpress", names)
    found = fast_of(engine, projections=0, splits=8).run([framed.row(np.arange(90))])
    assert found.exact[""][found.rank < 0].all() and (found.rank < 0).sum() == 1 and not found.exact[""].all()
    exact = engine.run([framed.row(np.arange(90))])
    assert spearman(exact.scores["toward_x_cls"], found.scores["toward_x_cls"]) > 0.9


def test_pairs_with_an_anchor(setting):
    engine = setting.engine(anchor="G5")
    exact, found = engine.run(setting.rows), fast_of(engine, projections=0).run(setting.rows)
    assert len(found.cell) and not found.exact[""].all()
    for name in (n for n in found.predicted if n.startswith("toward_")):
        for cell in np.unique(exact.cell):
            here = (exact.cell == cell) & ~found.exact["_in_place" if name.endswith("_in_place") else ""]
            assert spearman(exact.scores[name][here], found.scores[name][here]) > 0.85, name


@pytest.mark.parametrize("projections", [0, 16])
def test_interactions(framed, projections, monkeypatch):
    engine = framed.engine(readouts=("genes", "cell"))
    fast_engine = fast_of(engine, projections=projections, verify_by="toward_x_cell_in_place")
    rows = framed.rows[:1]
    by = engine.run(rows).scores["toward_x_cell_in_place"]
    run_all = interactions(fast_engine, rows, [by], n=12, verify=6)  # so few that all are run
    assert run_all.exact.all() and len(run_all.cell) == 66
    genes = list(dict.fromkeys([*run_all.first, *run_all.second]))
    assert set(genes) == {int(framed.rows[0][1:-1][i]) for i in np.argsort(-np.abs(by))[:12]}
    alone = {int(rows[0][1 + r]): i for i, r in enumerate(engine.run(rows).rank)}
    a, b = run_all.first[7], run_all.second[7]
    single = engine.run(rows).scores["toward_x_cell"]
    wanted = run_all.joint["toward_x_cell"][7] - single[alone[a]] - single[alone[b]]
    assert run_all.values["toward_x_cell"][7] == pytest.approx(wanted, abs=1e-9)
    monkeypatch.setattr(epistasis, "cost", lambda *a, **k: np.zeros(1))
    found = interactions(fast_engine, rows, [by], n=12, verify=6)
    assert found.exact.sum() == 6 + 8 and found.sampled.sum() == 8
    assert any(n.startswith("cos_") for n in found.values) == bool(projections)
    for name in found.values:
        known = found.predicted[name]
        if name.endswith("_in_place"):
            assert spearman(run_all.values[name], known) > 0.9, name
        np.testing.assert_allclose(found.values[name][found.exact], run_all.values[name][found.exact], atol=1e-6)


def test_calibrate():
    random = np.random.default_rng(0)
    rank = np.arange(300)
    x = random.normal(size=(300, 2))
    truth = x.sum(1) + 3 * np.sin(rank / 60) + 0.05 * random.normal(size=300)
    at = np.arange(5, 300, 10)
    found = calibrate(x, rank, at, truth[at])
    assert np.std(found.values - truth) < 0.2 < np.std(x.sum(1) - truth)
    left = truth[at] - found.leave_one_out
    assert 0.5 < np.std(left) / np.std(np.delete(truth - found.values, at)) < 2
    some = calibrate(x, rank, at, x.sum(1)[at] + 0.01 * random.normal(size=len(at)))  # nothing to correct
    np.testing.assert_allclose(some.values, x.sum(1), atol=0.02)
    few = calibrate(x, rank, at[:3], truth[at[:3]])
    np.testing.assert_array_equal(few.values, x.sum(1))
    nothing = calibrate(np.zeros((300, 2)), rank, at, np.full(len(at), np.nan))
    np.testing.assert_array_equal(nothing.values, np.zeros(300))


def test_cost_says_when_to_run_everything(framed):
    fast_engine = fast_of(framed.engine(), projections=32)
    tokens = fast_engine.cost(np.array([10, 2000]), np.array([12, 2002]))
    assert tokens[0] == 2 * 10 * 12 and tokens[1] < 0.15 * 2 * 2000 * 2002
    assert fast.cost(np.array([2000]), np.array([2002]), passes=2, toward=1, readouts=1, projections=0)[0] < 2 * 2000 * 2002 / 60
    assert fast.contexts_of(framed.engine(anchor="G5").plan) == 2


def test_refused(framed):
    from flat_options import taken

    from rankcell.perturb import ScreenConfig
    from rankcell.perturb.run.method_fast import require_predictable

    def refuse(plan, **flat):
        require_predictable(taken(ScreenConfig, {"method": "fast"} | flat), plan)

    for how, what in (
        (dict(distance="euclidean"), "distance='euclidean'"),
        (dict(affected=True), "affected"),
        (dict(affected_top=3), "affected"),
        (dict(refill=True), "refill=True"),
        (dict(readout_compat="geneformer"), "readout_compat="),
    ):
        with pytest.raises(SettingsError, match=f"^{what}.*only method='exact' does that$"):
            refuse(framed.engine(refill="refill" in how).plan, **how)
    with pytest.raises(SettingsError, match="groups and sets"):
        refuse(framed.engine(genes=["G0", "G1"], group=True).plan)
    refuse(framed.engine(anchor="G5").plan, anchor="G5")
    refuse(framed.engine(genes=["G0", "G1", "G2"], pairs=True).plan, genes=["G0", "G1", "G2"], pairs=True)


def test_out_of_memory(framed, monkeypatch):
    tried = []

    def hungry(*args, at_once, **how):
        tried.append(at_once)
        if at_once > most:
            raise MemoryError
        return predict_module.predictors(*args, at_once=at_once, **how)

    monkeypatch.setattr(fast, "predictors", hungry)
    monkeypatch.setattr(framed.encoder, "memory", Memory("cpu"))
    fast_engine = fast_of(framed.engine(), projections=4)
    most = 2
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        assert np.isfinite(fast_engine.run(framed.rows[:1]).scores["cos_cls"]).all()
    assert tried == [8, 4, 2]
    assert str(notes[-1].message) == "out of memory: going on with 2 projections at once"
    fast_engine.run(framed.rows[:1])
    assert tried == [8, 4, 2, 2]  # the lesson is kept
    most = 0
    with pytest.warns(RankcellWarning), pytest.raises(ModelError, match="does not hold the tape of one cell"):
        fast_engine.run(framed.rows[:1])


def test_cls_alone_and_bf16(framed, monkeypatch):
    engine = framed.engine(readouts=("cls",))
    exact, found = engine.run(framed.rows), fast_of(engine, projections=0).run(framed.rows)
    assert spearman(exact.scores["toward_x_cls_in_place"], found.scores["toward_x_cls_in_place"]) > 0.95
    low = calm(Encoder(framed.encoder.checkpoint, device="cpu", precision="bf16"))
    low = Engine(low, engine.plan, framed.n_blocks, framed.states, 4000, readouts=("cls",))
    found = predicted_alone(low, framed.rows, monkeypatch)  # better than the differences that the exact method takes in bf16
    name = "toward_x_cls_in_place"
    for cell in (0, 1):
        here = (exact.cell == cell) & np.isfinite(found.predicted[name])
        assert spearman(exact.scores[name][here], found.predicted[name][here]) > 0.97
