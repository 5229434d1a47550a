"""The intervals of the metrics of a test: computed by bootstrap, stored with the test or kept.

N videos, K classes, R resamples.
"""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from configs.files import WriteError, write_text
from configs.small_files import read_bytes
from tin.evaluation.opposites import opposites
from tin.evaluation.scores import RESULT, SCORES, Scores, likelihoods, load, load_result
from tin.reports.measured import by_label, labeled_groups
from tin.reports.statistics import (
    bootstrap_means,
    is_single_group,
    percentile_interval,
    resample_counts,
)

log = logging.getLogger(__name__)
INTERVALS = "intervals.json"
"""File beside result.json for intervals that the report has computed."""
Intervals = dict[str, tuple[float, float]]
"""Lower and upper end of the 95 % interval of each metric, as fractions."""


def store_intervals(folder: Path) -> None:
    """Add the intervals of its metrics to the result.json of a test that has just been written."""
    result = load_result(folder)
    scores = load(folder)
    groups = labeled_groups(scores)
    content = {
        **result,
        "intervals": intervals(scores, groups),
        # What is resampled: this number of whole groups of videos, or single videos if null.
        "interval_groups": None if groups is None else len(np.unique(groups)),
    }
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_text(folder / RESULT, text)


def intervals_of(folder: Path, result: Mapping[str, Any]) -> Intervals:
    """Return the intervals of a test: those of result.json, or the ones that the report has kept.

    Where there are none, they are computed and kept in a file of their own, so that a report never
    changes the result of a test that may be running again.

    Raises:
        ScoresError: they have to be computed, but scores.npz is missing or damaged.
    """
    known = _checked(result.get("intervals"))
    if known is not None:
        return known
    path = folder / INTERVALS
    try:
        facts = (folder / SCORES).stat()
        made_from = [facts.st_size, facts.st_mtime_ns]
        kept = json.loads(read_bytes(path).decode("utf-8"))
        known = _checked(kept["intervals"]) if kept["made_from"] == made_from else None
    except (OSError, ValueError, KeyError, TypeError):
        known = None
    if known is None:
        scores = load(folder)
        known = intervals(scores, labeled_groups(scores))
        try:
            facts = (folder / SCORES).stat()
            kept = {"made_from": [facts.st_size, facts.st_mtime_ns], "intervals": known}
            write_text(path, json.dumps(kept) + "\n")
        except (WriteError, OSError) as error:  # for example, the runs belong to somebody else
            log.info("the intervals of %s are not kept: %s", folder, error)
    return known


def intervals(scores: Scores, groups: np.ndarray | None = None) -> Intervals:
    """Return the 95 % bootstrap interval of each metric of a test, over its labeled videos.

    Args:
        scores: the scores of the test.
        groups: ``(N,)`` group of each labeled video; whole groups are resampled. None resamples
            single videos.
    """
    labeled = scores.labeled
    mean = scores.mean[labeled]
    labels = scores.labels[labeled]
    if not len(mean) or is_single_group(groups):
        return {}
    counts = resample_counts(len(mean), groups)
    values, _, _ = by_label(mean, labels, with_classes=False)
    entropies = -np.log(likelihoods(mean, labels)).reshape(len(mean), -1)
    values["loss"] = entropies.mean(axis=1)
    means = bootstrap_means(np.stack(list(values.values()), axis=1), counts)
    found = {
        name: percentile_interval(column) for name, column in zip(values, means.T, strict=True)
    }
    if scores.multi_label:
        found["map_class"] = percentile_interval(_map_replicates(mean, labels, counts))
    else:
        found["mean_class"] = percentile_interval(_class_replicates(values["top1"], labels, counts))
        pairs = opposites(scores.classes)
        if pairs:
            right, has_pair = _pair_values(mean, labels, pairs)
            replicates = bootstrap_means(right[:, None], counts, has_pair[:, None])
            found["pair"] = percentile_interval(replicates[:, 0])
    return {name: ends for name, ends in found.items() if not math.isnan(ends[0])}


def _class_replicates(right: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the mean accuracy of the classes in each resample, ``(R,)``.

    Classes that a resample does not contain are left out of its mean.
    """
    # Sort the videos by class, so that the videos of a class are neighbors.
    order = np.argsort(labels, kind="stable")
    first = np.flatnonzero(np.diff(labels[order], prepend=-1))
    replicates = []
    for row in counts:
        drawn = row[order].astype(np.float64)
        num_videos = np.add.reduceat(drawn, first)
        num_right = np.add.reduceat(drawn * right[order], first)
        present = num_videos > 0
        replicates.append((num_right[present] / num_videos[present]).mean())
    return np.array(replicates)


def _map_replicates(mean: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the mean average precision of the classes in each resample, ``(R,)``."""
    total = np.zeros(len(counts))
    num_classes = np.zeros(len(counts))
    by_video = np.ascontiguousarray(counts.T)
    for k in np.flatnonzero((labels > 0).any(axis=0)):
        # Sort the videos by the score of the class. Videos of equal scores form one threshold, and
        # only thresholds with a positive count.
        order = np.argsort(-mean[:, k], kind="stable")
        ranked = mean[order, k]
        positive = np.flatnonzero(labels[order, k] > 0)
        last = np.searchsorted(-ranked, -ranked[positive], side="right") - 1
        ends, first_positive = np.unique(last, return_index=True)
        # Count the drawn videos and the drawn positives down to the end of each threshold.
        starts = np.append(0, ends[:-1] + 1)
        ranked_counts = by_video[order[: ends[-1] + 1]]
        drawn = np.add.reduceat(ranked_counts, starts, axis=0, dtype=np.int32).cumsum(axis=0)
        new = np.add.reduceat(by_video[order[positive]], first_positive, axis=0, dtype=np.int32)
        found = new.cumsum(axis=0)
        value = (found / np.maximum(drawn, 1) * new).sum(axis=0) / np.maximum(found[-1], 1)
        total += value
        num_classes += found[-1] > 0
    return np.where(num_classes > 0, total / np.maximum(num_classes, 1), np.nan)


def _pair_values(
    mean: np.ndarray, labels: np.ndarray, pairs: list[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return whether the label beats its opposite on each video, and whether it has an opposite."""
    opposite = np.full(mean.shape[1], -1)
    for i, j in pairs:
        opposite[i] = j
        opposite[j] = i
    videos = np.arange(len(mean))
    own = mean[videos, labels]
    other = mean[videos, opposite[labels]]
    return (own > other) + 0.5 * (own == other), opposite[labels] >= 0


def _checked(found: object) -> Intervals | None:
    """Return intervals that a file holds, or None if they do not have that form."""
    if not isinstance(found, dict):
        return None
    known: Intervals = {}
    for name, ends in found.items():
        numbers = isinstance(ends, list) and all(isinstance(end, float) for end in ends)
        if not numbers or len(ends) != 2:
            return None
        known[name] = (ends[0], ends[1])
    return known
