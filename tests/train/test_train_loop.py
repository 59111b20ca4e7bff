"""Training: what a step reads of long rows, settings that suit the data, time limits, Ctrl-C, and the state that is kept."""

import json

import numpy as np
import pytest
from flat_options import call
from training_cells import FRAME

from rankcell.errors import RankcellWarning, SettingsError
from rankcell.model import open_checkpoint
from rankcell.train import Recipe, loop
from rankcell.train.collate import IGNORE, Masking
from rankcell.train.evaluate import MaskedExample, _best_at_rank, masked_examples
from rankcell.train.initial import log_shares
from rankcell.train.loop import Best
from rankcell.train.pretraining import pretrain


def test_a_part_of_a_long_row_keeps_its_positions():
    row = np.array([2, *range(10, 30), 3])
    rng = np.random.default_rng(0)
    firsts = set()
    for _ in range(30):
        read = Masking(mask=1, mask_rate=0.25, row_genes=8).apply(row, FRAME, rng)
        assert len(read.shown) == len(read.positions) == len(read.labels) == 10
        assert read.positions[0] == 0 and read.positions[-1] == len(row) - 1 and (np.diff(read.positions) > 0).all()
        restored = np.where(read.labels != IGNORE, read.labels, read.shown)
        assert (restored == row[read.positions]).all()
        assert (read.labels != IGNORE).sum() == 2
        assert sorted([*restored[read.labels == IGNORE][1:-1], *read.hidden]) == list(range(10, 30))
        firsts.add(int(read.positions[1]))
    assert len(firsts) > 2  # drawn anew


def test_a_short_row_is_read_whole():
    row = np.array([2, 10, 11, 12, 3])
    read = Masking(mask=1, mask_rate=0.3, row_genes=8).apply(row, FRAME, np.random.default_rng(0))
    assert read.positions.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("lengths", "recipe", "epochs", "batch_size"),
    [
        (np.full(630, 250), {}, 32, 8),
        (np.full(2_000, 1_936), {}, 10, 8),  # 256 genes of each are read
        (np.full(2_000, 1_936), {"row_genes": 0}, 3, 4),
        (np.full(50, 20), {}, 100, 16),
        (np.full(100_000, 2_000), {}, 3, 8),
        (np.full(50, 20), {"epochs": 7, "batch_size": 3}, 7, 3),
    ],
)
def test_epochs_and_batches_suit_the_cells(lengths, recipe, epochs, batch_size):
    fitted = Recipe(**recipe).fitted(lengths)
    assert (fitted.epochs, fitted.batch_size) == (epochs, batch_size)


@pytest.mark.parametrize("setting", [{"row_genes": -1}, {"max_minutes": 0}, {"max_minutes": float("nan")}, {"batch_size": 0}])
def test_numbers_that_cannot_be(setting):
    with pytest.raises(SettingsError, match=next(iter(setting))):
        Recipe(**setting).check()


def test_a_precision_that_the_device_lacks_is_refused_before_training(training_cells, tmp_path):
    tokens, settings = training_cells
    with pytest.raises(SettingsError, match="'tf32': device 'cpu' does not have it"):
        call(pretrain, tokens, tmp_path / "m", **settings, precision="tf32")
    assert not (tmp_path / "m").exists()


def test_time_that_runs_out_leaves_a_model(training_cells, tmp_path):
    tokens, settings = training_cells
    with pytest.warns(RankcellWarning, match="fit into 0.03 minutes"):
        facts = call(pretrain, tokens, tmp_path / "m", **settings, epochs=1_000_000, max_minutes=0.03)
    assert facts["ended_by"] == "time" and 0 < facts["steps"] < facts["planned_steps"] and facts["minutes"] < 1
    assert open_checkpoint(tmp_path / "m").max_positions == 14
    stored = json.loads((tmp_path / "m" / "training.json").read_text())
    assert stored["kept_step"] <= stored["steps"] and stored["recipe"]["max_minutes"] == 0.03


def test_enough_time_is_not_used_up(training_cells, tmp_path):
    tokens, settings = training_cells
    facts = call(pretrain, tokens, tmp_path / "m", **settings, epochs=1, max_minutes=60)
    assert facts["ended_by"] == "steps" and facts["steps"] == facts["planned_steps"] == 7


def interrupted_at(step):
    def progress(done, total, detail):
        assert detail.startswith("loss ") and "nan" not in detail
        if done == step:
            raise KeyboardInterrupt

    return progress


def test_ctrl_c_keeps_the_best_state(training_cells, tmp_path):
    tokens, settings = training_cells
    with pytest.raises(KeyboardInterrupt):
        call(pretrain, tokens, tmp_path / "m", **settings, epochs=60, progress=interrupted_at(40))
    facts = json.loads((tmp_path / "m" / "training.json").read_text())
    assert facts["ended_by"] == "interrupt" and facts["kept_step"] <= facts["steps"] == 40
    assert facts["heldout"]["top10"] >= 0 and open_checkpoint(tmp_path / "m").max_positions == 14


def test_ctrl_c_before_the_first_check_leaves_nothing(training_cells, tmp_path):
    tokens, settings = training_cells
    with pytest.raises(KeyboardInterrupt):
        call(pretrain, tokens, tmp_path / "m", **settings, epochs=60, progress=interrupted_at(2))
    assert not (tmp_path / "m").exists() and not list(tmp_path.glob(".m*"))


def test_how_long_it_takes_is_said_after_a_few_steps(training_cells, tmp_path, monkeypatch):
    tokens, settings = training_cells
    monkeypatch.setattr(loop, "_WORTH_SAYING", 0.0)
    with pytest.warns(RankcellWarning, match="70 steps of 8 cells take about .* max_minutes") as notes:
        call(pretrain, tokens, tmp_path / "m", **settings, epochs=10)
    assert len(notes) == 1
    with pytest.warns(RankcellWarning, match="fit into 0.02 minutes.*12 now.*--min-cells"):
        call(pretrain, tokens, tmp_path / "n", **settings, epochs=1_000_000, max_minutes=0.02)


def test_the_lowest_heldout_loss_is_kept():
    import torch

    model, best = torch.nn.Linear(1, 1, bias=False), Best()
    for step, loss in enumerate([3.0, 1.0, 2.0]):
        torch.nn.init.constant_(model.weight, float(step))
        best.offer({"step": step, "heldout_loss": loss}, model)
    assert best.point["step"] == 1 and best.weights["weight"].item() == 1.0


def test_best_at_rank_against_counting():
    rng = np.random.default_rng(0)
    bodies = [rng.permutation(40)[: rng.integers(3, 15)] for _ in range(60)]
    seen = np.bincount(np.concatenate(bodies), minlength=41).astype(float)
    best = _best_at_rank(bodies, seen, 41)
    for rank in range(max(map(len, bodies))):
        times = np.bincount([b[rank] for b in bodies if len(b) > rank], minlength=41) + 1e-6 * seen
        n = min(10, int((times >= 1).sum()))
        assert best[rank][:n].tolist() == np.argsort(-times, kind="stable")[:n].tolist()
    assert best.shape == (max(map(len, bodies)), 10)


def test_questions_stop_at_so_many_genes():
    rows = [np.array([2, *range(10, 30), 3])] * 50
    few = masked_examples(rows, FRAME, mask=1, mask_rate=0.25, draws=3, seed=0, most=40)
    assert [len(q.where) for q in few] == [5] * 8 and all(isinstance(q, MaskedExample) for q in few)
    assert len(masked_examples(rows, FRAME, mask=1, mask_rate=0.25, draws=3, seed=0, most=10_000)) == 150


def test_output_bias_is_the_log_share():
    np.testing.assert_allclose(np.exp(log_shares([np.array([1, 2]), np.array([2])], 4)), np.array([1, 2, 3, 1]) / 7)
