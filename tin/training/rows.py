"""The rows of steps.csv and metrics.csv: position, loss, hits, speed and data wait."""

import math
import time
from typing import Any

from pipeline.loader import ClipLoader
from tin.evaluation.scores import Scores, summarize
from tin.training.optim import learning_rate
from tin.training.state import TrainingState


class Interval:
    """Measures time, clips and data wait from its creation on."""

    def __init__(self, loader: ClipLoader, sums: list[float]):
        """Start the interval at `sums`, the current sums over all ranks."""
        self._loader = loader
        self._sums = sums
        self._began = time.monotonic()
        self._waited_s = loader.wait_s

    def measure(self, sums: list[float]) -> dict[str, float]:
        """Return mean loss, seconds, clips/s of all ranks, and the share of time without data.

        If there are no new clips, the speed is NaN: a run that resumes at the end of an epoch has
        not measured it.
        """
        seconds = max(time.monotonic() - self._began, 1e-9)
        loss = sums[0] - self._sums[0]
        clips = sums[3] - self._sums[3]
        return {
            "loss": loss / max(clips, 1),
            "seconds": seconds,
            "clips_per_s": clips / seconds if clips else math.nan,
            "data_wait": (self._loader.wait_s - self._waited_s) / seconds if clips else math.nan,
        }


def interval_row(state: TrainingState, interval: Interval, sums: list[float]) -> dict[str, Any]:
    """Return the row of steps.csv that ends an interval; `sums` are those over all ranks."""
    return {**_position(state), **interval.measure(sums), "skipped": state.skipped}


def train_row(state: TrainingState, epoch: Interval, sums: list[float]) -> dict[str, Any]:
    """Return the row of metrics.csv for the training split.

    If the epoch was resumed, loss and hits count all of its clips, the speed only the new ones.
    """
    row = {**_position(state), "split": state.config.data.train_split, **epoch.measure(sums)}
    num_clips = max(sums[3], 1)
    row["loss"] = sums[0] / num_clips
    if state.config.train.loss == "nll":
        row["top1"] = sums[1] / num_clips
        row["top5"] = sums[2] / num_clips
    return row


def test_row(state: TrainingState, scores: Scores, seconds: float) -> dict[str, Any]:
    """Return the row of metrics.csv for the test split."""
    return {
        **_position(state),
        "split": state.config.data.test_split,
        **summarize(scores),
        "seconds": seconds,
        "clips_per_s": len(scores.keys) / seconds,
    }


def _position(state: TrainingState) -> dict[str, Any]:
    """Return epoch, step and the learning rate of that step."""
    step = state.global_step
    lr = learning_rate(state.config, max(step - 1, 0), state.num_steps)
    return {"epoch": state.epoch, "step": step, "lr": lr}
