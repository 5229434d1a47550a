"""TensorBoard files: each scalar once, hyperparameters with final metrics, settings and clips."""

import csv
from collections import Counter

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from configs.load import load
from tin.runs.folder import Run
from tin.training.recorder import Recorder

CONFIG = load(None, ["train.epochs=2", "train.seed=7"])


def _record(run: Run, since: int, epochs: range) -> None:
    """Record epochs of ten steps, with two intervals each."""
    with Recorder(run, CONFIG, num_steps=10, since=since) as recorder:
        for epoch in epochs:
            for step in (10 * epoch + 5, 10 * epoch + 10):
                if step > since:
                    row = {"epoch": epoch, "step": step, "loss": 1.0, "lr": 0.1}
                    recorder.interval({**row, "clips_per_s": 9.0, "data_wait": 0.0})
                    recorder.clips(torch.randint(256, (2, 3, 2, 8, 8, 3)).byte(), step)
                    found = {
                        "layer1.0": (torch.tensor([[1.0, 2.0], [3.0, 2.0]]), torch.ones(2, 3, 2))
                    }
                    recorder.offsets(found, step)
            for split in ("train", "val"):
                row = {"epoch": epoch, "split": split, "step": 10 * epoch + 10, "loss": 0.5}
                recorder.epoch({**row, "top1": 0.25 + epoch / 2, "top5": 1.0, "seconds": 1.0})


def test_each_scalar_is_there_once_also_after_a_restart(tmp_path):
    run = Run(tmp_path)
    _record(run, 0, range(1))
    # The checkpoint of step 10 is written before the epoch is measured, which is then repeated.
    _record(run, 10, range(2))
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    steps = {tag: [event.step for event in board.Scalars(tag)] for tag in board.Tags()["scalars"]}
    assert steps["step/loss"] == [5, 10, 15, 20]
    assert steps["train/loss"] == steps["val/top1"] == [10, 20]
    assert all(max(Counter(found).values()) == 1 for found in steps.values())
    assert board.Tags()["images"] == ["training clips/0", "training clips/1"]
    picture = board.Images("training clips/0")[0]
    assert (picture.height, picture.width) == (8, 3 * 8)  # three frames side by side
    plugins = board.summary_metadata
    assert plugins["_hparams_/session_start_info"].plugin_data.plugin_name == "hparams"
    assert b"train.seed" in plugins["_hparams_/session_start_info"].plugin_data.content
    assert b"val/top1" in plugins["_hparams_/experiment"].plugin_data.content
    assert "seed: 7" in str(board.Tensors("settings/text_summary")[-1])


def test_offsets_are_rows_of_means_and_spreads(tmp_path):
    _record(Run(tmp_path), 0, range(1))
    with (tmp_path / "offsets.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # Of the clips' offsets 1 and 3, the mean is 2 and the deviation 1.
    assert [row["step"] for row in rows] == ["5", "10"]
    numbers = {name: float(rows[0][name]) for name in rows[0] if name[-1] in "12"}
    assert numbers == {
        "offset_1": 2, "offset_2": 2, "spread_1": 1, "spread_2": 0, "gain_1": 1, "gain_2": 1,
    }  # fmt: skip
