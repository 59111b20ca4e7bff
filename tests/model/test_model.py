"""Checkpoints, batches and the encoder, against transformers' own hidden states."""

import json
import shutil

import numpy as np
import pytest
import torch
from builders import make_checkpoint, make_vocab
from flat_options import call, run_screen
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from rankcell.errors import ModelError, SettingsError, TokensError, VocabularyError
from rankcell.model import Encoder, blocks, collate, encoder, open_checkpoint, plan_batches
from rankcell.model.devices import choose_device
from rankcell.tokens import TokenSpec
from rankcell.vocab import Frame


def copy_of(folder, target):
    shutil.copytree(folder, target)
    return target


def encoder_of(folder, **how):
    return Encoder(open_checkpoint(folder), device=how.pop("device", "cpu"), **how)


def random_rows(vocab, lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [np.concatenate([[2], rng.permutation(len(vocab))[: n - 2] + 4, [3]]).astype(np.int32) for n in lengths]


def all_states(folder, rows, attend=None):
    """transformers' own, row by row and end to end: hidden states of the whole masked-language model."""
    from transformers import AutoModelForMaskedLM

    model = AutoModelForMaskedLM.from_pretrained(folder, attn_implementation="eager").eval()
    found = []
    for i, row in enumerate(rows):
        mask = None if attend is None else torch.from_numpy(attend[i])[None].long()
        with torch.no_grad():
            out = model(input_ids=torch.from_numpy(row)[None].long(), attention_mask=mask, output_hidden_states=True)
        found.append([h[0] for h in out.hidden_states])
    return [torch.cat(states) for states in zip(*found, strict=True)]


def batch_of(rows, attend=None):
    return collate(rows, np.arange(len(rows)), attend)


# batches


def test_plan_by_hand():
    plan = [b.tolist() for b in plan_batches([3, 10, 5, 5, 0, 2], tokens_per_batch=10)]
    assert plan == [[1], [2, 3], [0, 5, 4]]
    assert [b.tolist() for b in plan_batches([4, 4], tokens_per_batch=1)] == [[0], [1]]
    assert list(plan_batches([], tokens_per_batch=9)) == []
    with pytest.raises(SettingsError, match="tokens_per_batch is 0; at least 1"):
        list(plan_batches([1], tokens_per_batch=0))


def test_collate_by_hand():
    rows = [np.array([2, 5, 6, 7, 3], np.int32), np.array([2, 8, 3], np.int32)]
    batch = collate(rows, np.array([4, 1]))
    assert batch.input_ids.tolist() == [2, 5, 6, 7, 3, 2, 8, 3]
    assert batch.input_ids.dtype == batch.lengths.dtype == np.int64
    assert batch.rows.tolist() == [4, 1]
    assert batch.lengths.tolist() == batch.n_keys.tolist() == [5, 3]
    assert batch.starts.tolist() == [0, 5]
    assert batch.positions.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert batch.attend is None
    assert batch.input_ids[batch.is_gene(Frame((2,), (3,)))].tolist() == [5, 6, 7, 8]
    assert batch.input_ids[batch.is_gene(Frame((2,)))].tolist() == [5, 6, 7, 3, 8, 3]
    assert batch.is_gene(Frame()).all()
    ids, here = batch.padded(9)
    assert ids.tolist() == [[2, 5, 6, 7, 3], [2, 8, 3, 9, 9]]
    assert here.tolist() == [[True] * 5, [True, True, True, False, False]]


def test_runs_by_hand():
    """(rows, queries, keys, first query, first key): neighbours of one shape go together."""
    rows = [np.full(n, 5, np.int32) for n in (4, 4, 3, 3, 4)]
    assert batch_of(rows).runs() == [(2, 4, 4, 0, 0), (2, 3, 3, 8, 8), (1, 4, 4, 14, 14)]
    assert batch_of(rows).runs(1) == [(2, 1, 4, 0, 0), (2, 1, 3, 2, 8), (1, 1, 4, 4, 14)]
    attend = [np.ones(n, bool) for n in (4, 4, 3, 3, 4)]
    attend[1][2] = attend[3][:] = False
    batch = batch_of(rows, attend)
    assert batch.n_keys.tolist() == [4, 3, 3, 0, 4]
    assert batch.runs() == [(1, 4, 4, 0, 0), (1, 4, 3, 4, 4), (1, 3, 3, 8, 7), (1, 3, 0, 11, 10), (1, 4, 4, 14, 10)]
    assert batch_of([]).runs() == []


def test_keys_of_rows_without_tokens():
    rows = [np.full(n, 5, np.int32) for n in (0, 2, 0, 1, 0)]
    batch = batch_of(rows, [np.ones(len(r), bool) for r in rows])
    assert batch.n_keys.tolist() == [0, 2, 0, 1, 0]


@settings(max_examples=100, deadline=None)
@given(lengths=st.lists(st.integers(0, 40), max_size=30), budget=st.integers(1, 100))
def test_batches_keep_the_budget_and_find_home(lengths, budget):
    home = {}
    for where in plan_batches(lengths, tokens_per_batch=budget):
        batch = collate([np.full(lengths[i], i + 1, np.int32) for i in where], where)
        assert len(batch.input_ids) <= budget or len(where) == 1
        assert len(batch.input_ids) == batch.lengths.sum() == sum(r.rows * r.n_q for r in batch.runs())
        for i, a, n in zip(batch.rows.tolist(), batch.starts.tolist(), batch.lengths.tolist(), strict=True):
            assert i not in home
            home[i] = batch.input_ids[a : a + n].tolist()
            assert batch.positions[a : a + n].tolist() == list(range(n))
    assert [home[i] for i in range(len(lengths))] == [[i + 1] * n for i, n in enumerate(lengths)]


# the encoder


@pytest.fixture(scope="module")
def rows(small):
    return random_rows(small[0], [14, 9, 9, 3])


@pytest.fixture(scope="module")
def batch(rows):
    return batch_of(rows)


def test_states_of_every_layer(small, rows, batch):
    _, folder = small
    encoder = encoder_of(folder)
    expected = all_states(folder, rows)
    for layer in range(-4, 4):
        n = encoder.checkpoint.resolve_layer(layer)
        states = encoder.states(batch, [n])
        assert list(states) == [n] and states[n].dtype == torch.float32
        torch.testing.assert_close(states[n], expected[layer], rtol=0, atol=2e-6)


def test_several_layers_at_once(small, rows, batch):
    _, folder = small
    encoder = encoder_of(folder)
    expected = all_states(folder, rows)
    states = encoder.states(batch, [2, 0, 2, 1])
    assert list(states) == [0, 1, 2]
    for n in states:
        torch.testing.assert_close(states[n], expected[n], rtol=0, atol=2e-6)
    torch.testing.assert_close(encoder.states(batch, [3])[3], expected[3], rtol=0, atol=2e-6)


def test_a_row_is_the_same_in_any_company(small, rows, batch):
    encoder = encoder_of(small[1])
    together = encoder.states(batch, [3])[3].split(batch.lengths.tolist())
    for row, states in zip(rows, together, strict=True):
        torch.testing.assert_close(encoder.states(batch_of([row]), [3])[3], states, rtol=0, atol=1e-6)


@pytest.mark.parametrize("only", [[0], [1], [2, 0, 1]])
@pytest.mark.parametrize("layers", [[3], [1, 3], [0], [0, 2]])
@pytest.mark.parametrize("left_out", [False, True])
def test_only_some_positions_of_the_last_layer(small, rows, only, layers, left_out):
    attend = [np.ones(len(r), bool) for r in rows]
    attend[0][[0, 4, 5]] = attend[2][[2, 3]] = False
    batch = batch_of(rows, attend if left_out else None)
    encoder = encoder_of(small[1])
    whole, some = encoder.states(batch, layers), dict(encoder.walk(batch, layers, only=only))
    assert list(some) == list(whole)
    for n in layers[:-1]:
        torch.testing.assert_close(some[n], whole[n], rtol=0, atol=0)
    picked = torch.from_numpy((batch.starts[:, None] + np.array(only)).ravel())
    torch.testing.assert_close(some[layers[-1]], whole[layers[-1]][picked], rtol=0, atol=1e-6)


def test_tokens_left_out_keep_their_positions(small):
    _, folder = small
    rows = random_rows(small[0], [10, 7])
    attend = [np.ones(len(r), bool) for r in rows]
    attend[0][[3, 4]] = False
    encoder = encoder_of(folder)
    found = encoder.states(batch_of(rows, attend), [3])[3]
    kept = torch.from_numpy(np.concatenate(attend))
    expected = all_states(folder, rows, attend)[3]
    torch.testing.assert_close(found[kept], expected[kept], rtol=0, atol=2e-6)
    # what is left out has states too: it attends, and is not attended to
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    # another token in their place changes nothing elsewhere; closing up the gap does
    other = rows[0].copy()
    other[[3, 4]] = 1
    again = encoder.states(batch_of([other, rows[1]], attend), [3])[3]
    torch.testing.assert_close(again[kept], found[kept], rtol=0, atol=1e-6)
    closed = encoder.states(batch_of([rows[0][attend[0]]]), [3])[3]
    assert (closed - found[:10][attend[0]]).abs().max() > 1e-2


def listening(encoder):
    """Let the encoder's blocks note their number and the shape of what they give."""
    ran = []

    def heard(number, block):
        def run(*args, **how):
            out = block(*args, **how)
            ran.append((number, len(out)))
            return out

        return run

    encoder._blocks = [heard(number, block) for number, block in enumerate(encoder._blocks)]
    return ran


@pytest.mark.parametrize(("layers", "wanted"), [([0], 0), ([1], 1), ([2], 2), ([3], 3), ([0, 2], 2)])
def test_only_the_wanted_blocks_run(small, batch, layers, wanted):
    encoder = encoder_of(small[1])
    ran = listening(encoder)
    encoder.states(batch, layers)
    assert ran == [(number, 35) for number in range(wanted)]
    assert len(encoder._blocks) == 3


def test_the_last_block_computes_only_what_is_wanted(small, batch, monkeypatch):
    """Counted at the matrix products: 35 tokens of 4 rows, of which one each is wanted."""
    encoder = encoder_of(small[1])
    sizes = []
    call, plus = blocks.Linear.__call__, blocks.Linear.plus

    def counted(function):
        def run(self, x, *rest, **how):
            sizes.append((len(x), *self.weight.shape))
            return function(self, x, *rest, **how)

        return run

    monkeypatch.setattr(blocks.Linear, "__call__", counted(call))
    monkeypatch.setattr(blocks.Linear, "plus", counted(plus))
    assert [len(h) for _, h in encoder.walk(batch, [2], only=[1])] == [4]
    whole = [(35, 48, 16), (35, 16, 16), (35, 32, 16), (35, 16, 32)]
    assert sizes == [*whole, (4, 16, 16), (35, 32, 16), (4, 16, 16), (4, 32, 16), (4, 16, 32)]


def test_there_is_no_head(small):
    checkpoint = open_checkpoint(small[1])
    trunk = dict(encoder._load_trunk(checkpoint).named_parameters())
    assert all(name.startswith(("embeddings.", "encoder.layer.")) for name in trunk)
    made = Encoder(checkpoint, device="cpu")
    assert sum(p.numel() for p in trunk.values()) == sum(w.numel() for w in weights_of(made))


def weights_of(encoder):
    """Every tensor that an encoder holds."""
    linears = [part for b in encoder._blocks for part in (b.qkv, b.out, b.up, b.down, b.out_norm, b.down_norm)]
    return [*encoder._embeddings._own.parameters(), *(w for part in linears for w in (part.weight, part.bias))]


def test_an_error_midway_leaves_the_encoder_whole(small, batch):
    encoder = encoder_of(small[1])
    before = encoder.states(batch, [3])[3]
    with pytest.raises(IndexError):
        encoder.states(batch_of([np.full(3, 99)]), [1])
    assert not torch.is_inference_mode_enabled()
    assert torch.equal(encoder.states(batch, [3])[3], before)


def test_nothing_stays_in_inference_mode(small, batch):
    walk = encoder_of(small[1]).walk(batch, [0, 1])
    next(walk)
    walk.close()
    assert not torch.is_inference_mode_enabled()


def test_precision(small, batch):
    full = encoder_of(small[1]).states(batch, [2])[2]
    for precision, least, most in (("bf16", 1e-4, 0.15), ("fp16", 1e-5, 0.02)):
        half = encoder_of(small[1], precision=precision).states(batch, [2])[2]
        assert half.dtype == torch.float32
        error = (half - full).abs().max()  # states are layer-normed (about 1); bfloat16 keeps 8 bits, float16 11
        assert least < error < most
    assert encoder_of(small[1]).precision == "fp32"
    with pytest.raises(SettingsError, match="unknown precision 'fp8'; one of auto, fp32, tf32, bf16, fp16"):
        encoder_of(small[1], precision="fp8")


def test_without_onednn_the_same(small, batch, monkeypatch):
    attend = np.ones(len(batch.input_ids), bool)
    attend[[1, 20]] = False
    masked = batch_of(np.split(batch.input_ids, batch.starts[1:]), np.split(attend, batch.starts[1:]))
    fast = encoder_of(small[1])
    monkeypatch.setattr(encoder, "has_onednn", lambda *_: False)
    plain = encoder_of(small[1])
    assert plain.description["attention"] == "sdpa" and not plain._blocks[0].up.onednn
    for some in (batch, masked):
        a, b = fast.states(some, [0, 1, 2, 3]), plain.states(some, [0, 1, 2, 3])
        for n in a:
            torch.testing.assert_close(a[n], b[n], rtol=0, atol=1e-6)
        a, b = (dict(e.walk(some, [3], only=[0, 1]))[3] for e in (fast, plain))
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_torch_without_onednn_is_noticed(monkeypatch):
    cpu = torch.device("cpu")
    assert not blocks.has_onednn(torch.device("meta"), torch.float32)
    with monkeypatch.context() as m:
        m.setattr(blocks.platform, "machine", lambda: "aarch64")
        assert not blocks.has_onednn(cpu, torch.float32)
    with monkeypatch.context() as m:
        m.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        assert not blocks.has_onednn(cpu, torch.float32)
    for error in (AttributeError, RuntimeError, TypeError):

        def gone(error=error):
            raise error("no such operator")

        monkeypatch.setattr(blocks, "onednn_linear", gone)
        assert not blocks.has_onednn(cpu, torch.float32)


def test_onednn_of_float32_alone(small, batch, monkeypatch):
    """As on processors without AVX-512, where oneDNN refuses products in bf16."""

    class Float32Alone:
        binary = staticmethod(blocks.onednn_linear().binary)

        def __call__(self, x, *rest):
            if x.dtype != torch.float32:
                raise RuntimeError("could not create a primitive descriptor")
            return blocks_linear(x, *rest)

    blocks_linear = blocks.onednn_linear()
    monkeypatch.setattr(blocks, "onednn_linear", Float32Alone)
    assert blocks.has_onednn(torch.device("cpu"), torch.float32) and not blocks.has_onednn(torch.device("cpu"), torch.bfloat16)
    half, exact = (encoder_of(small[1], precision=p) for p in ("bf16", "fp32"))
    assert half.description["attention"] == "sdpa" and exact.description["attention"] == "blocked"
    torch.testing.assert_close(half.states(batch, [3])[3], exact.states(batch, [3])[3], rtol=0, atol=0.1)


def save_other(folder, vocab, kind, **changes):
    """A masked-language model of another kind, with random weights large enough for every part to matter."""
    import transformers

    torch.manual_seed(1)
    sizes = dict(vocab_size=vocab.n_ids, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24)
    sizes |= dict(max_position_embeddings=32, initializer_range=0.3, pad_token_id=0) | changes
    getattr(transformers, f"{kind}ForMaskedLM")(getattr(transformers, f"{kind}Config")(**sizes)).save_pretrained(folder)
    vocab.save(folder / "vocabulary")
    return folder


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("Roberta", {}),
        ("Roberta", dict(pad_token_id=1)),
        ("XLMRoberta", {}),
        ("Camembert", {}),
        ("Electra", {}),
        ("Electra", dict(embedding_size=8)),
        ("Bert", dict(hidden_act="relu")),
        ("Bert", dict(hidden_act="gelu_new")),
        ("Bert", dict(hidden_act="silu")),
        ("Bert", dict(layer_norm_eps=1e-2)),
        ("Bert", dict(num_attention_heads=1)),
        ("Bert", dict(type_vocab_size=3)),
    ],
)
@pytest.mark.parametrize("onednn", [True, False])
def test_other_kinds_and_activations(small, rows, batch, tmp_path, monkeypatch, kind, changes, onednn):
    if not onednn:
        monkeypatch.setattr(encoder, "has_onednn", lambda *_: False)
    special = ["<pad>", "<mask>", "<cls>", "<eos>"]
    special.insert(changes.get("pad_token_id", 0), special.pop(0))  # RoBERTa counts positions from the padding's number on
    folder = save_other(tmp_path / "m", make_vocab(special=special), kind, **changes)
    expected = all_states(folder, rows)
    states = encoder_of(folder).states(batch, [0, 1, 2])
    for n in states:
        torch.testing.assert_close(states[n], expected[n], rtol=1e-5, atol=3e-6)


def test_description(small):
    said = encoder_of(small[1], precision="bf16").description
    assert said.pop("attention") in ("blocked", "sdpa")
    assert said == {
        "device": "cpu",
        "precision": "bf16",
        "products": "ieee",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "device 'cuda' is not there: torch sees 0 CUDA devices; pass device='cpu'"),
        ("cuda:3", "device 'cuda:3' is not there"),
        ("gpu", "unknown device 'gpu'; one of auto, cpu, cuda, cuda:N"),
        ("meta", "unknown device 'meta'"),
    ],
)
def test_devices_that_are_not_there(monkeypatch, device, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(SettingsError, match=message):
        choose_device(device)
    assert choose_device("auto") == torch.device("cpu")


# checkpoints


def test_what_a_checkpoint_says(small):
    vocab, folder = small
    c = open_checkpoint(folder)
    assert (c.name, c.n_layers, c.width, c.max_positions, c.max_len) == ("small", 3, 16, 64, 64)
    assert c.vocab == vocab
    assert open_checkpoint(c) is c
    assert open_checkpoint(str(folder), vocab=vocab).vocab == vocab
    assert [c.resolve_layer(n) for n in (-4, -3, -2, -1, 0, 1, 2, 3)] == [0, 1, 2, 3, 0, 1, 2, 3]


@pytest.mark.parametrize("layer", [4, -5])
def test_layer_out_of_range(small, layer):
    with pytest.raises(SettingsError, match=f"layer {layer} is out of range: model 'small' has 3 blocks, so layers -4 to 3"):
        open_checkpoint(small[1]).resolve_layer(layer)


def test_hash_is_of_weights_and_config(small, tmp_path):
    vocab, folder = small
    here = open_checkpoint(copy_of(folder, tmp_path / "elsewhere"))
    assert here.hash == open_checkpoint(folder).hash
    assert open_checkpoint(make_checkpoint(tmp_path / "other", vocab, seed=1)).hash != here.hash


def test_no_folder(tmp_path):
    with pytest.raises(ModelError, match=r"no checkpoint folder '.*none': give a folder with config.json and model.safetensors, or 'demo'"):
        open_checkpoint(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is not a checkpoint: it has no config.json"),
        ("{", "config.json cannot be read"),
        ("[]", r"config.json holds \[\]; expected a JSON object"),
        ('{"hidden_size": "16", "vocab_size": 9}', "does not say num_hidden_layers, max_position_embeddings, model_type"),
        ("3", "config.json holds 3; expected a JSON object"),
        ('{"model_type": "bert", "num_hidden_layers": 1}', "does not say hidden_size, max_position_embeddings, vocab_size"),
    ],
)
def test_bad_config(small, tmp_path, text, message):
    folder = copy_of(small[1], tmp_path / "m")
    (folder / "config.json").unlink()
    if text is not None:
        (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        open_checkpoint(folder)


def with_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(model_type="no_such_model"), "unknown model_type 'no_such_model'"),
        (dict(model_type="gpt2"), "no encoder built like BERT can be made from the config of model 'm'"),
        (dict(model_type="albert"), "model 'm' is a albert: only encoders built like BERT are read"),
        (dict(num_attention_heads=5), "hidden_size is 16, which is not a multiple of num_attention_heads, 5"),
        (dict(num_hidden_layers=4), "lack 'encoder.layer.3.*: the file is not whole, or not of this config"),
        (
            dict(max_position_embeddings=80),
            r"'embeddings.position_embeddings.weight' of model 'm' is \(64, 16\); its config says \(80, 16\)",
        ),
    ],
)
def test_config_of_another_model(small, tmp_path, changes, message):
    folder = with_config(copy_of(small[1], tmp_path / "m"), **changes)
    with pytest.raises(ModelError, match=message):
        encoder_of(folder)


def test_weights_that_cannot_be_read(small, tmp_path):
    folder = copy_of(small[1], tmp_path / "m")
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for broken in (whole[:-100], whole[:4], b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"):
        file.write_bytes(broken)
        with pytest.raises(ModelError, match=r"model.safetensors cannot be read: .*truncated, or a git-lfs pointer"):
            encoder_of(folder)
    file.unlink()
    with pytest.raises(ModelError, match=r"has no model.safetensors$"):
        encoder_of(folder)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(
        ModelError, match=r"has no model.safetensors; pickled weights .* are not read: save them with safe_serialization=True"
    ):
        encoder_of(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("bert.encoder.layer.1.output.dense.bias"), "weights of model 'm' lack 'encoder.layer.1.output.dense.bias'"),
        (
            lambda w: w.update({"bert.encoder.layer.1.output.dense.bias": torch.zeros(15)}),
            r"'encoder.layer.1.output.dense.bias' of model 'm' is \(15,\); its config says \(16,\)",
        ),
        (
            lambda w: w["bert.embeddings.word_embeddings.weight"][3].fill_(float("nan")),
            "'embeddings.word_embeddings.weight' of model 'm' holds NaN or infinite weights",
        ),
        (
            lambda w: w["bert.encoder.layer.2.intermediate.dense.bias"][0].fill_(float("inf")),
            "'encoder.layer.2.intermediate.dense.bias' of model 'm' holds NaN or infinite weights",
        ),
    ],
)
def test_bad_weights(small, tmp_path, change, message):
    folder = copy_of(small[1], tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=message):
        encoder_of(folder)


def test_vocabularies(small, tmp_path):
    vocab, folder = small
    bare = make_checkpoint(tmp_path / "bare", vocab, with_vocab=False)
    with pytest.raises(ModelError, match="checkpoint 'bare' carries no vocabulary: pass vocab, .*rankcell vocab fetch"):
        open_checkpoint(bare)
    assert open_checkpoint(bare, vocab=vocab).vocab == vocab
    other = make_vocab(12, medians=np.full(12, 2.0), name="other")
    with pytest.raises(VocabularyError, match=f"'small' carries vocabulary 'small' .{vocab.hash[:12]}.*is 'other' .{other.hash[:12]}"):
        open_checkpoint(folder, vocab=other)
    larger = make_vocab(13, name="larger")
    with pytest.raises(VocabularyError, match="'larger' has 17 tokens, but model 'bare' has 16"):
        open_checkpoint(bare, vocab=larger)


def test_rows_that_do_not_fit(small):
    vocab, folder = small
    c = open_checkpoint(folder)
    c.require(TokenSpec.of(vocab, frame=Frame(), max_len=4096), 64)  # only real rows count, whatever max_len says
    with pytest.raises(TokensError, match="rows have up to 65 tokens, but model 'small' has 64 positions: tokenize again with max_len=64"):
        c.require(TokenSpec.of(vocab, frame=Frame(), max_len=4096), 65)
    other = make_vocab(12, medians=np.full(12, 2.0), name="other")
    with pytest.raises(VocabularyError, match=r"made with vocabulary 'other' .*the model 'small' has vocabulary 'small'"):
        c.require(TokenSpec.of(other, frame=Frame(), max_len=64), 5)


def split_weights(folder):
    """The same weights in two files with an index."""
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({n: weights[n] for n in held}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {n: file for file, held in parts.items() for n in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    return folder


def test_sharded_weights(small, batch, tmp_path):
    folder = split_weights(copy_of(small[1], tmp_path / "m"))
    expected = encoder_of(small[1]).states(batch, [2])[2]
    assert torch.equal(encoder_of(folder).states(batch, [2])[2], expected)
    (folder / "model-00002-of-00002.safetensors").unlink()
    for use in (encoder_of, lambda f: open_checkpoint(f).hash):
        with pytest.raises(
            ModelError, match=r"model-00002-of-00002.safetensors is not there, though model.safetensors.index.json names it"
        ):
            use(folder)
    for text in ("{", "{}"):
        (folder / "model.safetensors.index.json").write_text(text)
        with pytest.raises(ModelError, match=r"model.safetensors.index.json cannot be read"):
            encoder_of(folder)


@pytest.mark.parametrize("head", ["BertForSequenceClassification", "BertForTokenClassification", "BertModel"])
def test_the_trunk_of_other_heads(small, batch, tmp_path, head):
    import transformers

    vocab, folder = small
    model = getattr(transformers, head)(transformers.BertConfig.from_pretrained(folder))
    trunk = {n.removeprefix("bert."): w for n, w in load_file(folder / "model.safetensors").items() if n.startswith("bert.")}
    base = model if head == "BertModel" else model.bert
    left = base.load_state_dict(trunk, strict=False)
    assert not left.unexpected_keys
    model.save_pretrained(tmp_path / "m")
    vocab.save(tmp_path / "m" / "vocabulary")
    expected = encoder_of(folder).states(batch, [3])[3]
    assert torch.equal(encoder_of(tmp_path / "m").states(batch, [3])[3], expected)


def test_half_precision_weights_run_in_float32(small, batch, tmp_path):
    folder = copy_of(small[1], tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    save_file({n: w.half() for n, w in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    with_config(folder, dtype="float16", torch_dtype="float16")
    encoder = encoder_of(folder)
    assert {w.dtype for w in weights_of(encoder)} == {torch.float32}
    exact = encoder_of(small[1]).states(batch, [1])[1]
    assert 0 < (encoder.states(batch, [1])[1] - exact).abs().max() < 0.02


# on a CUDA device


@pytest.fixture(scope="module")
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


def gpu_tokens(tmp_path):
    from rankcell.tokens import TokenSet

    vocab = make_vocab(60)
    folder = make_checkpoint(tmp_path / "m", vocab, width=32, positions=80)
    spec = TokenSpec.of(vocab, frame=vocab.frame, max_len=62)
    rows = random_rows(vocab, [62, 40, 40, 12, 3, 30])
    return folder, TokenSet.from_rows(rows, spec, obs={"kind": list("aabbab")})


@pytest.mark.gpu
def test_embed_on_the_gpu_is_the_cpus(gpu, tmp_path):
    from rankcell.embed import Embedder

    folder, tokens = gpu_tokens(tmp_path)
    how = dict(pool=["mean", "cls", "first"], layer=[-1, -2, 0])
    a, b = (call(Embedder, folder, device=d, tokens_per_batch=100).embed(tokens, **how).columns for d in ("cpu", "cuda"))
    assert list(a) == list(b)
    for name in a:
        np.testing.assert_allclose(b[name], a[name], rtol=0, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["delete", "overexpress"])
def test_perturb_on_the_gpu_is_the_cpus(gpu, tmp_path, kind):
    from rankcell.perturb import Perturber

    folder, tokens = gpu_tokens(tmp_path)
    how = dict(kind=kind, toward=["kind=a"], affected=True)
    a, b = (run_screen(call(Perturber, folder, device=d, tokens_per_batch=500), tokens, tmp_path / d, **how) for d in ("cpu", "cuda"))
    assert b.manifest["settings"]["device"] == torch.cuda.get_device_name(0)
    for left, right in ((a.table().to_pandas(), b.table().to_pandas()), (a.affected().to_pandas(), b.affected().to_pandas())):
        numbers = left.select_dtypes("float").columns
        assert left.drop(columns=numbers).equals(right.drop(columns=numbers))
        np.testing.assert_allclose(right[numbers], left[numbers], rtol=0, atol=1e-4)


def test_one_block_and_the_default_layer(tmp_path):
    """-2 means the block before the last; where there is none it is the embedding layer, and that is said."""
    from rankcell.errors import RankcellWarning

    vocab = make_vocab(12)
    one = open_checkpoint(make_checkpoint(tmp_path / "one", vocab, layers=1))
    with pytest.warns(RankcellWarning, match="embedding layer"):
        assert one.resolve_layer(-2) == 0
    assert one.resolve_layer(-1) == 1 and one.resolve_layer(0) == 0
