"""The processes of a screen on several devices: what they say comes home, and so does what really ended them."""

import os
import signal
import warnings

import numpy as np
import pytest
from flat_options import call, run_screen

from rankcell.errors import ModelError, RankcellWarning
from rankcell.execute import processes as workers
from rankcell.perturb import Perturber
from rankcell.perturb.results.screen_tables import SCREEN
from rankcell.tokens import TokenSet, TokenSpec

posix = pytest.mark.skipif(os.name != "posix", reason="ended by signals")
pytestmark = pytest.mark.usefixtures("one_thread")
BEGIN = "import json, os, signal, sys; sys.path[:] = json.loads(sys.argv[1])\n"
SERVE = "from rankcell.execute.processes import serve; serve(*sys.argv[2:])"
SCARCE = """
from rankcell.model import Encoder
walk = Encoder.walk
def limited(self, batch, *args, **how):
    if len(batch.input_ids) > 20:
        raise RuntimeError("CUDA error: out of memory")
    return walk(self, batch, *args, **how)
Encoder.walk = limited
"""


@pytest.fixture(scope="module")
def tokens(small):
    rng = np.random.default_rng(1)
    rows = [[2, *(rng.permutation(12)[:n] + 4), 3] for n in (3, 5, 4, 6, 2, 5)]
    return TokenSet.from_rows(rows, TokenSpec.of(small[0], frame=small[0].frame, max_len=10))


def screen(small, tokens, out, device):
    return run_screen(call(Perturber, small[1], device=device, tokens_per_batch=40), tokens, out, tokens_per_unit=1)


ENDS = {
    "os.kill(os.getpid(), signal.SIGKILL)": "has ended (killed, possibly by the kernel for want of memory)",
    "os.kill(os.getpid(), signal.SIGSEGV)": "has ended (signal SIGSEGV)",
    "os.kill(os.getpid(), signal.SIGABRT)": "has ended (signal SIGABRT)",
    "os._exit(7)": "has ended (exit code 7)",
}


@posix
@pytest.mark.parametrize("end", ENDS)
def test_what_ended_a_process(tmp_path, monkeypatch, end):
    monkeypatch.setattr(workers, "_START", BEGIN + end)
    with pytest.raises(ModelError) as e:
        workers.run_on("rankcell.perturb.run.worker:open_worker", tmp_path, [0, 1], ["cpu"], None)
    assert str(e.value) == f"the process on device 'cpu' {ENDS[end]}: what is done is kept, and the same command goes on from there"
    assert ("want of memory" in str(e.value)) == (signal.SIGKILL.name in end)


FAILS = {
    "MemoryError('Unable to allocate 7.2 TiB')": "there is not enough memory on device 'cpu' (Unable to allocate 7.2 TiB)",
    "RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED')": "there is not enough memory on device 'cpu' (CUDA error: CUBLAS_STATUS_ALLOC_FAILED)",
    "ZeroDivisionError('by zero')": "the process on device 'cpu' has failed (ZeroDivisionError: by zero): what is done is kept",
}


@pytest.mark.parametrize("error", FAILS)
def test_an_error_of_a_process(tmp_path, monkeypatch, capfd, error):
    raising = f"from rankcell.execute import processes as workers\ndef fail(*args):\n    raise {error}\nworkers._serve = fail\n"
    monkeypatch.setattr(workers, "_START", BEGIN + raising + SERVE)
    with pytest.raises(ModelError) as e:
        workers.run_on("rankcell.perturb.run.worker:open_worker", tmp_path, [0, 1], ["cpu"], None)
    assert str(e.value).startswith(FAILS[error])
    assert ("Traceback" in capfd.readouterr().err) == ("failed" in FAILS[error])  # of what nobody expects, the place too


def test_notes_of_processes_come_home(small, tokens, tmp_path, monkeypatch):
    """Each once, however many processes say it; and the numbers are those of enough memory."""
    whole = screen(small, tokens, tmp_path / "whole", "cpu").read(SCREEN)
    monkeypatch.setattr(workers, "_START", BEGIN + SCARCE + SERVE)
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        found = screen(small, tokens, tmp_path / "scarce", "cpu,cpu").read(SCREEN)
    lines = [str(w.message) for w in notes]
    assert all(issubclass(w.category, RankcellWarning) for w in notes) and lines
    assert all(line.startswith("device 'cpu': out of memory with ") for line in lines) and len(set(lines)) == len(lines)
    assert found.column_names == whole.column_names and found.num_rows == whole.num_rows
    for name in whole.column_names:
        a, b = found[name].to_numpy(), whole[name].to_numpy()
        if b.dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6, err_msg=name)
        else:
            assert a.tolist() == b.tolist()
