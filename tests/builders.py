"""Small inputs that tests share: vocabularies, count matrices, checkpoints."""

import os
import pathlib

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = pathlib.Path(os.environ.get("RANKCELL_SHARED", ROOT.parent / "shared"))


def make_vocab(n=12, *, special=("<pad>", "<mask>", "<cls>", "<eos>"), medians=None, **kw):
    """A small vocabulary G0, G1, ... with ids ENSG00000000000, ..."""
    from rankcell.vocab import Vocabulary

    return Vocabulary(
        name=kw.pop("name", "small"),
        genes=[f"ENSG{i:011d}" for i in range(n)],
        symbols=[f"G{i}" for i in range(n)],
        tokens=np.arange(n) + len(special),
        medians=np.ones(n) if medians is None else medians,
        special={t: i for i, t in enumerate(special)},
        **kw,
    )


def make_adata(counts, *, symbols=True, **obs):
    """An AnnData of integer counts whose columns are the first genes of `make_vocab`."""
    import anndata as ad
    import pandas as pd
    import scipy.sparse as sp

    x = sp.csr_matrix(np.asarray(counts, np.float32))
    ids = [f"ENSG{i:011d}" for i in range(x.shape[1])]
    names = [f"G{i}" for i in range(x.shape[1])] if symbols else ids
    cells = [f"cell{i}" for i in range(x.shape[0])]
    return ad.AnnData(x, obs=pd.DataFrame(obs, index=cells), var=pd.DataFrame({"ensembl_id": ids}, index=names))


def make_checkpoint(folder, vocab, *, width=16, layers=3, positions=64, seed=0, with_vocab=True, scale=0.3):
    """A BERT masked-language model with random weights large enough for every part to matter."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=vocab.n_ids,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * width,
        max_position_embeddings=positions,
        initializer_range=scale,
        pad_token_id=vocab.pad,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    if with_vocab:
        vocab.save(folder / "vocabulary")
    return folder
