"""Fixtures that tests share. Golden files lie outside the project: tests that use them skip where they are not."""

import itertools
import os
import signal

import pytest
from builders import ROOT, SHARED, make_checkpoint, make_vocab

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # a process a processor (pytest-xdist); threads beside these only wait for each other

for _name in ("SIGINT", "SIGHUP"):
    _number = getattr(signal, _name, None)
    if _number is not None and signal.getsignal(_number) is signal.SIG_IGN:  # under nohup, or in the background of a script
        signal.signal(_number, lambda *_: None)  # ignored here as before, but not by the commands that tests start and interrupt


SLOW = frozenset((ROOT / "tests" / "slow.txt").read_text().split())


def pytest_collection_modifyitems(items):
    """The tests and files of slow.txt are slow (tests/record_slow.py)."""
    for item in items:
        if SLOW & {item.nodeid.split("[")[0], item.nodeid.split("::")[0]}:
            item.add_marker("slow")


@pytest.fixture(scope="session")
def user_folders(tmp_path_factory):
    return tmp_path_factory.mktemp("users"), itertools.count()


@pytest.fixture(autouse=True)
def _own_user_folder(user_folders, monkeypatch):
    """What is kept for a user (fetched vocabularies) is each test's own."""
    folder, number = user_folders
    monkeypatch.setenv("RANKCELL_CACHE", str(folder / str(next(number))))


@pytest.fixture(scope="module")
def one_thread():
    """Several threads only wait for each other on models this small."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def golden():
    """The folder of Geneformer's own outputs."""
    if not (SHARED / "golden").is_dir():
        pytest.skip("golden files are not here (set RANKCELL_SHARED to the folder that holds golden/ and data/)")
    return SHARED / "golden"


@pytest.fixture(scope="session")
def geneformer_v1():
    """The folder of Geneformer's V1 dictionaries."""
    if not (SHARED / "data" / "geneformer_v1").is_dir():
        pytest.skip("Geneformer's dictionaries are not here (set RANKCELL_SHARED to the folder that holds golden/ and data/)")
    return SHARED / "data" / "geneformer_v1"


@pytest.fixture(scope="session")
def vocabularies(golden, geneformer_v1):
    """{"V1": real, no special tokens; "V2": synthetic, CLS and EOS}."""
    from rankcell.vocab import import_geneformer

    d, s = geneformer_v1, golden / "v2style"
    return {
        "V1": import_geneformer(
            d / "token_dictionary.pkl", d / "gene_median_dictionary.pkl", symbols=d / "gene_name_id_dict.pkl", name="geneformer-v1"
        ),
        "V2": import_geneformer(s / "token_dictionary_v2synth.pkl", s / "gene_median_v2synth.pkl", name="v2style"),
    }


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A vocabulary of 12 genes with CLS and EOS, and a checkpoint that carries it."""
    vocab = make_vocab()
    return vocab, make_checkpoint(tmp_path_factory.mktemp("models") / "small", vocab)


@pytest.fixture(scope="session")
def screened_model(tmp_path_factory):
    """330 genes, rows of up to 340 tokens, heads that are eight wide (tests/small_screens.py)."""
    from rankcell.model import open_checkpoint

    return open_checkpoint(make_checkpoint(tmp_path_factory.mktemp("models") / "screened", make_vocab(330), width=32, positions=340))


@pytest.fixture
def training_cells(tmp_path):
    """(token folder, settings of a small training on it)"""
    from training_cells import SMALL, two_kinds_of_cells

    vocab = make_vocab(12)
    vocab.save(tmp_path / "vocab")
    two_kinds_of_cells(vocab).save(tmp_path / "cells.dataset")
    return tmp_path / "cells.dataset", dict(SMALL, vocab=tmp_path / "vocab")
