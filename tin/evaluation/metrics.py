"""What scores are worth. N videos, K classes; all results are fractions, not percent."""

import numpy as np


def label_ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the place of each video's label among its scores ``(N, K)``: 0 is the best score.

    Of equal scores the lower class comes first. The place of a label -1 is -1.
    """
    known = np.maximum(labels, 0)
    own = np.take_along_axis(scores, known[:, None], axis=1)
    earlier = np.arange(scores.shape[1]) < known[:, None]
    ranks = ((scores > own) | ((scores == own) & earlier)).sum(axis=1)
    return np.where(labels < 0, -1, ranks)


def top_k(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Return the share of videos whose label is among the k best of its scores ``(N, K)``.

    Videos with label -1 are left out; without any other the result is nan.
    """
    ranks = label_ranks(scores, labels)[labels >= 0]
    return float(np.mean(ranks < k)) if len(ranks) else float("nan")


def mean_class_accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean over classes of the share of a class's videos with the best score right.

    Classes without a video are left out.
    """
    known = labels >= 0
    right = label_ranks(scores, labels)[known] == 0
    videos = np.bincount(labels[known], minlength=scores.shape[1])
    hits = np.bincount(labels[known], weights=right, minlength=scores.shape[1])
    present = videos > 0
    return float(np.mean(hits[present] / videos[present])) if present.any() else float("nan")


def map_class(scores: np.ndarray, targets: np.ndarray) -> float:
    """Return the mean over classes of the average precision of ranking the videos.

    Args:
        scores: ``(N, K)``.
        targets: ``(N, K)``, nonzero where a video has a class. Classes without a video are left
            out; without any other the result is nan.
    """
    return _mean_average_precision(scores.T, targets.T)


def map_sample(scores: np.ndarray, targets: np.ndarray) -> float:
    """Return the mean over videos of the average precision of ranking the classes.

    It is what the original prints as mAP. Videos without a class are left out.
    """
    return _mean_average_precision(scores, targets)


def _mean_average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    targets = np.asarray(targets) > 0
    present = targets.any(axis=1)
    if not present.any():
        return float("nan")
    return float(np.mean(_average_precision(np.asarray(scores)[present], targets[present])))


def _average_precision(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return for each row the mean, over its positives, of the precision at their score.

    Equal scores form one threshold, so that their order does not matter (as in scikit-learn).
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    scores = np.take_along_axis(scores, order, axis=1)
    hits = np.take_along_axis(targets, order, axis=1)
    num_ranked = scores.shape[1]
    last = np.full(scores.shape, num_ranked - 1)  # where the run of equal scores ends
    last[:, :-1] = np.where(scores[:, :-1] > scores[:, 1:], np.arange(num_ranked - 1), last[:, :-1])
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    found = np.take_along_axis(np.cumsum(hits, axis=1), last, axis=1)
    return (found / (last + 1) * hits).sum(axis=1) / hits.sum(axis=1)
