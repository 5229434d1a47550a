"""Metrics of scores against labels, as fractions. N videos, K classes."""

import numpy as np


def label_ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the rank of each video's label among its scores ``(N, K)``; 0 is the best score.

    Among equal scores the lower class comes first. The rank of label -1 is -1.
    """
    classes = np.maximum(labels, 0)[:, None]
    own = np.take_along_axis(scores, classes, axis=1)
    earlier = np.arange(scores.shape[1]) < classes
    ranks = ((scores > own) | ((scores == own) & earlier)).sum(axis=1)
    return np.where(labels < 0, -1, ranks)


def top_k(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Return the share of videos whose label is among the k best of their scores ``(N, K)``.

    Videos with label -1 are left out. The result is NaN if no video has a label.
    """
    ranks = label_ranks(scores, labels)[labels >= 0]
    return float(np.mean(ranks < k)) if len(ranks) else float("nan")


def mean_class_accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean over classes of the top-1 accuracy on the videos of that class.

    Classes without a video are left out. The result is NaN if no video has a label.
    """
    labeled = labels >= 0
    right = label_ranks(scores, labels)[labeled] == 0
    num_videos = np.bincount(labels[labeled], minlength=scores.shape[1])
    num_right = np.bincount(labels[labeled], weights=right, minlength=scores.shape[1])
    present = num_videos > 0
    if not present.any():
        return float("nan")
    return float(np.mean(num_right[present] / num_videos[present]))


def map_class(scores: np.ndarray, targets: np.ndarray) -> float:
    """Return the mean over classes of the average precision of ranking the videos.

    Args:
        scores: ``(N, K)``.
        targets: ``(N, K)``, nonzero where a video has a class. Classes without a video are left
            out; the result is NaN if no class has one.
    """
    return _mean_average_precision(scores.T, targets.T)


def map_sample(scores: np.ndarray, targets: np.ndarray) -> float:
    """Return the mean over videos of the average precision of ranking the classes.

    The original code prints this value as mAP. Videos without a class are left out.
    """
    return _mean_average_precision(scores, targets)


def _mean_average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    targets = np.asarray(targets) > 0
    present = targets.any(axis=1)
    if not present.any():
        return float("nan")
    return float(np.mean(average_precision(np.asarray(scores)[present], targets[present])))


def average_precision(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return for each row the mean, over its positives, of the precision at their score.

    Equal scores form one threshold, so their order does not matter (as in scikit-learn).
    """
    # Sort each row from the best score to the worst, and its targets with it.
    order = np.argsort(-scores, axis=1, kind="stable")
    scores = np.take_along_axis(scores, order, axis=1)
    hits = np.take_along_axis(targets, order, axis=1)

    # For each place, find the last place that has the same score. A place whose successor is
    # smaller is the last of its ties; a minimum from the right carries it back to the others.
    num_ranked = scores.shape[1]
    last = np.full(scores.shape, num_ranked - 1)
    is_last = scores[:, :-1] > scores[:, 1:]
    last[:, :-1] = np.where(is_last, np.arange(num_ranked - 1), num_ranked - 1)
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]

    # The precision at a threshold is the share of positives among the places down to `last`.
    num_found = np.take_along_axis(np.cumsum(hits, axis=1), last, axis=1)
    precision = num_found / (last + 1)

    # Average the precision over the places that hold a positive.
    return (precision * hits).sum(axis=1) / hits.sum(axis=1)
