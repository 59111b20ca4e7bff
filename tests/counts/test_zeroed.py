"""Count files with bytes zeroed or overwritten: right rows or one clean line, and never a wait without end nor a traceback."""

import os
import signal
import time
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import rankcell as rc
from rankcell.errors import RankcellError
from rankcell.tokens import Tokenizer
from rankcell.vocab import find_vocabulary

VOCAB = find_vocabulary("demo")
RIGHT, REFUSED, ENDLESS = "read", "one line", "no end"
LIMIT = 20  # seconds, of which a file takes a hundredth
TRIES = 10

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a child process is needed that ends where it never would")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """{layout: path}, of 600 cells x 300 genes."""
    folder, rng = tmp_path_factory.mktemp("whole"), np.random.default_rng(0)
    x = sp.random(600, 300, 0.3, format="csr", rng=rng, data_rvs=lambda n: rng.poisson(3, n) + 1).astype("f4")
    obs = pd.DataFrame({"kind": pd.Categorical(["a", "b", "c"] * 200)}, index=[f"cell{i}" for i in range(600)])
    paths = {}
    for name, values in {"csr": x, "csc": x.tocsc(), "dense": x.toarray()}.items():
        for compression in ("gzip", "lzf"):
            paths[f"{name} {compression}"] = path = folder / f"{name}_{compression}.h5ad"
            ad.AnnData(values, obs=obs, var=pd.DataFrame(index=list(VOCAB.genes[:300]))).write_h5ad(path, compression=compression)
            Tokenizer(VOCAB).tokenize(path, obs=["kind"])  # compiled before the clock runs
    return paths


def outcome(path):
    """What tokenizing a file comes to, in a child process with a time limit."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os._exit(_in_child(path, writing))
    os.close(writing)
    start = time.monotonic()
    while time.monotonic() - start < LIMIT:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.005)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        return ENDLESS
    with os.fdopen(reading, "rb") as file:
        words = file.read().decode()
    return words if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0 else f"ended by {status}: {words}"


def _in_child(path, writing):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Tokenizer(VOCAB, rc.Tokenizing(workers=1)).tokenize(path, obs=["kind"])
        words = RIGHT
    except RankcellError as e:
        words = REFUSED if str(e) and "\n" not in str(e) else f"several lines: {e}"
    except BaseException as e:
        words = f"{type(e).__name__}: {e}"
    os.write(writing, words[:2000].encode())
    return 0


def damaged(raw, rng, number):
    """The bytes with some of them zeroed or overwritten, every third time within the first 20,000, where the tables lie."""
    size = int(rng.choice([16, 64, 256]))
    start = int(rng.integers(0, (min(len(raw), 20_000) if number % 3 == 0 else len(raw)) - size))
    piece = bytes(size) if number % 2 else rng.bytes(size)
    return raw[:start] + piece + raw[start + size :], start


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # threads and fork: the child reads a file and ends
@pytest.mark.parametrize("layout", ["csr gzip", "csc gzip", "dense gzip", "csr lzf", "csc lzf", "dense lzf"])
def test_damage_is_read_or_refused(files, tmp_path, layout):
    raw, rng = files[layout].read_bytes(), np.random.default_rng(sum(map(ord, layout)))
    assert outcome(files[layout]) == RIGHT
    found = {}
    for number in range(TRIES):
        data, start = damaged(raw, rng, number)
        path = tmp_path / "damaged.h5ad"
        path.write_bytes(data)
        found[start] = outcome(path)
    assert set(found.values()) <= {RIGHT, REFUSED}, {start: words for start, words in found.items() if words not in (RIGHT, REFUSED)}
    if layout.endswith("gzip"):
        assert REFUSED in found.values()  # gzip's own checksum sees it
