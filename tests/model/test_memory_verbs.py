"""Memory that runs out anywhere in a verb of the command line: the output of an undisturbed run, or one line and no output."""

import errno
import shutil
import warnings

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from builders import make_checkpoint, make_vocab
from test_memory import RunsOut, close, few_objects

from rankcell.cli import main
from rankcell.errors import ModelError, OutputError, is_out_of_memory
from rankcell.model import encoder as encoder_module
from rankcell.model.device_memory import Memory, lacking
from rankcell.model.weights import read_weights
from rankcell.tokens import TokenSet, TokenSpec

pytestmark = pytest.mark.usefixtures("one_thread")

CUDA = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.11 GiB of which 3.19 MiB is free."
TEXTS = (
    CUDA,
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",  # pinned memory, contexts
    "CUDA driver error: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "MPS backend out of memory (MPS allocated: 8.00 GB, other allocations: 1.00 GB, max allowed: 9.07 GB).",
    "HIP out of memory. Tried to allocate 2.00 GiB",
    "HIP error: out of memory",
    "CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`",
    "XPU out of memory. Tried to allocate 2.00 GiB",
    "Native API failed. Native API returns: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes. Error code 12",
    "[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.",
    "std::bad_alloc",
)
OTHERS = (
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"),
    ValueError("CUDA out of memory"),
    OSError(errno.ENOSPC, "No space left on device"),
    ModelError("the memory of device 'cuda:0' does not hold one row: CUDA out of memory"),
    OutputError("not enough memory"),
    KeyboardInterrupt(),
)


@pytest.mark.parametrize("text", TEXTS)
def test_texts_of_errors(text):
    assert is_out_of_memory(RuntimeError(text))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        error = RuntimeError(text)
        done, lack = Memory("cpu").attempt(lambda: (_ for _ in ()).throw(error))
    assert done is None and "\n" not in lack and lack


def test_kinds_of_errors():
    for e in (MemoryError(), torch.OutOfMemoryError("x"), OSError(errno.ENOMEM, "Cannot allocate memory")):
        assert is_out_of_memory(e)
    with pytest.raises(MemoryError) as numpys:
        np.empty(2**56)
    assert is_out_of_memory(numpys.value) and lacking(str(numpys.value), "cpu").startswith("512. PiB more needed")
    for e in OTHERS:
        assert not is_out_of_memory(e), e
        with pytest.raises(type(e)):
            Memory("cpu").attempt(lambda e=e: (_ for _ in ()).throw(e))


def test_what_is_lacking():
    assert lacking(CUDA, "cpu") == "20.00 MiB more needed, 3.19 MiB free"
    assert lacking("you tried to allocate 3221225472 bytes", "cpu").startswith("3.00 GiB more needed, ")
    assert lacking("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling x\nmore", "meta") == "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling x"
    assert lacking("", "meta") == "no more is known"


def test_what_a_failure_held_is_given_back():
    """Nothing of a failed attempt is alive when the next begins, whoever keeps the exception."""
    import weakref

    kept, alive = [], []

    def work():
        held = torch.zeros(1000)
        alive.append(weakref.ref(held))
        cycle = [held]
        cycle.append(cycle)
        kept.append(MemoryError("not enough"))
        raise kept[-1]

    _, lack = Memory("cpu").attempt(work)
    assert lack and alive[0]() is None


# verbs


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, tokens of 16 cells in two states, and a screen of them."""
    folder, vocab = tmp_path_factory.mktemp("verbs"), make_vocab(40)
    make_checkpoint(folder / "m", vocab, positions=64)
    rng = np.random.default_rng(0)
    rows = [[2, *(rng.permutation(40)[:n] + 4), 3] for n in rng.integers(20, 40, 16)]
    spec = TokenSpec.of(vocab, frame=vocab.frame, max_len=64)
    TokenSet.from_rows(rows, spec, cell_ids=[f"c{i}" for i in range(16)], obs={"kind": list("xy") * 8}).save(folder / "t")
    assert main(["perturb", str(folder / "t"), "-o", str(folder / "screen"), *PERTURB, "--model", str(folder / "m")]) == 0
    return folder


PERTURB = ["--device", "cpu", "--cells", "4", "--toward", "kind=x", "--affected-top", "2", "--tokens-per-batch", "400"]


@pytest.fixture
def loads_once(monkeypatch):
    """Weights are read from their file once; torch.asarray of a file's bytes does not go with a mode that sees every operation."""
    held = {}

    def read(*args):
        if not held:
            with torch.utils._python_dispatch._disable_current_modes():
                held.update(read_weights(*args))
        return {name: w.clone() for name, w in held.items()}

    monkeypatch.setattr(encoder_module, "read_weights", read)


def one_line(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("rankcell: note: ", "Writing model"))]
    return len(lines) == 1 and lines[0].startswith("rankcell: ") and "memory" in lines[0]


def columns(path):
    table = pq.read_table(path)
    found = {}
    for name in table.column_names:
        values = table[name].combine_chunks()
        if name in ("affected", "gene"):
            continue  # genes that move equally far but for rounding may stand in either order
        flat = values.flatten() if hasattr(values, "flatten") and hasattr(values.type, "list_size") else values
        array = np.asarray(flat.to_pylist() if values.type == "string" or "dict" in str(values.type) else flat)
        found[name] = np.unique(array, return_inverse=True)[1] if array.dtype.kind in "OU" else array
    return found


def swept(run, capsys, n_ops, check, points):
    """Run with memory running out at operations all over; how often there was an output, and one line."""
    ends, step = [0, 0], max(1, n_ops // points)
    with few_objects():
        for at in range(int(np.random.default_rng().integers(1, step + 1)), n_ops + 1, step):
            capsys.readouterr()
            with RunsOut(lambda i, at=at: i == at):
                code = run()
            assert code in (0, 2), at
            if code:
                assert one_line(capsys), at
            check(code, at)
            ends[code // 2] += 1
    return ends


def test_embed(place, tmp_path, capsys, loads_once):
    out = tmp_path / "e.parquet"

    def run():
        shutil.rmtree(f"{out}.run", ignore_errors=True)
        out.unlink(missing_ok=True)
        return main(["embed", str(place / "t"), "-o", str(out), "--model", str(place / "m"), "--device", "cpu", "--tokens-per-batch", "120"])

    assert run() == 0
    with RunsOut() as counted:
        run()
    expected = columns(out)

    def check(code, at):
        assert out.exists() == (code == 0)
        if code == 0:
            close(columns(out), expected, at, rtol=3e-6, atol=3e-6)

    done, failed = swept(run, capsys, counted.n, check, 12)
    assert done and not failed


def test_perturb(place, tmp_path, capsys, loads_once):
    out, tables = tmp_path / "s", ("screen.parquet", "affected_top.parquet")

    def run(fresh=True):
        if fresh:
            shutil.rmtree(out, ignore_errors=True)
        return main(["perturb", str(place / "t"), "-o", str(out), *PERTURB, "--model", str(place / "m")])

    assert run() == 0
    with RunsOut() as counted:
        assert run() == 0
    expected = {name: columns(out / name) for name in tables}

    def check(code, at):
        if code:
            assert not any((out / name).exists() for name in tables)
            assert run(fresh=False) == 0  # what is done is kept
        for name in tables:
            close(columns(out / name), expected[name], f"{name}: {at}")

    done, failed = swept(run, capsys, counted.n, check, 10)
    assert done > failed


def test_pretrain(place, tmp_path, capsys):
    """A step that fails may have changed some weights: one line, and nothing is written."""
    out = tmp_path / "m"
    make_vocab(40).save(tmp_path / "vocab")
    how = ["--epochs", "1", "--layers", "1", "--width", "16", "--heads", "2", "--intermediate", "16", "--device", "cpu", "--holdout", "0.3"]

    def run():
        shutil.rmtree(out, ignore_errors=True)
        return main(["pretrain", str(place / "t"), "-o", str(out), "--vocab", str(tmp_path / "vocab"), *how])

    assert run() == 0
    with RunsOut() as counted:
        assert run() == 0
    done, failed = swept(run, capsys, counted.n, lambda code, at: out.exists() == (code == 0) or pytest.fail(str(at)), 8)
    assert failed and done + failed >= 8


ALLOCATING = ("arange", "argsort", "bincount", "concatenate", "cumsum", "empty", "full", "lexsort", "repeat", "searchsorted", "sort", "stack", "unique", "where", "zeros")


def test_stats(place, tmp_path, capsys, monkeypatch):
    out, seen = tmp_path / "r.tsv", []

    def run():
        out.unlink(missing_ok=True)
        return main(["stats", str(place / "screen"), "-o", str(out)])

    def failing(function):
        def called(*args, **how):
            seen.append(function)
            if len(seen) == fail:
                raise MemoryError("Unable to allocate 2.00 GiB for an array")
            return function(*args, **how)

        return called

    fail = 0
    assert run() == 0
    for name in ALLOCATING:
        monkeypatch.setattr(np, name, failing(getattr(np, name)))
    assert run() == 0
    expected, n = out.read_bytes(), len(seen)
    assert n > 50
    step, failed = n // 20, 0
    for fail in range(int(np.random.default_rng().integers(1, step + 1)), n + 1, step):
        seen.clear()
        capsys.readouterr()
        code = run()
        assert code in (0, 2), fail
        assert out.exists() == (code == 0), fail
        if code:
            assert one_line(capsys), fail
        else:
            assert out.read_bytes() == expected, fail
        failed += code == 2
    assert failed
