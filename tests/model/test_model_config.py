"""config.json and the other small files of a checkpoint with values that cannot be: one line with file, key and value."""

import json

import pytest
from builders import make_checkpoint, make_vocab

from rankcell.cli import main
from rankcell.errors import ModelError, RankcellError
from rankcell.model import Encoder, open_checkpoint
from rankcell.model.bert_config import shape_of
from rankcell.model.seal import SEAL


@pytest.fixture
def folder(tmp_path):
    return make_checkpoint(tmp_path / "m", make_vocab())


def with_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def refusal(folder):
    with pytest.raises(ModelError) as e:
        Encoder(open_checkpoint(folder), device="cpu")
    text = str(e.value)
    assert "\n" not in text and len(text) < 400
    return text


WRONG = [
    ("num_attention_heads", 1.5),
    ("num_attention_heads", "12"),
    ("num_attention_heads", 0),
    ("num_attention_heads", -4),
    ("num_attention_heads", True),
    ("num_attention_heads", None),
    ("num_attention_heads", [4]),
    ("num_hidden_layers", 10**9),
    ("num_hidden_layers", 2**70),
    ("num_hidden_layers", 0),
    ("num_hidden_layers", 3.0),
    ("hidden_size", float("nan")),
    ("hidden_size", 10**12),
    ("hidden_size", "16"),
    ("intermediate_size", -32),
    ("intermediate_size", {}),
    ("max_position_embeddings", 1e3),
    ("max_position_embeddings", 2**63),
    ("vocab_size", 16.0),
    ("vocab_size", 2**64),
    ("type_vocab_size", 0),
    ("layer_norm_eps", float("inf")),
    ("layer_norm_eps", "1e-12"),
    ("layer_norm_eps", -1.0),
    ("hidden_dropout_prob", 7),
    ("initializer_range", "x"),
    ("hidden_act", 3),
    ("hidden_act", None),
    ("hidden_act", "os.system"),
    ("hidden_act", "relu\nrelu"),
    ("dtype", 2**64),
    ("dtype", ["float32"]),
    ("torch_dtype", 5),
    ("pad_token_id", "0"),
    ("pad_token_id", -1),
    ("pad_token_id", 10**6),
    ("cls_token_id", "2"),
    ("is_decoder", "no"),
    ("position_embedding_type", 5),
    ("model_type", 5),
    ("model_type", ["bert"]),
]


@pytest.mark.parametrize(("key", "value"), WRONG, ids=lambda v: str(v)[:20])
def test_a_value_that_cannot_be(folder, key, value):
    text = refusal(with_config(folder, **{key: value}))
    assert str(folder / "config.json") in text and f"{key} is " in text and repr(value)[:20].strip("'") in text.replace(",", "")


def test_heads_that_do_not_divide(folder):
    assert "hidden_size is 16, which is not a multiple of num_attention_heads, 5" in refusal(with_config(folder, num_attention_heads=5))


def test_an_unknown_activation_names_some_that_are_known(folder):
    assert "hidden_act is 'swishy', which transformers does not know; one of relu, gelu" in refusal(with_config(folder, hidden_act="swishy"))


@pytest.mark.parametrize("text", ["[]", "3", "null", '"x"', "{", "", "\x00\x01", "[" * 100_000, '{"vocab_size": ' + "9" * 5000 + "}"])
def test_a_file_that_is_no_object(folder, text):
    (folder / "config.json").write_text(text)
    assert str(folder / "config.json") in refusal(folder)


@pytest.mark.parametrize("key", ["num_hidden_layers", "hidden_size", "max_position_embeddings", "vocab_size", "model_type"])
@pytest.mark.parametrize("value", ["absent", None])
def test_a_key_that_is_missing(folder, key, value):
    config = json.loads((folder / "config.json").read_text())
    del config[key]
    (folder / "config.json").write_text(json.dumps(config | ({key: None} if value is None else {})))
    assert f"config.json does not say {key}" in refusal(folder)


def test_what_does_not_shape_the_encoder_is_not_given_on(folder):
    """Keys of other programs, of any type: the encoder is the same."""
    before = Encoder(open_checkpoint(folder), device="cpu")
    others = dict(id2label=5, quantization_config="x", architectures=3, auto_map={"AutoModel": "evil.Model"}, pruned_heads="all", rope_scaling=1)
    after = Encoder(open_checkpoint(with_config(folder, **others)), device="cpu")
    assert not set(others) & set(shape_of(after.checkpoint.config)) and after.checkpoint.width == before.checkpoint.width


@pytest.mark.parametrize(
    "held",
    [3, [], {}, {"format": 1}, {"format": "rankcell-checkpoint-1"}, {"format": "rankcell-checkpoint-1", "weights": []},
     {"format": "rankcell-checkpoint-1", "weights": {"model.safetensors": 5}}, {"format": "rankcell-checkpoint-1", "weights": {"model.safetensors": "ab"}},
     {"format": "rankcell-checkpoint-1", "weights": {"model.safetensors": "0" * 64}, "note": 3}],
)  # fmt: skip
def test_a_damaged_seal(folder, held):
    (folder / SEAL).write_text(json.dumps(held))
    assert str(folder / SEAL) in refusal(folder) or "model.safetensors has sha256" in refusal(folder)


@pytest.mark.parametrize("precision", ["fp31", "", None, 16, "float32"])
@pytest.mark.parametrize("verb", ["Embedder", "Perturber"])
def test_precisions_that_are_none(folder, verb, precision):
    import rankcell as rc

    with pytest.raises(RankcellError, match="unknown precision .*; one of auto, fp32, tf32, bf16, fp16|precision is (None|16); a name"):
        getattr(rc, verb)(folder, rc.Compute(precision=precision))


@pytest.mark.parametrize("device", ["mps", "xpu", "xpu:3", "cuda:99", "mps:1", "gpu", "", "cuda:x", "meta", "cpu:1", "tpu"])
@pytest.mark.parametrize("verb", ["embed", "perturb"])
def test_devices_that_are_not_there(folder, verb, device, tmp_path, capsys):
    """Before anything is read."""
    (tmp_path / "c.h5ad").write_bytes(b"x")
    assert main([verb, str(tmp_path / "c.h5ad"), "-o", str(tmp_path / "o.parquet"), "--model", str(folder), "--device", device]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert "device" in lines[-1] and not (tmp_path / "o.parquet").exists() and "Traceback" not in " ".join(lines)
