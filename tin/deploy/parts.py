"""A part of the predictions: some consecutive videos, written atomically and checked when read.

N videos, V views, K classes, k best classes, D features.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from configs.errors import TinError
from configs.files import atomic_file
from tin.evaluation.array_files import read_arrays


class PartError(TinError):
    """A part of the predictions is damaged or missing; the message says which file to remove."""

    is_final = True


@dataclass(frozen=True)
class Part:
    """The predictions of some consecutive videos. Videos that cannot be used have no row."""

    rows: np.ndarray
    """int64 ``(N,)`` places in the list of videos, in order."""
    best: np.ndarray
    """int64 ``(N, k)`` best classes, best first."""
    best_scores: np.ndarray
    """float64 ``(N, k)`` their scores, averaged over the views."""
    label_ranks: np.ndarray
    """int64 ``(N,)`` rank of the best label of each video from 0; -1 without a label."""
    precisions: np.ndarray
    """float64 ``(N,)`` average precision of ranking each video's labels; NaN without a label."""
    scores: np.ndarray
    """float32 ``(N, V, K)`` all scores, or ``(N, 0, 0)`` if they are not asked for."""
    features: np.ndarray
    """float16 ``(N, D)`` pooled input of the classifier, or ``(N, 0)``."""
    bad_rows: np.ndarray
    """int64: places of videos with problems."""
    bad_predicted: np.ndarray
    """bool: whether these videos are predicted all the same."""
    bad_reasons: np.ndarray
    """Text: the problem of each."""


ARRAYS = {
    "rows": ("i", 1),
    "best": ("i", 2),
    "best_scores": ("f", 2),
    "label_ranks": ("i", 1),
    "precisions": ("f", 1),
    "scores": ("f", 3),
    "features": ("f", 2),
    "bad_rows": ("i", 1),
    "bad_predicted": ("b", 1),
    "bad_reasons": ("U", 1),
}
"""Kind of the type, and number of dimensions, of each array of a part."""


def part_path(folder: Path, number: int) -> Path:
    """Return the file of a part."""
    return folder / "parts" / f"part-{number:06d}.npz"


def save_part(path: Path, part: Part) -> None:
    """Write a part atomically."""
    with atomic_file(path) as file:
        np.savez(file, **{field.name: getattr(part, field.name) for field in fields(Part)})


def load_part(path: Path) -> Part:
    """Read a part; its checksums are compared.

    Raises:
        PartError: the file is missing or damaged.
    """
    try:
        part = Part(**read_arrays(path, [field.name for field in fields(Part)]))
        _check_part(part)
    except Exception as error:  # numpy and zipfile raise many types for a damaged file
        raise unusable(path, error) from None
    return part


def unusable(path: Path, reason: object) -> PartError:
    """Return the error for a part that cannot be used."""
    return PartError(
        f"{path} cannot be read ({reason}); remove it and run the same command again to compute"
        " this part again"
    )


def _check_part(part: Part) -> None:
    """Raise ValueError if an array of a part has another type or size, or scores are not finite."""
    for name, (kind, num_dims) in ARRAYS.items():
        array = getattr(part, name)
        length = len(part.bad_rows if name.startswith("bad") else part.rows)
        if array.dtype.kind != kind or array.ndim != num_dims or len(array) != length:
            raise ValueError(f"{name} are {array.dtype} {array.shape}, which does not fit")
    if part.best.shape != part.best_scores.shape:
        raise ValueError(f"best are {part.best.shape}, best_scores {part.best_scores.shape}")
    if not (np.isfinite(part.best_scores).all() and np.isfinite(part.scores).all()):
        raise ValueError("a score is NaN or infinite")
    if np.isinf(part.precisions).any():
        raise ValueError("an average precision is infinite")
