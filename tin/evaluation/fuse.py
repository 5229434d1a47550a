"""Combines the scores of several models; writes the files that challenges ask for."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tin.evaluation.scores import Scores, ScoresError, likelihoods, load, load_result, save

MAX_ITERATIONS = 1000
SMALLEST_CHANGE = 1e-7


def fuse_tests(
    folders: Sequence[Path],
    out: Path,
    weights: Sequence[float] | None = None,
    fit: Sequence[Path] | None = None,
) -> dict:
    """Write the weighted mean of the scores of several tests to ``out``; return its result.

    Args:
        folders: below ``RUN/tests``, all of the same videos and classes.
        out: gets scores.npz, predictions.csv and result.json like a test.
        weights: one a folder, of any sum; even where neither these nor ``fit`` are given.
        fit: one folder a model, in the order of ``folders``, of another split that has labels:
            the weights that suit it best are used.

    Raises:
        ScoresError: videos, classes or numbers of folders differ.
    """
    parts = [load(folder) for folder in folders]
    if weights is not None and fit is not None:
        raise ScoresError("weights are given or fitted, not both")
    if fit is not None:
        if len(fit) != len(folders):
            raise ScoresError(f"{len(folders)} tests need as many to fit on, found {len(fit)}")
        fitted = [load(folder) for folder in fit]
        if fitted[0].classes != parts[0].classes:
            raise ScoresError(f"{fit[0]} has other classes than {folders[0]}")
        weights = fit_weights(fitted)
    elif weights is None:
        weights = np.ones(len(parts))
    fused = fuse(parts, weights)
    result = {
        "fused": [str(folder) for folder in folders],
        "weights": [float(weight) for weight in weights / np.sum(weights)],
        "fitted_on": [str(folder) for folder in fit or ()],
        "num_videos": len(fused.keys),
    }
    save(out, fused, result)
    return load_result(out)


def fuse(parts: Sequence[Scores], weights: Sequence[float]) -> Scores:
    """Return the weighted mean of scores averaged over views, as one view.

    Raises:
        ScoresError: videos or classes differ, or the weights cannot be used.
    """
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (len(parts),) or not (weights >= 0).all() or not 0 < weights.sum() < np.inf:
        raise ScoresError(
            f"{len(parts)} tests need as many weights, none below 0 and not all 0;"
            f" found {weights.tolist()}"
        )
    means = np.stack([part.mean for part in _aligned(parts)])
    mean = np.tensordot(weights / weights.sum(), means, axes=1)
    first = parts[0]
    return Scores(first.keys, first.labels, mean[:, None].astype(np.float32), first.classes)


def fit_weights(parts: Sequence[Scores]) -> np.ndarray:
    """Return the weights, of sum 1, whose weighted mean gives the labels the highest likelihood.

    The problem is convex; this is its expectation maximization.

    Source: mixture proportions, Dempster, Laird and Rubin, J. R. Stat. Soc. B 39, 1977, 4.3.
    """
    labeled = parts[0].labeled
    if not labeled.any():
        raise ScoresError("weights cannot be fitted: no video has a label")
    labels = parts[0].labels[labeled]
    means = [part.mean[labeled] for part in _aligned(parts)]
    chosen = np.stack([likelihoods(mean, labels) for mean in means])
    weights = np.full(len(parts), 1 / len(parts))
    for _ in range(MAX_ITERATIONS):
        shares = weights[:, None] * chosen
        new = (shares / shares.sum(axis=0)).mean(axis=1)
        change = np.abs(new - weights).max()
        weights = new
        if change < SMALLEST_CHANGE:
            break
    return weights


def write_submission(scores: Scores, path: Path, top: int = 5) -> None:
    """Write the ``top`` classes of each video, best first, as challenges ask for them.

    ``.csv``: ``key;class;class...`` without a header, as Something-Something and Moments in Time
    (with other separators) have it. ``.json``: label and score of each, in the form of the
    Kinetics challenge of ActivityNet.

    Raises:
        ScoresError: another suffix.
    """
    mean = scores.mean
    order = np.argsort(-mean, axis=1, kind="stable")[:, :top]
    names = np.array(scores.classes, dtype=object)[order]
    if path.suffix == ".csv":
        rows = pd.DataFrame(names, index=scores.keys)
        rows.to_csv(path, sep=";", header=False)
    elif path.suffix == ".json":
        best = np.take_along_axis(mean, order, axis=1)
        results = {
            key: [
                {"label": name, "score": round(float(p), 6)} for name, p in zip(*row, strict=True)
            ]
            for key, *row in zip(scores.keys, names, best, strict=True)
        }
        submission = {"version": "KINETICS VERSION 1.0", "results": results, "external_data": {}}
        path.write_text(json.dumps(submission, indent=1) + "\n", encoding="utf-8")
    else:
        raise ScoresError(f"a submission is a .csv or a .json file, found {path}")


def _aligned(parts: Sequence[Scores]) -> list[Scores]:
    """Return the parts with their videos in the order of the first."""
    first = parts[0]
    result = []
    for number, part in enumerate(parts, start=1):
        row_of = {key: row for row, key in enumerate(part.keys)}
        missing = [key for key in first.keys if key not in row_of]
        if missing or len(part.keys) != len(first.keys):
            named = f", such as {missing[0]}" if missing else ""
            raise ScoresError(
                f"test {number} has {len(part.keys)} videos and the first {len(first.keys)};"
                f" {len(missing)} of the first are not in it{named}"
            )
        if part.classes != first.classes:
            raise ScoresError(f"test {number} has other classes than the first")
        rows = [row_of[key] for key in first.keys]
        if not np.array_equal(part.labels[rows], first.labels):
            raise ScoresError(f"test {number} has other labels than the first")
        result.append(Scores(first.keys, first.labels, part.scores[rows], part.classes))
    return result
