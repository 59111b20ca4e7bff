"""The engine against the slow reference: every kind of edit, every score, affected genes; in batches of any size."""

import dataclasses
import json
import warnings

import numpy as np
import pytest
from builders import make_checkpoint, make_vocab
from flat_options import edit_plan
from reference_model import Reference

from rankcell.errors import ModelError, RankcellWarning
from rankcell.model import Encoder, open_checkpoint
from rankcell.model.device_memory import Memory
from rankcell.perturb import KINDS, StateEmbeddings
from rankcell.perturb.exact import sharing
from rankcell.perturb.exact import shift_precision as precision
from rankcell.perturb.exact.affected import AffectedRows, AffectedSums
from rankcell.perturb.exact.engine import Engine, _Unit

SPECIAL = {"framed": ("<pad>", "<mask>", "<cls>", "<eos>"), "headed": ("<pad>", "<mask>", "<cls>"), "bare": ("<pad>", "<mask>")}
CELLS = {  # gene numbers from the top; "full" fills its row
    "full": [0, 1, 2, 3, 4, 5],
    "b": [5, 3, 1],
    "one": [7],
    "d": [2, 9, 0, 8],
    "e": [11, 10, 6, 4, 2, 0],
}
BEYOND = {"full": [9, 8], "e": [7]}
WAYS = {
    "delete": [
        dict(genes="all"),
        dict(genes="all", refill=True),
        dict(genes=["G3", "G0", "G7"]),
        dict(genes=["G0", "G2"], group=True),
        dict(genes=["G0", "G2", "G7", "G8"], group=True, any=True, refill=True),
        dict(genes=["G0", "G2", "G5"], pairs=True),
        dict(genes="all", anchor="G2"),
        dict(sets={"a": ["G0"], "b": ["G0", "G2"], "c": ["G1", "G3", "G5"]}),
    ],
    "overexpress": [dict(genes="all"), dict(genes=["G7", "G2", "G5"]), dict(genes=["G9", "G0", "G6"], group=True)],
    "inhibit": [dict(genes="all"), dict(genes=["G0", "G1", "G2"], group=True, any=True, quarters=2)],
    "activate": [dict(genes="all", quarters=3), dict(genes=["G4", "G5"], group=True)],
    "mask": [dict(genes="all"), dict(genes=["G0", "G2"], group=True)],
    "move": [dict(genes="all", to_rank=1), dict(genes=["G5", "G3"], group=True, to_rank=1)],
}


class Case:
    def __init__(self, frame, folder):
        self.vocab = make_vocab(12, special=SPECIAL[frame])
        self.folder = make_checkpoint(folder / frame, self.vocab)
        self.frame, self.max_len = self.vocab.frame, 6 + len(self.vocab.frame)
        self.cells = {c: [*self.frame.head, *self.tokens(genes), *self.frame.tail] for c, genes in CELLS.items()}
        self.longer = {c: [*self.tokens(genes), *self.tokens(BEYOND.get(c, []))] for c, genes in CELLS.items()}
        self.reference = Reference(self.folder, self.frame, self.max_len)
        self.checkpoint = open_checkpoint(self.folder)
        self.encoder = Encoder(self.checkpoint, device="cpu")
        random, width = np.random.default_rng(0), self.checkpoint.width
        readouts = ["cell", "cls"] if self.frame.has_cls else ["cell"]
        self.states = {(s, r): random.normal(size=width) for s in "xy" for r in readouts}

    def tokens(self, genes):
        return [int(self.vocab.tokens[g]) for g in genes]

    def plan(self, kind, **how):
        return edit_plan(self.vocab, kind=kind, frame=self.frame, max_len=self.max_len, **how)

    def engine(self, plan, layer=-2, tokens_per_batch=30, **how):
        states = StateEmbeddings(self.states)
        return Engine(self.encoder, plan, self.checkpoint.resolve_layer(layer), states, tokens_per_batch, **how)

    def run(self, plan, *, sums=None, **how):
        rows, longer = ([np.array(r, np.int32) for r in held.values()] for held in (self.cells, self.longer))
        return self.engine(plan, **how).run(rows, longer if plan.options.refill else None, sums=sums)

    def slow(self, plan, **how):
        """What the reference is told of a plan."""
        held = {"need_all": plan.need_all, "mask": self.vocab.mask, "quarters": plan.options.quarters, "to_rank": plan.options.to_rank}
        return held | how

    def targets(self, plan):
        """{cell: targets}: of every gene those of the cell, from the top."""
        if not plan.every_gene:
            return {c: plan.targets for c in self.cells}
        body = {c: self.tokens(genes) for c, genes in CELLS.items()}
        first = plan.targets[0][:-1]
        return {c: [(*first, t) for t in genes if t not in first] for c, genes in body.items()}


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    held = {}
    return lambda frame: held.get(frame) or held.setdefault(frame, Case(frame, folder))


@pytest.fixture(autouse=True)
def one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[True, False], ids=["shared", "each"])
def sharing_is(request, monkeypatch):
    """Whether deletions share their cell's first block; cells here are too small to do so by themselves."""
    if request.param:
        monkeypatch.setattr(sharing, "LEAST_EDITS", 1)
        monkeypatch.setattr(sharing, "LEAST_TOKENS", 1)
    return request.param


def test_every_kind_is_run_here():
    assert set(WAYS) == set(KINDS)


@pytest.mark.parametrize("frame", SPECIAL)
@pytest.mark.parametrize(("kind", "number"), [(k, i) for k, ways in WAYS.items() for i in range(len(ways))])
def test_every_score(cases, sharing_is, frame, kind, number):
    if sharing_is and kind != "delete":
        pytest.skip("only deletions share")
    case = cases(frame)
    plan = case.plan(kind, **WAYS[kind][number])
    longer = case.longer if plan.options.refill else None
    for keep in (False, True):
        found = case.run(plan, euclidean=True, keep_perturbed=keep)
        how = case.slow(plan, longer=longer, states=case.states, keep_perturbed=keep, euclidean=True)
        targets = case.targets(plan)
        slow = [e for c in case.cells for e in case.reference.screen({c: case.cells[c]}, kind, targets[c], -2, **how)]
        names = list(case.cells)
        assert len(slow) == len(found.cell) > 0
        assert [names[i] for i in found.cell] == [e["cell_id"] for e in slow]
        assert [plan.targets[t] for t in found.target] == [e["genes"] for e in slow]
        assert found.rank.tolist() == [-1 if e["rank"] is None else e["rank"] for e in slow]
        assert found.n_tokens.tolist() == [e["n_tokens"] for e in slow]
        assert set(found.scores) == {k for k in slow[0] if k.startswith(("cos_", "toward_", "euclidean_", "shift_"))}
        for name, values in found.scores.items():
            wanted = np.array([np.nan if e[name] is None else e[name] for e in slow])
            np.testing.assert_allclose(values, wanted, rtol=1e-5, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("layer", [1, 2, -1])
def test_sharing_over_segments(tmp_path, monkeypatch, precision, layer):
    """A row of several segments with large attention scores: the same with and without sharing, in any order of genes."""
    vocab = make_vocab(200)
    checkpoint = open_checkpoint(make_checkpoint(tmp_path / "m", vocab, positions=256, scale={"fp32": 1.5, "bf16": 0.4}[precision]))
    encoder = Encoder(checkpoint, device="cpu", precision=precision)
    row = np.array([2, *np.random.default_rng(0).permutation(vocab.tokens)[:150], 3], np.int32)
    found = {}
    for least in (1, 10_000):
        monkeypatch.setattr(sharing, "LEAST_EDITS", least)
        monkeypatch.setattr(sharing, "LEAST_TOKENS", 1)
        made = []
        first = sharing.FirstBlock.run
        monkeypatch.setattr(sharing.FirstBlock, "run", lambda *a, made=made, first=first, **k: made.append(1) or first(*a, **k))
        for name, genes in (("all", "all"), ("named", [vocab.describe_token(t) for t in row[[90, 5, 140, 33]]])):
            plan = edit_plan(vocab, kind="delete", genes=genes, frame=vocab.frame, max_len=256)
            engine = Engine(encoder, plan, checkpoint.resolve_layer(layer), StateEmbeddings({}), 700)
            found[least, name] = engine.run([row]).scores
        assert bool(made) == (least == 1)
        monkeypatch.setattr(sharing.FirstBlock, "run", first)
    for name in ("all", "named"):
        assert (1 - found[1, name]["cos_genes"]).mean() > 5e-3
        for score, values in found[10_000, name].items():
            off = found[1, name][score] - values
            if precision == "fp32":
                np.testing.assert_allclose(off, 0, rtol=0, atol=1e-4, err_msg=score)
            else:  # the attention of either is rounded in its own way
                assert np.sqrt((off**2).mean()) < 3e-3, score


def test_order_of_the_scores(cases):
    case = cases("framed")
    assert case.engine(case.plan("mask"), euclidean=True).score_names == [
        *("cos_genes", "cos_cell", "cos_cls", "toward_x_cell", "toward_x_cls", "toward_y_cell", "toward_y_cls"),
        *("euclidean_genes", "euclidean_cell", "euclidean_cls"),
        *("euclidean_toward_x_cell", "euclidean_toward_x_cls", "euclidean_toward_y_cell", "euclidean_toward_y_cls"),
    ]
    names = cases("bare").engine(cases("bare").plan("delete", refill=True)).score_names
    assert names == [
        *("cos_genes", "cos_cell", "cos_genes_in_place", "cos_cell_in_place"),
        *("shift_genes_position", "shift_cell_position", "shift_genes_refill", "shift_cell_refill"),
        *(f"toward_{s}_cell{end}" for s in "xy" for end in ("", "_in_place", "_position", "_refill")),
    ]


def test_the_parts_add_up(cases):
    scores = cases("framed").run(cases("framed").plan("delete", refill=True)).scores
    for r in ("genes", "cell", "cls"):
        total = (1 - scores[f"cos_{r}_in_place"]) + scores[f"shift_{r}_position"] + scores[f"shift_{r}_refill"]
        np.testing.assert_allclose(total, 1 - scores[f"cos_{r}"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("tokens_per_batch", [1, 9, 17, 10_000])
def test_any_size_of_batch(cases, tokens_per_batch):
    case = cases("framed")
    plan = case.plan("overexpress", genes=["G7", "G2", "G5"])
    a, b = (case.run(plan, tokens_per_batch=n).scores for n in (30, tokens_per_batch))
    for name, values in a.items():
        np.testing.assert_allclose(b[name], values, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_cls_alone_is_the_same(cases, layer):
    case = cases("framed")
    for kind in ("delete", "overexpress"):
        a, b = (case.run(case.plan(kind), layer=layer, readouts=r, euclidean=True).scores for r in (("genes", "cell", "cls"), ("cls",)))
        assert set(b) == {n for n in a if "cls" in n} and len(b) > 5
        for name, values in b.items():
            np.testing.assert_allclose(values, a[name], rtol=0, atol=1e-6, err_msg=name)
    assert set(case.run(case.plan("mask"), readouts=("genes",)).scores) == {"cos_genes"}


def test_most_edits(cases):
    case = cases("bare")
    rows = [np.array(r, np.int32) for r in case.cells.values()]
    engine = case.engine(case.plan("delete"))
    whole, some = engine.run(rows), engine.run(rows, most=3)
    assert [int((some.cell == i).sum()) for i in range(len(rows))] == [3, 3, 1, 3, 3]
    assert some.rank[some.cell == 0].tolist() == [0, 2, 5]
    at = [np.flatnonzero((whole.cell == c) & (whole.target == t))[0] for c, t in zip(some.cell, some.target, strict=True)]
    np.testing.assert_allclose(some.scores["cos_genes"], whole.scores["cos_genes"][at], rtol=0, atol=1e-6)


def test_a_plan_without_an_edit(cases):
    case = cases("framed")
    found = case.run(case.plan("delete", genes=["G0", "G11"], group=True, refill=True))
    assert {len(x) for x in (found.cell, found.target, found.rank, found.n_tokens, *found.scores.values())} == {1}
    found = case.run(case.plan("delete", genes=["G7", "G11"], group=True))
    assert {len(x) for x in (found.cell, found.target, found.rank, found.n_tokens, *found.scores.values())} == {0}


@pytest.mark.parametrize("kind", ["delete", "overexpress"])
def test_affected_genes(cases, kind):
    case = cases("framed")
    plan = case.plan(kind)
    sums, raw, top = AffectedSums(case.vocab.n_ids), AffectedRows(), AffectedRows(2)
    for held in (sums, raw, top):
        found = case.run(plan, sums=held)
    for which in ("", "_in_place") if kind == "delete" else ("",):
        slow = case.reference.affected(case.cells, kind, "all", -2, in_place=bool(which))
        keys, n, total, squares = sums.reduce(which)
        wanted = {(plan.targets.index(genes), token): 1 - np.array(cos) for (genes, token), cos in slow.items()}
        assert [divmod(k, case.vocab.n_ids) for k in keys.tolist()] == sorted(wanted)
        for k, count, s, q in zip(keys.tolist(), n, total, squares, strict=True):
            shifts = wanted[divmod(k, case.vocab.n_ids)]
            assert count == len(shifts)
            np.testing.assert_allclose([s, q], [shifts.sum(), (shifts**2).sum()], rtol=1e-4, atol=2e-6)
    assert not len(sums.reduce("_unfilled")[0])
    edit, token, shift = raw.rows()
    assert len(edit) == n.sum() and (np.diff(edit) >= 0).all()
    for i in np.unique(edit):
        mine = shift[edit == i]
        assert (np.diff(mine) <= 0).all()
        np.testing.assert_allclose(mine.mean(), 1 - found.scores["cos_genes"][i], rtol=0, atol=1e-12)
    first = [j for i in np.unique(edit) for j in np.flatnonzero(edit == i)[:2]]
    for a, b in zip(top.rows(), (edit[first], token[first], shift[first]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_shift_far_below_the_precision_of_a_cosine():
    """1 - cos of float32 states is right where it is 1e-10; 1 - a.b/|a||b| would be 0 or 1e-7."""
    import torch

    from rankcell.perturb.exact.shifts import Compared

    random = torch.Generator().manual_seed(0)
    before = torch.randn(1, 50, 256, generator=random)
    after = before + 1e-5 * torch.randn(1, 50, 256, generator=random)
    found = Compared(after - before, before, torch.ones(1, 50, dtype=torch.bool)).gene_shifts()
    a, b = after.double(), before.double()
    unit = [x / x.norm(dim=-1, keepdim=True) for x in (a, b)]
    exact = 0.5 * (unit[0] - unit[1]).square().sum(-1)
    assert exact.max() < 1e-9
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=0)


def test_sharing_where_one_gene_has_all_the_attention(tmp_path, monkeypatch):
    """The weights of all other genes vanish beside its own: such batches are computed each for itself."""
    vocab = make_vocab(200)
    checkpoint = open_checkpoint(make_checkpoint(tmp_path / "m", vocab, positions=256, scale=1.0))
    encoder = Encoder(checkpoint, device="cpu")
    block = encoder.block(0)
    encoder._blocks[0] = dataclasses.replace(block, qkv=dataclasses.replace(block.qkv, weight=block.qkv.weight * 30))
    row = np.array([2, *np.random.default_rng(0).permutation(vocab.tokens)[:100], 3], np.int32)
    plan = edit_plan(vocab, kind="delete", frame=vocab.frame, max_len=256)
    found, vanished = {}, []
    joined = sharing.FirstBlock._weighted_means

    def watched(self, *args):
        try:
            return joined(self, *args)
        except sharing.Vanished:
            vanished.append(1)
            raise

    monkeypatch.setattr(sharing.FirstBlock, "_weighted_means", watched)
    for least in (1, 10_000):
        monkeypatch.setattr(sharing, "LEAST_EDITS", least)
        monkeypatch.setattr(sharing, "LEAST_TOKENS", 1)
        found[least] = Engine(encoder, plan, 1, StateEmbeddings({}), 700).run([row]).scores
    assert vanished
    for name, values in found[10_000].items():
        assert np.isfinite(values).all()
        np.testing.assert_allclose(
            found[1][name], values, rtol=0, atol=5e-3, err_msg=name
        )  # peaked softmax rounds otherwise elsewhere; the fault was 0.03 and NaN


def test_what_is_no_number_stays_none(cases, monkeypatch):
    import torch

    from rankcell.perturb.exact.shifts import Compared

    before = torch.randn(1, 3, 8)
    for bad in (float("nan"), float("inf")):
        after = before.clone()
        after[0, 1] = bad
        shifts = Compared(after - before, before, torch.ones(1, 3, dtype=torch.bool)).gene_shifts()
        assert not shifts[0, 1].isfinite() and (shifts[0, [0, 2]] == 0).all()
    zero = torch.zeros(1, 1, 8)
    assert Compared(zero, zero, torch.ones(1, 1, dtype=torch.bool)).gene_shifts() == 0
    case = cases("bare")
    engine = case.engine(case.plan("delete"))
    monkeypatch.setattr(Engine, "states_of", lambda self, batch, first=None: torch.full((len(batch.input_ids), 16), float("nan")))
    with pytest.raises(ModelError, match="the states of a cell are not finite numbers in fp32: look at the weights"):
        engine.run([np.array(r, np.int32) for r in case.cells.values()])


def test_out_of_memory_goes_on_in_halves(cases, monkeypatch):
    case = cases("framed")
    plan, whole, parts = case.plan("delete"), AffectedSums(case.vocab.n_ids), AffectedSums(case.vocab.n_ids)
    expected = case.run(plan, tokens_per_batch=100, sums=whole)
    score = _Unit._score

    def full(self, base, which, sheet, after):
        if len(sheet.edit) > 2:
            raise MemoryError
        return score(self, base, which, sheet, after)

    monkeypatch.setattr(_Unit, "_score", full)
    monkeypatch.setattr(case.encoder, "memory", Memory("cpu"))
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        found = case.run(plan, tokens_per_batch=100, sums=parts)
    assert 1 <= len(notes) <= 4  # 100 tokens, 50, 25, 12: what was learned is kept
    assert all(str(w.message).startswith("out of memory with") for w in notes)
    for name, values in expected.scores.items():
        np.testing.assert_allclose(found.scores[name], values, rtol=0, atol=1e-6, err_msg=name)
    for a, b in zip(whole.reduce(), parts.reduce(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)  # nothing twice
    assert case.encoder.memory.most["tokens"] < 50
    monkeypatch.setattr(_Unit, "_score", lambda *a: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(ModelError, match="does not hold one row of [0-9]+ tokens"):
        case.run(plan, tokens_per_batch=100)


# precision


def test_spearman_is_scipys():
    from scipy.stats import spearmanr

    random = np.random.default_rng(0)
    for values in (random.normal(size=(2, 30)), random.integers(0, 5, (2, 30)).astype(float)):
        assert precision.spearman(*values) == pytest.approx(spearmanr(*values).statistic, abs=1e-12)
    assert precision.spearman(np.ones(5), np.ones(5)) == 1


@pytest.mark.parametrize(("noise", "kept"), [(1e-3, "bf16"), (0.5, "fp32")])
def test_a_precision_is_kept_when_it_keeps_the_shifts(cases, noise, kept):
    """An engine whose scores are off by so much of their size."""
    case = cases("bare")
    rows = [np.array(case.tokens(range(12)), np.int32)]
    plan = edit_plan(case.vocab, kind="delete", frame=case.frame, max_len=20)
    exact = case.engine(plan)

    class Off:
        def run(self, *args, **how):
            found, random = exact.run(*args, **how), np.random.default_rng(1)
            off = {
                n: 1 - (1 - v) * (1 + noise * random.normal(size=len(v))) if n.startswith("cos_") else v for n, v in found.scores.items()
            }
            return dataclasses.replace(found, scores=off)

    check = precision.settle(lambda p: exact if p == "fp32" else Off(), ["bf16"], rows)
    assert check["precision"] == kept and check["tried"][0]["score"].startswith("cos_")
    assert (check["tried"][0]["relative_error"] < 0.05) == (kept == "bf16")
    few = precision.settle(lambda p: exact, ["bf16"], [rows[0][:4]])
    assert few == {"precision": "fp32", "tried": []}
    with pytest.warns(RankcellWarning, match="precision fp32: the cells that were tried have fewer than 10 edits each"):
        precision.note_choice(few)


def test_true_bf16_is_judged(cases):
    case = cases("bare")
    rows = [np.array(case.tokens(range(12)), np.int32)]
    plan = edit_plan(case.vocab, kind="delete", frame=case.frame, max_len=20)
    encoders = {p: Encoder(case.checkpoint, device="cpu", precision=p) for p in ("fp32", "bf16")}
    n_blocks = case.checkpoint.resolve_layer(-2)
    check = precision.settle(lambda p: Engine(encoders[p], plan, n_blocks, StateEmbeddings({}), 99), ["bf16"], rows)
    (tried,) = check["tried"]
    assert 0 < tried["relative_error"] < 1 and 0.9 < tried["spearman"] <= 1
    with pytest.warns(RankcellWarning, match=f"precision {check['precision']}.*in bf16 '{tried['score']}' has Spearman (0.9|1)"):
        precision.note_choice(check)


@pytest.mark.parametrize(("bad", "kept"), [((), "fp16"), (("fp16",), "bf16"), (("fp16", "bf16"), "tf32"), (("fp16", "bf16", "tf32"), "fp32")])
def test_faster_precisions_are_tried_in_order(cases, bad, kept):
    """Of those that overflow none is kept, and none is loaded after the one that is."""
    case, asked = cases("bare"), []
    rows = [np.array(case.tokens(range(12)), np.int32)]
    exact = case.engine(edit_plan(case.vocab, kind="delete", frame=case.frame, max_len=20))

    class Overflows:
        def run(self, *args, **how):
            scored = exact.run(*args, **how)
            return dataclasses.replace(scored, scores={n: np.where(np.arange(len(v)) == 3, np.nan, v) for n, v in scored.scores.items()})

    def engine_of(name):
        asked.append(name)
        return Overflows() if name in bad else exact

    check = precision.settle(engine_of, ["fp16", "bf16", "tf32"], rows)
    order = ["fp32", "fp16", "bf16", "tf32"]
    assert check["precision"] == kept and asked == (order if kept == "fp32" else order[: order.index(kept) + 1])
    assert [t["relative_error"] for t in check["tried"] if t["precision"] in bad] == [None] * len(bad)
    json.dumps(check, allow_nan=False)
    with pytest.warns(RankcellWarning, match=f"precision {kept}"):
        precision.note_choice(check)


def test_derived_scores_are_not_judged(cases):
    """What a score owes to positions is a difference, whose relative error says nothing of the score."""
    case = cases("bare")
    rows = [np.array(case.tokens(range(12)), np.int32)]
    exact = case.engine(edit_plan(case.vocab, kind="delete", frame=case.frame, max_len=20))

    class Off:
        def run(self, *args, **how):
            scored = exact.run(*args, **how)
            return dataclasses.replace(scored, scores={n: -v if n.endswith("_position") else v for n, v in scored.scores.items()})

    assert any(n.endswith("_position") for n in exact.score_names)
    assert precision.settle(lambda p: exact if p == "fp32" else Off(), ["fp16"], rows)["precision"] == "fp16"


def test_probed_cells():
    assert precision.probe_rows(np.array([5, 1, 9, 7, 3])).tolist() == [0, 1, 2]  # of 5, 1 and 9 tokens
    assert precision.probe_rows(np.array([4])).tolist() == [0]
