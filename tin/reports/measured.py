"""What a report takes from the scores of a test: values of each video and class.

N videos, K classes.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tin.evaluation.metrics import average_precision, label_ranks
from tin.evaluation.scores import Scores, load

log = logging.getLogger(__name__)

MAX_WRONG = 8
"""Mistakes that are kept of a test."""


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
    groups: np.ndarray | None
    """``(N,)`` group of each video; None if they are unknown or no group has two videos."""

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
    values, class_values, class_videos = by_label(mean, labels)
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
        groups=labeled_groups(scores),
    )


def labeled_groups(scores: Scores) -> np.ndarray | None:
    """Return the group of each labeled video, or None if groups of videos make no difference."""
    if scores.groups is None:
        return None
    groups = scores.groups[scores.labeled]
    return groups if len(np.unique(groups)) < len(groups) else None


def common_groups(tests: Sequence[Measured]) -> np.ndarray | None:
    """Return the groups of the videos that some tests share; None to resample single videos.

    Tests of earlier versions do not know the groups, so one test that does is enough.
    """
    known = [(test.folder, test.groups) for test in tests if test.groups is not None]
    if not known:
        return None
    first, chosen = known[0]
    for folder, groups in known[1:]:
        if not np.array_equal(groups, chosen):
            log.warning(
                "%s and %s have the same videos in other groups; the groups of the former are"
                " resampled",
                first,
                folder,
            )
    return chosen


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


def by_label(
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
