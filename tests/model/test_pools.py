"""Every pool against the slow reference: cell by cell, unpadded, in float64; every way through attention; precisions; memory that runs out."""

import functools
import warnings

import numpy as np
import pytest
import torch
from builders import make_checkpoint, make_vocab
from flat_options import call
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_model import POOLINGS, Reference
from safetensors.torch import load_file, save_file

from rankcell.embed import Embedder, embedder, gene_sums, precision_check
from rankcell.embed.gene_sums import GeneSums
from rankcell.embed.unit_cells import Work
from rankcell.errors import ModelError, RankcellWarning, SettingsError
from rankcell.model import POOLS, Encoder, blocks, encoder
from rankcell.model.pools import choose_outputs
from rankcell.tokens import TokenSet, TokenSpec
from rankcell.vocab import Frame

C, E = 2, 3
FRAMES = {"framed": Frame((C,), (E,)), "headed": Frame((C,)), "bare": Frame()}
BODIES = [[5, 9, 4], [15, 14, 13, 12, 11, 10, 9, 8, 7, 6], [7], [8, 4, 12, 6, 10], [4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], [6, 5]]
CPU = torch.device("cpu")
needs_onednn = pytest.mark.skipif(not blocks.has_onednn(CPU, torch.float32), reason="torch has no oneDNN here")
# float32 states of about 1, with the matrix products summed in another order
CLOSE = dict(rtol=3e-6, atol=3e-6)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """A vocabulary of 500 genes, and a checkpoint of 512 positions."""
    vocab = make_vocab(500, name="long")
    return vocab, make_checkpoint(tmp_path_factory.mktemp("models") / "long", vocab, positions=512)


def tokens_of(vocab, bodies, frame=FRAMES["framed"]):
    rows = [[*frame.head, *b, *frame.tail] for b in bodies]
    return TokenSet.from_rows(rows, TokenSpec.of(vocab, frame=frame, max_len=512))


def bodies_of(vocab, lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.permutation(len(vocab))[:n] + 4).tolist() for n in lengths]


def embed(folder, tokens, *, tokens_per_batch=26, precision="fp32", **how):
    return call(Embedder, folder, device="cpu", precision=precision, tokens_per_batch=tokens_per_batch).embed(tokens, **how).columns


def assert_reference(found, tokens, reference, pools, layers, **close):
    assert list(found) == [f"{p}_layer{n}" for n in layers for p in pools]
    for n in layers:
        for p in pools:
            expected = np.array([reference.embed(row, p, n) for row in tokens])
            np.testing.assert_allclose(found[f"{p}_layer{n}"], expected, err_msg=f"{p} of layer {n}", **(close or CLOSE))


def kinds(frame, *more):
    return [p for p in [*POOLS, *more] if frame.has_cls or "cls" not in p]


def test_the_reference_knows_every_pool():
    assert {*POOLINGS, "parti"} == set(POOLS)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("tokens_per_batch", [1, 17, 26, 10_000])
def test_pools_are_the_references(small, frame, tokens_per_batch):
    vocab, folder = small
    frame = FRAMES[frame]
    tokens = tokens_of(vocab, BODIES, frame)
    pools, layers = kinds(frame, "mean+var", "std+cls+parti+mean_all", "parti+max"), [-1, -2, 1, 3]
    found = embed(folder, tokens, pool=pools, layer=layers, tokens_per_batch=tokens_per_batch)
    assert_reference(found, tokens, Reference(folder, frame, 64), pools, layers)


@pytest.mark.parametrize("frame", FRAMES)
def test_pools_of_the_embedding_layer(small, frame):
    vocab, folder = small
    frame = FRAMES[frame]
    tokens = tokens_of(vocab, BODIES, frame)
    pools, layers = [p for p in kinds(frame, "mean+var") if p != "parti"], [0, -4]
    assert_reference(embed(folder, tokens, pool=pools, layer=layers), tokens, Reference(folder, frame, 64), pools, layers)
    with pytest.raises(
        SettingsError, match="pooling 'mean.parti' needs attention, and layer -4 is the embedding layer, before any: choose"
    ):
        embed(folder, tokens, pool=["mean", "mean+parti"], layer=-4)


@pytest.fixture(scope="module")
def kept(small):
    """One embedder and reference per frame, for many token sets."""
    vocab, folder = small
    made = {}

    def get(frame, budget):
        if frame not in made:
            made[frame] = Reference(folder, FRAMES[frame], 64), call(Embedder, folder, device="cpu", precision="fp32")
        made[frame][1].restore_budget(budget)
        return vocab, *made[frame]

    return get


@settings(max_examples=40, deadline=None)
@given(
    frame=st.sampled_from(list(FRAMES)),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    budget=st.integers(1, 80),
    layer=st.integers(-3, 3).filter(bool),
    seed=st.integers(0, 3),
    data=st.data(),
)
def test_pools_of_any_lengths(kept, frame, lengths, budget, layer, seed, data):
    vocab, reference, embedder = kept(frame, budget)
    one = st.sampled_from(kinds(FRAMES[frame]))
    pools = data.draw(st.lists(st.lists(one, min_size=1, max_size=3, unique=True).map("+".join), min_size=1, max_size=4, unique=True))
    tokens = tokens_of(vocab, bodies_of(vocab, lengths, seed), FRAMES[frame])
    assert_reference(embedder.embed(tokens, pool=pools, layer=layer).columns, tokens, reference, pools, [layer])


def test_where_parts_stand(small):
    vocab, folder = small
    tokens = tokens_of(vocab, BODIES)
    found = call(Embedder, folder, device="cpu").embed(tokens, pool=["mean + var", "cls"])
    assert found.meta["outputs"]["mean+var_layer-2"] == {"pool": "mean+var", "layer": -2, "parts": {"mean": [0, 16], "var": [16, 32]}}
    single = embed(folder, tokens, pool=["var", "mean"], tokens_per_batch=4096)
    np.testing.assert_array_equal(found.columns["mean+var_layer-2"][:, 16:], single["var_layer-2"])
    np.testing.assert_array_equal(found.columns["mean+var_layer-2"][:, :16], single["mean_layer-2"])
    with pytest.raises(SettingsError, match="pooling 'mean.mean' holds the same kind twice"):
        embed(folder, tokens, pool="mean+mean")
    with pytest.raises(SettingsError, match="unknown pooling '';"):
        embed(folder, tokens, pool="mean+")


def test_a_pool_that_is_added_is_found(small, monkeypatch):
    """One entry in the registry is all that a new pool takes."""
    from rankcell.model import Pool

    monkeypatch.setitem(POOLS, "last", Pool("last", lambda s: s.genes_btd[:, -1]))
    vocab, folder = small
    tokens = tokens_of(vocab, BODIES)
    reference = Reference(folder, tokens.frame, 64)
    expected = [reference.hidden(row)[-2][-2] for row in tokens]
    np.testing.assert_allclose(embed(folder, tokens, pool="last")["last_layer-2"], expected, **CLOSE)


# attention's ways


@pytest.fixture
def bounds(monkeypatch):
    """The bounds of the scores of each row and head that go through the blocked attention."""
    seen = []
    blocked = blocks._blocked

    def watched(q, k, v, out):
        seen.extend((q.norm(dim=-1).amax(-1) * k.norm(dim=-1).amax(-1)).flatten().tolist())
        blocked(q, k, v, out)

    monkeypatch.setattr(blocks, "_blocked", watched)
    return seen


def louder(folder, target, vocab, factor):
    """The same model with queries and keys so much longer."""
    weights = load_file(folder / "model.safetensors")
    changed = {n: w * factor if ".self.query" in n or ".self.key" in n else w for n, w in weights.items()}
    target.mkdir()
    save_file(changed, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_bytes((folder / "config.json").read_bytes())
    vocab.save(target / "vocabulary")
    return target


@pytest.fixture(scope="module")
def long_reference(long):
    return functools.cache(lambda frame: Reference(long[1], FRAMES[frame], 512))


@needs_onednn
@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("budget", [1, 1_000, 4_096])
def test_long_rows(long, long_reference, bounds, frame, budget):
    vocab, folder = long
    tokens = tokens_of(vocab, bodies_of(vocab, [300, 3, 500, 300, 254, 256, 40, 40]), FRAMES[frame])
    pools, layers = [p for p in kinds(FRAMES[frame], "mean+var") if p != "parti"], [-1, 1]
    found = embed(folder, tokens, pool=pools, layer=layers, tokens_per_batch=budget)
    assert len(bounds) >= 3 * 4 * 4 and max(bounds) < blocks._SAFE  # at least 4 rows of 256 and more, 3 blocks, 4 heads
    assert_reference(found, tokens, long_reference(frame), pools, layers)


@pytest.mark.parametrize("frame", ["framed", "bare"])
def test_long_rows_by_their_attention(long, long_reference, frame):
    vocab, folder = long
    tokens = tokens_of(vocab, bodies_of(vocab, [260, 3, 260, 40]), FRAMES[frame])
    pools = ["parti", "mean"]
    found = embed(folder, tokens, pool=pools, layer=2, tokens_per_batch=600)
    assert_reference(found, tokens, long_reference(frame), pools, [2])


@needs_onednn
def test_long_rows_whose_scores_are_large(long, bounds, tmp_path):
    vocab, folder = long
    folder = louder(folder, tmp_path / "loud", vocab, 8.0)
    tokens = tokens_of(vocab, bodies_of(vocab, [300, 500, 12]))
    pools, layers = [p for p in kinds(tokens.frame) if p != "parti"], [-1, 1]
    found = embed(folder, tokens, pool=pools, layer=layers, tokens_per_batch=1_000)
    assert max(bounds) > blocks._SAFE
    # scores of some hundred powers of two keep about 2e-5 in float32, and so do the weights that are made of them
    assert_reference(found, tokens, Reference(folder, tokens.frame, 512), pools, layers, rtol=2e-4, atol=2e-4)


@needs_onednn
def test_scores_beyond_all_bounds_stay_finite(long, tmp_path):
    vocab, folder = long
    folder = louder(folder, tmp_path / "shouting", vocab, 100.0)
    tokens = tokens_of(vocab, bodies_of(vocab, [300, 400]))
    for precision in ("fp32", "bf16"):
        found = embed(folder, tokens, pool=["mean", "cls", "parti"], layer=-1, precision=precision)
        assert all(np.isfinite(values).all() for values in found.values())


@needs_onednn
def test_with_and_without_the_bound(long, monkeypatch):
    """Taking each row's maximum off changes nothing but last bits; nor do pieces of few queries."""
    vocab, folder = long
    tokens = tokens_of(vocab, bodies_of(vocab, [300, 500, 300]))
    how = dict(pool=["mean", "cls"], layer=[-1, -2], tokens_per_batch=4_096)
    expected = embed(folder, tokens, **how)
    for name, value in (("_SAFE", 0.0), ("SCORES_PER_THREAD", 1), ("_LONG", 1), ("_LONG", 10_000)):
        with monkeypatch.context() as m:
            m.setattr(blocks, name, value)
            for key, values in embed(folder, tokens, **how).items():
                np.testing.assert_allclose(values, expected[key], rtol=0, atol=2e-6)


@pytest.mark.parametrize("which", ["small", "long"])
def test_without_onednn_the_same(small, long, monkeypatch, which):
    vocab, folder = {"small": small, "long": long}[which]
    tokens = tokens_of(vocab, BODIES if which == "small" else bodies_of(vocab, [300, 10, 400]))
    how = dict(pool=kinds(tokens.frame), layer=[-1, -2], tokens_per_batch=900)
    expected = embed(folder, tokens, **how)
    monkeypatch.setattr(encoder, "has_onednn", lambda *_: False)
    for name, values in embed(folder, tokens, **how).items():
        np.testing.assert_allclose(values, expected[name], rtol=2e-6, atol=2e-6)


# only what is wanted


def shapes_of(monkeypatch):
    """How many tokens each `up` (one a block) is given, while the test runs."""
    seen, call = [], blocks.Block.__call__

    def heard(self, hidden, *rest, **how):
        out = call(self, hidden, *rest, **how)
        seen.append((len(hidden), len(out)))
        return out

    monkeypatch.setattr(blocks.Block, "__call__", heard)
    return seen


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("layers", [[-1], [-2], [-1, 1], [0], [0, 1]])
def test_single_tokens_take_the_short_way(small, frame, layers, monkeypatch):
    vocab, folder = small
    frame = FRAMES[frame]
    tokens = tokens_of(vocab, BODIES, frame)
    pools = [p for p in ("cls", "first", "position0", "first+position0", "first+cls") if frame.has_cls or "cls" not in p]
    seen = shapes_of(monkeypatch)
    short = embed(folder, tokens, pool=pools, layer=layers, tokens_per_batch=10_000)
    n, n_blocks = int(tokens.lengths.sum()), max(layer % 4 for layer in layers)
    wanted = len(tokens) * (2 if frame.has_cls else 1)  # positions 0 and 1, or 0 alone
    assert seen == ([(n, n)] * (n_blocks - 1) + [(n, wanted)] if n_blocks else [])
    seen.clear()
    whole = embed(folder, tokens, pool=[*pools, "mean"], layer=layers, tokens_per_batch=10_000)
    assert seen == [(n, n)] * n_blocks
    for name, values in short.items():
        np.testing.assert_allclose(values, whole[name], rtol=0, atol=1e-6)
    assert_reference(short, tokens, Reference(folder, frame, 64), pools, layers)


@needs_onednn
def test_the_short_way_of_long_rows(long, long_reference):
    vocab, folder = long
    tokens = tokens_of(vocab, bodies_of(vocab, [300, 3, 500, 300]))
    pools = ["cls", "first", "position0"]
    found = embed(folder, tokens, pool=pools, layer=-1, tokens_per_batch=900)
    assert_reference(found, tokens, long_reference("framed"), pools, [-1])


def test_attention_below_the_short_way(small):
    """parti of an earlier layer beside CLS of the last, which computes one query a row."""
    vocab, folder = small
    tokens = tokens_of(vocab, BODIES)
    embedder = call(Embedder, folder, device="cpu", precision="fp32")
    found = embedder.embed(tokens, pool=["parti", "cls"], layer=[1, 2])
    assert_reference(found.columns, tokens, Reference(folder, tokens.frame, 64), ["parti", "cls"], [1, 2])
    work = Work(choose_outputs(["parti"], {1: 1}, tokens.frame) + choose_outputs(["cls"], {3: 3}, tokens.frame))
    assert work.only(tokens.frame) == [0]
    cells = embedder.run(tokens, np.arange(len(tokens)), work).cells
    for name, values in cells.items():
        pool, layer = name.split("_layer")
        expected = [Reference(folder, tokens.frame, 64).embed(row, pool, int(layer)) for row in tokens]
        np.testing.assert_allclose(values, expected, **CLOSE)


# precision


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    vocab = make_vocab(60, name="wide")
    folder = make_checkpoint(tmp_path_factory.mktemp("models") / "wide", vocab, width=64, positions=80, scale=0.1)
    return vocab, folder, tokens_of(vocab, bodies_of(vocab, [60, 12, 3, 60, 33, 1]))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("onednn", [True, False])
def test_half_precision(wide, precision, onednn, monkeypatch):
    _, folder, tokens = wide
    if not onednn:
        monkeypatch.setattr(encoder, "has_onednn", lambda *_: False)
    pools = ["mean", "cls", "first", "max", "median", "parti", "norm"]
    exact = embed(folder, tokens, pool=pools, layer=[-1, -2])
    half = embed(folder, tokens, pool=pools, layer=[-1, -2], precision=precision)
    for name, values in half.items():
        cosines = precision_check.cosines(exact[name], values)
        assert values.dtype == np.float32 and cosines.min() >= 0.999, (name, cosines)
    assert any((half[name] != exact[name]).any() for name in exact)


@needs_onednn
def test_half_precision_of_long_rows(long):
    vocab, folder = long
    tokens = tokens_of(vocab, bodies_of(vocab, [300, 480]))
    exact, half = (embed(folder, tokens, pool=["mean", "cls"], layer=-2, precision=p) for p in ("fp32", "bf16"))
    for name in exact:
        assert precision_check.cosines(exact[name], half[name]).min() >= 0.999


@pytest.fixture
def fast_bf16(monkeypatch):
    monkeypatch.setattr(embedder, "faster_precisions", lambda device, width: ["bf16"] if width >= 64 else [])


def automatic(folder, tokens, **how):
    made = call(Embedder, folder, device="cpu")
    return made, made.embed(tokens, **how)


def test_auto_keeps_bf16_that_agrees(wide, fast_bf16, monkeypatch):
    _, folder, tokens = wide
    monkeypatch.setattr(embedder, "LEAST_COSINE", 0.999)
    made, found = automatic(folder, tokens, pool=["mean", "cls"])
    check = found.meta["precision_check"]
    assert found.meta["precision"] == made.encoder.precision == check["kept"] == "bf16"
    assert check["cells"] == 6 and check["output"] in found.columns and 0.999 <= check["least_cosine"] < 1
    half = embed(folder, tokens, pool=["mean", "cls"], precision="bf16", tokens_per_batch=4_096)
    for name, values in found.columns.items():
        np.testing.assert_array_equal(values, half[name])
    exact = embed(folder, tokens, pool=["mean", "cls"], precision="fp32", tokens_per_batch=4_096)
    worst = min(float(precision_check.cosines(exact[name], half[name]).min()) for name in exact)
    assert check["least_cosine"] == pytest.approx(worst, abs=1e-6)


def test_auto_falls_back_to_fp32(wide, fast_bf16, monkeypatch):
    _, folder, tokens = wide
    monkeypatch.setattr(embedder, "LEAST_COSINE", 1.1)
    made, found = automatic(folder, tokens)
    assert found.meta["precision"] == made.encoder.precision == found.meta["precision_check"]["kept"] == "fp32"
    assert found.meta["precision_check"]["least_cosine"] < 1
    exact = embed(folder, tokens, precision="fp32", tokens_per_batch=4_096)
    np.testing.assert_array_equal(found.columns["mean_layer-2"], exact["mean_layer-2"])
    assert automatic(folder, tokens)[1].meta == found.meta  # the same every time


def test_auto_is_fp32_for_narrow_models_and_slow_processors(wide, small, fast_bf16, monkeypatch):
    vocab, folder = small
    _, found = automatic(folder, tokens_of(vocab, BODIES))
    assert found.meta["precision"] == "fp32" and "precision_check" not in found.meta
    monkeypatch.setattr(embedder, "faster_precisions", lambda device, width: [])
    _, found = automatic(*wide[1:])
    assert found.meta["precision"] == "fp32" and "precision_check" not in found.meta


def test_auto_without_cells(wide, fast_bf16):
    vocab, folder, _ = wide
    with pytest.warns(RankcellWarning, match="1 of 1 cells"):
        _, found = automatic(folder, tokens_of(vocab, [[]]))
    assert found.meta["precision"] == "fp32" and np.isnan(found.columns["mean_layer-2"]).all()


def test_auto_probes_cells_of_all_lengths(wide, fast_bf16, monkeypatch):
    vocab = wide[0]
    tokens = tokens_of(vocab, bodies_of(vocab, np.random.default_rng(0).integers(1, 60, 200)))
    drawn = precision_check.probe_rows(tokens, 640)
    assert 10 < len(drawn) < 40 and len(set(drawn.tolist())) == len(drawn)
    lengths = tokens.lengths[drawn]
    assert lengths.max() == tokens.lengths.max() and lengths.min() == tokens.lengths.min()
    assert abs(lengths.mean() - tokens.lengths.mean()) < 5


# memory that runs out


@pytest.fixture
def scarce(monkeypatch):
    """`scarce(n)`: from then on batches of more than `n` tokens do not fit. Gives the list of those tried."""
    tried, walk = [], Encoder.walk

    def set_limit(most, error=torch.OutOfMemoryError, midway=False):
        def limited(self, batch, layers, **how):
            tried.append(len(batch.input_ids))
            steps = walk(self, batch, layers, **how)
            if midway:
                yield next(steps)
            if len(batch.input_ids) > most:
                raise error("out of memory: tried to allocate 20 GiB")
            yield from steps

        monkeypatch.setattr(Encoder, "walk", limited)
        return tried

    return set_limit


def told_of(function):
    """What a call gives, and the lines it warned with."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = function()
    assert all(issubclass(w.category, RankcellWarning) for w in told)
    return found, [str(w.message) for w in told]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
@pytest.mark.parametrize("midway", [False, True])
def test_batches_are_halved(small, scarce, error, midway):
    vocab, folder = small
    tokens = tokens_of(vocab, BODIES * 3)
    how = dict(pool=["mean", "cls", "parti"], layer=[-1, -2])
    expected = embed(folder, tokens, tokens_per_batch=25, **how)
    tried = scarce(30, error, midway)
    made = call(Embedder, folder, device="cpu", tokens_per_batch=100)
    found, told = told_of(lambda: made.embed(tokens, **how))
    line = "out of memory with {} tokens a batch: going on with {} (tokens_per_batch={} starts so)"
    first, second = [n for n in tried if n > 30]  # the first batch, and the first half of it
    assert told == [line.format(first, first // 2, first // 2), line.format(second, second // 2, second // 2)]
    assert first <= 100 and second <= first // 2 and made.tokens_per_batch == second // 2
    for name, values in found.columns.items():
        np.testing.assert_allclose(values, expected[name], rtol=3e-6, atol=3e-6)
    _, told = told_of(lambda: made.embed(tokens))  # the lesson is kept
    assert told == []


def sums_of(folder, vocab, tokens, layers, groups=None, budget=25):
    made = call(Embedder, folder, device="cpu", precision="fp32", tokens_per_batch=budget)
    sums = GeneSums(vocab.n_ids, 16, layers, groups)
    made.run(tokens, np.arange(len(tokens)), Work([], layers, sums))
    return sums


def same_sums(a, b):
    assert a.counts.keys() == b.counts.keys() and a.sums.keys() == b.sums.keys()
    for g in a.counts:
        np.testing.assert_array_equal(a.counts[g], b.counts[g])
    for key in a.sums:
        np.testing.assert_allclose(a.sums[key], b.sums[key], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("midway", [False, True])
def test_nothing_is_summed_twice(small, scarce, midway):
    vocab, folder = small
    tokens = tokens_of(vocab, BODIES * 3)
    expected = sums_of(folder, vocab, tokens, {-1: 3, 0: 0})
    scarce(30, midway=midway)
    found, told = told_of(lambda: sums_of(folder, vocab, tokens, {-1: 3, 0: 0}, budget=100))
    assert told
    same_sums(found, expected)


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5])
def test_memory_that_runs_out_while_summing(small, monkeypatch, at):
    """Two layers and two groups of every batch are summed one after the other: a batch counts whole or not at all."""
    vocab, folder = small
    tokens, groups = tokens_of(vocab, BODIES * 3), np.tile([0, 1, -1], 6)
    expected = sums_of(folder, vocab, tokens, {-1: 3, 0: 0}, groups)
    reduced, calls = gene_sums._reduced, []

    def failing(*args):
        calls.append(1)
        if len(calls) == at:
            raise torch.OutOfMemoryError("out of memory")
        return reduced(*args)

    monkeypatch.setattr(gene_sums, "_reduced", failing)
    found, told = told_of(lambda: sums_of(folder, vocab, tokens, {-1: 3, 0: 0}, groups, budget=100))
    assert len(told) == 1
    same_sums(found, expected)


def test_a_row_that_does_not_fit(small, scarce):
    vocab, folder = small
    scarce(13)
    made = call(Embedder, folder, device="cpu", tokens_per_batch=100)
    with pytest.warns(RankcellWarning, match="out of memory with"):
        with pytest.raises(
            ModelError,
            match=r"the memory of device 'cpu' does not hold one row of 14 tokens \(20 GiB more needed.*\): choose another device, or precision='bf16'$",
        ):
            made.embed(tokens_of(vocab, BODIES * 3))
    assert not torch.is_inference_mode_enabled()


def test_other_errors_are_not_taken_for_it(small, scarce):
    vocab, folder = small
    scarce(13, RuntimeError)
    with pytest.raises(RuntimeError, match="out of memory"):
        embed(folder, tokens_of(vocab, BODIES))
    assert not torch.is_inference_mode_enabled()
