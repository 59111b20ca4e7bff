"""Models that come in: kinds of weight files, what is refused in them, hub names. The hub is a small server on this machine."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest
import torch
import transformers
from builders import make_checkpoint, make_vocab
from safetensors.torch import load_file, save_file

from rankcell.cli import main
from rankcell.errors import ModelError, VocabularyError
from rankcell.hub import HubName, parse_name, sha256_of
from rankcell.model import open_checkpoint
from rankcell.model.weight_files import find_weight_files, names_in_index
from rankcell.model.weights import read_weights
from rankcell.vocab.recipes import PublishedModel, published_models, recognize_weights

BIN, SAFE = "pytorch_model.bin", "model.safetensors"
WORDS = "embeddings.word_embeddings.weight"
BIAS = "encoder.layer.1.output.dense.bias"


@pytest.fixture
def folder(small, tmp_path):
    """A copy of the small checkpoint, called m."""
    return shutil.copytree(small[1], tmp_path / "m")


def trunk_names(folder):
    return {n.removeprefix("bert.") for n in load_file(folder / SAFE) if n.startswith("bert.")}


def read(folder, prefix="bert.", wanted=None):
    checkpoint = open_checkpoint(folder)
    return read_weights(checkpoint.name, checkpoint.weight_files, prefix, wanted or {WORDS, BIAS})


def with_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def pickled(folder, weights=None, **how):
    """The same weights as a pickle alone."""
    weights = load_file(folder / SAFE) if weights is None else weights
    torch.save(weights, folder / BIN, **how)
    (folder / SAFE).unlink()
    return folder


def one_line(e):
    assert "\n" not in str(e.value)
    return str(e.value)


# Kinds of files


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_weights_are_the_same(small, folder, zipped):
    names = trunk_names(folder)
    expected = read(small[1], wanted=names)
    found = read(pickled(folder, _use_new_zipfile_serialization=zipped), wanted=names)
    assert found.keys() == expected.keys() == names
    assert all(torch.equal(found[n], expected[n]) and found[n].dtype == torch.float32 for n in names)
    assert open_checkpoint(folder).weight_files == [folder / BIN]
    assert open_checkpoint(folder).hash != open_checkpoint(small[1]).hash


def test_safetensors_are_preferred(small, folder):
    (folder / BIN).write_bytes(b"not read")
    (folder / f"{BIN}.index.json").write_text("not read")
    assert open_checkpoint(folder).weight_files == [folder / SAFE] and read(folder).keys() == {WORDS, BIAS}
    assert open_checkpoint(folder).hash == open_checkpoint(small[1]).hash


def split(folder, ending):
    """The weights in two parts with an index, as transformers names them."""
    weights = load_file(folder / SAFE)
    stem = SAFE if ending == "safetensors" else BIN
    names = sorted(weights)
    parts = {stem.replace(".", f"-{i + 1:05d}-of-00002."): names[i::2] for i in range(2)}
    for file, held in parts.items():
        held = {n: weights[n] for n in held}
        save_file(held, folder / file, metadata={"format": "pt"}) if ending == "safetensors" else torch.save(held, folder / file)
    (folder / f"{stem}.index.json").write_text(json.dumps({"weight_map": {n: f for f, held in parts.items() for n in held}}))
    (folder / SAFE).unlink()
    return folder / f"{stem}.index.json"


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_parts(small, folder, ending):
    names = trunk_names(folder)
    index = split(folder, ending)
    files = open_checkpoint(folder).weight_files
    assert [f.name for f in files] == [f"{index.name.split('.')[0]}-0000{i}-of-00002.{ending}" for i in (1, 2)]
    expected, found = read(small[1], wanted=names), read(folder, wanted=names)
    assert found.keys() == names and all(torch.equal(found[n], expected[n]) for n in names)
    files[1].unlink()
    with pytest.raises(ModelError, match=f"{files[1].name} is not there, though {index.name} names it"):
        read(folder)


@pytest.mark.parametrize("name", ["../m.safetensors", "/etc/passwd", "a/../../m.bin", "..\\m.bin", "C:\\m.bin", "C:m.bin", ""])
@pytest.mark.parametrize("stem", [SAFE, BIN])
def test_an_index_does_not_lead_out_of_its_folder(folder, stem, name):
    (folder / SAFE).unlink()
    (folder / f"{stem}.index.json").write_text(json.dumps({"weight_map": {"a": "b.safetensors", "c": name}}))
    with pytest.raises(ModelError, match=r"index.json names '.*', which does not lie in its folder") as e:
        find_weight_files(folder)
    assert name in one_line(e)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', '{"weight_map": {"a": 3, "b": "c"}}'])
def test_an_index_that_cannot_be_read(tmp_path, text):
    (tmp_path / "i.json").write_text(text)
    with pytest.raises(ModelError, match=r"i\.json cannot be read") as e:
        names_in_index(tmp_path / "i.json")
    one_line(e)


def test_no_weights(folder):
    (folder / SAFE).unlink()
    with pytest.raises(ModelError, match=r"m has no model\.safetensors$"):
        _ = open_checkpoint(folder).weight_files


def test_an_adapter_without_its_model(folder):
    (folder / "adapter_config.json").write_text("{}")
    assert open_checkpoint(folder).weight_files == [folder / SAFE]  # its model is there
    (folder / SAFE).rename(folder / "adapter_model.safetensors")
    for file in ("adapter_model.safetensors", "config.json"):
        with pytest.raises(ModelError, match="m holds a PEFT adapter .LoRA. without the weights of its base model: merge the two") as e:
            open_checkpoint(folder)
        one_line(e)
        (folder / file).unlink()


# Pickles that are no plain tensors


class Code:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("parts", [False, True])
def test_code_in_a_pickle_never_runs(folder, tmp_path, zipped, parts):
    bad = {f"bert.{WORDS}": torch.ones(2), "x": Code(tmp_path / "ran")}
    pickled(folder, bad, _use_new_zipfile_serialization=zipped)
    if parts:
        (folder / BIN).rename(folder / "part.bin")
        (folder / f"{BIN}.index.json").write_text(json.dumps({"weight_map": {"x": "part.bin"}}))
    with pytest.raises(ModelError, match=r"carry code, which is never run \(.*\.bin: .*system\), are not read: save them with safe") as e:
        read(folder)
    assert "weights_only" not in one_line(e) and "model.safetensors" in str(e.value)
    assert not (tmp_path / "ran").exists()
    with open(folder / BIN, "rb") if not parts else open(folder / "part.bin", "rb"):
        torch.load(folder / ("part.bin" if parts else BIN), weights_only=False)
    assert (tmp_path / "ran").exists()  # it would have


@pytest.mark.parametrize("zipped", [True, False])
def test_a_broken_pickle(folder, zipped):
    whole = (pickled(folder, _use_new_zipfile_serialization=zipped) / BIN).read_bytes()
    scrambled = bytearray(whole)
    scrambled[200:260] = b"\xff" * 60
    for broken in (whole[:-200], whole[: len(whole) // 2], whole[:20], b"", b"pickle", b"PK\x03\x04", bytes(scrambled)):
        (folder / BIN).write_bytes(broken)
        with pytest.raises(ModelError, match=r"truncated, garbled, or more than plain tensors \(pytorch_model\.bin") as e:
            read(folder)
        assert "weights_only" not in one_line(e)


@pytest.mark.parametrize(("held", "kind"), [([1, 2], "list"), (torch.ones(2), "Tensor"), ({1: torch.ones(2)}, "dict")])
def test_a_pickle_of_something_else(folder, held, kind):
    with pytest.raises(ModelError, match=rf"pytorch_model\.bin holds a {kind}, not tensors by name"):
        read(pickled(folder, held))


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("value", [3, torch.empty(3, device="meta"), torch.ones(4).to_sparse()])
def test_a_weight_that_is_no_plain_tensor(folder, value):
    with pytest.raises(ModelError, match=f"'{WORDS}' of model 'm' is not a plain tensor"):
        read(pickled(folder, {WORDS: value}))


# Files that are not whole


def test_broken_safetensors(folder):
    whole = (folder / SAFE).read_bytes()
    for broken in (whole[:-100], whole[:4], b"", b"\xff" * 100):
        (folder / SAFE).write_bytes(broken)
        with pytest.raises(ModelError, match=r"model\.safetensors cannot be read: .*\(truncated, or a git-lfs pointer\?\)$") as e:
            read(folder)
        one_line(e)


@pytest.mark.parametrize("name", [SAFE, BIN])
def test_a_pointer_is_called_one(folder, name):
    (folder / SAFE).unlink()
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n")
    with pytest.raises(ModelError, match="is a.* pointer.*: run 'git lfs pull' in its folder, or download the file itself") as e:
        read(folder)
    one_line(e)


def test_what_is_lacking_is_left_out(folder):
    assert read(folder, wanted={WORDS, "encoder.layer.9.output.dense.bias"}).keys() == {WORDS}


# Numbers


def resaved(folder, change):
    weights = load_file(folder / SAFE)
    change(weights)
    save_file(weights, folder / SAFE, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("as_pickle", [False, True])
def test_not_a_number(folder, value, as_pickle):
    resaved(folder, lambda w: w[f"bert.{BIAS}"][3].fill_(value))
    with pytest.raises(ModelError, match=f"'{BIAS}' of model 'm' holds NaN or infinite weights"):
        read(pickled(folder) if as_pickle else folder)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("as_pickle", [False, True])
def test_other_precisions_become_float32(small, folder, kind, as_pickle):
    resaved(folder, lambda w: w.update({n: t.to(kind) for n, t in w.items()}))
    found = read(pickled(folder) if as_pickle else folder)
    expected = load_file(small[1] / SAFE)
    for name, w in found.items():
        assert w.dtype == torch.float32 and torch.equal(w, expected[f"bert.{name}"].to(kind).float())


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.int32, torch.float8_e4m3fn])
@pytest.mark.parametrize("as_pickle", [False, True])
def test_quantised_weights_by_their_numbers(folder, kind, as_pickle):
    resaved(folder, lambda w: w.update({f"bert.{BIAS}": torch.ones(16).to(kind)}))
    with pytest.raises(ModelError, match=f"'{BIAS}' of model 'm' is stored as {str(kind)[6:]}: quantised weights .* are not read") as e:
        read(pickled(folder) if as_pickle else folder)
    one_line(e)


@pytest.mark.parametrize("end", [".SCB", ".qweight", ".weight.absmax"])
@pytest.mark.parametrize("as_pickle", [False, True])
def test_quantised_weights_by_their_names(folder, end, as_pickle):
    name = f"bert.encoder.layer.0.output.dense{end}"
    resaved(folder, lambda w: w.update({name: torch.ones(3)}))
    with pytest.raises(ModelError, match=f"the weights of model 'm' hold '{name}': quantised weights"):
        read(pickled(folder) if as_pickle else folder)


# Names


@pytest.mark.parametrize("lead", ["bert.", "", "module.bert.", "model.bert.", "module."])
def test_what_stands_before_a_name(small, folder, lead):
    weights = {lead + n.removeprefix("bert."): w for n, w in load_file(folder / SAFE).items() if n.startswith("bert.")}
    save_file(weights, folder / SAFE, metadata={"format": "pt"})
    expected, found = read(small[1]), read(folder)
    assert found.keys() == expected.keys() and all(torch.equal(found[n], expected[n]) for n in found)


def test_old_names_of_layer_norms(small, folder):
    def age(weights):
        for name in [n for n in weights if "LayerNorm" in n]:
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            weights[old] = weights.pop(name) + (1 if "weight" in name else 2)

    wanted = {n for n in trunk_names(folder) if "LayerNorm" in n}
    expected, found = read(small[1], wanted=wanted), read(resaved(folder, age), wanted=wanted)
    assert found.keys() == wanted and len(wanted) == 14
    assert all(torch.equal(found[n], expected[n] + (1 if n.endswith("weight") else 2)) for n in wanted)


def test_a_name_that_is_there_twice(folder):
    resaved(folder, lambda w: w.update({BIAS: torch.zeros(16)}))
    with pytest.raises(ModelError, match=f"hold '{BIAS}' twice"):
        read(folder)


@pytest.mark.parametrize("as_pickle", [False, True])
@pytest.mark.parametrize("head", ["BertForMaskedLM", "BertForSequenceClassification", "BertForTokenClassification", "BertModel"])
def test_the_trunk_under_any_head(small, tmp_path, head, as_pickle):
    vocab, folder = small
    model = getattr(transformers, head)(transformers.BertConfig.from_pretrained(folder, num_labels=3))
    model.save_pretrained(tmp_path / "m")
    vocab.save(tmp_path / "m" / "vocabulary")
    expected = (model if head == "BertModel" else model.bert).state_dict()
    wanted = trunk_names(folder)
    if as_pickle:
        pickled(tmp_path / "m")
    found = read(tmp_path / "m", wanted=wanted)
    assert found.keys() == wanted and all(torch.equal(found[n], expected[n]) for n in wanted)


@pytest.mark.parametrize("kind", ["Roberta", "XLMRoberta", "Camembert", "Electra"])
def test_the_trunk_of_other_kinds(small, tmp_path, kind):
    sizes = dict(vocab_size=16, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, pad_token_id=0)
    config = getattr(transformers, f"{kind}Config")(**sizes, max_position_embeddings=20)
    model = getattr(transformers, f"{kind}ForMaskedLM")(config)
    model.save_pretrained(tmp_path / "m")
    small[0].save(tmp_path / "m" / "vocabulary")
    wanted = {n for n in model.base_model.state_dict() if n.startswith(("embeddings", "encoder"))}
    found = read(tmp_path / "m", f"{model.base_model_prefix}.", wanted)
    assert found.keys() == wanted and all(torch.equal(w, model.base_model.state_dict()[n]) for n, w in found.items())


# What a config says


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (dict(pad_token_id=1), VocabularyError, r"<pad> is token 1 of the model \(pad_token_id in its config.json\), and in the vocabulary it is 0"),
        (dict(position_embedding_type="relative_key"), ModelError, "model 'm' has relative_key positions .*only absolute ones are read"),
        (dict(is_decoder=True), ModelError, "model 'm' is a decoder"),
        (dict(model_type="gpt2"), ModelError, "no encoder built like BERT can be made from the config of model 'm', a gpt2"),
        (dict(model_type="t5"), ModelError, "model 'm' is a t5: only encoders built like BERT are read"),
        (dict(model_type="distilbert"), ModelError, "model 'm' is a distilbert: only encoders built like BERT are read"),
        (dict(model_type="nothing"), ModelError, "unknown model_type 'nothing': only bert, electra, roberta"),
    ],
)
def test_configs_that_are_refused(folder, changes, error, message):
    with pytest.raises(error, match=message) as e:
        open_checkpoint(with_config(folder, **changes))
    one_line(e)


@pytest.mark.parametrize("changes", [dict(position_embedding_type="absolute"), dict(position_embedding_type=None), dict(pad_token_id=None)])
def test_configs_that_say_nothing_new(folder, changes):
    assert open_checkpoint(with_config(folder, **changes)).max_positions == 64


@pytest.mark.parametrize(("kind", "positions"), [("bert", 64), ("electra", 64), ("roberta", 63), ("xlm-roberta", 63), ("camembert", 63)])
def test_kinds_that_are_read(folder, kind, positions):
    """Those of the roberta family give their first token position pad + 1."""
    assert open_checkpoint(with_config(folder, model_type=kind)).max_positions == positions


# Published models


def test_published_models():
    found = {m.name: m for m in published_models()}
    assert list(found) == ["Geneformer V1-10M", "Geneformer V2-104M", "Geneformer V2-104M_CLcancer", "Geneformer V2-316M"]
    assert [m.recipe for m in found.values()] == ["geneformer-v1", *["geneformer-v2"] * 3]
    for name, m in found.items():
        assert (m.repository, m.path) == ("ctheodoris/Geneformer", f"{name.replace(' ', '-')}/model.safetensors")
        assert m.size > 40_000_000 and len(bytes.fromhex(m.sha256)) == 32
    assert len({m.sha256 for m in found.values()}) == 4


def as_published(folder, **changes):
    raw = (folder / SAFE).read_bytes()
    facts = dict(size=len(raw), sha256=hashlib.sha256(raw).hexdigest())
    facts = dict(name="Geneformer V2-104M", recipe="geneformer-v2", repository="some/one", path=f"sub/{SAFE}") | facts | changes
    return PublishedModel(**facts)


def test_a_bare_published_model_names_its_vocabulary(small, tmp_path, monkeypatch):
    folder = make_checkpoint(tmp_path / "m", small[0], with_vocab=False)
    asked = []
    monkeypatch.setattr("rankcell.vocab.recipes.sha256_of", lambda path: asked.append(path) or sha256_of(path))
    with pytest.raises(ModelError, match="checkpoint 'm' carries no vocabulary: pass vocab, the one that it was trained with"):
        open_checkpoint(folder)
    assert asked == []  # no published model is as small
    other = as_published(folder, name="other", recipe="other", sha256="0" * 64)
    monkeypatch.setattr("rankcell.vocab.recipes.published_models", lambda: [other])
    with pytest.raises(ModelError, match="pass vocab, the one"):
        open_checkpoint(folder)
    monkeypatch.setattr("rankcell.vocab.recipes.published_models", lambda: [other, as_published(folder)])
    assert recognize_weights(folder / SAFE).name == "Geneformer V2-104M"
    with pytest.raises(ModelError) as e:
        open_checkpoint(folder)
    assert one_line(e).endswith(
        "no vocabulary: it is Geneformer V2-104M: pass vocab='geneformer-v2' ('rankcell vocab fetch geneformer-v2' in a terminal brings it)"
    )


# Hub names


@pytest.mark.parametrize(
    ("text", "parsed", "name"),
    [
        ("owner/repo", ("owner/repo", "", None), "repo"),
        ("ctheodoris/Geneformer/Geneformer-V2-104M@main", ("ctheodoris/Geneformer", "Geneformer-V2-104M", "main"), "Geneformer-V2-104M"),
        ("a/b/c/d", ("a/b", "c/d", None), "d"),
        ("a/b@refs/pr/3", ("a/b", "", "refs/pr/3"), "b"),
    ],
)
def test_hub_names(text, parsed, name):
    found = parse_name(text)
    assert found == HubName(*parsed) and found.name == name and found.path("x") == f"{parsed[1]}/x".lstrip("/")


@pytest.mark.parametrize(
    "text",
    ["owner", "./a/b", "../a", "/a/b", "~/a/b", "a//b", "a/b/", "a/../b", "a/./b", "a\\b", "C:/a/b", "a/b@", "a b/c", "a/b@../c", ""],
)
def test_no_hub_names(text):
    assert parse_name(text) is None


def test_a_slip_in_a_folders_name_is_not_asked_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rankcell.model.checkpoint.download_checkpoint", lambda name: pytest.fail("asked the hub"))
    (tmp_path / "models").mkdir()
    (tmp_path / "file").write_text("")
    for text in (
        "nowhere",
        "./a/b",
        "../a",
        "~/a",
        "models/none",
        "models/a/none",
        "file",
        "file/x",
        str(tmp_path / "a"),
        "",
        tmp_path / "a",
    ):
        if text == "":
            continue  # the folder one stands in
        with pytest.raises(
            ModelError, match="no checkpoint folder '.*': give a folder with config.json and .*owner/repository/folder"
        ) as e:
            open_checkpoint(text)
        one_line(e)


# A hub on this machine

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Shelf(BaseHTTPRequestHandler):
    """Answers as huggingface.co does to what huggingface_hub asks of it."""

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body):
        repo, _, rest = unquote(self.path).lstrip("/").partition("/resolve/")
        revision, _, path = rest.partition("/")
        self.server.asked.append(f"{self.command} {path}" if path else self.path)
        content = self.server.shelf.get((repo, path)) if revision in ("main", COMMIT) else None
        self.send_response(404 if content is None else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        if content is None:
            known = repo in {r for r, _ in self.server.shelf}
            self.send_header(
                "X-Error-Code", "RepoNotFound" if not known else "EntryNotFound" if revision in ("main", COMMIT) else "RevisionNotFound"
            )
            self.send_header("Content-Length", "0")
        else:
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body and content is not None:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path):
    """A server; `hub.run(code)` runs Python that asks it, in a process of its own, and returns what that prints."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shelf)
    server.shelf, server.asked = {}, []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE")) and not k.lower().endswith("_proxy")}
    env |= {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_DISABLE_XET": "1"}

    def run(code, **more):
        server.asked.clear()
        code = "from rankcell.errors import RankcellError\nfrom rankcell.model import open_checkpoint\n" + textwrap.dedent(code)
        done = subprocess.run(
            [sys.executable, "-c", code], env=env | more, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.splitlines()

    def put(repo, sub, folder):
        files = (p for p in folder.rglob("*") if p.is_file())
        server.shelf |= {(repo, f"{sub}/{p.relative_to(folder).as_posix()}".lstrip("/")): p.read_bytes() for p in files}

    def stop():
        if thread.is_alive():
            server.shutdown()
            thread.join()
            server.server_close()

    server.run, server.put, server.stop = run, put, stop
    yield server
    stop()


OPEN = """
def show(name, **how):
    try:
        c = open_checkpoint(name, **how)
        print(c.name, c.vocab.name, *sorted(p.name for p in c.folder.iterdir()), *(p.name for p in c.weight_files), c.hash, sep=" ")
    except RankcellError as e:
        assert chr(10) not in str(e)
        print(type(e).__name__, e)
"""


def test_a_whole_download(hub, small, folder, tmp_path):
    """A subfolder with its vocabulary; the second time nothing is asked, the third there is nobody to ask."""
    expected = open_checkpoint(small[1]).hash
    hub.put("some/one", "sub/m", folder)
    hub.put("some/one", "", make_checkpoint(tmp_path / "bare", small[0], with_vocab=False, seed=1))
    hub.shelf["some/one", f"sub/m/{BIN}"] = b"never fetched"
    code = OPEN + "show('some/one/sub/m')\nshow('some/one/sub/m@main')\n"
    line = f"m small config.json model.safetensors vocabulary model.safetensors {expected}"
    assert hub.run(code) == [line] * 2
    got = [path for path in hub.asked if path.startswith("GET ")]
    assert sorted(got) == sorted(f"GET sub/m/{f}" for f in ("config.json", SAFE, "vocabulary/genes.tsv", "vocabulary/vocabulary.json"))
    assert hub.run(code) == [line] * 2 and not [path for path in hub.asked if path.startswith(("GET", "HEAD"))]
    top = hub.run(OPEN + "show('some/one')\nshow('some/one@nobranch')\nshow('some/one/none')\nshow('some/other')")
    assert top[0].startswith("ModelError checkpoint 'one' carries no vocabulary: pass vocab, the one")
    assert top[1].startswith("InputError there is no folder 'some/one' here, and config.json of the Hugging Face repository some/one could")
    assert top[2].startswith("ModelError the Hugging Face repository some/one has no none/config.json: name the folder of the model in it")
    assert "InputError there is no folder 'some/other' here" in top[3] and "RepositoryNotFoundError" in top[3]
    hub.stop()
    for offline in ({}, {"HF_HUB_OFFLINE": "1"}):
        lines = hub.run(code + "show('some/one/sub/more')\nshow('some/one', vocab='sub')", **offline)
        assert lines[:2] == [line] * 2
        assert "sub/more/config.json of the Hugging Face repository some/one could not be fetched (" in lines[2]
        assert "download sub/more/config.json and model.safetensors beside it" in lines[2] and lines[2].endswith("give it as model")
        assert ("offline" in lines[2]) == bool(offline)


def test_a_download_brings_the_seal(hub, small, folder, tmp_path):
    """Weights that are not those that were saved are refused after a download too."""
    from rankcell.model.seal import SEAL, write_seal

    write_seal(folder, [folder / SAFE])
    hub.put("some/one", "m", folder)
    assert SEAL in hub.run(OPEN + "show('some/one/m')")[0]
    hub.shelf[("some/two", f"m/{SAFE}")] = hub.shelf[("some/one", f"m/{SAFE}")][:-1] + b"x"
    hub.shelf |= {("some/two", path): content for (repo, path), content in hub.shelf.items() if repo == "some/one" and SAFE not in path}
    (said,) = hub.run(OPEN + "show('some/two/m')")
    assert said.startswith("ModelError") and "the weights are damaged or were replaced" in said


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_a_download_in_parts(hub, small, folder, ending):
    index = split(folder, ending)
    hub.put("some/one", "m", folder)
    parts = [f.name for f in open_checkpoint(folder).weight_files]
    (line,) = hub.run(OPEN + "show('some/one/m')")
    assert line.split()[-3:] == [*parts, open_checkpoint(folder).hash]
    hub.stop()
    assert hub.run(OPEN + "show('some/one/m')") == [line] and index.name in line


def test_a_download_of_pickled_weights(hub, folder):
    hub.put("some/one", "m", pickled(folder))
    (line,) = hub.run(OPEN + "show('some/one/m')")
    assert line.split()[-2] == BIN


def test_downloads_that_lack_a_part(hub, folder):
    (folder / "vocabulary" / "genes.tsv").unlink()
    hub.put("some/one", "a", folder)
    shutil.rmtree(folder / "vocabulary")
    (folder / SAFE).unlink()
    hub.put("some/one", "b", folder)
    hub.put("some/one", "c", folder)
    hub.shelf["some/one", f"c/{SAFE}.index.json"] = json.dumps({"weight_map": {"x": "../../m.safetensors"}}).encode()
    hub.put("some/one", "d", folder)
    hub.shelf["some/one", f"d/{SAFE}.index.json"] = json.dumps({"weight_map": {"x": "part.safetensors"}}).encode()
    lines = hub.run(OPEN + "for x in 'abcd': show('some/one/' + x)")
    assert lines[0] == "ModelError the Hugging Face repository some/one has no a/vocabulary/genes.tsv, which it should"
    assert lines[1] == "ModelError the Hugging Face repository some/one has neither b/model.safetensors nor b/pytorch_model.bin"
    assert lines[2].startswith("ModelError ") and "names '../../m.safetensors', which does not lie in its folder" in lines[2]
    assert lines[3] == "ModelError the Hugging Face repository some/one has no d/part.safetensors, which it should"
    assert not [path for path in hub.asked if "m.safetensors" in path and ".." in path]


def test_published_weights_are_checked(hub, folder):
    """Those of main by size and sha256, each time; another revision is the user's own choice."""
    m = as_published(folder)
    hub.put("some/one", "sub", folder)
    facts = "from rankcell.vocab.recipes import PublishedModel\nimport rankcell.model.download as d\n"
    for good in (True, False):
        found = m if good else as_published(folder, sha256="0" * 64)
        code = (
            OPEN
            + facts
            + f"d.published_models = lambda: [{found!r}]\nshow('some/one/sub')\nshow('some/one/sub@main')\nshow('some/one/sub@{COMMIT}')"
        )
        lines = hub.run(code)
        right = [line.startswith("sub small ") for line in lines]
        assert right == ([True] * 3 if good else [False, False, True])
        assert good or f"has sha256 {m.sha256}, not the {'0' * 64} expected" in lines[0]


def test_files_that_another_tool_brought(hub, folder, tmp_path):
    """Offline, what the cache does not know of counts as not there."""
    shutil.rmtree(folder / "vocabulary")
    at = tmp_path / "hf" / "hub" / "models--some--one"
    shutil.copytree(folder, at / "snapshots" / COMMIT / "m")
    (at / "refs").mkdir()
    (at / "refs" / "main").write_text(COMMIT)
    hub.stop()
    make_vocab().save(tmp_path / "v")
    lines = hub.run(OPEN + "show('some/one/m')\nshow('some/one/m', vocab='v')")
    assert "carries no vocabulary" in lines[0] and lines[1].replace("generation_config.json ", "").startswith("m small config.json model.safetensors model.safetensors ")


def test_at_the_command_line(tmp_path, monkeypatch, capsys):
    """Exit code 2 and one line; nothing is asked before the name is known to be no folder."""
    import huggingface_hub

    def silent(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", silent)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", silent)
    (tmp_path / "counts.h5ad").write_bytes(b"")
    assert main(["embed", "counts.h5ad", "-o", "out.parquet", "--model", "ctheodoris/Geneformer/Geneformer-V2-104M"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("rankcell: there is no folder 'ctheodoris/Geneformer/Geneformer-V2-104M' here, and ")
    assert "OSError: Name or service not known" in said and "--model FOLDER" in said
    assert os.listdir(tmp_path) == ["counts.h5ad"]
