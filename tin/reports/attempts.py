"""What the files of a run's attempts tell: where the run is, and its GPU-hours."""

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from configs.small_files import read_bytes
from tin.reports.tables import ReportState
from tin.runs import checkpoint
from tin.runs.folder import Run

LARGEST = 1e300
SILENT_MINUTES = 30  # a run counts as lost after this many minutes without a recorded step


def read_environments(run: Run) -> list[dict[str, Any]]:
    """Return the content of environment-<attempt>.json of each attempt; empty if it is damaged."""
    return [read_json(run.path / f"environment-{n:02d}.json") for n in run.attempts()]


def state_of(run: Run, environments: list[dict[str, Any]], times: list[float]) -> ReportState:
    """Return where a run is.

    Args:
        run: the run.
        environments: of its attempts, in order.
        times: seconds since the epoch of each row in steps.csv.
    """
    if "train" in run.done():
        return "done"
    if not environments:
        return "imported" if checkpoint.best(run) else "waiting"
    if "ended" in environments[-1]:
        return "stopped"
    signs_of_life = [number(environments[-1].get("started")), *times]
    silent_s = time.time() - np.nanmax(signs_of_life, initial=0.0)
    return "running" if silent_s < 60 * SILENT_MINUTES else "lost"


def gpu_hours(run: Run, environments: list[dict[str, Any]], times: list[float]) -> float:
    """Return the sum of hours times GPUs over all attempts; NaN if nothing is known of them.

    Slurm's account of the executions is preferred. Without it, an attempt that was killed counts up
    to the last step that it recorded. The arguments are those of `state_of`.
    """
    executions = read_json(run.job / "executions.json").get("executions", [])
    gpu_seconds = sum(number(one.get("elapsed_s")) * number(one.get("gpus")) for one in executions)
    if gpu_seconds > 0:  # a Slurm that does not count GPUs reports 0
        return gpu_seconds / 3600
    if not environments:
        return math.nan
    starts = [number(environment.get("started")) for environment in environments]
    next_starts = [*starts[1:], math.inf]
    total = 0.0
    for environment, start, next_start in zip(environments, starts, next_starts, strict=True):
        ended = number(environment.get("ended"))
        if math.isnan(ended):
            ended = max((t for t in times if start <= t < next_start), default=start)
        on_gpu = str(environment.get("device", "")).startswith("cuda")
        hours = (ended - start) / 3600 if on_gpu else 0.0
        total += hours * number(environment.get("world_size"))
    return total


def read_json(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file, empty if the file is missing, damaged or not an object."""
    try:
        values = json.loads(read_bytes(path).decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def number(value: Any) -> float:
    """Return a value from a file as a float, NaN if it is not a finite number."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # An integer of JSON may be too large for a float.
    is_known = is_number and abs(value) < LARGEST
    return float(value) if is_known else math.nan
