"""Progress of a run: rows of CSV files, TensorBoard, and a live bar or log lines."""

import csv
import logging
import sys
import time
from types import TracebackType
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from configs.schema import Config
from tin.runs.folder import METRICS_COLUMNS, OFFSETS, OFFSETS_FILE, STEPS, Run
from tin.training.board import Board

log = logging.getLogger(__name__)
STEP_SCALARS = ("loss", "lr", "clips_per_s", "data_wait")
SPOKEN = {"top1": "top-1", "top5": "top-5"}


class Recorder:
    """Writes metrics.csv, steps.csv and TensorBoard files, and shows progress (rank 0 only)."""

    def __init__(self, run: Run, config: Config, *, num_steps: int, since: int):
        """Start after `since` optimizer steps; rows of later steps are removed from the files."""
        self._run = run
        self._epochs = epochs = config.train.epochs
        run.cut("metrics.csv", METRICS_COLUMNS, since)
        run.cut("steps.csv", STEPS, since + 1)
        run.cut(OFFSETS_FILE, OFFSETS, since + 1)
        self._board = Board(run.path, config, since) if config.run.tensorboard else None
        if self._board:
            self._restore_interval(since)
        self._show_clips = self._board is not None
        self._bar = _bar() if sys.stderr.isatty() else None
        if self._bar:
            self._task = self._bar.add_task("", total=epochs * num_steps, completed=since)

    def __enter__(self) -> "Recorder":
        if self._bar:
            self._bar.start()
            _log_to_stderr()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
            _log_to_stderr()
        if self._board:
            self._board.close(complete=kind is None)

    def advance(self, step: int) -> None:
        """Move the live bar to `step`."""
        if self._bar:
            self._bar.update(self._task, completed=step)

    def interval(self, row: dict[str, Any]) -> None:
        """Record an interval of steps: one row of steps.csv."""
        row = {"time": f"{time.time():.1f}", **row, **gpu_facts()}
        self._run.append("steps.csv", STEPS, row)
        if self._board:
            self._board.scalars("step", {name: row[name] for name in STEP_SCALARS}, row["step"])
        text = (
            f"epoch {row['epoch'] + 1} step {row['step']}: loss {row['loss']:.4f},"
            f" {row['clips_per_s']:.1f} clips/s, data wait {100 * row['data_wait']:.1f} %"
        )
        if self._bar:
            self._bar.update(self._task, description=text)
        else:
            log.info(text)

    def epoch(self, row: dict[str, Any]) -> None:
        """Record an epoch of one split: one row of metrics.csv."""
        self._run.append("metrics.csv", METRICS_COLUMNS, row)
        names = [name for name in ("top1", "top5", "map_class", "map_sample") if name in row]
        if self._board:
            values = {name: row[name] for name in ("loss", *names)}
            self._board.scalars(row["split"], values, row["step"])
        metrics = "".join(f", {SPOKEN.get(name, name)} {100 * row[name]:.1f} %" for name in names)
        log.info(
            "epoch %d of %d, %s: loss %.4f%s (%.0f s)",
            row["epoch"] + 1,
            self._epochs,
            row["split"],
            row["loss"],
            metrics,
            row["seconds"],
        )

    def offsets(self, recorded: dict[str, tuple[Tensor, Tensor]], step: int) -> None:
        """Record the offsets and weights of each block for the last clips: rows of offsets.csv."""
        for block, (offset, weight) in recorded.items():
            means = [*offset.float().mean(0).tolist(), *offset.float().std(0, False).tolist()]
            gains = weight.float().mean((0, 1)).tolist()
            row = dict(zip(OFFSETS, [step, block, *means, *gains], strict=True))
            self._run.append(OFFSETS_FILE, OFFSETS, row)
        if self._board:
            self._board.offsets(recorded, step)

    def _restore_interval(self, since: int) -> None:
        """Write the scalars of the interval that ends at `since` again: TensorBoard hides them.

        It hides all scalars of that step, because the rows of its epoch are written again.
        """
        path = self._run.path / "steps.csv"
        if not (self._board and path.exists()):
            return
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        if rows and rows[-1]["step"] == str(since):
            values = {name: float(rows[-1][name]) for name in STEP_SCALARS}
            self._board.scalars("step", values, since)

    def clips(self, x: Tensor, step: int) -> None:
        """Show the first clips of an attempt, a batch of the loader, in TensorBoard."""
        if self._board and self._show_clips:
            self._board.clips(x, step)
            self._show_clips = False


def gpu_facts() -> dict[str, float]:
    """Return memory (10^9 bytes), utilization (fraction) and power (W) of this rank's GPU.

    Facts that cannot be read are left out, as are all of them without a GPU.
    """
    if not torch.cuda.is_available():
        return {}
    facts = {"memory_gb": torch.cuda.max_memory_allocated() / 1e9}
    try:  # torch reads these two from NVML, which needs the optional package nvidia-ml-py
        facts["gpu_use"] = torch.cuda.utilization() / 100
        facts["gpu_power"] = torch.cuda.power_draw() / 1000
    except (ModuleNotFoundError, RuntimeError):
        pass
    return facts


def _bar() -> Progress:
    """Return a live bar for stderr; other output to stderr appears above it."""
    return Progress(
        BarColumn(20),
        "[progress.percentage]{task.percentage:>3.0f}%",
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _log_to_stderr() -> None:
    """Make the log write to the current sys.stderr, which the live bar replaces while it runs."""
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:
            handler.setStream(sys.stderr)
