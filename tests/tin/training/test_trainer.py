"""Training: the same bits after kills, the same steps at any number of ranks, clear refusals."""

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
from synthetic_dataset import flip_byte, write_dataset

from configs.load import ConfigError, load
from pipeline.batches import BadDataError
from tin.runs import checkpoint
from tin.runs.checkpoint import CheckpointError
from tin.runs.folder import Run
from tin.runs.settings import resolve
from tin.training.trainer import Stopped, train

SETTINGS = (
    "data.test_split=train", "model.arch=resnet18", "model.init=none", "model.dropout=0.3",
    "clip.num_segments=4", "clip.crop=32", "clip.resize=32", "optim.lr_batch=4",
    "optim.warmup_epochs=0.5", "train.batch=4", "train.epochs=2", "train.bn=full",
    "train.evaluate_every=2", "run.threads=1", "run.device=cpu", "run.log_steps=2",
    "run.tensorboard=false", "run.prefetch=1", "run.readers=2",
)  # fmt: skip
NUM_VIDEOS = 24  # six steps an epoch


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "tiny"
    return write_dataset(folder, [9] * NUM_VIDEOS, sizes=((48, 40), (40, 52)))


def go(path: Path, *settings: str) -> None:
    """Start a run at `path`, or continue it."""
    new = [] if Run(path).exists() else [*SETTINGS, *settings]
    train(resolve(None, path, []) if not new else load(None, new), path)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(checkpoint.newest(Run(path)))["model"]


def assert_same_bits(one: Path, two: Path) -> None:
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def losses(path: Path) -> list[float]:
    return pd.read_csv(path / "steps.csv").loss.tolist()


@pytest.mark.parametrize("world_size", [1, 4])
def test_a_run_killed_ten_times_ends_with_the_same_bits(dataset, tmp_path, world_size):
    settings = [f"data.dataset={dataset}", "run.checkpoint_steps=1", "train.epochs=4"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert finish(start_ranks(world_size, go, whole, *settings)) == [0] * world_size
    facts = json.loads((whole / "environment-01.json").read_text())
    longest_s = (facts["ended"] - facts["started"]) / 5
    moments, run, places = random.Random(world_size), Run(killed), set()
    for attempt in range(1, 11):
        processes = start_ranks(world_size, go, killed, *settings)
        while max(run.attempts(), default=0) < attempt and processes[0].is_alive():
            time.sleep(0.02)
        time.sleep(moments.uniform(0, longest_s))
        kill(processes)
        places.add(checkpoint.newest(run))
    assert finish(start_ranks(world_size, go, killed, *settings)) == [0] * world_size
    assert len(run.attempts()) > 6  # the others came too late to disturb
    assert len(places) > 2  # each time it went on from somewhere else
    assert_same_bits(whole, killed)
    for name in ("steps.csv", "metrics.csv"):
        one, two = (pd.read_csv(path / name) for path in (whole, killed))
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
        path = tmp_path / str(world_size)
        assert set(finish(start_ranks(world_size, go, path, *settings))) == {0}
        found[world_size] = losses(path)
    assert len(found[1]) == 24
    assert len(set(found[1])) > 20
    assert found[2] == pytest.approx(found[1], abs=1e-4)
    assert found[4] == pytest.approx(found[1], abs=1e-4)


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_and_the_run_goes_on_bit_equal(dataset, tmp_path, number):
    settings = [f"data.dataset={dataset}"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    (process,) = start_ranks(1, go, whole, *settings)
    assert finish([process]) == [0]
    (process,) = start_ranks(1, _stop_at_row, stopped, int(number), *settings)
    assert finish([process]) == [75]
    saved = checkpoint.load(checkpoint.newest(Run(stopped)))
    assert 0 < saved["global_step"] < 12
    (process,) = start_ranks(1, go, stopped, *settings)
    assert finish([process]) == [0]
    assert_same_bits(whole, stopped)


def _stop_at_row(path: Path, number: int, *settings: str) -> None:
    from tin.training.recorder import Recorder

    interval = Recorder.interval

    def signalled(self, row):
        Recorder.interval = interval
        interval(self, row)
        os.kill(os.getpid(), number)

    Recorder.interval = signalled
    try:
        go(path, *settings)
    except Stopped as error:
        assert f"go on with `tin train --run {path}`" in str(error)
        os._exit(75)


def test_accumulation_gives_the_loss_and_weights_of_one_pass(dataset, tmp_path):
    settings = [
        f"data.dataset={dataset}", "train.bn=frozen", "model.dropout=0", "train.epochs=1",
        "train.evaluate_every=1", "optim.lr=0.002",
    ]  # fmt: skip
    for passes in (1, 2):
        go(tmp_path / str(passes), *settings, f"train.accumulate={passes}")
    one, two = weights(tmp_path / "1"), weights(tmp_path / "2")
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-5)


def test_the_moving_average_is_kept_measured_and_restored(dataset, tmp_path):
    settings = [f"data.dataset={dataset}", "train.ema=0.9", "run.checkpoint_steps=5"]
    (process,) = start_ranks(1, _stop_at_row, tmp_path / "a", int(signal.SIGTERM), *settings)
    assert finish([process]) == [75]
    go(tmp_path / "a")
    go(tmp_path / "b", *settings)
    one, two = (checkpoint.load(checkpoint.newest(Run(tmp_path / n)))["ema"] for n in "ab")
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name
    assert not torch.equal(one["fc.weight"], weights(tmp_path / "a")["fc.weight"])


def test_a_loss_of_nan_stops_the_run_and_no_checkpoint_holds_it(dataset, tmp_path):
    settings = [f"data.dataset={dataset}", "optim.lr=1e30", "optim.clip_norm=0"]
    with pytest.raises(FloatingPointError, match="lower optim.lr, or set train.nan=skip"):
        go(tmp_path, *settings, "run.checkpoint_steps=1")
    path = checkpoint.newest(Run(tmp_path))
    assert path is None or checkpoint.load(path)["global_step"] < 3


def test_a_gradient_of_nan_stops_the_run_before_a_checkpoint_holds_it(
    dataset, tmp_path, monkeypatch
):
    from tin.training import trainer as module

    real, calls = module.loss, []

    def broken(logits, targets, config):
        calls.append(None)
        nothing = (0 * logits).sum().sqrt()  # 0, and its derivative is no number
        return real(logits, targets, config) + (nothing if len(calls) == 3 else 0)

    monkeypatch.setattr(module, "loss", broken)
    with pytest.raises(FloatingPointError, match="gradient is no number at epoch 0, step 3"):
        go(tmp_path, f"data.dataset={dataset}", "run.checkpoint_steps=1", "run.log_steps=9")
    assert checkpoint.newest(Run(tmp_path)).name == "step-00000002-a01.pt"
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())


def test_steps_with_nan_are_skipped_and_counted_when_asked(dataset, tmp_path, monkeypatch):
    from tin.training import trainer as module

    real = module.loss

    def broken(logits, targets, config):
        value = real(logits, targets, config)
        return value * float("nan") if broken.calls.pop(0) else value

    broken.calls = [True, False, False, True] + [False] * 20
    monkeypatch.setattr(module, "loss", broken)
    go(tmp_path, f"data.dataset={dataset}", "train.nan=skip", "train.epochs=1")
    assert pd.read_csv(tmp_path / "steps.csv").skipped.tolist() == [1, 2, 2]
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())


def test_another_dataset_in_an_existing_run_is_refused(dataset, tmp_path):
    go(tmp_path / "run", f"data.dataset={dataset}", "train.epochs=1", "train.evaluate_every=1")
    (tmp_path / "run" / "job" / "DONE").unlink()
    other = write_dataset(tmp_path / "other", [8] * NUM_VIDEOS, sizes=((48, 40),))
    dataset.rename(tmp_path / "aside")
    other.rename(dataset)
    try:
        with pytest.raises(CheckpointError, match="trained on another dataset than tiny .digest"):
            go(tmp_path / "run")
    finally:
        dataset.rename(tmp_path / "other")
        (tmp_path / "aside").rename(dataset)


def test_other_settings_than_those_of_the_checkpoint_are_refused(dataset, tmp_path):
    go(tmp_path, f"data.dataset={dataset}", "train.epochs=1", "train.evaluate_every=1")
    (tmp_path / "job" / "DONE").unlink()
    config = tmp_path / "config.yaml"
    edited = config.read_text().replace("arch: resnet18", "arch: resnet34")
    config.write_text(edited.replace("  batch: 4\n", "  batch: 8\n", 1))
    told = "other settings .* model.arch: resnet18 -> resnet34; train.batch: 4 -> 8; put these back"
    with pytest.raises(ConfigError, match=told):
        go(tmp_path)


def test_a_checkpoint_of_another_network_is_refused_in_one_line(dataset, tmp_path):
    go(tmp_path, f"data.dataset={dataset}", "train.epochs=1", "train.evaluate_every=1")
    (tmp_path / "job" / "DONE").unlink()
    path = checkpoint.newest(Run(tmp_path))
    saved = checkpoint.load(path)  # as when the code of a user's own module has changed
    saved["model"] = {name.replace("layer1", "layer9"): w for name, w in saved["model"].items()}
    torch.save(saved, path)
    with pytest.raises(CheckpointError, match=r"do not fit resnet18 .*layer1") as caught:
        go(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_loss_that_does_not_fit_the_labels_is_refused(dataset, tmp_path):
    with pytest.raises(ConfigError, match="one label a video; set train.loss=nll"):
        go(tmp_path, f"data.dataset={dataset}", "train.loss=bce")


def test_a_finished_run_is_left_as_it_is(dataset, tmp_path, caplog):
    go(tmp_path, f"data.dataset={dataset}", "train.epochs=1", "train.evaluate_every=1")
    caplog.set_level("INFO")
    before = checkpoint.newest(Run(tmp_path)).stat()
    go(tmp_path)
    assert "is finished; `tin test" in caplog.text
    assert checkpoint.newest(Run(tmp_path)).stat() == before


def test_a_run_that_goes_on_at_the_end_of_an_epoch_does_not_make_up_a_speed(dataset, tmp_path):
    go(tmp_path, f"data.dataset={dataset}", "train.epochs=1", "train.evaluate_every=1")
    before = pd.read_csv(tmp_path / "metrics.csv")
    (tmp_path / "job" / "DONE").unlink()  # as if it was killed while it was measured
    go(tmp_path)
    after = pd.read_csv(tmp_path / "metrics.csv")
    assert after.loss.tolist() == before.loss.tolist()
    assert after.clips_per_s.isna().tolist() == [True, False]


def test_a_broken_pair_of_rate_and_batch_is_named(dataset, tmp_path, caplog):
    go(tmp_path, f"data.dataset={dataset}", "optim.lr_batch=48", "train.epochs=1")
    assert "optim.lr 0.02 belongs to a batch of 48 clips, and train.batch is 4" in caplog.text


def test_damaged_frames_are_replaced_named_and_refused_beyond_the_limit(tmp_path):
    dataset = write_dataset(tmp_path / "data", [9] * NUM_VIDEOS, sizes=((48, 40),))
    flip_byte(dataset, 3, 4)
    go(tmp_path / "run", f"data.dataset={dataset}", "train.epochs=6", "train.evaluate_every=6")
    rows = pd.read_csv(tmp_path / "run" / "bad_frames.csv")
    assert set(rows.key) == {"video3"}
    assert set(rows.frame) == {4}
    for video in range(4, 10):
        for frame in range(9):
            flip_byte(dataset, video, frame)
    with pytest.raises(BadDataError, match="bad_frames.csv|damaged"):
        go(tmp_path / "other", f"data.dataset={dataset}")
    assert len(pd.read_csv(tmp_path / "other" / "bad_frames.csv")) > 20
