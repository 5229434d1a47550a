"""The order of class-balanced training. Pure NumPy; no file is opened.

N is the number of videos of the split, K the number of its classes that have videos.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.random_numbers import BALANCE, ORDER, derived_keys, key, shuffled
from preprocess.shards import Split


@dataclass(frozen=True)
class BalancedOrder:
    """An order in which each epoch has N clips, equally many of each class.

    The videos of a class take turns: each one is drawn once before any of them is drawn again, also
    from epoch to epoch. Videos without a label are left out.
    """

    seed: int
    num_videos: int
    """N, the number of positions of an epoch."""
    videos: np.ndarray
    """Videos with a label, sorted by class."""
    starts: np.ndarray
    """``(K + 1,)`` where each class starts in `videos`, and its length."""

    def visits(self, epoch: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the videos at ``positions`` of an epoch, and how often each was drawn before.

        Only the draws of this epoch count. Positions are in 0 ... N-1. The result depends on
        (seed, epoch, position) alone.
        """
        K = len(self.starts) - 1
        # Mix the positions, then deal them to the classes in turn: class c gets the mixed positions
        # c, K + c, 2K + c and so on, which are its draws 0, 1, 2 of this epoch.
        mixed = shuffled(positions, self.num_videos, key(self.seed, ORDER, epoch))
        label = mixed % K
        per_epoch = (self.num_videos - label + K - 1) // K

        # Count the draws of the class since the first epoch. A round visits each of its videos
        # once, in an order that is shuffled by the class and the round.
        draw = epoch * per_epoch + mixed // K
        size = np.diff(self.starts)[label]
        round_ = draw // size
        keys = derived_keys(key(self.seed, BALANCE), round_ * K + label)
        place = shuffled(draw % size, size, keys)
        clips = self.videos[self.starts[label] + place]
        return clips, round_ - epoch * per_epoch // size


def balanced_order(split: Split, seed: int) -> BalancedOrder:
    """Return the balanced order of a split whose videos have at most one label."""
    labels = first_labels(split)
    videos = np.argsort(labels, kind="stable")
    videos = videos[np.count_nonzero(labels < 0) :]
    starts = np.flatnonzero(np.diff(labels[videos], prepend=-1))
    return BalancedOrder(seed, split.num_videos, videos, np.append(starts, len(videos)))


def first_labels(split: Split) -> np.ndarray:
    """Return the first label of each video, ``(N,)``, -1 for a video without a label."""
    first = split.videos["first_label"]
    has_label = np.diff(first, append=len(split.labels)) > 0
    labels = np.full(split.num_videos, -1, np.int64)
    labels[has_label] = split.labels[first[has_label]]
    return labels
