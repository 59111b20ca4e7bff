"""Weights that are not what was saved are noticed; wrapped and nested names are the same weights."""

import json
import shutil

import numpy as np
import pytest
import torch
from builders import make_checkpoint, make_vocab
from safetensors.torch import load_file, save_file

from rankcell.errors import ModelError
from rankcell.model import Encoder, open_checkpoint
from rankcell.model.heads import load_masked_lm, new_masked_lm, save_masked_lm
from rankcell.model.seal import SEAL, read_seal
from rankcell.model.twin import random_twin

SAFE, BIN = "model.safetensors", "pytorch_model.bin"
SHAPE = dict(layers=1, width=8, heads=2, intermediate=16, positions=32, dropout=0.0, activation="relu")


@pytest.fixture
def saved(tmp_path):
    """A checkpoint as pretrain writes it."""
    torch.manual_seed(0)
    save_masked_lm(new_masked_lm(make_vocab(), **SHAPE), tmp_path / "m", make_vocab())
    return tmp_path / "m"


def loaded(folder):
    return Encoder(open_checkpoint(folder), device="cpu")


def test_what_is_saved_here_is_sealed(saved, tmp_path):
    assert list(read_seal(saved).weights) == [SAFE] and loaded(saved).checkpoint.remarks == {}
    twin = random_twin(open_checkpoint(saved), tmp_path / "twin")
    assert list(read_seal(twin.folder).weights) == [SAFE] and loaded(twin.folder)
    assert read_seal(open_checkpoint("demo").folder).weights


@pytest.mark.parametrize("at", [0.3, 0.6, 0.99])
@pytest.mark.parametrize("load", [loaded, lambda folder: load_masked_lm(open_checkpoint(folder)), lambda folder: open_checkpoint(folder).hash])
def test_a_flipped_bit(saved, at, load):
    path = saved / SAFE
    raw = bytearray(path.read_bytes())
    raw[int(at * len(raw))] ^= 1
    path.write_bytes(bytes(raw))
    with pytest.raises(ModelError, match=f"{SAFE} has sha256 .*, not the .* that {SEAL} beside it names: the weights are damaged") as e:
        load(saved)
    assert "\n" not in str(e.value) and "delete" in str(e.value)


def test_weights_that_were_replaced(saved, tmp_path):
    torch.manual_seed(1)
    save_masked_lm(new_masked_lm(make_vocab(), **SHAPE), tmp_path / "n", make_vocab())
    shutil.copy(tmp_path / "n" / SAFE, saved / SAFE)
    with pytest.raises(ModelError, match="were replaced"):
        loaded(saved)
    (saved / SEAL).unlink()  # on purpose
    assert loaded(saved).checkpoint.hash == open_checkpoint(tmp_path / "n").hash


def test_other_weights_that_come_first(saved):
    """Pickled weights under a seal of safetensors: the file that is read is not the one that was saved."""
    torch.save(load_file(saved / SAFE), saved / BIN)
    assert loaded(saved)  # safetensors are read
    (saved / SAFE).unlink()
    with pytest.raises(ModelError, match=f"{BIN} has sha256 .*, and {SEAL} does not name it"):
        loaded(saved)


def test_a_checkpoint_of_others_has_no_seal(tmp_path):
    folder = make_checkpoint(tmp_path / "m", make_vocab())
    assert read_seal(folder) is None and loaded(folder)


# Names and nests of other programs


def same(folder, change, *, nest=lambda w: w, as_pickle=True):
    """The trunk of the weights under changed names."""
    before = loaded(folder)
    weights = {change(key): tensor for key, tensor in load_file(folder / SAFE).items()}
    if as_pickle:
        torch.save(nest(weights), folder / BIN)
        (folder / SAFE).unlink()
    else:
        save_file(weights, folder / SAFE)
    after = loaded(folder)
    tokens = np.arange(5)
    return torch.equal(before.embedded(tokens, tokens), after.embedded(tokens, tokens)) and all(
        torch.equal(a, b) for a, b in zip(_tensors(before), _tensors(after), strict=True)
    )


def _tensors(encoder):
    from rankcell.model.batches import collate

    rows = [np.array([2, 4, 5, 6, 3]), np.array([2, 9, 3])]
    return list(encoder.states(collate(rows, np.arange(2)), [1, 2, 3]).values())


WRAPPED = {
    "compiled": lambda k: f"_orig_mod.{k}",
    "peft": lambda k: f"base_model.model.{k}",
    "fsdp": lambda k: f"_fsdp_wrapped_module.{k}",
    "data parallel": lambda k: f"module.{k}",
    "lightning": lambda k: f"model.{k}",
    "compiled, parallel, in lightning": lambda k: f"model._orig_mod.module.{k}",
    "compiled in peft": lambda k: f"_orig_mod.base_model.model.{k}",
    "fsdp inside": lambda k: k.replace("layer.", "_fsdp_wrapped_module.layer.").replace("attention.", "_checkpoint_wrapped_module.attention."),
    "fsdp and compiled blocks": lambda k: "module." + k.replace("layer.1.", "layer.1._orig_mod._fsdp_wrapped_module."),
    "without the head's prefix": lambda k: k.removeprefix("bert."),
    "wrapped without it": lambda k: "_orig_mod.module." + k.removeprefix("bert."),
}


@pytest.mark.parametrize("as_pickle", [True, False])
@pytest.mark.parametrize("kind", WRAPPED)
def test_wrapped_names(tmp_path, kind, as_pickle):
    assert same(make_checkpoint(tmp_path / "m", make_vocab()), WRAPPED[kind], as_pickle=as_pickle)


@pytest.mark.parametrize(
    "nest",
    [
        lambda w: {"state_dict": w, "epoch": 3, "hyper_parameters": {"lr": 0.1}},
        lambda w: {"model_state_dict": w, "optimizer_state_dict": {"state": {0: {"step": torch.ones(1)}}, "param_groups": [{"lr": 1}]}},
        lambda w: {"model": w, "args": [1, 2]},
        lambda w: {"model": {"state_dict": w}, "step": 1},
        lambda w: {"state_dict": {"model": w}, "optimizer": None},
    ],
)
@pytest.mark.parametrize("kind", ["data parallel", "compiled in peft"])
def test_nested_weights(tmp_path, nest, kind):
    assert same(make_checkpoint(tmp_path / "m", make_vocab()), WRAPPED[kind], nest=nest)


def test_a_lora_adapter_that_was_not_merged(tmp_path):
    folder = make_checkpoint(tmp_path / "m", make_vocab())
    query = "bert.encoder.layer.0.attention.self.query"
    weights = load_file(folder / SAFE)
    weights |= {f"{query}.base_layer.weight": weights.pop(f"{query}.weight"), f"{query}.lora_A.default.weight": torch.ones(2, 16)}
    save_file({f"base_model.model.{k}": v.contiguous() for k, v in weights.items()}, folder / SAFE)
    with pytest.raises(ModelError, match="of a LoRA adapter beside its base model: merge the two") as e:
        loaded(folder)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("config", ['{"base_model_name_or_path": "ctheodoris/Geneformer"}', "{}", "no json", "[]"])
def test_an_adapter_folder_names_its_base(tmp_path, config):
    folder = make_checkpoint(tmp_path / "m", make_vocab())
    (folder / SAFE).rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(config)
    with pytest.raises(ModelError, match="holds a PEFT adapter") as e:
        open_checkpoint(folder)
    assert ("'ctheodoris/Geneformer'" in str(e.value)) == ("ctheodoris" in config) and "merge_and_unload" in str(e.value)


def test_a_name_that_is_there_wrapped_and_plain(tmp_path):
    folder = make_checkpoint(tmp_path / "m", make_vocab())
    weights = load_file(folder / SAFE)
    name = "bert.encoder.layer.0.output.dense.bias"
    save_file(weights | {f"module.{name}": weights[name].clone()}, folder / SAFE)
    with pytest.raises(ModelError, match="hold 'encoder.layer.0.output.dense.bias' twice"):
        loaded(folder)


def test_seal_is_plain_json(saved):
    assert set(json.loads((saved / SEAL).read_text())) == {"format", "weights"}
