"""The average of the scores of several views, or of several models."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

Average = Literal["scores", "logits"]
"""`scores` averages probabilities. `logits` averages their logits and computes probabilities
again."""
SMALLEST = float(np.finfo(np.float32).smallest_subnormal)  # of the probabilities above 0
LARGEST = 1 - 2.0**-25  # a probability that float32 rounds to 1


def average(
    scores: np.ndarray,
    how: Average,
    multi_label: bool,
    weights: Sequence[float] | np.ndarray | None = None,
) -> np.ndarray:
    """Return the (weighted) mean of scores over their second to last axis, in float64.

    With ``logits`` and one label a video, it is the softmax of the mean of ``log p``. This equals
    the softmax of the mean logits, because ``log p`` is a logit minus a number that is the same for
    all classes. With several labels a video, it is the sigmoid of the mean of ``log(p / (1 - p))``.
    A probability of 0 or 1 in float32 has no finite logit, so the nearest one that has is used.

    Args:
        scores: ``(..., V, K)`` probabilities of K classes.
        how: what is averaged.
        multi_label: whether the scores come from a sigmoid, not from a softmax.
        weights: ``(V,)``; their sum does not matter. None gives all the same weight.
    """
    p = np.asarray(scores, dtype=np.float64)
    if how == "scores":
        return np.asarray(np.average(p, axis=-2, weights=weights))
    p = np.maximum(p, SMALLEST)
    if multi_label:
        p = np.minimum(p, LARGEST)
        mean = np.average(np.log(p) - np.log1p(-p), axis=-2, weights=weights)
        return np.asarray(1 / (1 + np.exp(-mean)))
    mean = np.average(np.log(p), axis=-2, weights=weights)
    odds = np.exp(mean - mean.max(axis=-1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=-1, keepdims=True))
