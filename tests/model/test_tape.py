"""The tape against automatic differentiation of transformers' own blocks, and against attention written out in float64."""

import dataclasses

import numpy as np
import pytest
from builders import make_checkpoint, make_vocab

torch = pytest.importorskip("torch")

from rankcell.model import Encoder, open_checkpoint, tape  # noqa: E402
from rankcell.model.encoder import _load_trunk  # noqa: E402
from rankcell.model.tape import Tape, weights_of  # noqa: E402

N = 40


@pytest.fixture(scope="module", params=["relu", "gelu"])
def model(request, tmp_path_factory):
    """(checkpoint, encoder, a row's states before the first block)"""
    import json

    vocab = make_vocab(60)
    folder = make_checkpoint(tmp_path_factory.mktemp(request.param) / "m", vocab)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": request.param}))
    checkpoint = open_checkpoint(folder)
    encoder = Encoder(checkpoint, device="cpu", precision="fp32")
    row = np.random.default_rng(0).permutation(vocab.tokens)[:N]
    with torch.no_grad():
        return checkpoint, encoder, encoder.embedded(row, np.arange(N))


def taped(model, n_blocks=3, **how):
    return Tape(weights_of(model[1], n_blocks), model[2], **how)


def plain(model, x, n_blocks=3, attend=None):
    """transformers' blocks in float64."""
    trunk = _load_trunk(model[0]).double().eval()
    bias = None if attend is None else torch.zeros(1, 1, 1, N, dtype=torch.float64).masked_fill_(~attend[None, None, None], -torch.inf)
    for layer in trunk.encoder.layer[:n_blocks]:
        out = layer(x[None], attention_mask=bias)
        x = (out[0] if isinstance(out, tuple) else out).reshape(N, -1)
    return x


@pytest.mark.parametrize("closed", [None, 7])
@pytest.mark.parametrize("scores", [2**10, 2**23])
def test_states_and_slopes(model, closed, scores, monkeypatch):
    monkeypatch.setitem(tape.SCORES, "cpu", scores)
    attend = None if closed is None else torch.arange(N) != closed
    x = model[2].double().requires_grad_()
    states = plain(model, x, attend=attend)
    found = taped(model, attend=attend)
    np.testing.assert_allclose(found.states.numpy(), states.detach().numpy(), atol=3e-5)
    cotangents = torch.randn((3, *states.shape), generator=torch.Generator().manual_seed(1))
    _, slopes = found.adjoint(cotangents, effects=False)
    for c, slope in zip(cotangents, slopes, strict=True):
        (wanted,) = torch.autograd.grad((states * c.double()).sum(), x, retain_graph=True)
        np.testing.assert_allclose(slope.numpy(), wanted.numpy(), atol=2e-4 * float(wanted.abs().max()))


def attentions(model, n_blocks):
    """What the adjoint hands to every attention, by automatic differentiation: see `written_out`."""
    trunk = _load_trunk(model[0]).double().eval()
    held, x = [], model[2].double().requires_grad_()
    for layer in trunk.encoder.layer[:n_blocks]:
        own = layer.attention.self
        heads, width = trunk.config.num_attention_heads, x.shape[1] // trunk.config.num_attention_heads
        q, k, v = (part(x).view(N, heads, width).transpose(0, 1) for part in (own.query, own.key, own.value))
        p = (q @ k.transpose(1, 2) / width**0.5).softmax(-1)
        mixed = p @ v
        mixed.retain_grad()
        held.append((q.detach(), k.detach(), v.detach(), p.detach(), mixed))
        hidden = layer.attention.output(mixed.transpose(0, 1).reshape(N, -1), x)
        x = layer.output(layer.intermediate(hidden), hidden)
    return trunk, held, x


def beside(trunk, held, n, x):
    """Keys and values of one token at every block, in another shape, beside the others as they were."""
    found = []
    for layer, (_, k, v, _, _) in zip(trunk.encoder.layer, held, strict=False):
        own, heads, width = layer.attention.self, k.shape[0], k.shape[2]
        q1, k1, v1 = (part(x).view(heads, 1, width) for part in (own.query, own.key, own.value))
        found.append((k1, v1))
        keys, values = k.clone(), v.clone()
        keys[:, n], values[:, n] = k1[:, 0], v1[:, 0]
        p = (q1 @ keys.transpose(1, 2) / width**0.5).softmax(-1)
        hidden = layer.attention.output((p @ values).transpose(0, 1).reshape(1, -1), x[None])
        x = layer.output(layer.intermediate(hidden), hidden)[0]
    return found


@pytest.mark.parametrize("kind", ["absent", "replaced"])
def test_effects_written_out(model, kind):
    trunk, held, states = attentions(model, 3)
    cotangent = torch.randn(states.shape, generator=torch.Generator().manual_seed(2))
    (states * cotangent.double()).sum().backward()
    new = model[2].flip(0)  # every token in the shape of another
    found = taped(model)
    effects, _ = found.adjoint(cotangent[None], None if kind == "absent" else found.replaced(new))
    for j in (0, 3, N - 1):
        others = [None] * 3 if kind == "absent" else beside(trunk, held, j, new[j].double())
        wanted = 0.0
        for (q, k, v, p, mixed), other in zip(held, others, strict=True):
            keys, values = k.clone(), v.clone()
            if other is not None:
                keys[:, j], values[:, j] = other[0][:, 0], other[1][:, 0]
            scores = q @ keys.transpose(1, 2) / k.shape[2] ** 0.5
            if other is None:
                scores[..., j] = -torch.inf
            change = ((scores.softmax(-1) @ values - p @ v) * mixed.grad).sum(-1)  # heads, queries
            change[:, j] = 0  # its own state does not count
            wanted += float(change.sum().detach())
        assert float(effects[0, j]) == pytest.approx(wanted, rel=2e-3, abs=2e-4 * float(effects.abs().max()))


def test_blocks_that_are_not_kept_give_the_same(model, monkeypatch):
    cotangents = torch.randn((2, *model[2].shape), generator=torch.Generator().manual_seed(3))
    kept = taped(model).adjoint(cotangents)
    monkeypatch.setitem(tape.TAPE_BYTES, "cpu", 0)
    again = taped(model)
    assert again._records == [None] * 3
    for a, b in zip(kept, again.adjoint(cotangents), strict=True):
        assert torch.equal(a, b)


def test_without_onednn_and_in_bf16(model, monkeypatch):
    cotangents = torch.randn((2, *model[2].shape), generator=torch.Generator().manual_seed(3))
    wanted = taped(model).adjoint(cotangents)
    low = Encoder(model[0], device="cpu", precision="bf16")
    found = Tape(weights_of(low, 3), model[2].to(torch.bfloat16)).adjoint(cotangents)
    for a, b in zip(wanted, found, strict=True):
        assert float((a - b.float()).norm() / a.norm()) < 0.15
    monkeypatch.setattr(tape, "_uses_onednn", lambda x: False)
    blocks = []
    for w in weights_of(model[1], 3):
        parts = {n: dataclasses.replace(getattr(w.block, n), onednn=False) for n in ("qkv", "out", "up", "down")}
        blocks.append(tape.Weights.of(dataclasses.replace(w.block, **parts)))
    for a, b in zip(wanted, Tape(blocks, model[2]).adjoint(cotangents), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-5 * float(a.abs().max()))


@pytest.mark.parametrize("scores", [2**12, 2**23])
@pytest.mark.parametrize("closed", [None, 7])
def test_all_heads_at_once(model, closed, scores, monkeypatch):
    """As a GPU takes them."""
    monkeypatch.setitem(tape.SCORES, "cpu", scores)
    cotangents = torch.randn((3, *model[2].shape), generator=torch.Generator().manual_seed(4))
    attend = None if closed is None else torch.arange(N) != closed

    def computed():
        made = taped(model, attend=attend)
        return made.states, *made.adjoint(cotangents, made.replaced(model[2].flip(0))), *made.adjoint(cotangents)

    one_by_one = computed()
    monkeypatch.setattr(tape, "_head_groups", lambda like, heads: [tape._HeadGroup(slice(0, heads), slice(0, like.shape[1]))])
    for a, b in zip(one_by_one, computed(), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=2e-5 * float(a.abs().max()))


def test_one_token_with_all_the_attention(model):
    """Neither what is left of nothing nor what overflows becomes infinite."""
    weights = weights_of(model[1], 3)
    first = weights[0].block
    big = dataclasses.replace(first, qkv=dataclasses.replace(first.qkv, weight=first.qkv.weight * 60))
    found = Tape([tape.Weights.of(big), *weights[1:]], model[2])
    effects, slopes = found.adjoint(torch.ones((1, *model[2].shape)), found.replaced(model[2].flip(0)))
    assert bool(effects.isfinite().all()) and bool(slopes.isfinite().all())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_a_gpu(model):
    cotangents = torch.randn((2, *model[2].shape), generator=torch.Generator().manual_seed(3))
    wanted = taped(model).adjoint(cotangents)
    encoder = Encoder(model[0], device="cuda", precision="fp32")
    found = Tape(weights_of(encoder, 3), model[2].cuda()).adjoint(cotangents.cuda())
    for a, b in zip(wanted, found, strict=True):
        np.testing.assert_allclose(a.numpy(), b.cpu().numpy(), atol=1e-3 * float(a.abs().max()))
