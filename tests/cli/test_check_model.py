"""`rankcell check --model`: what a model would read of these cells; and vocabularies that know few of their genes."""

import numpy as np
import pandas as pd
import pytest
from builders import make_adata, make_vocab
from flat_options import call

import rankcell as rc
from rankcell.cli.check_report import check
from rankcell.cli.main import main
from rankcell.embed.embed_cells import embed_to_file
from rankcell.vocab import find_vocabulary


@pytest.fixture
def short_model(tmp_path):
    """A model of 16 positions with a vocabulary of 40 genes and rows of 4,096."""
    from transformers import BertConfig, BertForMaskedLM

    vocab = make_vocab(40)
    config = dict(vocab_size=44, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, max_position_embeddings=16)
    BertForMaskedLM(BertConfig(**config, pad_token_id=0)).save_pretrained(tmp_path / "model")
    vocab.save(tmp_path / "model" / "vocabulary")
    return tmp_path / "model"


def test_what_a_short_model_will_not_read(tmp_path, capsys, monkeypatch, short_model):
    monkeypatch.chdir(tmp_path)
    counts = np.ones((3, 40))
    counts[2, 5:] = 0
    make_adata(counts).write_h5ad("a.h5ad")
    assert main(["check", "a.h5ad", "--model", str(short_model)]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "2 cells have more than 14 known genes (66.7 %); genes lost there: median 26, at most 26" in page
    assert "61.2 % of the known genes detected in all cells will not be read by the model model" in page  # 52 of 85
    command = page[page.index("rankcell tokenize") :].split()
    assert main(command[1:]) == 0
    tokens = rc.TokenSet.open(command[-1])
    assert tokens.spec.max_len == 16 and tokens.spec.cropping["unread"] == 52 and tokens.spec.cropping["genes"] == 85
    found = call(embed_to_file, "a.h5ad", "e.parquet", model=short_model)
    assert found is not None


def test_the_demo_model_has_the_demo_vocabulary(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    adata = make_adata(np.ones((2, 12)))
    adata.var = pd.DataFrame(index=list(find_vocabulary("demo").genes[:12]))
    adata.write_h5ad("a.h5ad")
    assert main(["check", "a.h5ad", "--model", "demo"]) == 0
    assert "--vocab demo" in capsys.readouterr().out
    assert main(["check", "a.h5ad", "--model", "nothing"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_few_known_genes_are_not_called_fine(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_vocab(40).save("v")
    adata = make_adata(np.ones((3, 200)))
    adata.var = pd.DataFrame(index=[f"G{i}" if i < 25 else f"Other{i}" for i in range(200)])
    adata.write_h5ad("a.h5ad")
    assert main(["check", "a.h5ad", "--vocab", "v"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "This will work" not in page and "knows only 12.5 % of the genes" in page and "rankcell vocab build" in page
    report = call(check, "a.h5ad", vocab="v")
    assert report.ok and len(report.doubts) == 1 and len(report.inputs[0].genes.unknown) == 10
