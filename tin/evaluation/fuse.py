"""Fused scores of several models, and submission files for challenges."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from configs.files import write_text
from tin.evaluation.averages import Average, average
from tin.evaluation.scores import Scores, ScoresError, likelihoods, load, load_result, save

MAX_ITERATIONS = 1000
SMALLEST_CHANGE = 1e-7


def fuse_tests(
    folders: Sequence[Path],
    out: Path,
    weights: Sequence[float] | None = None,
    fit: Sequence[Path] | None = None,
    how: Average | None = None,
) -> dict[str, Any]:
    """Write the weighted mean of the scores of several tests to ``out``; return its result.

    Without ``weights`` and ``fit``, all tests have the same weight.

    Args:
        folders: folders below ``RUN/tests``, all of the same videos and classes.
        out: folder that receives scores.npz, predictions.csv and result.json, as a test has them.
        weights: one weight per folder; their sum does not matter.
        fit: tests of the same models, in the order of ``folders``, on another split that has
            labels. The weights with the highest likelihood on that split are used.
        how: what is averaged, over the views of a test and over the tests: scores or logits. None
            does as the tests did.

    Raises:
        ScoresError: videos or classes differ, or the number of weights or of tests to fit on does;
            or the tests average their views in different ways and ``how`` is None.
    """
    parts = [load(folder) for folder in folders]
    how = how or _average_of_all(folders, parts)
    if fit is not None and how == "logits":
        raise ScoresError(
            "weights can be fitted only for averages of scores, and this is an average of logits;"
            " fuse with --average scores, or give the weights"
        )
    chosen = _choose_weights(folders, parts, weights, fit)
    fused = fuse(parts, chosen, how)
    result = {
        "fused": [str(folder) for folder in folders],
        "weights": [float(weight) for weight in chosen / chosen.sum()],
        "fitted_on": [str(folder) for folder in fit or ()],
        "num_videos": len(fused.keys),
    }
    save(out, fused, result)
    return load_result(out)


def fuse(
    parts: Sequence[Scores], weights: Sequence[float] | np.ndarray, how: Average = "scores"
) -> Scores:
    """Return the weighted mean of the scores, each averaged over its views first, as one view.

    ``how`` says whether scores or logits are averaged, over the views and over the parts.

    Raises:
        ScoresError: videos or classes differ, or the weights cannot be used.
    """
    w = np.asarray(weights, dtype=np.float64)
    if w.shape != (len(parts),) or not (w >= 0).all() or not 0 < w.sum() < np.inf:
        raise ScoresError(
            f"fusing {len(parts)} tests takes {len(parts)} finite weights, none of them negative"
            f" and at least one above 0; found {w.tolist()}"
        )
    first = parts[0]
    aligned = _aligned(parts)
    means = [average(part.scores, how, first.multi_label) for part in aligned]
    mean = average(np.stack(means, axis=1), how, first.multi_label, w)
    known = [part.groups for part in aligned if part.groups is not None]
    return replace(
        first,
        scores=mean[:, None].astype(np.float32),
        average=how,
        groups=known[0] if known else None,
    )


def fit_weights(parts: Sequence[Scores]) -> np.ndarray:
    """Return the weights of sum 1 whose weighted mean gives the labels the highest likelihood.

    The problem is convex; expectation maximization solves it.

    Source: mixture proportions, Dempster, Laird and Rubin, J. R. Stat. Soc. B 39, 1977, 4.3.
    """
    labeled = parts[0].labeled
    if not labeled.any():
        raise ScoresError("cannot fit weights: no video has a label in the tests to fit on")
    labels = parts[0].labels[labeled]
    means = [part.mean[labeled] for part in _aligned(parts)]

    # The likelihood that each model gives to the label of each video, (models, videos).
    likelihood = np.stack([likelihoods(mean, labels) for mean in means])

    weights = np.full(len(parts), 1 / len(parts))
    for _ in range(MAX_ITERATIONS):
        # Expectation: the share of each model in the likelihood of each video.
        shares = weights[:, None] * likelihood
        shares /= shares.sum(axis=0)

        # Maximization: the weight of a model is its mean share.
        updated = shares.mean(axis=1)
        change = np.abs(updated - weights).max()
        weights = updated
        if change < SMALLEST_CHANGE:
            break
    return weights


def write_submission(scores: Scores, path: Path, top: int = 5) -> None:
    """Write the ``top`` classes of each video, best first, in a format that challenges accept.

    A ``.csv`` file has rows ``key;class;class...`` without a header, as Something-Something and
    (with other separators) Moments in Time expect. A ``.json`` file holds labels with scores in the
    format of the Kinetics challenge of ActivityNet.

    Raises:
        ScoresError: the suffix is neither of the two.
    """
    mean = scores.mean
    order = np.argsort(-mean, axis=1, kind="stable")[:, :top]
    names = np.array(scores.classes, dtype=object)[order]
    if path.suffix == ".csv":
        rows = pd.DataFrame(names, index=scores.keys)
        write_text(path, rows.to_csv(sep=";", header=False))
    elif path.suffix == ".json":
        best = np.take_along_axis(mean, order, axis=1)
        results = {
            key: [
                {"label": name, "score": round(float(score), 6)}
                for name, score in zip(names[row], best[row], strict=True)
            ]
            for row, key in enumerate(scores.keys)
        }
        submission = {"version": "KINETICS VERSION 1.0", "results": results, "external_data": {}}
        write_text(path, json.dumps(submission, indent=1) + "\n")
    else:
        raise ScoresError(f"cannot write the submission {path}: its name must end in .csv or .json")


def _choose_weights(
    folders: Sequence[Path],
    parts: Sequence[Scores],
    weights: Sequence[float] | None,
    fit: Sequence[Path] | None,
) -> np.ndarray:
    """Return the given weights, those fitted on the tests ``fit``, or equal ones."""
    if weights is not None and fit is not None:
        raise ScoresError("weights can be either given or fitted, not both; leave one of them out")
    if weights is not None:
        return np.asarray(weights, dtype=np.float64)
    if fit is None:
        return np.ones(len(parts))
    if len(fit) != len(folders):
        raise ScoresError(
            f"fitting the weights of {len(folders)} tests takes as many tests of another split,"
            f" one of each model; found {len(fit)}"
        )
    fitted = [load(folder) for folder in fit]
    if fitted[0].classes != parts[0].classes:
        raise ScoresError(f"{fit[0]} has other classes than {folders[0]}")
    return fit_weights(fitted)


def _average_of_all(folders: Sequence[Path], parts: Sequence[Scores]) -> Average:
    """Return how all tests average their views; raise ScoresError if they differ."""
    for folder, part in zip(folders, parts, strict=True):
        if part.average != parts[0].average:
            raise ScoresError(
                f"{folders[0]} averages {parts[0].average} over its views and {folder} averages"
                f" {part.average}; choose one for all tests with --average scores or logits"
            )
    return parts[0].average


def _aligned(parts: Sequence[Scores]) -> list[Scores]:
    """Return the parts with their videos in the order of the first part."""
    first = parts[0]
    result = []
    for number, part in enumerate(parts, start=1):
        row_of = {key: row for row, key in enumerate(part.keys)}
        missing = [key for key in first.keys if key not in row_of]
        if missing or len(part.keys) != len(first.keys):
            example = f", for example {missing[0]}" if missing else ""
            raise ScoresError(
                f"test {number} has {len(part.keys)} videos and test 1 has {len(first.keys)};"
                f" {len(missing)} videos of test 1 are not in test {number}{example}"
            )
        if part.classes != first.classes:
            raise ScoresError(f"test {number} has other classes than test 1")
        rows = [row_of[key] for key in first.keys]
        if not np.array_equal(part.labels[rows], first.labels):
            raise ScoresError(f"test {number} has other labels than test 1")
        groups = None if part.groups is None else part.groups[rows]
        scores = part.scores[rows]
        result.append(
            replace(part, keys=first.keys, labels=first.labels, scores=scores, groups=groups)
        )
    return result
