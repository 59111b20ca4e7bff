"""Downloads that are checked, and the vocabularies that are made of them. There is no network in these tests."""

import hashlib
import os
import pickle
import shlex
import shutil
from unittest.mock import Mock

import huggingface_hub
import pytest
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from rankcell.cli import main
from rankcell.errors import InputError, OutputError, VocabularyError
from rankcell.hub import fetch_file, find_file
from rankcell.vocab import Vocabulary, fetch_vocabulary, known_recipes, shipped_vocabularies
from rankcell.vocab.published import fetch_vocab, import_vocab
from rankcell.vocab.recipes import ROLES, read_recipe

CONTENT = {
    "tokens": {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3, "ENSG00000000001": 4, "ENSG00000000002": 5},
    "medians": {"ENSG00000000001": 1.5, "ENSG00000000002": 0.25},
    "symbols": {"ONE": "ENSG00000000001"},
    "mapping": {"UNO": "ENSG00000000001"},
}


class Hub:
    """Stands in for huggingface_hub: a cache of links to content, as it keeps one, and a shelf of files to fetch."""

    def __init__(self, cache):
        self.cache, self.shelf, self.calls, self.error = cache, {}, [], None
        self.asked, self.silent = [], None
        self.absent, self.known_absent = object(), []

    def place(self, repo, path):
        return self.cache / repo.replace("/", "--") / "snapshots" / "main" / path

    def try_to_load_from_cache(self, repo_id, filename, cache_dir=None, **_):
        at = self.place(repo_id, filename)
        return str(at) if at.exists() else self.absent if filename in self.known_absent else None

    def get_hf_file_metadata(self, url):
        self.asked.append(url)
        if self.silent is not None:
            raise self.silent

    def hf_hub_download(self, repo_id, filename, **options):
        self.calls.append((repo_id, filename, options))
        if self.error is not None and (not isinstance(self.error, tuple) or self.error[0] == filename):
            raise self.error[1] if isinstance(self.error, tuple) else self.error
        at, blob = self.place(repo_id, filename), self.cache / "blobs" / os.path.basename(filename)
        at.parent.mkdir(parents=True, exist_ok=True)
        blob.parent.mkdir(exist_ok=True)
        if not blob.exists():
            blob.write_bytes(self.shelf[filename])
        if not at.exists():
            at.symlink_to(blob)
        return str(at)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub.hf_hub_download)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", hub.get_hf_file_metadata)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", hub.try_to_load_from_cache)
    return hub


@pytest.fixture
def recipe(hub, monkeypatch):
    """geneformer-v2's recipe with the sums of small files, which the hub has."""
    recipe = read_recipe("geneformer-v2")
    for role in ROLES:
        raw = pickle.dumps(CONTENT[role])
        hub.shelf[recipe["files"][role]["path"]] = raw
        recipe["files"][role] |= {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    monkeypatch.setattr("rankcell.vocab.recipes.read_json", lambda path: recipe)
    return recipe


GOOD = b"what was meant"
SUM = {"size": len(GOOD), "sha256": hashlib.sha256(GOOD).hexdigest()}


class ConnectError(Exception):
    """As the http libraries under huggingface_hub raise it: no OSError, and of no class that all versions share."""


# One file


def test_a_good_file_is_fetched_once(hub):
    hub.shelf["a/b.pkl"] = GOOD
    path = fetch_file("some/one", "a/b.pkl", **SUM)
    assert path.read_bytes() == GOOD and path.name == "b.pkl"
    hub.error = OSError("no network")
    assert fetch_file("some/one", "a/b.pkl", **SUM) == path
    assert hub.calls == [("some/one", "a/b.pkl", {"cache_dir": None})]  # and nothing that would hinder it from going on with a part


def test_the_cache_may_be_elsewhere(hub, tmp_path):
    hub.shelf["b.pkl"] = GOOD
    fetch_file("some/one", "b.pkl", **SUM, cache=tmp_path / "mine")
    assert hub.calls == [("some/one", "b.pkl", {"cache_dir": tmp_path / "mine"})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"what was", "b.pkl has 8 bytes, not the 14 expected"),
        (b"what was meanT", f"b.pkl has sha256 {hashlib.sha256(b'what was meanT').hexdigest()}, not the {SUM['sha256']} expected"),
        (b"", "b.pkl has 0 bytes, not the 14 expected"),
    ],
)
def test_a_bad_file_is_refused_each_time_until_it_is_deleted(hub, content, message):
    hub.shelf["b.pkl"] = content
    for _ in range(2):
        with pytest.raises(InputError, match=message) as e:
            fetch_file("some/one", "b.pkl", **SUM)
        assert "\n" not in str(e.value) and "delete" in str(e.value)
    hub.shelf["b.pkl"] = GOOD
    for word in str(e.value).replace(";", " ").split():
        if word.startswith(str(hub.cache)):  # both that it names: the link and the content
            os.unlink(word) if os.path.lexists(word) else None
    assert fetch_file("some/one", "b.pkl", **SUM).read_bytes() == GOOD


def offline():
    try:
        raise LocalEntryNotFoundError("An error happened while trying to locate the file.") from ConnectError("Name or service not known")
    except LocalEntryNotFoundError as e:
        return e


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (offline(), "ConnectError: Name or service not known"),
        (
            LocalEntryNotFoundError("we cannot find the requested files\nin the cache"),
            "LocalEntryNotFoundError: we cannot find the requested files)",
        ),
        (OfflineModeIsEnabled("offline mode is enabled"), "OfflineModeIsEnabled: offline mode is enabled"),
        (GatedRepoError("Access is restricted", response=Mock()), "GatedRepoError: "),
        (RepositoryNotFoundError("404 Client Error", response=Mock()), "RepositoryNotFoundError: "),
        (EntryNotFoundError("no such entry"), "EntryNotFoundError: no such entry"),
        (ConnectError("timed out"), "ConnectError: timed out"),
        (ConnectionResetError(104, "Connection reset by peer"), "ConnectionResetError: "),
        (ValueError(), "(ValueError)"),
    ],
)
def test_without_a_network(hub, error, reason):
    hub.error = error
    with pytest.raises(InputError) as e:
        fetch_file("some/one", "a/b.pkl", **SUM, otherwise="do this instead")
    said = str(e.value)
    assert said.startswith("a/b.pkl of the Hugging Face repository some/one could not be fetched (") and reason in said
    assert said.endswith("Without a network: do this instead") and "\n" not in said


def test_nobody_answers(hub):
    """One question finds it out; huggingface_hub asks six times, with longer and longer pauses."""
    hub.shelf["a/b.pkl"] = GOOD
    hub.silent = ConnectError("Name or service not known")
    with pytest.raises(InputError, match=r"could not be fetched \(ConnectError: Name or service not known\)"):
        fetch_file("some/one", "a/b.pkl", **SUM)
    assert hub.calls == [] and hub.asked == ["https://huggingface.co/some/one/resolve/main/a/b.pkl"]
    for answer in (HfHubHTTPError("503 Service Unavailable", response=Mock()), FileMetadataError("no etag")):
        hub.silent = answer  # any answer will do: the library knows what to make of it
        assert fetch_file("some/one", "a/b.pkl", **SUM).read_bytes() == GOOD
        os.unlink(hub.place("some/one", "a/b.pkl"))
    hub.silent = None
    fetch_file("some/one", "a/b.pkl", **SUM)
    assert len(hub.asked) == 4 and len(hub.calls) == 3
    fetch_file("some/one", "a/b.pkl", **SUM)  # the cache has it
    assert len(hub.asked) == 4


def test_a_full_disk_is_another_matter(hub):
    hub.error = OSError(28, "No space left on device")
    with pytest.raises(OutputError, match="the disk is full: the download cache was not written"):
        fetch_file("some/one", "b.pkl", **SUM)


def test_the_librarys_remarks_are_on_again_afterwards(hub):
    before = huggingface_hub.utils.logging.get_verbosity()
    hub.error = OSError("no network")
    with pytest.raises(InputError):
        fetch_file("some/one", "b.pkl", **SUM)
    assert huggingface_hub.utils.logging.get_verbosity() == before


def test_a_revision_is_passed_on(hub):
    hub.shelf["b.pkl"] = GOOD
    fetch_file("some/one", "b.pkl", **SUM, revision="v1")
    assert hub.calls == [("some/one", "b.pkl", {"cache_dir": None, "revision": "v1"})]
    assert hub.asked == ["https://huggingface.co/some/one/resolve/v1/b.pkl"]


# A file that may or may not be there


def test_a_file_that_is_there_or_not(hub):
    hub.shelf["b.txt"] = b"any content"
    assert find_file("some/one", "b.txt").read_bytes() == b"any content"
    hub.error = EntryNotFoundError("no such entry")
    assert find_file("some/one", "c.txt") is None and len(hub.calls) == 2
    assert find_file("some/one", "b.txt").name == "b.txt" and len(hub.calls) == 2  # from the cache
    hub.known_absent.append("c.txt")
    assert find_file("some/one", "c.txt") is None and len(hub.calls) == 2


def test_a_file_that_nobody_can_be_asked_for(hub):
    hub.shelf["b.txt"] = b"any content"
    assert find_file("some/one", "b.txt", network=False) is None and hub.asked == hub.calls == []
    for hub.error in (offline(), GatedRepoError("Access is restricted", response=Mock()), ConnectError("timed out")):
        with pytest.raises(InputError, match="b.txt of the Hugging Face repository some/one could not be fetched .*: do this") as e:
            find_file("some/one", "b.txt", otherwise="do this")
        assert "\n" not in str(e.value)


# Vocabularies


def test_fetch_makes_the_vocabulary(hub, recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []
    v = fetch_vocab("geneformer-v2", progress=lambda done, total: seen.append((done, total)))
    assert Vocabulary.load(tmp_path / "geneformer-v2") == v and v.name == "geneformer-v2"
    assert (v.genes, v.symbols, v.max_len, v.species) == (("ENSG00000000001", "ENSG00000000002"), ("ONE", ""), 4096, "human")
    assert v.lookup(["UNO"]).tolist() == [0] and v.frame.has_cls
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert [path for _, path, _ in hub.calls] == [recipe["files"][role]["path"] for role in ROLES]
    facts = v.provenance
    assert (facts["recipe"], facts["repository"]) == ("geneformer-v2", "ctheodoris/Geneformer")
    assert {r: f["sha256"] for r, f in facts["imported_from"].items()} == {r: recipe["files"][r]["sha256"] for r in ROLES}
    hub.error = OSError("no network")  # the second time nothing is asked of it
    assert fetch_vocab("geneformer-v2", tmp_path / "again") == v
    with pytest.raises(OutputError, match="force=True"):
        fetch_vocab("geneformer-v2")
    fetch_vocab("geneformer-v2", force=True)


def test_fetch_from_a_folder(hub, recipe, tmp_path):
    for role in ROLES:
        path = recipe["files"][role]["path"]
        for at in (tmp_path / "flat" / os.path.basename(path), tmp_path / "clone" / path):
            at.parent.mkdir(parents=True, exist_ok=True)
            at.write_bytes(hub.shelf[path])
    made = [fetch_vocab("geneformer-v2", tmp_path / f"v-{kind}", files=tmp_path / kind) for kind in ("flat", "clone")]
    assert made[0] == made[1] and made[0].aliases == {"UNO": "ENSG00000000001"} and hub.calls == []
    (tmp_path / "flat" / "gene_name_id_dict_gc104M.pkl").write_bytes(b"other")
    with pytest.raises(InputError, match=r"gene_name_id_dict_gc104M\.pkl has 5 bytes, not the"):
        fetch_vocabulary("geneformer-v2", files=tmp_path / "flat")
    (tmp_path / "flat" / "gene_name_id_dict_gc104M.pkl").unlink()
    with pytest.raises(
        InputError, match=r"flat has no gene_name_id_dict_gc104M\.pkl: download geneformer/gene_name_id_dict_gc104M\.pkl from"
    ):
        fetch_vocabulary("geneformer-v2", files=tmp_path / "flat")
    with pytest.raises(InputError, match="is not a folder: files"):
        fetch_vocabulary("geneformer-v2", files=tmp_path / "nowhere")
    assert sorted(os.listdir(tmp_path)) == ["clone", "flat", "v-clone", "v-flat"]


def test_without_a_network_the_line_says_what_to_do_by_hand(hub, tmp_path, capsys, monkeypatch):
    """The command that it names is one that the command line takes."""
    monkeypatch.chdir(tmp_path)
    hub.error = offline()
    for name, folder in (("geneformer-v1", "geneformer/gene_dictionaries_30m/"), ("geneformer-v2", "geneformer/")):
        assert main(["vocab", "fetch", name]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and said.startswith(f"rankcell: {folder}token_dictionary_gc")
        for file in read_recipe(name)["files"].values():
            assert file["path"] in said and file["path"].startswith(folder)
        assert f"'rankcell vocab fetch {name} --files FOLDER'" in said
        command = said[said.index("'rankcell vocab import ") + 1 : said.rindex("'")]
        assert command.endswith(f" -o {name}")
        assert main(command.split()[1:]) == 2 and "no file FOLDER/token_dictionary_gc" in capsys.readouterr().err
        for out in ("mine", "my a'b"):
            assert main(["vocab", "fetch", name, "-o", out]) == 2
            said = capsys.readouterr().err
            fetch, imported = (said[said.index(f"'rankcell vocab {verb} ") + 1 :] for verb in ("fetch", "import"))
            assert shlex.split(fetch[: fetch.index("', or '")])[-2:] == ["-o", out]
            assert shlex.split(imported[: imported.rindex("'")])[-2:] == ["-o", out] and said.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_every_missing_file_is_named_and_what_is_enough(hub, recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "files"
    folder.mkdir()
    assert main(["vocab", "fetch", "geneformer-v2", "--files", "files"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and all(os.path.basename(f["path"]) in said for f in recipe["files"].values())
    assert "'rankcell vocab import' takes any of them that include the tokens and the medians" in said and "vocab import -" not in said

    (folder / "token_dictionary.pkl").write_bytes(pickle.dumps(CONTENT["tokens"]))
    (folder / "gene_name_id_dict.pkl").write_bytes(pickle.dumps(CONTENT["symbols"]))
    assert main(["vocab", "fetch", "geneformer-v2", "--files", "files", "-o", "mine"]) == 2
    assert "vocab import -" not in capsys.readouterr().err  # there are no medians

    (folder / "gene_median_dictionary_gc104M.pkl").write_bytes(pickle.dumps(CONTENT["medians"]))
    assert main(["vocab", "fetch", "geneformer-v2", "--files", "files", "-o", "mine"]) == 2
    said = capsys.readouterr().err
    missing = "token_dictionary_gc104M.pkl, gene_name_id_dict_gc104M.pkl, ensembl_mapping_dict_gc104M.pkl"
    assert f"files has no {missing}: download geneformer/token_dictionary_gc104M.pkl, " in said and said.count("\n") == 1
    command = said[said.index("'rankcell vocab import -") + 1 : said.rindex("'")]
    assert "--mapping" not in command and command.endswith(" -o mine")
    assert main(shlex.split(command)[1:]) == 0
    v = Vocabulary.load("mine")
    assert len(v) == 2 and v.symbols == ("ONE", "") and v.max_len == recipe["max_len"] and hub.asked == []


def test_the_file_that_is_fetched_is_shown(hub, recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["vocab", "fetch", "geneformer-v2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:-1] == [f"file {i + 1} of 4: {recipe['files'][role]['path']}" for i, role in enumerate(ROLES)]


def test_stopped_between_two_files_nothing_stands_under_the_final_name(hub, recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    hub.error = (recipe["files"]["symbols"]["path"], KeyboardInterrupt())
    assert main(["vocab", "fetch", "geneformer-v2"]) == 130
    assert "what was downloaded is kept, the same command goes on" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["hub"]
    hub.error = None
    hub.calls.clear()
    assert main(["vocab", "fetch", "geneformer-v2"]) == 0
    assert [os.path.basename(path) for _, path, _ in hub.calls] == ["gene_name_id_dict_gc104M.pkl", "ensembl_mapping_dict_gc104M.pkl"]


def test_names_that_are_no_recipes(tmp_path, capsys):
    with pytest.raises(VocabularyError, match="no recipe 'geneformer'; there are geneformer-v1, geneformer-v2"):
        fetch_vocabulary("geneformer")
    assert main(["vocab", "fetch", "../etc", "-o", str(tmp_path / "v")]) == 2
    assert main(["vocab", "fetch", "pbmc68k"]) == 2
    assert capsys.readouterr().err.count("\n") == 2


# The recipes themselves


def test_recipes_say_what_they_must():
    assert list(known_recipes()) == ["geneformer-v1", "geneformer-v2"] and not set(known_recipes()) & set(shipped_vocabularies())
    for name, max_len in (("geneformer-v1", 2048), ("geneformer-v2", 4096)):
        recipe = read_recipe(name)
        assert (recipe["name"], recipe["species"], recipe["max_len"]) == (name, "human", max_len)
        assert recipe["repository"] == "ctheodoris/Geneformer" and tuple(recipe["files"]) == ROLES
        for file in recipe["files"].values():
            assert set(file) == {"path", "bytes", "sha256"} and file["bytes"] > 10_000 and len(bytes.fromhex(file["sha256"])) == 32
        for model in recipe["models"]:
            assert set(model) == {"name", "path", "bytes", "sha256"}
    assert len({f["sha256"] for n in known_recipes() for f in read_recipe(n)["files"].values()}) == 8


LOCAL = {"tokens": "token_dictionary.pkl", "medians": "gene_median_dictionary.pkl", "symbols": "gene_name_id_dict.pkl"}


def test_recipe_of_v1_is_of_the_real_files(geneformer_v1):
    for role, name in LOCAL.items():
        raw, file = (geneformer_v1 / name).read_bytes(), read_recipe("geneformer-v1")["files"][role]
        assert (len(raw), hashlib.sha256(raw).hexdigest()) == (file["bytes"], file["sha256"])


def test_fetch_of_the_real_v1_files(geneformer_v1, hub, tmp_path, monkeypatch):
    """With three real files and a mapping that stands in for the fourth."""
    recipe = read_recipe("geneformer-v1")
    folder = tmp_path / "files"
    folder.mkdir()
    for role, name in LOCAL.items():
        shutil.copy(geneformer_v1 / name, folder / os.path.basename(recipe["files"][role]["path"]))
    with pytest.raises(InputError, match=r"has no ensembl_mapping_dict_gc30M\.pkl"):
        fetch_vocabulary("geneformer-v1", files=folder)
    raw = pickle.dumps({"OLD": "ENSG00000000003"})
    (folder / "ensembl_mapping_dict_gc30M.pkl").write_bytes(raw)
    with pytest.raises(InputError, match=r"has \d+ bytes, not the 584,125 expected"):
        fetch_vocabulary("geneformer-v1", files=folder)
    recipe["files"]["mapping"] |= {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    monkeypatch.setattr("rankcell.vocab.recipes.read_json", lambda path: recipe)
    v = fetch_vocab("geneformer-v1", tmp_path / "v1", files=folder)
    assert len(v) == 25_424 and v.max_len == 2048 and len(v.frame) == 0 and v.special == {"<pad>": 0, "<mask>": 1}
    assert v.n_ids == 25_426 and v.find("OLD") == v.find("ENSG00000000003") == v.find("TSPAN6")
    assert v == import_vocab(tmp_path / "plain", **{role: geneformer_v1 / name for role, name in LOCAL.items()})
