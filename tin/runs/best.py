"""The best checkpoint of a run: found, and replaced by the checkpoint that it was made from.

best.pt is a copy of the checkpoint of the epoch with the best metric. If it is lost or damaged, a
kept checkpoint of that epoch has the same weights.
"""

import csv
import logging
import math
from pathlib import Path
from typing import Any, NamedTuple

from configs.small_files import DamagedFileError, read_bytes
from tin.models.tensor_files import write_tensors
from tin.runs import checkpoint
from tin.runs.checkpoint import CheckpointError
from tin.runs.folder import Run

log = logging.getLogger(__name__)


class Measured(NamedTuple):
    """The result of an evaluation during training. The best one compares as the largest."""

    metric: float
    negative_loss: float
    step: int


def measured(run: Run) -> list[Measured]:
    """Return the evaluations that metrics.csv records, the best first.

    The best has the highest metric and, of equal ones, the lowest loss. Rows without finite numbers
    are left out.
    """
    try:
        text = read_bytes(run.path / "metrics.csv").decode("utf-8", "replace")
        lines = list(csv.DictReader(text.splitlines()))
    except (OSError, DamagedFileError, csv.Error):
        return []
    found = []
    split = run.config().data.test_split
    for line in lines:
        if line.get("split") != split:
            continue
        try:
            metric = float(line.get("top1") or line.get("map_class") or "")
            row = Measured(metric, -float(line.get("loss") or ""), int(line.get("step") or ""))
        except ValueError:
            continue
        if math.isfinite(row.metric) and math.isfinite(row.negative_loss):
            found.append(row)
    return sorted(found, reverse=True)


def find_best(run: Run) -> Path:
    """Return an intact checkpoint with the weights of the best epoch.

    This is best.pt or, if that is lost or damaged, a kept checkpoint of the same epoch. best.pt of
    a complete run is then written again.

    Raises:
        CheckpointError: there is none; the message says what to do.
    """
    path = run.checkpoints / "best.pt"
    problem = checkpoint.damage(path)
    if not problem:
        return path
    results = measured(run)
    for source in _of_step(run, results[0].step) if results else []:
        log.warning("%s; %s has the same weights and is used", problem, source)
        if "train" in run.done():
            _write_best(run, checkpoint.load(source))
            return path
        return source
    if not path.exists() and not results:
        raise CheckpointError(
            f"{run.checkpoints} has no best checkpoint; train the run first, or try"
            " test.checkpoint=last"
        )
    raise CheckpointError(
        f"{problem}, and the checkpoint that it was made from is no longer kept. Restore the file"
        " from a backup, use test.checkpoint=last, or train the run again in another folder."
    )


def rebuild_best(run: Run) -> Measured | None:
    """Check best.pt when a run resumes; if it is lost or damaged, write it again.

    Returns:
        The evaluation that best.pt stands for, if it was written again from the best checkpoint
        that is left; with a metric of minus infinity if none is left, so that the next evaluation
        writes best.pt. None if best.pt is intact.
    """
    problem = checkpoint.damage(run.checkpoints / "best.pt")
    if not problem:
        return None
    for result in measured(run):
        for source in _of_step(run, result.step):
            log.warning(
                "%s; it is written again from %s, whose metric is %.4f",
                problem,
                source.name,
                result.metric,
            )
            _write_best(run, checkpoint.load(source))
            return result
    log.warning("%s, and no measured checkpoint is left; the next evaluation writes it", problem)
    return Measured(-math.inf, -math.inf, 0)


def _of_step(run: Run, step: int) -> list[Path]:
    """Return the intact checkpoints of a step, the newest attempt first."""
    return [
        path
        for path in checkpoint.newest_first(run)
        if int(path.name.split("-")[1]) == step and not checkpoint.damage(path)
    ]


def _write_best(run: Run, state: dict[str, Any]) -> None:
    write_tensors(run.checkpoints / "best.pt", state, check=run.check_fence)
