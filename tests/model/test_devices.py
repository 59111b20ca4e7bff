"""Which device a name means: one GPU by any of its names, all of a make, what is left out, and what is no device."""

import warnings

import pytest
import torch
from builders import make_checkpoint, make_vocab
from flat_options import call
from pretended_gpu import pretended

from rankcell.errors import RankcellWarning, SettingsError
from rankcell.model import Encoder
from rankcell.model.devices import choose_device, devices_of, has_float64, one_device
from rankcell.perturb import Perturber

pytestmark = [pytest.mark.pretended_gpu, pytest.mark.usefixtures("one_thread")]

H100, A10 = "NVIDIA H100 80GB HBM3", "NVIDIA A10"


@pytest.fixture
def gpu():
    with pretended(n_devices=2) as gpu:
        yield gpu


@pytest.mark.parametrize(
    ("name", "devices"),
    [
        ("auto", ["cuda:0", "cuda:1"]),
        ("cuda", ["cuda:0"]),
        ("cuda:0", ["cuda:0"]),
        ("cuda:1", ["cuda:1"]),
        (" cuda:1 , cuda", ["cuda:1", "cuda:0"]),
        ("cpu,cpu,cuda", ["cpu", "cpu", "cuda:0"]),
    ],
)
def test_names_of_devices(gpu, name, devices):
    assert devices_of(name) == devices


@pytest.mark.parametrize("name", ["cuda,cuda:0", "cuda:0,cuda", "cuda:1,cuda:1", "cuda,cuda", "cpu,mps,mps:0"])
def test_one_gpu_by_two_names(gpu, name):
    with pytest.raises(SettingsError, match="is named twice"):
        devices_of(name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cuda:2", "'cuda:2' is not there: torch sees 2 CUDA devices"),
        ("cuda:0,cuda:5", "'cuda:5' is not there"),
        ("auto,cpu", "name it alone"),
        ("cuda:0,", "several of these with commas"),
        ("MIG-8a1b2c3d", "CUDA_VISIBLE_DEVICES=MIG-8a1b2c3d, and is cuda:0 then"),
        ("GPU-8a1b2c3d", "CUDA_VISIBLE_DEVICES=GPU-8a1b2c3d"),
        ("rocm:0", "cuda, cuda:N in torch's build for ROCm"),
        ("hip", "cuda, cuda:N in torch's build for ROCm"),
        ("mps", "torch sees 0 MPS devices"),
    ],
)
def test_what_is_no_device(gpu, name, says):
    with pytest.raises(SettingsError, match=says) as e:
        devices_of(name)
    assert "\n" not in str(e.value)


def test_work_that_is_not_shared_out(gpu):
    assert one_device("auto") == "cuda:0" and one_device("cuda:1") == "cuda:1"
    with pytest.raises(SettingsError, match="not shared out over several devices"):
        one_device("cuda:0,cuda:1")


def test_gpus_of_two_makes():
    """All of the first one's make; what is left out is named."""
    with pretended(n_devices=4, names=(H100, A10, H100, A10)):
        with pytest.warns(RankcellWarning, match=rf"left out are cuda:1 \({A10}\), cuda:3 \({A10}\)"):
            assert devices_of("auto") == ["cuda:0", "cuda:2"]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert devices_of("cuda:1,cuda:3") == ["cuda:1", "cuda:3"]


def test_instances_of_a_gpu(monkeypatch):
    """CUDA shows a process the first of those in its environment."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1111,MIG-2222")
    with pretended(n_devices=1, name=f"{H100} MIG 1g.10gb"), pytest.warns(RankcellWarning, match="of the 2 .* MIG-1111 is used"):
        assert devices_of("auto") == ["cuda:0"]


def test_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices_of("auto") == ["cpu"] and choose_device("auto") == torch.device("cpu") and devices_of("cpu,cpu") == ["cpu", "cpu"]


def test_numbers_of_64_bits(monkeypatch):
    assert has_float64(torch.device("cpu")) and has_float64(torch.device("cuda", 1)) and not has_float64(torch.device("mps"))


def test_the_device_that_is_named_is_the_one_that_works(gpu, tmp_path):
    folder = make_checkpoint(tmp_path / "m", make_vocab(12), width=32)
    Encoder(call(Perturber, folder, device="cuda:1").checkpoint, device="cuda:1", precision="bf16")
    assert set(gpu.used) == {1}
    assert call(Perturber, folder, device="auto").devices == ["cuda:0", "cuda:1"]


# training


@pytest.fixture
def accelerator(monkeypatch):
    """rankcell's way to one, in a process that has not trained yet."""
    state = pytest.importorskip("accelerate.state")
    from rankcell.train.pretraining import _accelerator

    state.AcceleratorState._reset_state(reset_partial_state=True)
    yield _accelerator
    state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(("device", "number"), [("cuda:1", 1), ("cuda", 0), ("cuda:0", 0), ("auto", 0)])
def test_training_on_the_device_that_is_named(gpu, accelerator, device, number):
    made = accelerator(device, "fp32")
    assert torch.ones(2).to(made.device).device == torch.device("cuda", number)


def test_training_elsewhere_in_the_same_process(gpu, accelerator):
    accelerator("cpu", "fp32")
    with pytest.raises(SettingsError, match="accelerate trains on cpu in this process"):
        accelerator("cuda:1", "fp32")


def test_training_on_several(gpu, accelerator):
    with pytest.raises(SettingsError, match="not shared out"):
        accelerator("cuda:0,cuda:1", "fp32")


def test_training_on_what_accelerate_does_not_take(gpu, accelerator, monkeypatch):
    """With a GPU of CUDA there, it would train on that."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(SettingsError, match="accelerate trains on"):
        accelerator("mps", "fp32")
