"""Stops a run early, once its evaluations no longer get better."""

import json
import logging
import math
from typing import Any

from configs.schema import Config
from tin.runs.folder import Run

log = logging.getLogger(__name__)
EARLY_STOP = "early_stop.json"
"""File of a run that stopped early: its last epoch and its best one, counted from 1."""


class EarlyStop:
    """The best evaluation so far, for `train.patience`. Only rank 0 knows evaluations."""

    def __init__(self, config: Config):
        self._patience = config.train.patience
        self._watches_loss = config.train.patience_metric == "loss"
        self.best = -math.inf
        """The highest metric, or minus the lowest loss."""
        self.epoch = 0
        """The epoch of that evaluation, counted from 0."""

    def saved(self) -> list[float]:
        """Return what a checkpoint holds: the best result and its epoch."""
        return [self.best, self.epoch]

    def restore(self, saved: list[float]) -> None:
        """Resume from what `saved` returned."""
        self.best = saved[0]
        self.epoch = int(saved[1])

    def update(self, row: dict[str, Any], metric: float) -> bool:
        """Note an evaluation; return whether the run is to stop.

        Args:
            row: epoch and loss of the evaluation.
            metric: the metric that selects the best checkpoint. NaN is never better.
        """
        value = -row["loss"] if self._watches_loss else metric
        if value > self.best:
            self.best = value
            self.epoch = row["epoch"]
        return 0 < self._patience <= row["epoch"] - self.epoch

    def record(self, run: Run, epoch: int) -> None:
        """Write to the run folder, and to the log, that the run stops early after `epoch`."""
        facts = {
            "epoch": epoch + 1,
            "best_epoch": self.epoch + 1,
            "watched": "loss" if self._watches_loss else "metric",
            "patience": self._patience,
        }
        run.write(EARLY_STOP, json.dumps(facts) + "\n")
        log.info(
            "early stop after epoch %d: the %s has not become better since epoch %d"
            " (train.patience=%d)",
            epoch + 1,
            facts["watched"],
            self.epoch + 1,
            self._patience,
        )
