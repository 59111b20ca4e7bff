"""A model and a vocabulary belong together: as many tokens, the same special tokens; an override by name that is recorded."""

import json
import shutil

import numpy as np
import pytest
from builders import make_adata, make_checkpoint, make_vocab
from flat_options import call, run_screen

from rankcell.cli import main
from rankcell.embed import Embedder
from rankcell.errors import VocabularyError
from rankcell.get import read_embeddings
from rankcell.model import open_checkpoint
from rankcell.model.options import Compute, Model
from rankcell.perturb import Perturber, read_screen
from rankcell.tokens import Tokenizer, TokenSet

COUNTS = [[5, 4, 3, 2, 1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 1, 2, 3, 4, 0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1, 5, 2, 2, 3, 0, 0]]


def model_of(folder, n_ids, **config):
    """A bare checkpoint with `n_ids` tokens."""
    made = make_checkpoint(folder, make_vocab(n_ids - 4), with_vocab=False)
    return with_config(made, **config)


def with_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def refusal(folder, vocab, **how):
    with pytest.raises(VocabularyError) as e:
        open_checkpoint(folder, vocab=vocab, **how)
    text = str(e.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("more", [1, 2, 50, 400])
def test_a_bare_model_with_more_tokens_than_the_vocabulary(tmp_path, more):
    """Every token would be off, and the embeddings would say nothing of it."""
    vocab = make_vocab()
    folder = model_of(tmp_path / "m", vocab.n_ids + more)
    text = refusal(folder, vocab)
    assert f"the model has {16 + more} tokens (vocab_size in its config.json), the vocabulary 16" in text
    assert "vocab_mismatch_ok=True" in text
    c = open_checkpoint(folder, vocab=vocab, vocab_mismatch_ok=True)
    assert f"the model has {16 + more} tokens" in c.vocab_mismatch


def test_fewer_tokens_are_never_taken(tmp_path):
    vocab = make_vocab(13)
    text = refusal(model_of(tmp_path / "m", 16), vocab, vocab_mismatch_ok=True)
    assert "17 tokens" in text and "model 'm' has 16" in text and "mismatch" not in text


@pytest.mark.parametrize(("known", "said"), [(64, "multiple of 64"), (24, "multiple of 8"), (25, None), (128, "multiple of 128")])
def test_a_padded_model_is_called_one(tmp_path, known, said):
    text = refusal(model_of(tmp_path / "m", known), make_vocab(known - 6))
    assert (said in text) if said else "rounded up" not in text


def test_the_vocabulary_of_a_checkpoint_has_to_fit_too(tmp_path):
    folder = model_of(tmp_path / "m", 18)
    make_vocab().save(folder / "vocabulary")
    assert "18 tokens" in refusal(folder, None)
    assert open_checkpoint(folder, vocab_mismatch_ok=True).vocab_mismatch
    (folder / "vocabulary" / "genes.tsv").unlink()
    with pytest.raises(VocabularyError, match=r"genes\.tsv is missing"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (dict(pad_token_id=3), "<pad> is token 3"),
        (dict(mask_token_id=2), "<mask> is token 2 of the model (mask_token_id in its config.json), and in the vocabulary it is 1"),
        (dict(cls_token_id=3), "<cls> is token 3"),
        (dict(bos_token_id=5), "<cls> is token 5"),
        (dict(eos_token_id=2), "<eos> is token 2"),
        (dict(sep_token_id=7), "<eos> is token 7"),
    ],
)
def test_special_tokens_of_the_config(tmp_path, config, said):
    folder = model_of(tmp_path / "m", 16, **config)
    assert said in refusal(folder, make_vocab())
    assert said in open_checkpoint(folder, vocab=make_vocab(), vocab_mismatch_ok=True).vocab_mismatch


def test_special_tokens_that_the_vocabulary_lacks(tmp_path):
    """CLS stands for a gene in a vocabulary without special tokens."""
    vocab = make_vocab(14, special=("<pad>", "<mask>"))
    folder = model_of(tmp_path / "m", 16, cls_token_id=2)
    assert "in the vocabulary it is not there (token 2 is ENSG00000000000)" in refusal(folder, vocab)


def test_what_says_nothing_is_no_difference(tmp_path):
    same = dict(pad_token_id=0, mask_token_id=1, cls_token_id=2, bos_token_id=9, eos_token_id=3)  # cls before bos
    assert open_checkpoint(model_of(tmp_path / "m", 16, **same), vocab=make_vocab()).vocab_mismatch is None
    assert open_checkpoint(model_of(tmp_path / "n", 16, bos_token_id=None, eos_token_id=None), vocab=make_vocab()).vocab_mismatch is None
    family = dict(model_type="roberta", bos_token_id=0, eos_token_id=2)  # every config of that family has these
    assert open_checkpoint(model_of(tmp_path / "r", 16, **family), vocab=make_vocab()).vocab_mismatch is None


@pytest.mark.parametrize("style", ["tokenizer_config", "tokenizer", "vocab", "added"])
def test_special_tokens_of_a_tokenizer(tmp_path, style):
    folder = model_of(tmp_path / "m", 16)

    def write(name, value):
        (folder / name).write_text(json.dumps(value))

    def tokenizer(cls):
        words = {"[PAD]": 0, "[MASK]": 1, "[CLS]": cls}
        write("special_tokens_map.json", {"pad_token": "[PAD]", "cls_token": {"content": "[CLS]"}, "mask_token": "[MASK]"})
        if style == "tokenizer_config":
            write("tokenizer_config.json", {"added_tokens_decoder": {str(n): {"content": w} for w, n in words.items()}})
        elif style == "tokenizer":
            write("tokenizer.json", {"added_tokens": [{"id": n, "content": w} for w, n in words.items()]})
        else:
            write({"vocab": "vocab.json", "added": "added_tokens.json"}[style], words)

    tokenizer(cls=2)
    assert open_checkpoint(folder, vocab=make_vocab()).vocab_mismatch is None
    tokenizer(cls=5)
    assert "<cls> is token 5 of the model (cls_token [CLS] in its special_tokens_map.json)" in refusal(folder, make_vocab())
    for name in ("special_tokens_map.json", "tokenizer_config.json", "tokenizer.json", "vocab.json"):
        (folder / name).write_text('[{"broken": ')
    assert open_checkpoint(folder, vocab=make_vocab()).vocab_mismatch is None


@pytest.mark.parametrize(
    ("known", "folder", "config", "said"),
    [
        (25426, "m", {}, "25,426 tokens: Geneformer V1, whose vocabulary is geneformer-v1"),
        (20275, "m", {}, "20,275 tokens: Geneformer V2, whose vocabulary is geneformer-v2"),
        (20300, "Geneformer-V2-104M", {}, "the name Geneformer-V2: Geneformer V2"),
        (25427, "m", {"_name_or_path": "models/gf-6L-30M-i2048"}, "the name gf-6L-30M-i2048: Geneformer V1"),
    ],
)
def test_which_geneformer_it_is(tmp_path, known, folder, config, said):
    made = make_checkpoint(tmp_path / folder, make_vocab(), with_vocab=False)  # its weights are not read
    with_config(made, vocab_size=known, **config)
    text = refusal(made, make_vocab())
    assert said in text and f"rankcell vocab fetch geneformer-v{2 if 'V2' in said else 1}" in text


def test_embed_and_perturb_say_it_and_record_it(tmp_path, capsys):
    vocab = make_vocab()
    vocab.save(tmp_path / "v")
    model = model_of(tmp_path / "m", 18)
    make_adata(COUNTS).write_h5ad(tmp_path / "counts.h5ad")
    capsys.readouterr()
    common = [str(tmp_path / "counts.h5ad"), "--model", str(model), "--vocab", str(tmp_path / "v")]
    for verb, out in (("embed", "e.parquet"), ("perturb", "s")):
        assert main([verb, *common, "-o", str(tmp_path / out)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "--vocab-mismatch-ok" in said and not (tmp_path / out).exists()
        assert main([verb, *common, "-o", str(tmp_path / out), "--vocab-mismatch-ok"]) == 0
        assert "rankcell: note: model 'm' and vocabulary 'small' differ" in capsys.readouterr().err
    assert "the model has 18 tokens" in read_embeddings(tmp_path / "e.parquet").meta["vocab_mismatch"]
    assert "the model has 18 tokens" in read_screen(tmp_path / "s").manifest["settings"]["vocab_mismatch"]


def test_a_plain_dataset_and_a_bare_model(tmp_path):
    """Rows that do not say their vocabulary take that of the model, which has to fit it."""
    vocab = make_vocab()
    Tokenizer(vocab).write(make_adata(COUNTS), tmp_path / "t.dataset")
    (tmp_path / "t.dataset" / "rankcell.json").unlink()
    model = model_of(tmp_path / "m", 18)
    with pytest.raises(VocabularyError, match="the model has 18 tokens"):
        call(Embedder, model, vocab=vocab)
    embedder = call(Embedder, model, vocab=vocab, vocab_mismatch_ok=True)
    found = embedder.embed(TokenSet.open(tmp_path / "t.dataset", vocab=embedder.checkpoint.vocab))
    assert np.isfinite(found.columns["mean_layer-2"]).all() and "18 tokens" in found.meta["vocab_mismatch"]


def test_a_screen_of_such_a_model_goes_on_elsewhere(one_thread, tmp_path):
    """Parts are run by processes that open the model themselves."""
    vocab = make_vocab()
    perturber = Perturber(Model(model_of(tmp_path / "m", 18), vocab=vocab, vocab_mismatch_ok=True), Compute("cpu,cpu"))
    tokens = Tokenizer(vocab).tokenize(make_adata(COUNTS, kind=["a", "b", "a"]), obs=["kind"])
    done = run_screen(perturber, tokens, tmp_path / "s", tokens_per_unit=60)
    assert done.manifest["n_units"] > 1 and "18 tokens" in done.manifest["settings"]["vocab_mismatch"]


def test_the_checkpoint_of_the_package_fits():
    c = open_checkpoint("demo")
    assert c.vocab.n_ids == c.config["vocab_size"] and c.vocab_mismatch is None


def test_a_copy_of_it_without_its_vocabulary_takes_only_its_own(tmp_path):
    from rankcell.model.checkpoint import demo_folder

    shutil.copytree(demo_folder(), tmp_path / "m", ignore=shutil.ignore_patterns("vocabulary"))
    assert open_checkpoint(tmp_path / "m", vocab="demo").vocab_mismatch is None
    assert "769 tokens" in refusal(tmp_path / "m", make_vocab())
