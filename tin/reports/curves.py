"""Curves of a run as numbers for the page: thinned to what a screen can show."""

from typing import Any

import numpy as np
import pandas as pd

MAX_POINTS = 240  # of a curve; with many runs, fewer
MAX_TOTAL = 40_000  # points of one panel over all runs
STEP_COLUMNS = {"loss": "step loss", "lr": "lr", "clips_per_s": "speed", "data_wait": "data wait"}
"""Columns of steps.csv that the page draws, and the names of their panels."""
EPOCH_COLUMNS = ("loss", "top1", "top5", "map_class", "map_sample")
OFFSET_COLUMNS = ("offset_1", "offset_2", "gain_1", "gain_2")
DIGITS = 4


def run_curves(
    metrics: pd.DataFrame, steps: pd.DataFrame, environments: list[dict[str, Any]], num_runs: int
) -> dict[str, Any]:
    """Return the curves of a run: by step, by epoch of each split, and the steps of restarts.

    Args:
        metrics: rows of metrics.csv.
        steps: rows of steps.csv.
        environments: content of environment-<attempt>.json of each attempt.
        num_runs: runs on the page; with many, each has fewer points.
    """
    points = min(MAX_POINTS, max(30, MAX_TOTAL // max(num_runs, 1)))
    thinned = _thin(steps, points)
    return {
        "steps": _columns(thinned, ("step", *STEP_COLUMNS)),
        "epochs": {
            str(split): _columns(_thin(rows, points), ("step", *EPOCH_COLUMNS))
            for split, rows in _by_split(metrics)
        },
        "restarts": _restarts(steps, environments),
    }


def offset_curves(offsets: pd.DataFrame) -> dict[str, dict[str, list]]:
    """Return the mean offsets and gains of each block over the steps."""
    if not {"block", *OFFSET_COLUMNS} <= set(offsets):
        return {}
    return {
        str(block): _columns(_thin(rows, MAX_POINTS), ("step", *OFFSET_COLUMNS))
        for block, rows in offsets.groupby("block", sort=False)
    }


def _by_split(metrics: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the rows of each split, in the order in which the splits first appear."""
    if "split" not in metrics:
        return []
    return [(str(split), rows) for split, rows in metrics.groupby("split", sort=False)]


def _thin(rows: pd.DataFrame, points: int) -> pd.DataFrame:
    """Return at most `points` rows at even distances, the last one included."""
    if len(rows) <= points:
        return rows
    return rows.iloc[np.linspace(0, len(rows) - 1, points).round().astype(int)]


def _columns(rows: pd.DataFrame, names: tuple[str, ...]) -> dict[str, list]:
    """Return the columns that have values as lists of short numbers, None where one is missing."""
    found = {}
    for name in names:
        if name in rows and rows[name].notna().any():
            found[name] = [_short(value) for value in rows[name].tolist()]
    return found


def _restarts(steps: pd.DataFrame, environments: list[dict[str, Any]]) -> list[int]:
    """Return for each attempt but the first the last step that was recorded before it."""
    if not {"time", "step"} <= set(steps):
        return []
    starts = [one.get("started") for one in environments[1:]]
    known = [start for start in starts if isinstance(start, (int, float))]
    earlier = [steps.loc[steps["time"] < start, "step"] for start in known]
    return [int(found.max()) for found in earlier if len(found)]


def _short(value: float) -> float | int | None:
    """Return a number with few digits; None if it is NaN or infinite."""
    if not np.isfinite(value):
        return None
    return int(value) if float(value).is_integer() else float(f"{value:.{DIGITS}g}")
