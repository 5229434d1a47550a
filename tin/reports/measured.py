"""What a report takes from the scores of a test: values of each video and class, and intervals.

N videos, K classes, R resamples.
"""

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.files import WriteError, write_text
from configs.small_files import read_bytes
from tin.evaluation.metrics import average_precision, label_ranks
from tin.evaluation.opposites import opposites
from tin.evaluation.scores import RESULT, SCORES, Scores, likelihoods, load, load_result
from tin.reports.statistics import bootstrap_means, percentile_interval, resample_counts

log = logging.getLogger(__name__)

MAX_WRONG = 8
"""Mistakes that are kept of a test."""
INTERVALS = "intervals.json"
"""File beside result.json for intervals that the report has computed."""
Intervals = dict[str, tuple[float, float]]
"""Lower and upper end of the 95 % interval of each metric, as fractions."""


@dataclass(frozen=True)
class Mistake:
    """A video whose most likely class is not its label."""

    key: str
    labels: str
    predicted: str
    confidence: float
    """Score of the predicted class."""


@dataclass(frozen=True)
class Measured:
    """A test without its scores: what a report shows and compares. Only labeled videos count."""

    folder: Path
    classes: tuple[str, ...]
    videos: str
    """A digest of the keys of the videos; equal for tests that can be paired."""
    values: dict[str, np.ndarray]
    """float32 ``(N,)`` value of each video for each metric that is a mean over videos."""
    class_values: np.ndarray
    """``(K,)`` accuracy or average precision of each class; NaN without a video."""
    class_videos: np.ndarray
    """``(K,)`` number of videos of each class."""
    labels: np.ndarray
    """``(N,)`` class of each video; empty where videos have several labels."""
    predicted: np.ndarray
    """``(N,)`` most likely class of each video."""
    wrong: list[Mistake]
    """The videos that are wrong with the highest confidence, most confident first."""

    @property
    def multi_label(self) -> bool:
        """Whether a video may have several labels."""
        return "map_sample" in self.values

    @property
    def metric(self) -> str:
        """The metric that models are compared by."""
        return "map_sample" if self.multi_label else "top1"


def measure(folder: Path) -> Measured:
    """Read the scores of a test.

    Raises:
        ScoresError: scores.npz is missing or damaged.
    """
    scores = load(folder)
    labeled = scores.labeled
    mean = scores.mean[labeled]
    labels = scores.labels[labeled]
    values, class_values, class_videos = _by_label(mean, labels)
    predicted = mean.argmax(axis=1)
    keys = [key for key, known in zip(scores.keys, labeled.tolist(), strict=True) if known]
    return Measured(
        folder=folder,
        classes=scores.classes,
        videos=hashlib.sha256("\n".join(keys).encode()).hexdigest(),
        values=values,
        class_values=class_values,
        class_videos=class_videos,
        labels=np.zeros(0, np.int64) if scores.multi_label else labels,
        predicted=predicted,
        wrong=_mistakes(keys, scores.classes, mean, labels),
    )


def store_intervals(folder: Path) -> None:
    """Add the intervals of its metrics to the result.json of a test that has just been written."""
    result = load_result(folder)
    found = intervals(load(folder))
    text = json.dumps({**result, "intervals": found}, indent=2, allow_nan=False) + "\n"
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
        known = intervals(load(folder))
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
    if not len(mean):
        return {}
    counts = resample_counts(len(mean), groups)
    values, _, _ = _by_label(mean, labels, with_classes=False)
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


def _mistakes(
    keys: list[str], classes: tuple[str, ...], mean: np.ndarray, labels: np.ndarray
) -> list[Mistake]:
    """Return the `MAX_WRONG` videos that are wrong with the highest score."""
    predicted = mean.argmax(axis=1)
    confidence = mean[np.arange(len(mean)), predicted]
    truth = labels > 0 if labels.ndim == 2 else labels[:, None] == np.arange(mean.shape[1])
    right = truth[np.arange(len(mean)), predicted]
    order = np.argsort(np.where(right, -1, confidence))[::-1][:MAX_WRONG]
    return [
        Mistake(
            keys[n],
            "; ".join(classes[k] for k in np.flatnonzero(truth[n])),
            classes[predicted[n]],
            float(confidence[n]),
        )
        for n in order.tolist()
        if not right[n]
    ]


def _by_label(
    mean: np.ndarray, labels: np.ndarray, *, with_classes: bool = True
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return the values of each video, and the value and number of videos of each class."""
    K = mean.shape[1]
    if labels.ndim == 2:
        targets = labels > 0
        values = {"map_sample": average_precision(mean, targets).astype(np.float32)}
        class_videos = targets.sum(axis=0)
        class_values = np.full(K, np.nan)
        if with_classes:
            present = class_videos > 0
            class_values[present] = average_precision(mean.T[present], targets.T[present])
        return values, class_values, class_videos
    ranks = label_ranks(mean, labels)
    values = {name: (ranks < k).astype(np.float32) for name, k in (("top1", 1), ("top5", 5))}
    class_videos = np.bincount(labels, minlength=K)
    num_right = np.bincount(labels, weights=values["top1"], minlength=K)
    with np.errstate(invalid="ignore"):
        return values, num_right / class_videos, class_videos


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
