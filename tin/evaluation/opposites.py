"""Pairs of classes whose names are opposites, such as left and right, and accuracy within them."""

import math
import re
from collections.abc import Sequence

import numpy as np

OPPOSITE_WORDS = (
    ("left", "right"),
    ("up", "down"),
    ("in", "out"),
    ("forwards", "backwards"),
    ("forward", "backward"),
    ("clockwise", "counter-clockwise"),
    ("clockwise", "counterclockwise"),
    ("grow", "shrink"),
    ("growing", "shrinking"),
    ("open", "close"),
    ("opening", "closing"),
)


def opposites(classes: Sequence[str]) -> list[tuple[int, int]]:
    """Return the pairs of class indices whose names differ only in opposite words."""
    index = {name: i for i, name in enumerate(classes)}
    pairs = set()
    for word, opposite in OPPOSITE_WORDS:
        swap = {word: opposite, opposite: word}
        for name, i in index.items():
            j = index.get(_swapped(name, swap), i)
            if i != j:
                pairs.add((min(i, j), max(i, j)))
    return sorted(pairs)


def pair_accuracy(
    scores: np.ndarray, labels: np.ndarray, pairs: Sequence[tuple[int, int]]
) -> float:
    """Return how often the right class of a pair of opposites has the higher score.

    The metric tells how well a model sees the direction of a motion whose axis is given.

    Args:
        scores: ``(N, K)`` class probabilities.
        labels: int ``(N,)``.
        pairs: class indices; videos of other classes are left out.

    Returns:
        A fraction in which a tie counts as half; NaN if no video belongs to a pair.
    """
    # Map each class to its opposite, and classes without one to -1.
    opposite = np.full(scores.shape[1], -1)
    for i, j in pairs:
        opposite[i] = j
        opposite[j] = i

    # Compare the scores of the label and of its opposite on the videos of paired classes.
    rows = np.flatnonzero((labels >= 0) & (opposite[labels] >= 0))
    if not len(rows):
        return math.nan
    right = scores[rows, labels[rows]]
    wrong = scores[rows, opposite[labels[rows]]]
    return float(((right > wrong) + 0.5 * (right == wrong)).mean())


def _swapped(name: str, swap: dict[str, str]) -> str:
    """Replace whole words and keep a capital first letter."""

    def other(match: re.Match[str]) -> str:
        word = match[0]
        found = swap.get(word.lower(), word)
        return found.capitalize() if word[0].isupper() and found != word else found

    return re.sub(r"[A-Za-z]+(?:-[A-Za-z]+)*", other, name)
