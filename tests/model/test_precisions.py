"""Precisions: which a device is fast in, torch's switches, the float32 residual stream, and what "auto" tries."""

import types

import numpy as np
import pytest
import torch
from builders import make_checkpoint, make_vocab
from flat_options import edit_plan

from rankcell.errors import SettingsError
from rankcell.model import Encoder, open_checkpoint, precisions
from rankcell.model.precisions import dtype_of, faster_precisions, pinned, precision_on
from rankcell.perturb import StateEmbeddings
from rankcell.perturb.exact.engine import Engine
from rankcell.perturb.exact.shift_precision import spearman
from rankcell.vocab import Frame


def switches():
    owners = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    names = ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction", "allow_fp16_accumulation", "fp32_precision")
    return {(i, n): getattr(owner, n) for i, owner in enumerate(owners) for n in names if hasattr(owner, n)}


@pytest.fixture
def as_before():
    whole = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(whole)


@pytest.mark.parametrize("own", ["highest", "high", "medium"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_switches_are_pinned_and_restored(as_before, own, precision):
    torch.set_float32_matmul_precision(own)
    before = switches()
    with pinned(precision), pinned(precision):
        assert torch.get_float32_matmul_precision() == ("high" if precision == "tf32" else "highest")
        assert not any(value for (_, name), value in switches().items() if name.startswith("allow_"))
    assert switches() == before and torch.get_float32_matmul_precision() == own


def test_restored_after_an_error_and_where_set_one_by_one(as_before):
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this torch has one setting for all products")
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    before = switches()
    with pytest.raises(ZeroDivisionError), pinned("fp32"):
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        raise ZeroDivisionError
    assert switches() == before


def test_a_processor_computes_in_float32_whatever_was_set(as_before):
    x = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    exact = x.double() @ x.double()
    torch.set_float32_matmul_precision("medium")
    with pinned("fp32"):
        assert float((x @ x - exact).abs().max()) < 1e-4


def device_of(monkeypatch, capability, hip=None):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    return types.SimpleNamespace(type="cuda")


@pytest.mark.parametrize(
    ("capability", "hip", "faster"),
    [
        ((9, 0), None, ["fp16", "bf16", "tf32"]),
        ((8, 0), None, ["fp16", "bf16", "tf32"]),
        ((7, 5), None, ["fp16"]),
        ((6, 1), None, []),
        ((9, 0), "6.2", ["fp16", "bf16"]),
    ],
)
def test_what_is_faster(monkeypatch, capability, hip, faster):
    device = device_of(monkeypatch, capability, hip)
    assert faster_precisions(device, 256) == faster and faster_precisions(device, 128) == []


def test_what_is_faster_on_a_processor(monkeypatch):
    cpu = torch.device("cpu")
    for has, faster in ((True, ["bf16"]), (False, [])):
        monkeypatch.setattr(precisions, "_has_fast_bf16", lambda device, has=has: has)
        assert faster_precisions(cpu, 256) == faster
    assert faster_precisions(types.SimpleNamespace(type="mps"), 256) == []


def test_a_precision_that_a_device_lacks(monkeypatch):
    with pytest.raises(SettingsError, match="'tf32': device 'cpu' does not have it.*choose precision='fp32'"):
        precision_on("tf32", torch.device("cpu"))
    assert precision_on("tf32", device_of(monkeypatch, (8, 6))) == "tf32"
    assert precision_on("auto", torch.device("cpu")) == "fp32" and dtype_of("tf32") == torch.float32


@pytest.mark.parametrize(("precision", "least", "most"), [("bf16", 0.98, 1.0), ("fp16", 0.998, 0.05)])
def test_the_residual_stream_keeps_small_shifts(tmp_path, precision, least, most):
    """Shifts of about 1e-6: with a half residual stream Spearman is 0.88 in bf16, and the relative error 15 in bf16 and 0.46 in fp16."""
    vocab = make_vocab(300)
    checkpoint = open_checkpoint(make_checkpoint(tmp_path / "m", vocab, width=64, layers=5, positions=256, scale=0.05))
    rows = [np.arange(4, 204, dtype=np.int32)]
    plan = edit_plan(vocab, kind="delete", frame=Frame(), max_len=256)
    scores = {}
    for p in ("fp32", precision):
        engine = Engine(Encoder(checkpoint, device="cpu", precision=p), plan, checkpoint.resolve_layer(-2), StateEmbeddings({}), 4096)
        scores[p] = 1 - engine.run(rows, most=40).scores["cos_genes_in_place"]
    error = np.sqrt(np.mean((scores[precision] - scores["fp32"]) ** 2) / np.mean(scores["fp32"] ** 2))
    assert np.median(scores["fp32"]) < 2e-6
    assert spearman(scores["fp32"], scores[precision]) >= least and error < most
