"""Cross-validation: the folds of a training split, whose groups stay together.

N is the number of videos of the split.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from configs.data_schema import DataSettings
from configs.load import ConfigError
from pipeline.balance import first_labels
from preprocess.shards import Split, open_split

FOLD = "fold"
"""The name of the held-out fold in `data.test_split`."""


def open_part(folder: str | Path, split: str, data: DataSettings, *, training: bool) -> Split:
    """Return the tables of a split, or of its part that `data.folds` and `data.fold` select.

    With folds, training sees `data.train_split` without the held-out fold, and `FOLD` is the name
    of that fold. All other splits are whole.

    Raises:
        ConfigError: the dataset does not have the split, does not store groups, or has fewer groups
            than folds.
        ShardError: a table is missing, truncated or of another type.
    """
    whole = open_split(folder, stored_split(split, data))
    is_part = data.folds and (split == FOLD or (training and split == data.train_split))
    if not is_part:
        return whole
    folds = fold_numbers(whole, data.folds)
    held_out = folds == data.fold
    return subset(whole, np.flatnonzero(held_out if split == FOLD else ~held_out))


def stored_split(split: str, data: DataSettings) -> str:
    """Return the split of the dataset that holds the videos of a split of the settings."""
    return data.train_split if data.folds and split == FOLD else split


def fold_numbers(split: Split, folds: int) -> np.ndarray:
    """Return the fold of each video, ``(N,)`` in 0 ... folds-1.

    The folds depend on the dataset alone. They have equally many groups, and the groups of each
    class are spread evenly over them. A group belongs to the class of most of its videos.

    Raises:
        ConfigError: the dataset does not store groups, or has fewer groups than folds.
    """
    groups = split.required_groups(f"data.folds={folds}")
    names, group = np.unique(groups, return_inverse=True)
    if len(names) < folds:
        raise ConfigError(
            f"{split.folder}: split {split.name} has {len(names)} groups, which data.folds {folds}"
            f" cannot divide; set data.folds={len(names)} or less"
        )
    # Find the class of most videos of each group; of equally frequent ones, the first.
    pairs, counts = np.unique(
        np.stack([group, first_labels(split)], axis=1), axis=0, return_counts=True
    )
    order = np.lexsort((pairs[:, 1], -counts, pairs[:, 0]))
    is_first = np.diff(pairs[order, 0], prepend=-1) > 0
    label = pairs[order[is_first], 1]
    # Deal the groups to the folds in turn, class by class. Their numbers are hashes of their names,
    # so the order within a class is random.
    fold = np.empty(len(names), np.int64)
    fold[np.lexsort((names, label))] = np.arange(len(names)) % folds
    return fold[group]


def subset(split: Split, rows: np.ndarray) -> Split:
    """Return the tables of some videos of a split, ``rows`` in ascending order.

    The table of frames stays as it is, because each video says where its frames are.
    """
    first = np.asarray(split.videos["first_label"])
    counts = np.diff(first, append=len(split.labels))[rows]
    ends = np.cumsum(counts)
    # Row i of the new labels is label i - (ends - counts) of its video.
    label = np.repeat(first[rows] - (ends - counts), counts) + np.arange(counts.sum())
    videos = split.videos[rows]
    videos["first_label"] = ends - counts
    groups = None if split.groups is None else split.groups[rows]
    return replace(
        split, videos=videos, labels=split.labels[label], groups=groups, whole=split, rows=rows
    )
