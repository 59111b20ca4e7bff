"""Training gives the same bytes each time: what it draws is seeded, and on a GPU torch runs deterministic algorithms alone."""

import contextlib
import os
import sys

import pytest
import torch
from builders import make_vocab
from pretended_gpu import pretended
from training_cells import DRAWS, SMALL, two_kinds_of_cells

from rankcell.errors import RankcellWarning
from rankcell.model.deterministic import CUBLAS, deterministic
from rankcell.model.options import Compute
from rankcell.train import Recipe, pretrain

SHAPE = {name: value for name, value in SMALL.items() if name != "device"}
pytestmark = [pytest.mark.pretended_gpu, pytest.mark.usefixtures("one_thread")]


@pytest.fixture
def gpu(monkeypatch):
    """Two GPUs, in a process that has not trained yet; weights stay the optimizer's when a model goes to one."""
    state = pytest.importorskip("accelerate.state")
    before = torch.__future__.get_swap_module_params_on_conversion()
    state.AcceleratorState._reset_state(reset_partial_state=True)
    torch.__future__.set_swap_module_params_on_conversion(True)
    monkeypatch.delenv(CUBLAS, raising=False)
    with pretended() as gpu:
        gpu.seeds = []
        monkeypatch.setattr(torch.cuda, "manual_seed_all", gpu.seeds.append)
        yield gpu
        monkeypatch.undo()
    torch.__future__.set_swap_module_params_on_conversion(before)
    state.AcceleratorState._reset_state(reset_partial_state=True)


def trained_on(device, folder, progress=None, **changed):
    vocab = make_vocab(12)
    return pretrain(
        two_kinds_of_cells(vocab), folder, vocab=vocab, recipe=Recipe(**SHAPE | DRAWS | changed), compute=Compute(device), progress=progress
    )


def settings():
    mode = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    return *mode, torch.utils.deterministic.fill_uninitialized_memory, os.environ.get(CUBLAS)


def test_every_operation_is_deterministic_and_seeded_on_the_gpu_that_is_named(gpu, tmp_path):
    """Attention is one operation here: its gradient is deterministic by torch's word (attention_backward.cu), and not run."""
    before, meanwhile = settings(), set()
    facts = trained_on("cuda:1", tmp_path / "a", lambda *_: meanwhile.add(settings()))
    operations = gpu.operations()
    assert facts["device"] == "cuda:1" and set(gpu.used) == {1}
    assert {"multinomial", "bernoulli_"} <= operations.keys()  # draws
    assert {"embedding_dense_backward", "index_put", "native_layer_norm_backward", "sqrt"} <= operations.keys()  # gradients, steps
    assert gpu.unordered == []
    assert gpu.seeds == [DRAWS["seed"]]
    assert meanwhile == {(True, False, False, ":4096:8")} and settings() == before


def test_current_device_and_generators_are_restored(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: gpu.generators.update({0: seed, 1: seed}))
    torch.cuda.set_device(1)
    gpu.generators.update({0: "first", 1: "second"})
    generator, meanwhile = torch.get_rng_state(), set()
    trained_on("cuda:0", tmp_path / "a", lambda *_: meanwhile.add((gpu.current, gpu.generators[0])))
    assert meanwhile == {(0, DRAWS["seed"])} and gpu.current == 1
    assert gpu.generators == {0: "first", 1: "second"}
    assert torch.equal(torch.get_rng_state(), generator)


def test_generators_are_restored_when_training_fails(gpu, tmp_path):
    def fail(*_):
        raise RuntimeError("reported")

    torch.cuda.set_device(1)
    generator = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="reported"):
        trained_on("cuda:0", tmp_path / "a", fail)
    assert gpu.current == 1 and torch.equal(torch.get_rng_state(), generator)


def test_otherwise_it_is_not(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["rankcell.train.pretraining"], "deterministic", lambda device: contextlib.nullcontext())
    trained_on("cuda:0", tmp_path / "a")
    names = {event.name for event in gpu.unordered}
    assert names == {"embedding_dense_backward", "index_put", "scaled_dot_product_attention_backward"} and set(gpu.used) == {0}


def test_twice_the_same_bytes(gpu, tmp_path):
    weights = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        trained_on("cuda", tmp_path / name, seed=seed)
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_a_gpu_that_multiplied_before_is_named(gpu, monkeypatch):
    def refused(*args):
        raise RuntimeError(f"Deterministic behavior was enabled [...] you must set an environment variable: {CUBLAS}=:4096:8")

    before = settings()
    monkeypatch.setattr(torch, "mm", refused)
    with (
        pytest.warns(RankcellWarning, match=f"cannot be repeated to the byte.*{CUBLAS}.*:4096:8"),
        deterministic(torch.device("cuda", 0)),
    ):
        assert not torch.are_deterministic_algorithms_enabled()
    assert settings() == before


def test_what_the_caller_has_set_stays(gpu, monkeypatch):
    monkeypatch.setenv(CUBLAS, ":16:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        before = settings()
        with deterministic(torch.device("cuda", 0)):
            assert settings() == (True, False, False, ":16:8")
        assert settings() == before == (True, True, True, ":16:8")
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_processor_needs_nothing():
    before = settings()
    with deterministic(torch.device("cpu")):
        assert settings() == before
