"""Goodput: which share of the hours of a run went into steps that still count."""

import math
from typing import Any

import numpy as np
import pandas as pd

from tin.reports.attempts import number, read_json
from tin.runs.folder import Run


def goodput(run: Run, environments: list[dict[str, Any]], steps: pd.DataFrame, batch: int) -> float:
    """Return the seconds of the steps that count over the seconds of all attempts.

    The steps that count are those of steps.csv: a run that resumes removes the rows of steps that
    it repeats, so each step counts once, with the time of the attempt that was kept. The time of a
    row is that of its steps, ``batch * steps / clips_per_s``, without its checkpoints
    (``checkpoint_s``). It includes the wait for data.

    All attempts count from the launch of their process to their end: start-up, repeated steps,
    evaluation and checkpoints lower the goodput. An attempt that was killed ends when it was last
    seen at work, as the next attempt recorded (``previous_seen``), or at its last row. The time
    between two attempts and that of `tin test` do not count. Hours are not multiplied by ranks.

    Args:
        run: the run.
        environments: content of environment-<attempt>.json of its attempts, in order.
        steps: valid rows of steps.csv.
        batch: clips of a step.

    Returns:
        A fraction; NaN if the time of an attempt or of all steps is unknown, or if the files
        contradict each other: the steps cannot take longer than the attempts.
    """
    total_s = _total_s(run, environments, steps)
    useful_s = _useful_s(steps, batch)
    if not 0 < useful_s <= total_s:
        return math.nan
    return useful_s / total_s


def _useful_s(steps: pd.DataFrame, batch: int) -> float:
    """Return the seconds of the recorded steps; 0 if no row has a speed.

    A row stands for all steps since the row before it.
    """
    if not {"step", "clips_per_s"} <= set(steps):
        return 0.0
    rows = steps[["step", "clips_per_s"]].assign(checkpoint_s=steps.get("checkpoint_s", 0.0))
    rows = rows.replace([math.inf, -math.inf], math.nan).fillna({"checkpoint_s": 0.0}).dropna()
    rows = rows[(rows["clips_per_s"] > 0) & (rows["step"] > 0)]
    rows = rows.drop_duplicates("step", keep="last").sort_values("step")
    num_steps = np.diff(rows["step"], prepend=0)
    seconds = batch * num_steps / rows["clips_per_s"] - rows["checkpoint_s"].clip(lower=0)
    return float(seconds.clip(lower=0).sum())


def _total_s(run: Run, environments: list[dict[str, Any]], steps: pd.DataFrame) -> float:
    """Return the seconds of all attempts; NaN if the start of one is unknown or there is none."""
    if not environments:
        return math.nan
    times = steps["time"].dropna().tolist() if "time" in steps else []
    starts = [
        _started(run, attempt, facts)
        for attempt, facts in zip(run.attempts(), environments, strict=True)
    ]
    next_starts = [*starts[1:], math.inf]
    seen = [number(facts.get("previous_seen")) for facts in environments[1:]]
    total_s = 0.0
    for facts, start, next_start, last_seen in zip(
        environments, starts, next_starts, [*seen, math.nan], strict=True
    ):
        ended = number(facts.get("ended"))
        if math.isnan(ended):
            in_attempt = [time_s for time_s in times if start <= time_s < next_start]
            if start <= last_seen <= next_start:
                in_attempt.append(last_seen)
            ended = max(in_attempt, default=start)
        launched = number(facts.get("launched"))
        began = launched if launched <= start else start
        total_s += max(ended - began, 0.0) if not math.isnan(start) else math.nan
    return total_s


def _started(run: Run, attempt: int, facts: dict[str, Any]) -> float:
    """Return when an attempt started, also if it was killed before it wrote its environment."""
    started = number(facts.get("started"))
    if math.isnan(started):
        started = number(read_json(run.job / f"attempt-{attempt:02d}").get("started"))
    return started
