"""The training loop: equal bits after kills and signals, equal losses at any number of ranks."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from rank_processes import finish, kill, start_ranks
from short_runs import ONE_EPOCH, assert_same_bits, mark_as_incomplete, train_run, weights

from tin.runs import checkpoint
from tin.runs.folder import Run
from tin.training import trainer
from tin.training.recorder import Recorder
from tin.training.trainer import Stopped


def losses(run_dir: Path) -> list[float]:
    return pd.read_csv(run_dir / "steps.csv").loss.tolist()


@pytest.mark.parametrize("world_size", [1, 4])
def test_a_run_killed_ten_times_ends_with_the_same_bits(dataset, tmp_path, world_size):
    settings = [f"data.dataset={dataset}", "run.checkpoint_steps=1", "train.epochs=4"]
    whole = tmp_path / "whole"
    assert finish(start_ranks(world_size, train_run, whole, *settings)) == [0] * world_size
    facts = json.loads((whole / "environment-01.json").read_text())
    longest_s = (facts["ended"] - facts["started"]) / 5
    # Kill each attempt at a random moment after it took its number.
    killed = tmp_path / "killed"
    run = Run(killed)
    moments = random.Random(world_size)
    checkpoints = set()
    for attempt in range(1, 11):
        processes = start_ranks(world_size, train_run, killed, *settings)
        while max(run.attempts(), default=0) < attempt and processes[0].is_alive():
            time.sleep(0.02)
        time.sleep(moments.uniform(0, longest_s))
        kill(processes)
        checkpoints.add(checkpoint.newest(run))
    assert finish(start_ranks(world_size, train_run, killed, *settings)) == [0] * world_size
    assert len(run.attempts()) > 6  # later attempts may have found the run complete
    assert len(checkpoints) > 2  # the attempts resumed at different steps
    assert_same_bits(whole, killed)
    for name in ("steps.csv", "metrics.csv"):
        one = pd.read_csv(whole / name)
        two = pd.read_csv(killed / name)
        assert two.step.tolist() == one.step.tolist()
    assert two.top1.tolist() == one.top1.tolist()
    assert "train" in run.done()


def test_one_two_and_four_ranks_have_the_same_losses(dataset, tmp_path):
    settings = [
        f"data.dataset={dataset}", "train.bn=frozen", "train.precision=float32", "model.dropout=0",
        "train.epochs=4", "train.evaluate_every=4", "run.log_steps=1", "optim.lr=0.002",
    ]  # fmt: skip
    found = {}
    for world_size in (1, 2, 4):
        run_dir = tmp_path / str(world_size)
        assert set(finish(start_ranks(world_size, train_run, run_dir, *settings))) == {0}
        found[world_size] = losses(run_dir)
    assert len(found[1]) == 24
    assert len(set(found[1])) > 20
    assert found[2] == pytest.approx(found[1], abs=1e-4)
    assert found[4] == pytest.approx(found[1], abs=1e-4)


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_and_the_run_resumes_bit_equal(dataset, tmp_path, number):
    settings = [f"data.dataset={dataset}"]
    whole = tmp_path / "whole"
    stopped = tmp_path / "stopped"
    (process,) = start_ranks(1, train_run, whole, *settings)
    assert finish([process]) == [0]
    (process,) = start_ranks(1, _stop_at_row, stopped, int(number), *settings)
    assert finish([process]) == [75]
    saved = checkpoint.load(checkpoint.newest(Run(stopped)))
    assert 0 < saved["global_step"] < 12
    (process,) = start_ranks(1, train_run, stopped, *settings)
    assert finish([process]) == [0]
    assert_same_bits(whole, stopped)


def _stop_at_row(run_dir: Path, number: int, *settings: str) -> None:
    """Train, and send this process a signal when the first row of steps.csv is written."""
    interval = Recorder.interval

    def signaled(self, row):
        Recorder.interval = interval
        interval(self, row)
        os.kill(os.getpid(), number)

    Recorder.interval = signaled
    try:
        train_run(run_dir, *settings)
    except Stopped as error:
        assert f"resume with `tin train --run {run_dir}`" in str(error)
        os._exit(75)


def test_a_signal_stops_an_evaluation_immediately(dataset, tmp_path, monkeypatch):
    def signaled(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)  # the signal interrupts this

    monkeypatch.setattr(trainer, "evaluate", signaled)
    told = f"while evaluating epoch 1, .* resume with `tin train --run {tmp_path}`"
    with pytest.raises(Stopped, match=told):
        train_run(tmp_path, f"data.dataset={dataset}", *ONE_EPOCH)
    assert checkpoint.load(checkpoint.newest(Run(tmp_path)))["global_step"] == 6


def test_accumulation_gives_the_loss_and_weights_of_one_pass(dataset, tmp_path):
    settings = [
        f"data.dataset={dataset}", "train.bn=frozen", "model.dropout=0", "optim.lr=0.002",
        *ONE_EPOCH,
    ]  # fmt: skip
    for passes in (1, 2):
        train_run(tmp_path / str(passes), *settings, f"train.accumulate={passes}")
    two_passes = weights(tmp_path / "2")
    for name, tensor in weights(tmp_path / "1").items():
        torch.testing.assert_close(two_passes[name], tensor, rtol=1e-3, atol=1e-5)


def test_the_moving_average_is_saved_and_resumed(dataset, tmp_path):
    settings = [f"data.dataset={dataset}", "train.ema=0.9", "run.checkpoint_steps=5"]
    stopped = tmp_path / "stopped"
    whole = tmp_path / "whole"
    (process,) = start_ranks(1, _stop_at_row, stopped, int(signal.SIGTERM), *settings)
    assert finish([process]) == [75]
    train_run(stopped)
    train_run(whole, *settings)
    resumed = checkpoint.load(checkpoint.newest(Run(stopped)))["ema"]
    for name, tensor in checkpoint.load(checkpoint.newest(Run(whole)))["ema"].items():
        assert torch.equal(resumed[name], tensor), name
    assert not torch.equal(resumed["fc.weight"], weights(stopped)["fc.weight"])


def test_a_complete_run_stays_as_it_is(dataset, tmp_path, caplog):
    train_run(tmp_path, f"data.dataset={dataset}", *ONE_EPOCH)
    caplog.set_level("INFO")
    before = checkpoint.newest(Run(tmp_path)).stat()
    train_run(tmp_path)
    assert "training is complete; evaluate it with `tin test" in caplog.text
    assert checkpoint.newest(Run(tmp_path)).stat() == before


def test_a_run_that_resumes_at_the_end_of_an_epoch_reports_no_speed(dataset, tmp_path):
    train_run(tmp_path, f"data.dataset={dataset}", *ONE_EPOCH)
    before = pd.read_csv(tmp_path / "metrics.csv")
    mark_as_incomplete(tmp_path)
    train_run(tmp_path)
    after = pd.read_csv(tmp_path / "metrics.csv")
    assert after.loss.tolist() == before.loss.tolist()
    assert after.clips_per_s.isna().tolist() == [True, False]


def test_of_equal_metrics_the_lower_loss_is_the_best(dataset, tmp_path, monkeypatch):
    found = iter([(0.5, 2.0), (0.5, 1.0), (0.5, 1.5), (0.4, 0.1)])

    def row(state, scores, seconds):
        top1, loss = next(found)
        numbers = {"step": state.global_step, "lr": 0, "seconds": 1, "clips_per_s": 1}
        return {"epoch": state.epoch, "split": "val", "top1": top1, "loss": loss, **numbers}

    monkeypatch.setattr(trainer, "test_row", row)
    settings = ["train.epochs=4", "train.evaluate_every=1", f"data.dataset={dataset}"]
    train_run(tmp_path, *settings)
    best = checkpoint.load(tmp_path / "checkpoints" / "best.pt")
    assert best["epoch"] == 1
    assert (best["best"], best["best_loss"]) == (0.5, 1.0)
