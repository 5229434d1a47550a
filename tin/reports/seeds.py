"""Runs that differ in nothing but the seed, as one row: mean, spread, interval and number."""

import statistics as stdlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from configs.load import ConfigError, leaves
from tin.reports.measured import Measured, common_groups
from tin.reports.recorded import config_of
from tin.reports.statistics import estimate
from tin.reports.tables import TEST_METRICS
from tin.runs.folder import Run

IGNORED = ("train.seed", "recipe", "source", "note", "published", "published_metric")
"""Settings that may differ within a row, beside those of section `run`."""
MAX_NAMED = 4
"""A row is named by its settings if at most this many differ between the rows."""
Tests = Mapping[str, Measured]
"""Tests by the path of their folder."""


@dataclass(frozen=True)
class SeedGroup:
    """The tests of runs that differ in nothing but the seed."""

    name: str
    rows: list[int]
    """Rows of the table of runs."""
    tests: list[Measured]
    """The tests whose scores could be read."""

    @property
    def values(self) -> np.ndarray:
        """``(S, N)`` values of the metric that models are compared by, for S seeds, N videos."""
        metric = self.tests[0].metric
        return np.stack([test.values[metric] for test in self.tests])

    @property
    def score(self) -> float:
        """The mean of that metric over seeds and videos."""
        return float(self.values.mean())


def seed_groups(frame: pd.DataFrame, tests: Tests) -> list[SeedGroup]:
    """Return the tested rows of a table of runs in groups that differ in nothing but the seed."""
    members: dict[tuple, list[int]] = {}
    settings: dict[tuple, dict[str, Any]] = {}
    for row, (run_dir, test) in enumerate(zip(frame["run"], frame["test"], strict=True)):
        folder = test_folder(run_dir, test)
        if folder not in tests:
            continue
        found = compared_settings(run_dir)
        key = (tests[folder].videos, test, *map(str, found.items()))
        members.setdefault(key, []).append(row)
        settings[key] = found
    names = _names(list(settings.values()), [key[1] for key in settings])
    groups = []
    for rows, name in zip(members.values(), names, strict=True):
        first = rows[0]
        folders = [test_folder(frame["run"][row], frame["test"][row]) for row in rows]
        named = name or Path(frame["run"][first]).name
        groups.append(SeedGroup(named, rows, [tests[folder] for folder in folders]))
    return groups


def test_folder(run_dir: str, test: object) -> str:
    """Return the path of a test, empty for a row without a test."""
    return str(Run(Path(run_dir)).tests / test) if isinstance(test, str) else ""


def compared_settings(run_dir: str) -> dict[str, Any]:
    """Return the settings of a run that distinguish it, by dotted name; none if unreadable."""
    try:
        config = config_of(Run(Path(run_dir)))
    except (ConfigError, OSError):
        return {}
    return {
        key: value
        for key, value in leaves(config.model_dump(mode="json"))
        if key not in IGNORED and not key.startswith("run.")
    }


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the dotted names of the settings whose values differ."""
    names = dict.fromkeys(name for one in settings for name in one)
    return [name for name in names if len({repr(one.get(name)) for one in settings}) > 1]


def seed_table(frame: pd.DataFrame, groups: Sequence[SeedGroup]) -> pd.DataFrame:
    """Return one row for each group of at least two seeds; empty if there is none.

    The columns are name, test, seeds and, for each metric, mean, standard deviation over seeds,
    and the ends of the interval, which is known for the metrics that are means over videos.
    """
    rows = []
    for group in groups:
        if len(group.rows) < 2:
            continue
        row: dict[str, Any] = {"name": group.name, "test": frame["test"][group.rows[0]]}
        row["seeds"] = len(group.rows)
        for metric in TEST_METRICS:
            values = frame[metric].iloc[group.rows].dropna().tolist()
            if not values:
                continue
            row[metric] = stdlib.fmean(values)
            row[f"{metric}_std"] = stdlib.stdev(values) if len(values) > 1 else float("nan")
            if metric in group.tests[0].values:
                values_by_seed = np.stack([test.values[metric] for test in group.tests])
                found = estimate(values_by_seed, common_groups(group.tests))
                row[f"{metric}_low"] = max(found.low, 0.0)  # these metrics lie between 0 and 1
                row[f"{metric}_high"] = min(found.high, 1.0)
        for column in ("params", "gflops", "clips_per_s", "gpu_hours"):
            row[column] = frame[column].iloc[group.rows].astype(float).mean()
        rows.append(row)
    return pd.DataFrame(rows)


def readable_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table of `seed_table` with texts in percent: mean ± deviation, and interval."""
    shown = pd.DataFrame({name: table[name].astype(str) for name in ("name", "test", "seeds")})
    for metric in (name for name in TEST_METRICS if name in table):
        shown[f"{metric} %"] = [
            f"{100 * mean:.2f} ± {100 * std:.2f}"
            for mean, std in zip(table[metric], table[f"{metric}_std"], strict=True)
        ]
        if f"{metric}_low" in table:
            shown[f"{metric} 95 %"] = [
                f"{100 * low:.1f} to {100 * high:.1f}"
                for low, high in zip(table[f"{metric}_low"], table[f"{metric}_high"], strict=True)
            ]
    for column, form in {"gflops": ".2f", "clips_per_s": ".1f"}.items():
        shown[column] = [f"{value:{form}}" for value in table[column]]
    return shown


def _names(settings: list[dict[str, Any]], test_names: list[str]) -> list[str]:
    """Return names made of the settings that differ; empty names if too many differ or none."""
    found = differing(settings)
    with_tests = len(set(test_names)) > 1
    if len(found) > MAX_NAMED or not (found or with_tests):
        return [""] * len(settings)
    names = []
    for one, test in zip(settings, test_names, strict=True):
        parts = [f"{name.rpartition('.')[2]} {one.get(name)}" for name in found]
        names.append(", ".join([*parts, test] if with_tests else parts))
    return names
