"""Scores of a test on disk: scores.npz, predictions.csv and result.json, written and read here."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from configs.errors import TinError
from tin.evaluation import metrics
from tin.evaluation.opposites import opposites, pair_accuracy

SCORES, PREDICTIONS, RESULT = "scores.npz", "predictions.csv", "result.json"
ARRAYS = ("keys", "labels", "scores", "classes")


class ScoresError(TinError, ValueError):
    """A folder of scores that cannot be used; says which and why."""

    is_final = True


@dataclass(frozen=True)
class Scores:
    """What a model says of N videos in V views about K classes."""

    keys: list[str]
    """Key of each video."""
    labels: np.ndarray
    """int64 ``(N,)``, -1 where unknown; several labels a video: uint8 multi-hot ``(N, K)``."""
    scores: np.ndarray
    """float32 ``(N, V, K)`` after softmax or sigmoid."""
    classes: tuple[str, ...]
    """Names of the classes."""

    @property
    def mean(self) -> np.ndarray:
        """Scores averaged over the views, float64 ``(N, K)``."""
        return self.scores.mean(axis=1, dtype=np.float64)

    @property
    def multi_label(self) -> bool:
        """Whether a video may have several labels."""
        return self.labels.ndim == 2

    @property
    def labeled(self) -> np.ndarray:
        """Whether each video has a label, bool ``(N,)``."""
        return self.labels.any(axis=1) if self.multi_label else self.labels >= 0


def summarize(scores: Scores) -> dict[str, float]:
    """Return every metric by name, as a fraction, over the videos that have a label.

    One label a video: ``top1``, ``top5``, ``mean_class``. Several: ``map_class``, ``map_sample``.
    Where classes come in pairs of opposites, ``pair`` is the accuracy within the pair. ``loss`` is
    the (binary) cross entropy of the averaged scores, in nats. NaN where no video has a label.
    """
    known, pairs = scores.labeled, opposites(scores.classes)
    mean, labels = scores.mean[known], scores.labels[known]
    if scores.multi_label:
        named = {
            "map_class": metrics.map_class(mean, labels),
            "map_sample": metrics.map_sample(mean, labels),
        }
    else:
        named = {
            "top1": metrics.top_k(mean, labels, 1),
            "top5": metrics.top_k(mean, labels, 5),
            "mean_class": metrics.mean_class_accuracy(mean, labels),
        }
        if pairs:
            named["pair"] = pair_accuracy(mean, labels, pairs)
    named["loss"] = float(-np.log(likelihoods(mean, labels)).mean()) if known.any() else math.nan
    return named


def likelihoods(mean: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the probability that scores ``(N, K)`` give to what is true, never quite zero.

    Shape ``(N,)`` for one label a video; for multi-hot labels ``(N * K,)``, each class by itself.
    """
    if labels.ndim == 2:
        chosen = np.where(labels > 0, mean, 1 - mean).reshape(-1)
    else:
        chosen = mean[np.arange(len(mean)), labels]
    return np.maximum(chosen, np.finfo(np.float32).tiny)


def save(folder: Path, scores: Scores, result: dict[str, Any]) -> None:
    """Write the three files; result.json comes last and says that the others are complete.

    ``result`` gets the metrics of `summarize`, null where one is not known.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT).unlink(missing_ok=True)
    arrays = {name: np.asarray(getattr(scores, name)) for name in ARRAYS}
    _write(folder / SCORES, lambda path: _save_arrays(path, arrays))
    _write(folder / PREDICTIONS, lambda path: predictions(scores).to_csv(path, index=False))
    measures = {name: _known(value) for name, value in summarize(scores).items()}
    text = json.dumps({**result, "metrics": measures}, indent=2, allow_nan=False) + "\n"
    _write(folder / RESULT, lambda path: path.write_text(text, encoding="utf-8"))


def predictions(scores: Scores) -> pd.DataFrame:
    """Return one row a video: key, labels, top1, score of top1, rank of the best label.

    Ranks count from 1; equal scores rank in the order of the classes. No label, no rank.
    """
    mean, classes = scores.mean, np.array(scores.classes, dtype=object)
    order = np.argsort(-mean, axis=1, kind="stable")
    ranks = np.argsort(order, axis=1) + 1
    truth = scores.labels > 0 if scores.multi_label else _one_hot(scores.labels, len(classes))
    best = np.where(truth, ranks, len(classes) + 1).min(axis=1)
    return pd.DataFrame(
        {
            "key": scores.keys,
            "labels": [";".join(classes[row]) for row in truth],
            "top1": classes[order[:, 0]],
            "score": np.take_along_axis(mean, order[:, :1], axis=1)[:, 0].round(6),
            "label_rank": pd.Series(best, dtype="Int64").where(scores.labeled),
        }
    )


def load(folder: Path) -> Scores:
    """Read the scores of a folder.

    Raises:
        ScoresError: there are none, or the file is not one of ours.
    """
    path = folder / SCORES
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ARRAYS}
    except FileNotFoundError:
        raise ScoresError(f"{folder} holds no {SCORES}; make it with `tin test`") from None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ScoresError(f"{path} is no file of scores: {error}") from None
    keys, labels, scores, classes = arrays.values()
    N, K = len(keys), len(classes)
    if scores.ndim != 3 or scores.shape[::2] != (N, K) or scores.dtype != np.float32:
        raise ScoresError(
            f"{path}: scores are {scores.dtype} {scores.shape}, expected float32 ({N}, views, {K})"
        )
    if labels.shape not in ((N,), (N, K)) or labels.dtype.kind not in "iu":
        raise ScoresError(f"{path}: labels are {labels.dtype} {labels.shape}, expected ({N},)")
    return Scores(keys.tolist(), labels, scores, tuple(classes.tolist()))


def load_result(folder: Path) -> dict[str, Any]:
    """Read result.json of a folder.

    Raises:
        ScoresError: there is none, which means that the test did not end, or it is damaged.
    """
    path = folder / RESULT
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ScoresError(f"{folder} holds no {RESULT}: its test did not end") from None
    except (OSError, ValueError) as error:
        raise ScoresError(f"{path} cannot be read: {error}") from None
    if not isinstance(result, dict):
        raise ScoresError(f"{path}: an object is expected, found {type(result).__name__}")
    return result


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _one_hot(labels: np.ndarray, num_classes: int) -> np.ndarray:
    return labels[:, None] == np.arange(num_classes)


def _save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file aside and rename it, so that a reader sees all of it or none."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    write(aside)
    aside.replace(path)
