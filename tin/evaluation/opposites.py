"""Classes that come in pairs of opposites, found by their names: left and right, open and close."""

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
    """Return the pairs of class indices whose names differ in opposite words only."""
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
    """Return how often the right one of two opposite classes has the higher score.

    What is left to tell where the pair is given: the direction of a motion whose axis is known.

    Args:
        scores: ``(N, K)`` class probabilities.
        labels: int ``(N,)``.
        pairs: class indices; videos of other classes are left out.

    Returns:
        A fraction; a tie counts as half. NaN where no video is of a pair.
    """
    other = np.full(scores.shape[1], -1)
    for i, j in pairs:
        other[i], other[j] = j, i
    rows = np.flatnonzero((labels >= 0) & (other[labels] >= 0))
    if not len(rows):
        return math.nan
    right, wrong = scores[rows, labels[rows]], scores[rows, other[labels[rows]]]
    return float(((right > wrong) + 0.5 * (right == wrong)).mean())


def _swapped(name: str, swap: dict[str, str]) -> str:
    """Replace whole words, letter case of their first letter kept."""

    def other(match: re.Match) -> str:
        word = match[0]
        found = swap.get(word.lower(), word)
        return found.capitalize() if word[0].isupper() and found != word else found

    return re.sub(r"[A-Za-z]+(?:-[A-Za-z]+)*", other, name)
