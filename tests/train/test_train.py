"""Training: what a batch hides, that a run is seeded, learns, and leaves a checkpoint that embeds; nothing half-written."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from builders import make_vocab
from flat_options import call
from training_cells import DRAWS, FRAME, SMALL, two_kinds_of_cells

from rankcell.cli import main
from rankcell.cli.pretrain import training_lines
from rankcell.embed import Embedder
from rankcell.errors import OutputError, SettingsError, TokensError, VocabularyError
from rankcell.model import open_checkpoint
from rankcell.model.heads import new_masked_lm
from rankcell.train import Recipe
from rankcell.train.collate import IGNORE, Masking, collate_masked, excluded_tokens, length_groups
from rankcell.train.evaluate import MaskedExample, baseline_accuracy, masked_accuracy
from rankcell.train.loop import _objective
from rankcell.train.pretraining import pretrain


def test_mask_row_hides_and_names_what_it_hides():
    row = np.array([2, 10, 11, 12, 13, 3])
    rng = np.random.default_rng(0)
    for _ in range(50):
        masked_row = Masking(mask=1, mask_rate=0.5, drop=0.4).apply(row, FRAME, rng)
        shown, labels, hidden = masked_row.shown, masked_row.labels, masked_row.hidden
        assert shown[0] == 2 and shown[-1] == 3 and len(shown) == len(labels)
        masked = labels != IGNORE
        assert masked.any() and (shown[masked] == 1).all() and (shown[~masked] != 1).all()
        visible = set(shown[1:-1].tolist()) - {1}
        assert visible | set(hidden.tolist()) == {10, 11, 12, 13} and not visible & set(hidden.tolist())
        assert set(labels[masked].tolist()) <= set(hidden.tolist())
    assert row.tolist() == [2, 10, 11, 12, 13, 3]  # the caller's row is not written to


def test_collate_pads_to_its_longest_row():
    rows = [np.array([2, 10, 3]), np.array([2, 11, 12, 13, 3])]
    b = collate_masked(rows, FRAME, Masking(1, 0.15), pad=0, n_ids=20, rng=np.random.default_rng(1))
    assert b.input_ids.shape == (2, 5)
    assert b.attend.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert b.body.tolist() == [[0, 1, 0, 0, 0], [0, 1, 1, 1, 0]]
    assert (b.input_ids[b.attend == 0] == 0).all() and (b.labels[b.attend == 0] == IGNORE).all()
    np.testing.assert_allclose(b.hidden_bv.sum(1), 1)
    assert not (b.excluded_bv & (b.hidden_bv > 0)).any()


def batch_of(rows):
    """A batch of which only the first row has masked and hidden genes."""
    batch = collate_masked(rows, FRAME, Masking(1, 0.15), pad=0, n_ids=16, rng=np.random.default_rng(1))
    batch.labels[1:], batch.hidden_bv[1:] = IGNORE, 0
    return {field.name: torch.from_numpy(getattr(batch, field.name)) for field in dataclasses.fields(batch)}


def test_the_loss_of_a_row_does_not_depend_on_the_others_of_its_batch():
    torch.manual_seed(0)
    model = new_masked_lm(make_vocab(12), layers=2, width=16, heads=2, intermediate=16, positions=16, dropout=0.0, activation="relu").eval()
    objective = _objective(model, Recipe(layers=2, cell_weight=0.5))
    row, longer = np.array([2, 10, 3]), np.array([2, 11, 12, 13, 14, 3])
    with torch.no_grad():
        loss, masked = objective(batch_of([row]))
        beside, masked_beside = objective(batch_of([row, longer]))
    torch.testing.assert_close(masked_beside, masked, rtol=1e-6, atol=1e-6)  # the mean over the one masked gene
    torch.testing.assert_close(2 * (beside - masked_beside), loss - masked, rtol=1e-6, atol=1e-6)  # the mean over two rows


def test_candidates_are_what_a_row_does_not_show_and_never_padding():
    excluded = excluded_tokens(np.array([[2, 5, 1, 3], [2, 1, 3, 0]]), 0, 7)
    assert [np.flatnonzero(~row).tolist() for row in excluded] == [[4, 6], [4, 5, 6]]


@pytest.mark.parametrize("excluding", [True, False])
def test_accuracy_and_loss_of_training_have_the_same_candidates(excluding):
    torch.manual_seed(0)
    model = new_masked_lm(make_vocab(12), layers=1, width=16, heads=2, intermediate=16, positions=16, dropout=0.0, activation="relu").eval()
    batch = batch_of([np.array([2, 10, 11, 12, 3])])
    (where,) = np.flatnonzero(batch["labels"][0] != IGNORE)
    question = MaskedExample(batch["input_ids"][0].numpy(), np.array([where]), batch["labels"][0][[where]].numpy())
    with torch.no_grad():
        loss, _ = _objective(model, Recipe(layers=1))(batch)
    accuracy = masked_accuracy(model, [question], pad=0, device="cpu", exclude_shown=excluding)
    assert (accuracy["loss"] == pytest.approx(loss.item(), rel=1e-6)) == excluding


def test_length_groups_hold_every_cell_once_and_like_lengths():
    lengths = np.arange(100, 1100, 10)
    groups = list(length_groups(lengths, 8, np.random.default_rng(0)))
    assert sorted(np.concatenate(groups).tolist()) == list(range(100))
    assert max(np.ptp(lengths[g]) for g in groups) <= 8 * 10 + 16


def test_baselines_by_hand():
    """Three training cells show 10 and 11, one shows 12; 10 stands first twice, 11 once."""
    train = [np.array([2, 10, 11, 3]), np.array([2, 10, 11, 3]), np.array([2, 11, 10, 3]), np.array([2, 12, 3])]
    asked = [
        MaskedExample(np.array([2, 10, 1, 3]), np.array([2]), np.array([11])),
        MaskedExample(np.array([2, 1, 11, 3]), np.array([1]), np.array([12])),
    ]
    found = baseline_accuracy(train, asked, FRAME, pad=0, n_ids=13)
    assert found["frequent"]["top1"] == 0.5  # 10 is shown, so 11 is guessed: right; then 10 is guessed for 12: wrong
    assert found["frequent_at_rank"]["top1"] == 0.5  # rank 1: 11 stood there twice: right; rank 0: 10 is guessed: wrong
    assert found["frequent"]["top10"] == 1.0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    vocab = make_vocab(12)
    folder = tmp_path_factory.mktemp("train")
    vocab.save(folder / "vocab")
    tokens = two_kinds_of_cells(vocab)
    tokens.save(folder / "cells.dataset")
    facts = call(pretrain, folder / "cells.dataset", folder / "model", vocab=folder / "vocab", epochs=40, lr=1e-2, drop=0.2, cell_weight=0.2, **SMALL
    )
    return folder, vocab, tokens, facts


def test_training_learns_and_beats_the_baselines(trained):
    _, _, _, facts = trained
    best = max(b["top1"] for b in facts["baselines"].values())
    assert facts["heldout"]["top1"] > best + 0.05
    assert facts["n_train"] == 54 and facts["n_heldout"] == 6 and len(set(facts["heldout_cells"])) == 6


def test_checkpoint_is_whole_and_embeds(trained):
    folder, vocab, tokens, _ = trained
    model = folder / "model"
    assert {p.name for p in model.iterdir()} >= {"config.json", "model.safetensors", "vocabulary", "training.json", "loss.csv", "loss.png"}
    assert open_checkpoint(model).vocab == vocab
    assert json.loads((model / "training.json").read_text())["recipe"]["epochs"] == 40
    with open(model / "loss.csv") as f:
        curve = list(csv.DictReader(f))
    assert float(curve[-1]["train_loss"]) < float(curve[0]["train_loss"])
    assert (model / "loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    x = call(Embedder, model, device="cpu").embed(tokens, layer=-1).columns["mean_layer-1"]
    kind = np.arange(len(x)) % 2
    centre = np.stack([x[kind == k].mean(0) for k in (0, 1)])
    nearest = ((x[:, None] - centre) ** 2).sum(-1).argmin(1)
    assert (nearest == kind).all()


def test_same_seed_same_weights(trained, tmp_path):
    folder, _, _, _ = trained
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        call(pretrain, folder / "cells.dataset", tmp_path / name, vocab=folder / "vocab", epochs=1, seed=seed, average=0.9, **SMALL)
    a, b, c = ((tmp_path / n / "model.safetensors").read_bytes() for n in "abc")
    assert a == b != c


def test_the_same_command_gives_the_same_bytes(trained, tmp_path):
    folder, *_ = trained
    options = [f"--{name.replace('_', '-')}={value}" for name, value in (SMALL | DRAWS).items()]
    for name in "ab":
        assert (
            main(["pretrain", str(folder / "cells.dataset"), "-o", str(tmp_path / name), "--vocab", str(folder / "vocab"), *options]) == 0
        )
        torch.rand(5)  # the next one finds torch's generator elsewhere
    files = {p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()}
    assert len(files) > 6
    for file in files:
        a, b = ((tmp_path / name / file).read_bytes() for name in "ab")
        if file.name == "training.json":
            a, b = (json.loads(x) | {"minutes": None} for x in (a, b))
        assert a == b, file


@pytest.mark.parametrize(
    ("setting", "error", "says"),
    [
        (dict(mask_rate=0.0), SettingsError, "mask_rate"),
        (dict(drop=-0.5), SettingsError, "drop"),
        (dict(average=1.0), SettingsError, "average"),
        (dict(epochs=0), SettingsError, "epochs"),
        (dict(width=15), SettingsError, "multiple"),
        (dict(positions=4), SettingsError, "positions"),
        (dict(holdout=0.999), TokensError, "too few"),
        (dict(cell_layer=7), SettingsError, "cell_layer"),
        (dict(device="nowhere"), SettingsError, "device"),
    ],
)
def test_settings_that_cannot_be_are_refused(trained, tmp_path, setting, error, says):
    folder, *_ = trained
    with pytest.raises(error, match=says):
        call(pretrain, folder / "cells.dataset", tmp_path / "m", vocab=folder / "vocab", **(SMALL | {"epochs": 1} | setting))
    assert list(tmp_path.iterdir()) == []


def test_wrong_vocabulary_and_existing_output(trained, tmp_path):
    folder, *_ = trained
    with pytest.raises(VocabularyError, match="small"):
        call(pretrain, folder / "cells.dataset", tmp_path / "m")
    make_vocab(13, name="other").save(tmp_path / "v")
    with pytest.raises(VocabularyError, match="other"):
        call(pretrain, folder / "cells.dataset", tmp_path / "m", vocab=tmp_path / "v")
    with pytest.raises(OutputError, match="exists"):
        call(pretrain, folder / "cells.dataset", folder / "model", vocab=folder / "vocab", epochs=1, **SMALL)


def test_recipe_is_what_the_command_line_offers():
    import inspect

    from rankcell.cli.pretrain import pretrain

    offered = inspect.signature(pretrain).parameters
    for field in dataclasses.fields(Recipe):
        assert offered[field.name].default == field.default


def test_frequency_loss_by_hand():
    """Counts (plus one): 10 four times, 11 three, 12 twice, each other token once."""
    train = [np.array([2, 10, 11, 3]), np.array([2, 10, 11, 3]), np.array([2, 10, 12, 3])]
    asked = [MaskedExample(np.array([2, 10, 1, 3]), np.array([2]), np.array([11]))]
    counts = np.ones(13) + np.bincount([10, 11, 10, 11, 10, 12], minlength=13)
    counts[[0, 1, 2, 3, 10]] = 0  # padding, and what the row shows
    assert baseline_accuracy(train, asked, FRAME, pad=0, n_ids=13)["frequent"]["loss"] == pytest.approx(-np.log(3 / counts.sum()))


def test_a_model_that_learned_nothing_is_called_so(trained):
    *_, facts = trained
    assert len(training_lines(facts)) == 1
    level = facts | {"heldout_excluding_shown": facts["baselines"]["frequent"]}
    assert "little more than gene frequencies" in training_lines(level)[1]
