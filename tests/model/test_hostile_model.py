"""Dictionaries and checkpoints made to do harm: nothing of them runs, nothing grows, and each is refused in one line."""

import json
import pickle
import pickletools
import struct
import sys
import time
import zipfile

import numpy as np
import pytest
import torch
from builders import make_checkpoint, make_vocab
from safetensors.torch import load_file

from rankcell.cli import main
from rankcell.errors import ModelError, VocabularyError
from rankcell.hub import parse_name
from rankcell.model import Encoder, open_checkpoint
from rankcell.vocab import plain_pickle
from rankcell.vocab.importer import read_plain_pickle

SAFE, BIN = "model.safetensors", "pytorch_model.bin"
KINDS = ("GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "REDUCE", "BUILD", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID")


@pytest.fixture
def folder(tmp_path):
    return make_checkpoint(tmp_path / "m", make_vocab())


def refusal(folder):
    began = time.process_time()
    with pytest.raises(ModelError) as e:
        Encoder(open_checkpoint(folder), device="cpu")
    text = str(e.value)
    assert "\n" not in text and len(text) < 700 and time.process_time() - began < 20
    return text


def text(value):
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def payloads(canary):
    """Opcode -> what it leaves on the stack of an unpickler that follows it, on the way to make the file `canary`."""
    system, command, module = b"cos\nsystem\n", text(f"touch {canary}"), sys.modules["os"].system.__module__
    return {
        "GLOBAL": system,
        "STACK_GLOBAL": text(module) + text("system") + b"\x93",
        "INST": b"(" + command + b"ios\nsystem\n",
        "OBJ": b"(" + system + command + b"o",
        "NEWOBJ": b"csubprocess\nPopen\n" + command + b"\x85\x81",
        "NEWOBJ_EX": b"csubprocess\nPopen\n" + command + b"\x85}\x92",
        "REDUCE": system + command + b"\x85R",
        "BUILD": b"ccollections\nOrderedDict\n)R}" + text("__reduce__") + command + b"sb",
        "EXT1": b"\x82\x01",
        "EXT2": b"\x83\x01\x00",
        "EXT4": b"\x84\x01\x00\x00\x00",
        "PERSID": f"Ptouch {canary}\n".encode(),
        "BINPERSID": command + b"Q",
    }


def entry(payload):
    """A dictionary of one entry, whose value is what the payload leaves."""
    return b"\x80\x04}" + text("<pad>") + payload + b"s."


def test_the_payloads_mean_what_they_say(tmp_path):
    """A plain unpickler runs those that call; the opcodes are in them."""
    canary = tmp_path / "ran"
    for kind, payload in payloads(canary).items():
        assert kind in {op.name for op, _, _ in pickletools.genops(entry(payload))}
    for kind in ("INST", "OBJ", "REDUCE"):
        pickle.loads(entry(payloads(canary)[kind]))
        assert canary.exists(), kind
        canary.unlink()


@pytest.mark.parametrize("kind", KINDS)
def test_an_opcode_that_imports_or_calls_in_a_dictionary(tmp_path, kind):
    path = tmp_path / "tokens.pkl"
    path.write_bytes(entry(payloads(tmp_path / "ran")[kind]))
    with pytest.raises(VocabularyError, match="was refused and nothing of it was run") as e:
        read_plain_pickle(path)
    assert "\n" not in str(e.value) and not (tmp_path / "ran").exists()


def test_every_opcode_is_plain_or_refused():
    """No opcode of this Python is followed that is not on the list of those that make plain values."""
    followed = {
        *plain_pickle._VALUES, *plain_pickle._NO_EFFECT, *plain_pickle._TUPLES, *plain_pickle._PUT, *plain_pickle._GET,
        *plain_pickle._CONSTANTS, "MARK", "TUPLE", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "STOP",
    }  # fmt: skip
    by_name = {"GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"}  # on a table of five names only
    for op in pickletools.opcodes:
        if op.name not in followed | by_name:
            with pytest.raises(plain_pickle.RefusedError):
                plain_pickle._Machine().follow(op.name, 1)


def as_zip(path, payload, **members):
    with zipfile.ZipFile(path, "w") as archive:
        held = {"archive/data.pkl": payload, "archive/byteorder": b"little", "archive/version": b"3\n"} | members
        for name, content in held.items():
            archive.writestr(name, content)


def as_legacy(path, payload):
    head = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}})
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + payload + pickle.dumps([], 2))


@pytest.mark.parametrize("write", [as_zip, as_legacy])
@pytest.mark.parametrize("kind", KINDS)
def test_an_opcode_that_imports_or_calls_in_weights(folder, tmp_path, kind, write):
    (folder / SAFE).unlink()
    write(folder / BIN, entry(payloads(tmp_path / "ran")[kind]))
    refusal(folder)
    assert not (tmp_path / "ran").exists()


# Code beside a checkpoint


def test_code_files_beside_a_checkpoint_are_not_loaded(folder, tmp_path):
    canary = tmp_path / "ran"
    code = f"open({str(canary)!r}, 'w').close()\nclass Model: pass\nclass Config: pass\n"
    for name in ("modeling_bert.py", "configuration_bert.py", "evil.py", "__init__.py", "setup.py", "conftest.py", "tokenization.py"):
        (folder / name).write_text(code)
    config = json.loads((folder / "config.json").read_text())
    asks = {
        "auto_map": {name: "evil.Model" for name in ("AutoConfig", "AutoModel", "AutoModelForMaskedLM")},
        "trust_remote_code": True,
        "custom_pipelines": {"x": {"impl": "evil.Model"}},
        "_attn_implementation": "evil/kernel",
        "attn_implementation": "evil/kernel",
    }
    (folder / "config.json").write_text(json.dumps(config | asks))
    Encoder(open_checkpoint(folder), device="cpu")
    assert not canary.exists() and "evil" not in sys.modules


# Claims


@pytest.mark.parametrize("length", [2**20, 2**40, 2**63, 2**64 - 1])
def test_a_safetensors_header_that_claims_gigabytes(folder, length):
    path = folder / SAFE
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    assert "model.safetensors cannot be read" in refusal(folder)


@pytest.mark.parametrize(
    "claim",
    [
        {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]},
        {"dtype": "F32", "shape": [2**33, 2**33], "data_offsets": [0, 64]},
        {"dtype": "F32", "shape": [16], "data_offsets": [2**62, 2**62 + 64]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 64]},
        {"dtype": "X99", "shape": [16], "data_offsets": [0, 64]},
        {"dtype": "F32", "shape": [16], "data_offsets": [64, 0]},
    ],
)
def test_a_tensor_that_claims_what_is_not_there(folder, claim):
    header = json.dumps({"bert.embeddings.word_embeddings.weight": claim}).encode()
    (folder / SAFE).write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    assert "model.safetensors cannot be read" in refusal(folder)


def test_zip_members_that_inflate(folder):
    (folder / SAFE).unlink()
    with zipfile.ZipFile(folder / BIN, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("archive/data.pkl", "w", force_zip64=True) as member:
            for _ in range(64):
                member.write(bytes(2**20))
    assert (folder / BIN).stat().st_size < 2**20
    assert "and claims 67,108,864 inside" in refusal(folder)


def test_zip_members_that_claim_gigabytes(folder):
    (folder / SAFE).unlink()
    as_zip(folder / BIN, entry(b"N"))
    raw = bytearray((folder / BIN).read_bytes())
    at = raw.index(b"PK\x01\x02")  # its first entry in the directory: sizes at 20 and 24
    raw[at + 20 : at + 28] = struct.pack("<II", 2**32 - 2, 2**32 - 2)
    (folder / BIN).write_bytes(bytes(raw))
    assert "claims 4,294,967," in refusal(folder)


def test_tensors_of_a_pickle_that_claim_terabytes(folder):
    """A tensor of 2**40 numbers on a storage of that size, of which nothing is there."""
    (folder / SAFE).unlink()
    key = text("bert.embeddings.word_embeddings.weight")
    storage = text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"\x8a\x06" + (2**40).to_bytes(6, "little")
    numbers = b"K\x00" + b"\x8a\x06" + (2**40).to_bytes(6, "little") + b"\x85" + b"K\x01\x85\x89ccollections\nOrderedDict\n)R"
    payload = b"\x80\x02}" + key + b"ctorch._utils\n_rebuild_tensor_v2\n((" + storage + b"tQ" + numbers + b"tRs."
    for write in (as_zip, as_legacy):
        write(folder / BIN, payload)
        refusal(folder)


@pytest.mark.parametrize("name", ["../data.pkl", "/etc/archive/data.pkl", "archive/../../x", "C:\\x", "..\\x"])
def test_member_names_that_lead_out(folder, name):
    (folder / SAFE).unlink()
    torch.save(load_file(make_checkpoint(folder.parent / "n", make_vocab()) / SAFE), folder / BIN)
    Encoder(open_checkpoint(folder), device="cpu")
    with zipfile.ZipFile(folder / BIN, "a") as archive:
        archive.writestr(name, b"x")
    assert "which does not lie in it" in refusal(folder)


@pytest.mark.parametrize(
    "name",
    ["a/../b", "../a/b", "/a/b", "a/b/../../c", "a/b/..", "a/b@../x", "a/b@/x", "a/b/./c", "a\\..\\b", "a/b\n", "a/b\0c", "a/%2e%2e/b", "-a/b;rm"],
)
def test_hub_names_that_lead_out(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rankcell.model.checkpoint.download_checkpoint", lambda _: pytest.fail("asked the hub"))
    found = parse_name(name)
    assert found is None or not {"..", "."} & set(f"{found.place}/{found.revision}".split("/"))
    with pytest.raises(ModelError) as e:
        open_checkpoint(name)
    assert str(e.value)


def test_at_the_command_line(folder, tmp_path, capsys):
    (folder / SAFE).unlink()
    as_zip(folder / BIN, entry(payloads(tmp_path / "ran")["REDUCE"]))
    np.save(tmp_path / "x.npy", np.ones(3))
    from builders import make_adata

    make_adata([[1, 2, 3]]).write_h5ad(tmp_path / "c.h5ad")
    capsys.readouterr()
    assert main(["embed", str(tmp_path / "c.h5ad"), "-o", str(tmp_path / "e.parquet"), "--model", str(folder)]) == 2
    said = capsys.readouterr().err
    assert said.strip().count("\n") == 0 and "carry code, which is never run" in said
    assert not (tmp_path / "ran").exists() and not (tmp_path / "e.parquet").exists()
