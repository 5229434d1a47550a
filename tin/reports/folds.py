"""Cross-validation as one row: the tests of runs that differ in nothing but the fold and the seed.

F folds, S seeds, N videos of all folds together.
"""

import math
import statistics as stdlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline.folds import FOLD
from tin.reports.measured import Measured, common_groups
from tin.reports.seeds import Tests, compared_settings, differing, test_folder
from tin.reports.statistics import estimate
from tin.reports.tables import TEST_METRICS


class _Part(NamedTuple):
    """A run of one fold and one seed: its row of the table of runs, and its test."""

    row: int
    fold: int
    seed: int
    test: Measured


def fold_table(frame: pd.DataFrame, tests: Tests) -> pd.DataFrame:
    """Return a row for each cross-validation among the runs; empty if there is none.

    The columns are name, test, folds, complete (seeds whose folds are all tested), runs, twice,
    videos and, for each metric, its mean, its standard deviation over the runs, and the ends of the
    95 % interval of the mean, for which whole groups of videos are resampled. A metric that is a
    mean over videos counts each video of a complete seed once. The others are means over runs and
    have no interval. ``twice`` names runs of the same fold and seed. Which one is meant is unknown,
    so a seed with such a fold is not complete.

    Args:
        frame: the table of `tin.reports.results.load_runs`.
        tests: its tests by folder.
    """
    members: dict[tuple, list[_Part]] = {}
    settings: dict[tuple, dict[str, Any]] = {}
    for row, (run_dir, test) in enumerate(zip(frame["run"], frame["test"], strict=True)):
        folder = test_folder(run_dir, test)
        if folder not in tests or not str(test).startswith(f"{FOLD}-"):
            continue
        found = compared_settings(run_dir)
        fold = found.pop("data.fold", 0)
        if not found.get("data.folds"):
            continue
        key = (test, *map(str, found.items()))
        seed = int(frame["seed"].iloc[row])
        members.setdefault(key, []).append(_Part(row, fold, seed, tests[folder]))
        settings[key] = found
    names = _names(list(settings.values()))
    rows = [
        {"name": name or Path(frame["recipe"].iloc[parts[0].row] or FOLD).name, "test": key[0]}
        | _row(frame, parts, settings[key]["data.folds"])
        for (key, parts), name in zip(members.items(), names, strict=True)
    ]
    return pd.DataFrame(rows)


def fold_sentences(table: pd.DataFrame) -> list[str]:
    """Return a sentence for each row of `fold_table`."""
    sentences = []
    for row in table.to_dict("records"):
        start = f"cross-validation {row['name']} ({row['test']}): "
        if row["twice"]:
            sentences.append(
                f"{start}several runs have the same fold and seed, so this seed does not count;"
                f" leave all but one of them out ({row['twice']})"
            )
        if not row["complete"]:
            sentences.append(
                f"{start}{row['runs']} runs of {row['folds']} folds are tested; the mean needs all"
                " folds of a seed"
            )
            continue
        metrics = []
        for metric in (name for name in TEST_METRICS if not pd.isna(row.get(name))):
            text = f"{metric} {100 * row[metric]:.2f} % ± {100 * row[f'{metric}_std']:.2f}"
            low = row.get(f"{metric}_low", math.nan)
            high = row.get(f"{metric}_high", math.nan)
            if not math.isnan(low):
                text += f" (95 %: {100 * low:.1f} to {100 * high:.1f})"
            metrics.append(text)
        sentences.append(
            f"{start}{row['folds']} folds, {_counted(row['complete'])}, {row['videos']} videos,"
            f" each tested by a model that has not seen its group: {', '.join(metrics)}"
        )
    return sentences


def _row(frame: pd.DataFrame, parts: Sequence[_Part], folds: int) -> dict[str, Any]:
    """Return the numbers of a cross-validation; metrics only if a seed has all folds."""
    by_seed: dict[int, dict[int, _Part]] = {}
    twice: dict[tuple[int, int], list[_Part]] = {}
    for part in parts:
        first = by_seed.setdefault(part.seed, {}).setdefault(part.fold, part)
        if first is not part:
            twice.setdefault((part.seed, part.fold), [first]).append(part)
    unclear = {seed for seed, _ in twice}
    complete = [
        found
        for seed, found in sorted(by_seed.items())
        if len(found) == folds and seed not in unclear
    ]
    row: dict[str, Any] = {"folds": folds, "complete": len(complete), "runs": len(parts)}
    row["twice"] = "; ".join(
        f"fold {fold} of seed {seed}: {' and '.join(str(frame['run'].iloc[p.row]) for p in same)}"
        for (seed, fold), same in sorted(twice.items())
    )
    if not complete:
        return row
    used = [found[fold] for found in complete for fold in range(folds)]
    tests = [[found[fold].test for found in complete] for fold in range(folds)]
    groups = _joined_groups(tests)
    for metric in TEST_METRICS:
        values = frame[metric].iloc[[part.row for part in used]].dropna().tolist()
        if not values:
            continue
        row[metric] = stdlib.fmean(values)
        row[f"{metric}_std"] = stdlib.stdev(values)
        if metric not in used[0].test.values:
            continue
        # Join the folds of each seed, so that each video counts once.
        joined = np.stack(
            [
                np.concatenate([found[fold].test.values[metric] for fold in range(folds)])
                for found in complete
            ]
        )
        row["videos"] = joined.shape[1]
        measured = estimate(joined, groups)
        row[metric] = measured.mean
        row[f"{metric}_low"] = max(measured.low, 0.0)
        row[f"{metric}_high"] = min(measured.high, 1.0)
    return row


def _joined_groups(tests: Sequence[Sequence[Measured]]) -> np.ndarray | None:
    """Return the group of each video of all folds, ``(N,)``; None to resample single videos.

    Args:
        tests: the tests of each fold, one for each seed. No group is in two folds.
    """
    known = [common_groups(of_fold) for of_fold in tests]
    if all(groups is None for groups in known):
        return None
    numbers = []
    start = 0
    for groups, of_fold in zip(known, tests, strict=True):
        count = len(next(iter(of_fold[0].values.values())))
        # In a fold without groups, each video is a group of its own.
        own = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1]
        numbers.append(start + own)
        start += count
    return np.concatenate(numbers)


def _counted(seeds: int) -> str:
    return "1 seed" if seeds == 1 else f"{seeds} seeds"


def _names(settings: list[dict[str, Any]]) -> list[str]:
    """Return names made of the settings in which cross-validations differ; empty for one."""
    found = differing(settings)
    return [
        ", ".join(f"{name.rpartition('.')[2]} {one.get(name)}" for name in found)
        for one in settings
    ]
