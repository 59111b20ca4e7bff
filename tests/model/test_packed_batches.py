"""Batches of more tokens than the model has positions: rows end to end, of every kind of trunk."""

import numpy as np
import pytest
import torch
from builders import make_checkpoint, make_vocab
from flat_options import call

from rankcell.embed import Embedder
from rankcell.model import Encoder, collate, open_checkpoint
from rankcell.tokens import TokenSet, TokenSpec

pytestmark = pytest.mark.usefixtures("one_thread")

POSITIONS = 32
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32, "initializer_range": 0.3}


def make_trunk(folder, vocab, kind):
    import transformers

    torch.manual_seed(0)
    extra = {"roberta": 2, "electra": 0, "bert": 0}[kind]  # RoBERTa numbers its positions from the padding token's number + 1
    of = {"bert": "Bert", "roberta": "Roberta", "electra": "Electra"}[kind]
    config = getattr(transformers, f"{of}Config")(
        vocab_size=vocab.n_ids, max_position_embeddings=POSITIONS + extra, pad_token_id=vocab.pad, type_vocab_size=1 if extra else 2, **SIZES
    )
    getattr(transformers, f"{of}Model")(config).save_pretrained(folder)
    vocab.save(folder / "vocabulary")
    return open_checkpoint(folder)


@pytest.mark.parametrize("n_rows", [1, 2, 9])
@pytest.mark.parametrize("kind", ["bert", "roberta", "electra"])
def test_states_of_a_batch_are_those_of_its_rows(tmp_path, kind, n_rows):
    vocab = make_vocab(60)
    encoder = Encoder(make_trunk(tmp_path / "m", vocab, kind), device="cpu", precision="fp32")
    rng = np.random.default_rng(0)
    rows = [rng.permutation(vocab.tokens)[: POSITIONS - i] for i in range(n_rows)]
    layers = [0, 1, 2]
    together = encoder.states(collate(rows, np.arange(n_rows)), layers)
    ends = np.cumsum([len(r) for r in rows])
    for row, end in zip(rows, ends, strict=True):
        alone = encoder.states(collate([row], np.arange(1)), layers)
        for n in layers:
            assert torch.allclose(together[n][end - len(row) : end], alone[n], atol=1e-5)


def test_embedding_rows_as_long_as_the_model_takes(tmp_path):
    vocab = make_vocab(60)
    model = open_checkpoint(make_checkpoint(tmp_path / "m", vocab, positions=POSITIONS))
    rng = np.random.default_rng(1)
    rows = [np.concatenate([vocab.frame.head, rng.permutation(vocab.tokens)[: POSITIONS - 2], vocab.frame.tail]) for _ in range(20)]
    tokens = TokenSet.from_rows(rows, TokenSpec.of(vocab, frame=vocab.frame, max_len=POSITIONS))
    one, many = (call(Embedder, model, device="cpu", tokens_per_batch=n).embed(tokens, pool=["mean", "cls"]) for n in (POSITIONS, 10_000))
    for name, values in one.columns.items():
        np.testing.assert_allclose(many.columns[name], values, atol=1e-5)
