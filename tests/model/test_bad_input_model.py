"""Bad input to embed and perturb at the command line: exit code 2, one line that helps, nothing left behind."""

import errno

import numpy as np
import pyarrow as pa
import pytest
from builders import make_adata, make_checkpoint, make_vocab

from rankcell.cli import main
from rankcell.tokens import TokenSet, TokenSpec
from rankcell.vocab import Frame


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A count file, token sets, models with and without CLS, and vocabularies."""
    folder = tmp_path_factory.mktemp("bad")
    vocab, bare = make_vocab(), make_vocab(special=("<pad>", "<mask>"), name="bare")
    vocab.save(folder / "vocab")
    bare.save(folder / "bare-vocab")
    make_checkpoint(folder / "model", vocab, positions=10)
    make_checkpoint(folder / "model-without-vocab", vocab, with_vocab=False)
    make_checkpoint(folder / "model-without-cls", bare)
    make_checkpoint(folder / "large-without-vocab", make_vocab(496), with_vocab=False)
    counts = np.array([[5, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0], [0, 2, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 1, 7, 2, 0, 0, 0, 0, 0, 0, 0]])
    make_adata(counts, kind=["a", "b", "b"]).write_h5ad(folder / "counts.h5ad")
    framed = TokenSpec.of(vocab, frame=vocab.frame, max_len=16)
    TokenSet.from_rows([[2, 4, 5, 3], [2, 6, 7, 8, 3]], framed, obs={"kind": ["a", "b"]}).save(folder / "cells.dataset")
    TokenSet.from_rows([[2, *range(4, 16), 3]], framed).save(folder / "long.dataset")
    TokenSet.from_rows([[2, 3, 4]], TokenSpec.of(bare, frame=Frame(), max_len=16)).save(folder / "bare.dataset")
    (folder / "note.txt").write_text("not a model")
    return folder


CASES = {
    "no such input": ("embed nothing.h5ad -o out.parquet --model model", "no such file"),
    "a folder that is no token set": ("embed model -o out.parquet --model model", "without count files or tokens"),
    "no such model": ("embed counts.h5ad -o out.parquet --model nowhere", "no checkpoint folder"),
    "a model without vocabulary": ("embed counts.h5ad -o out.parquet --model model-without-vocab", "--vocab"),
    "another vocabulary for the model": ("embed counts.h5ad -o out.parquet --model model --vocab bare-vocab", "'bare'"),
    "a small vocabulary for a large bare model": (
        "embed counts.h5ad -o out.parquet --model large-without-vocab --vocab vocab",
        "the model has 500 tokens (vocab_size in its config.json), the vocabulary 16",
    ),
    "tokens of another vocabulary": ("embed bare.dataset -o out.parquet --model model", "'bare'"),
    "unknown pooling": ("embed counts.h5ad -o out.parquet --model model --pool meen", "unknown pooling 'meen'"),
    "layer out of range": ("embed counts.h5ad -o out.parquet --model model --layer 9", "out of range"),
    "cls pooling without cls": ("embed counts.h5ad -o out.parquet --model model-without-cls --pool cls", "CLS"),
    "rows longer than positions": ("embed long.dataset -o out.parquet --model model", "10 positions"),
    "unknown ending": ("embed counts.h5ad -o out.xlsx --model model", ".parquet"),
    "output exists": ("embed counts.h5ad -o note.txt --model model", "note.txt"),
    "output is the input": ("embed counts.h5ad -o counts.h5ad --model model --force", "never written to"),
    "no such device": ("embed counts.h5ad -o out.parquet --model model --device gpu7", "device"),
    "unknown precision": ("embed counts.h5ad -o out.parquet --model model --precision fp64", "precision"),
    "gene not in the vocabulary": ("perturb counts.h5ad -o out --model model --genes BRCA1", "BRCA1"),
    "a gene with a slip": ("perturb counts.h5ad -o out --model model --genes g1", "did you mean G1"),
    "gene in no cell": ("perturb counts.h5ad -o out --model model --genes G11", "none of the 3 cells"),
    "group in no cell": ("perturb counts.h5ad -o out --model model --genes G0,G4 --group", "none of the 3 cells"),
    "unknown kind": ("perturb counts.h5ad -o out --model model --kind remove", "unknown kind"),
    "state not in the column": ("perturb counts.h5ad -o out --model model --toward kind=c", "no cell has kind = 'c'; there are a, b"),
    "no such column": ("perturb counts.h5ad -o out --model model --start type=a", "no cell column 'type'"),
    "column not carried by tokens": ("perturb long.dataset -o out --model model-without-vocab --vocab vocab --start kind=a", "--obs kind"),
    "state without a column": ("perturb counts.h5ad -o out --model model --toward b", "COLUMN=STATE"),
    "no such gene file": ("perturb counts.h5ad -o out --model model --genes @none.txt", "none.txt"),
    "no such states file": ("perturb counts.h5ad -o out --model model --states none.parquet", "none.parquet"),
    "a states file that is none": ("perturb counts.h5ad -o out --model model --states note.txt", "state, readout"),
    "the output is a file": ("perturb counts.h5ad -o note.txt --model model", "is a file"),
    "the output is another folder": ("perturb counts.h5ad -o vocab --model model --force", "not a rankcell result"),
    "no parent folder": ("perturb counts.h5ad -o a/b/out --model model", "does not exist"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_and_nothing_left(here, case, capsys, monkeypatch):
    command, says = CASES[case]
    monkeypatch.chdir(here)
    before = sorted(str(p.relative_to(here)) for p in here.rglob("*"))
    assert main(command.split()) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) <= 2 and lines[-1].startswith("rankcell: ") and says in lines[-1], lines
    assert sorted(str(p.relative_to(here)) for p in here.rglob("*")) == before


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("embed counts.h5ad -o e.parquet --model model", "starts again"),
        ("perturb counts.h5ad -o p --model model", "no part is finished in p yet, the same command starts again there"),
    ],
)
def test_stopped_by_ctrl_c(here, command, says, capsys, monkeypatch):
    from rankcell.model import Encoder

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.chdir(here)
    monkeypatch.setattr(Encoder, "walk", stop)
    assert main(command.split()) == 130
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("rankcell: stopped") and says in lines[0]
    assert not (here / "e.parquet").exists()


@pytest.mark.parametrize("command", ["embed counts.h5ad -o full.parquet --model model", "perturb counts.h5ad -o full --model model"])
def test_disk_full(here, command, capsys, monkeypatch):
    """The sink says ENOSPC: one line; nothing under the final name, and a screen goes on once there is room."""
    import pyarrow.parquet as pq

    monkeypatch.chdir(here)
    write, rows = pq.write_table, pq.ParquetWriter.write_table

    def full(self_or_table, where, *rest, **kw):
        (write if isinstance(self_or_table, pa.Table) else rows)(self_or_table, where, *rest, **kw)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    assert main(command.split()) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) <= 2 and "disk is full" in lines[-1]
    assert (
        not (here / command.split()[3]).is_file() and not list(here.rglob("*.part-*")) and not (here / "full" / "screen.parquet").exists()
    )
    monkeypatch.setattr(pq, "write_table", write)
    monkeypatch.setattr(pq.ParquetWriter, "write_table", rows)
    assert main(command.split()) == 0
