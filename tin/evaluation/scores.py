"""The files of a test, written and read here: scores.npz, predictions.csv and result.json."""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import pandas as pd

from configs.errors import TinError
from configs.files import atomic_file, remove_leftovers, sync_folder, write_text
from configs.small_files import DamagedFileError, read_json
from preprocess.csv_files import harmless
from tin.evaluation import metrics
from tin.evaluation.array_files import read_arrays
from tin.evaluation.averages import Average, average
from tin.evaluation.opposites import opposites, pair_accuracy

SCORES = "scores.npz"
PREDICTIONS = "predictions.csv"
RESULT = "result.json"
LEFTOVER_AGE_S = 24 * 3600.0  # a temporary file this old belongs to a writer that was killed


class ScoresError(TinError, ValueError):
    """Scores or results cannot be used; the message names the folder and the reason."""

    is_final = True


@dataclass(frozen=True)
class Scores:
    """The scores that a model gives K classes on N videos in V views."""

    keys: list[str]
    """Key of each video."""
    labels: np.ndarray
    """int64 ``(N,)``, -1 where unknown. With several labels a video: uint8 multi-hot ``(N, K)``."""
    scores: np.ndarray
    """float32 ``(N, V, K)`` after softmax or sigmoid."""
    classes: tuple[str, ...]
    """Names of the classes."""
    average: Average = "scores"
    """How the views of a video are averaged."""
    groups: np.ndarray | None = None
    """uint64 ``(N,)``, equal for the videos of a group, such as those of one person. None: the
    dataset, or the version that wrote the scores, does not store groups."""

    def __post_init__(self) -> None:
        """Check that all scores are finite: comparisons with NaN would rank its label first.

        Raises:
            ScoresError: a score is NaN or infinite; names the first video with such a score.
        """
        # The sum of a view is finite if all its scores are, and it needs little memory.
        bad = ~np.isfinite(self.scores.sum(axis=-1, dtype=np.float64)).all(axis=-1)
        if bad.any():
            first = int(bad.argmax())
            raise ScoresError(
                f"{int(bad.sum())} of {len(self.keys)} videos have scores that are NaN or infinite;"
                f" the first is {self.keys[first]}. The model or its input is broken; such scores"
                " are not ranked."
            )

    @property
    def mean(self) -> np.ndarray:
        """Scores averaged over the views, float64 ``(N, K)``."""
        return average(self.scores, self.average, self.multi_label)

    @property
    def multi_label(self) -> bool:
        """Whether a video may have several labels."""
        return self.labels.ndim == 2

    @property
    def labeled(self) -> np.ndarray:
        """Whether each video has a label, bool ``(N,)``."""
        if self.multi_label:
            return np.asarray(self.labels.any(axis=1))
        return self.labels >= 0


def summarize(scores: Scores) -> dict[str, float]:
    """Return all metrics by name, as fractions, over the videos that have a label.

    With one label a video: ``top1``, ``top5`` and ``mean_class``, and ``pair``, the accuracy within
    pairs of opposite classes, if there are such pairs. With several labels: ``map_class`` and
    ``map_sample``. ``loss`` is the (binary) cross entropy of the averaged scores in nats. All are
    NaN if no video has a label.
    """
    labeled = scores.labeled
    mean = scores.mean[labeled]
    labels = scores.labels[labeled]
    if scores.multi_label:
        measures = {
            "map_class": metrics.map_class(mean, labels),
            "map_sample": metrics.map_sample(mean, labels),
        }
    else:
        measures = {
            "top1": metrics.top_k(mean, labels, 1),
            "top5": metrics.top_k(mean, labels, 5),
            "mean_class": metrics.mean_class_accuracy(mean, labels),
        }
        pairs = opposites(scores.classes)
        if pairs:
            measures["pair"] = pair_accuracy(mean, labels, pairs)
    entropies = -np.log(likelihoods(mean, labels))
    measures["loss"] = float(entropies.mean()) if labeled.any() else math.nan
    return measures


def likelihoods(mean: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the probability that scores ``(N, K)`` give to the true labels, always above zero.

    The shape is ``(N,)`` with one label a video, and ``(N * K,)`` with multi-hot labels, where each
    class counts by itself.
    """
    if labels.ndim == 2:
        true = np.where(labels > 0, mean, 1 - mean).reshape(-1)
    else:
        true = mean[np.arange(len(mean)), labels]
    return np.maximum(true, np.finfo(np.float32).tiny)


def save(folder: Path, scores: Scores, result: dict[str, Any]) -> None:
    """Write the three files of a test.

    result.json is removed first and written last, so its presence means that the other two are
    complete. It holds ``result``, how views are averaged, and the metrics of `summarize`, null
    where a metric is NaN.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT).unlink(missing_ok=True)
    sync_folder(folder)
    remove_leftovers(folder, before=time.time() - LEFTOVER_AGE_S)
    _save_arrays(folder / SCORES, scores)
    write_text(folder / PREDICTIONS, predictions(scores).to_csv(index=False))
    measures = {name: _none_if_nan(value) for name, value in summarize(scores).items()}
    content = {**result, "average": scores.average, "metrics": measures}
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_text(folder / RESULT, text)


def predictions(scores: Scores) -> pd.DataFrame:
    """Return one row a video: key, labels, top1, score of top1, and rank of the best label.

    Ranks count from 1, and equal scores rank in the order of the classes. A video without a label
    has no rank.
    """
    mean = scores.mean
    classes = np.array(scores.classes, dtype=object)
    order = np.argsort(-mean, axis=1, kind="stable")
    ranks = np.argsort(order, axis=1) + 1
    if scores.multi_label:
        truth = scores.labels > 0
    else:
        truth = scores.labels[:, None] == np.arange(len(classes))
    best_rank = np.where(truth, ranks, len(classes) + 1).min(axis=1)
    return pd.DataFrame(
        {
            "key": scores.keys,
            "labels": [harmless(";".join(classes[row])) for row in truth],
            "top1": [harmless(name) for name in classes[order[:, 0]]],
            "score": np.take_along_axis(mean, order[:, :1], axis=1)[:, 0].round(6),
            "label_rank": pd.Series(best_rank, dtype="Int64").where(scores.labeled),
        }
    )


def load(folder: Path) -> Scores:
    """Read the scores of a folder, and from its result.json how its views are averaged.

    Raises:
        ScoresError: scores.npz is missing, damaged, or has other arrays than `save` writes; or
            result.json is damaged.
    """
    path = folder / SCORES
    try:
        (keys, labels, scores, classes), groups = _read_arrays(path)
    except FileNotFoundError:
        raise ScoresError(f"{path} does not exist; run `tin test` to create it") from None
    except Exception as error:  # numpy and zipfile raise many types for a damaged file
        raise ScoresError(
            f"{path} is not a valid scores file ({type(error).__name__}: {error}); run `tin test`"
            " to write it again"
        ) from None
    N = len(keys)
    K = len(classes)
    if scores.ndim != 3 or scores.shape[::2] != (N, K) or scores.dtype != np.float32:
        raise ScoresError(
            f"{path}: scores are {scores.dtype} {scores.shape}, expected float32 ({N}, views, {K})"
        )
    if labels.shape not in ((N,), (N, K)) or labels.dtype.kind not in "iu":
        raise ScoresError(
            f"{path}: labels are {labels.dtype} {labels.shape},"
            f" expected integers of shape ({N},) or ({N}, {K})"
        )
    lowest, highest = (0, 1) if labels.ndim == 2 else (-1, K - 1)
    if N and (labels.min() < lowest or labels.max() > highest):
        raise ScoresError(
            f"{path}: labels lie between {labels.min()} and {labels.max()}, expected {lowest} to"
            f" {highest}"
        )
    if groups is not None and (groups.shape != (N,) or groups.dtype != np.uint64):
        raise ScoresError(
            f"{path}: groups are {groups.dtype} {groups.shape}, expected uint64 ({N},)"
        )
    average_of = _average_of(folder)
    try:
        return Scores(keys.tolist(), labels, scores, tuple(classes.tolist()), average_of, groups)
    except ScoresError as error:
        raise ScoresError(f"{path}: {error}") from None


def load_result(folder: Path) -> dict[str, Any]:
    """Read result.json of a folder.

    Raises:
        ScoresError: the file is missing, because the test did not finish, or it is damaged.
    """
    path = folder / RESULT
    try:
        return read_json(path)
    except FileNotFoundError:
        raise ScoresError(
            f"{path} does not exist, so the test did not finish; run `tin test` again"
        ) from None
    except DamagedFileError as error:
        raise ScoresError(f"{error}; run `tin test` to write it again") from None


def _read_arrays(path: Path) -> tuple[list[np.ndarray], np.ndarray | None]:
    """Return keys, labels, scores and classes, and the groups if there are any, of a file.

    Raises:
        Exception: the file is damaged.
    """
    names = ("keys", "labels", "scores", "classes")
    found = read_arrays(path, names, optional=("groups",))
    arrays = [found[name] for name in names]
    keys, _, _, classes = arrays
    for array, name in ((keys, "keys"), (classes, "classes")):
        if array.dtype.kind != "U" or array.ndim != 1:
            raise ValueError(f"{name} are {array.dtype} {array.shape}, expected a list of texts")
    if len(np.unique(keys)) != len(keys):
        raise ValueError("a key occurs twice")
    return arrays, found.get("groups")


def _average_of(folder: Path) -> Average:
    """Return how the views of a test are averaged. Tests of version 0.1 averaged scores."""
    found = load_result(folder).get("average", "scores") if (folder / RESULT).exists() else "scores"
    if found not in get_args(Average):
        raise ScoresError(
            f"{folder / RESULT}: average is {found}, expected one of {', '.join(get_args(Average))}"
        )
    return cast(Average, found)


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value


def _save_arrays(path: Path, scores: Scores) -> None:
    arrays: dict[str, Any] = {
        "keys": np.asarray(scores.keys),
        "labels": scores.labels,
        "scores": scores.scores,
        "classes": np.asarray(scores.classes),
    }
    # Earlier versions read arrays by their names, so they can read a file with groups.
    if scores.groups is not None:
        arrays["groups"] = scores.groups
    with atomic_file(path) as file:
        np.savez(file, **arrays)
