"""A test class by class, as numbers for the page: accuracy, confusion, and confused pairs."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tin.reports.measured import Measured

MAX_PAIRS = 20  # most confused pairs that are listed


@dataclass(frozen=True)
class ConfusedPair:
    """Videos of one class that the model takes for another."""

    label: str
    predicted: str
    num_videos: int
    share: float
    """Share of the videos of the class ``label``."""


def class_values(test: Measured) -> list[int | None]:
    """Return the accuracy or average precision of each class in tenths of a percent."""
    return [
        None if np.isnan(value) else round(1000 * value) for value in test.class_values.tolist()
    ]


def confusion(test: Measured) -> dict[str, Any]:
    """Return the entries of the confusion matrix that are not zero: label, prediction, videos."""
    rows, columns, counts = _confusion(test)
    return {"label": rows.tolist(), "predicted": columns.tolist(), "videos": counts.tolist()}


def confused_pairs(test: Measured) -> list[ConfusedPair]:
    """Return the pairs of different classes with the most videos, most videos first."""
    rows, columns, counts = _confusion(test)
    wrong = np.flatnonzero(rows != columns)
    order = wrong[np.argsort(-counts[wrong], kind="stable")][:MAX_PAIRS]
    return [
        ConfusedPair(
            test.classes[rows[n]],
            test.classes[columns[n]],
            int(counts[n]),
            float(counts[n] / test.class_videos[rows[n]]),
        )
        for n in order.tolist()
    ]


def _confusion(test: Measured) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return label, prediction and number of videos of each entry; empty with several labels."""
    if test.multi_label:
        nothing = np.zeros(0, np.int64)
        return nothing, nothing, nothing
    K = len(test.classes)
    codes, counts = np.unique(test.labels * K + test.predicted, return_counts=True)
    return codes // K, codes % K, counts
