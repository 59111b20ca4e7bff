"""Attention over rows of many lengths at once, on a pretended GPU: by what each version of torch has, and not at all where it does not run."""

import warnings

import numpy as np
import pytest
import torch
from builders import make_checkpoint, make_vocab
from pretended_gpu import pretended

from rankcell.errors import RankcellWarning
from rankcell.model import Encoder, collate, open_checkpoint, varlen
from rankcell.model.batches import Run

pytestmark = [pytest.mark.pretended_gpu, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    vocab = make_vocab(60)
    return open_checkpoint(make_checkpoint(tmp_path_factory.mktemp("models") / "m", vocab, width=32))


def states_of(model, device, precision="bf16", attend=False):
    encoder = Encoder(model, device=device, precision=precision)
    rng = np.random.default_rng(0)
    rows = [rng.permutation(model.vocab.tokens)[:n] for n in (30, 30, 12, 5)]
    seen = [rng.random(len(r)) < 0.7 for r in rows] if attend else None
    return encoder.description["attention"], encoder.states(collate(rows, np.arange(4), seen), [2])[2].cpu()


@pytest.mark.parametrize("attend", [False, True])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_before_torch_took_a_scale(model, monkeypatch, precision, attend):
    """torch 2.10 has a varlen_attn without a scale, earlier ones none: what lies beneath it gives the same."""
    _, wanted = states_of(model, "cpu", "fp32", attend)
    with pretended() as gpu, monkeypatch.context() as m:
        varlen_attn = pytest.importorskip("torch.nn.attention.varlen")
        m.setattr(varlen_attn, "varlen_attn", lambda query, key, value, cu_seq_q, cu_seq_k, max_q, max_k: None)
        way, states = states_of(model, "cuda:1", precision, attend)
        assert gpu.operations()["varlen"] == 3  # it was tried once, then ran for each block
    assert way == "varlen"
    assert float((states - wanted).abs().max()) < 0.06 * float(wanted.abs().max())


FACTS = {
    "an older card": ({"capability": (7, 5)}, "only supports Ampere"),
    "a build without it": ({"varlen_runs": False}, "USE_FLASH_ATTENTION was not enabled"),
    "wrong numbers": ({}, "its numbers are off by"),
    "no numbers": ({}, "its numbers are off by nan"),
}


@pytest.mark.parametrize("case", FACTS)
def test_where_it_does_not_run(model, monkeypatch, case):
    """One note says why, and the numbers are right."""
    facts, reason = FACTS[case]
    right = varlen._function
    if "numbers" in case:
        factor = float("nan") if case == "no numbers" else 1.5
        monkeypatch.setattr(varlen, "_function", lambda: lambda *args: right()(*args) * factor)
    _, wanted = states_of(model, "cpu", "fp32")
    with pretended(**facts) as gpu, pytest.warns(RankcellWarning, match=f"rows of one length at a time.*{reason}"):
        way, states = states_of(model, "cuda", "fp16")
        assert gpu.operations()["scaled_dot_product_attention"] == 3 * 2  # three lengths, two blocks
    assert way == "sdpa"
    assert float((states - wanted).abs().max()) < 0.01 * float(wanted.abs().max())


def test_heads_that_it_does_not_take(tmp_path):
    narrow = open_checkpoint(make_checkpoint(tmp_path / "m", make_vocab(60), width=16))
    with pretended() as gpu, pytest.warns(RankcellWarning, match="the heads are 4 wide"):
        assert states_of(narrow, "cuda")[0] == "sdpa"
        assert "varlen" not in gpu.operations()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nothing_is_said_where_it_runs_or_is_not_for(model, precision):
    with pretended(), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert states_of(model, "cuda", precision)[0] == ("varlen" if precision == "bf16" else "sdpa")
        assert states_of(model, "cpu", precision)[0] in ("blocked", "sdpa")


def test_ends_of_rows():
    """Queries and keys that end alike are brought to the device once."""
    brought = []
    tensor = lambda x: brought.append(x) or torch.from_numpy(x)  # noqa: E731
    ends = varlen.Ends.of([Run(2, 4, 4, 0, 0), Run(1, 3, 3, 8, 8)], tensor)
    assert ends.q.tolist() == [0, 4, 8, 11] and ends.k is ends.q and (ends.most_q, ends.most_k) == (4, 4) and len(brought) == 1
    ends = varlen.Ends.of([Run(2, 1, 4, 0, 0), Run(1, 1, 3, 2, 8)], tensor)
    assert ends.q.tolist() == [0, 1, 2, 3] and ends.k.tolist() == [0, 4, 8, 11] and (ends.most_q, ends.most_k) == (1, 4)
    assert ends.q.dtype == ends.k.dtype == torch.int32
    assert varlen.obstacle(torch.device("cpu"), torch.bfloat16, 8)  # there is none for processors
