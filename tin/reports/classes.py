"""A test class by class: bars of accuracy or average precision, and the confusion of classes."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tin.evaluation.metrics import label_ranks, map_class
from tin.evaluation.scores import Scores, ScoresError, load

MAX_BARS = 60  # with more classes, only the lowest and the highest of them are shown
MAX_CONFUSION = 30  # with more classes, a confusion matrix cannot be read


@dataclass(frozen=True)
class Bar:
    """Accuracy or average precision of a class."""

    name: str
    value: float
    num_videos: int

    @property
    def percent(self) -> str:
        """The value as text in percent."""
        return f"{100 * self.value:.1f}"


@dataclass(frozen=True)
class Classes:
    """Bars and confusion of a test, for the template `classes.html.j2`."""

    test: str = ""
    measure: str = ""
    bars: list[Bar] = field(default_factory=list)
    num_classes: int = 0
    """Number of classes that have videos, of which ``bars`` may leave some out."""
    lowest_and_highest: int = 0
    """If bars are left out: how many of the lowest and of the highest are shown."""
    confusion: list[tuple[str, list[float]]] = field(default_factory=list)
    """Each class, and the share of its videos that the model assigns to each class."""
    problem: str = ""
    """The reason why the scores of the test cannot be shown."""


def by_class(folder: Path) -> Classes | None:
    """Return a test class by class, or None if no video has a label."""
    try:
        scores = load(folder)
    except ScoresError as error:
        return Classes(problem=str(error))
    if not scores.labeled.any():
        return None
    bars = _bars(scores)
    num_classes = len(bars)
    half = MAX_BARS // 2 if num_classes > MAX_BARS else 0
    if half:
        bars.sort(key=lambda bar: bar.value)
        bars = bars[:half] + bars[-half:]
    with_confusion = not scores.multi_label and len(scores.classes) <= MAX_CONFUSION
    return Classes(
        test=folder.name,
        measure="Average precision" if scores.multi_label else "Accuracy",
        bars=bars,
        num_classes=num_classes,
        lowest_and_highest=half,
        confusion=_confusion(scores) if with_confusion else [],
    )


def _bars(scores: Scores) -> list[Bar]:
    """Return accuracy or average precision of each class that has videos."""
    mean = scores.mean[scores.labeled]
    labels = scores.labels[scores.labeled]
    bars = []
    if scores.multi_label:
        for k, name in enumerate(scores.classes):
            num_videos = int((labels[:, k] > 0).sum())
            if num_videos:
                precision = map_class(mean[:, k : k + 1], labels[:, k : k + 1])
                bars.append(Bar(name, precision, num_videos))
    else:
        right = label_ranks(mean, labels) == 0
        for k, name in enumerate(scores.classes):
            own = labels == k
            if own.any():
                bars.append(Bar(name, float(right[own].mean()), int(own.sum())))
    return bars


def _confusion(scores: Scores) -> list[tuple[str, list[float]]]:
    """Return for each class the share of its videos that the model assigns to each class."""
    K = len(scores.classes)
    labels = scores.labels[scores.labeled]
    predicted = scores.mean[scores.labeled].argmax(axis=1)
    # Count each pair of label and prediction as the number label * K + prediction.
    counts = np.bincount(labels * K + predicted, minlength=K * K).reshape(K, K)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return list(zip(scores.classes, shares.tolist(), strict=True))
