"""What a finished dataset holds, and what in it would disappoint a training run."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from preprocess.shards import DatasetInfo, Split, open_split, read_info

SMALL_CLASS = 10
"""A class with fewer training videos than this is called small."""
IMBALANCED = 10.0
"""From this ratio of the largest to the smallest class on, a summary warns."""
MAX_CLASSES = 40
"""Number of classes that a summary lists; the others are counted."""
MAX_NAMES = 5
"""Number of classes or pairs of videos that a warning names."""


@dataclass(frozen=True)
class Summary:
    """Counts of a dataset, and warnings about it."""

    info: DatasetInfo
    counts: np.ndarray
    """`(K, splits)` number of videos of each class in each split."""
    warnings: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """Yield the table of classes and the warnings."""
        splits = list(self.info.splits)
        names = [_cut(name) for name in self.info.classes[:MAX_CLASSES]]
        width = max([5, *map(len, names)])
        yield f"{'class':{width}}" + "".join(f"  {split:>6}" for split in splits)
        for name, row in zip(names, self.counts, strict=False):
            columns = "".join(
                f"  {count:{max(6, len(split))}}" for split, count in zip(splits, row, strict=True)
            )
            yield f"{name:{width}}{columns}"
        if len(self.info.classes) > MAX_CLASSES:
            yield f"... and {len(self.info.classes) - MAX_CLASSES} more classes"
        totals = ", ".join(f"{count} in {split}" for split, count in self.info.splits.items())
        num_classes = len(self.info.classes)
        yield f"{num_classes} {'class' if num_classes == 1 else 'classes'}; videos: {totals}"
        for warning in self.warnings:
            yield f"warning: {warning}"


def summarize(folder: str | Path) -> Summary:
    """Return the counts of a dataset and warnings about it.

    Raises:
        ShardError: dataset.yaml or a table is missing or damaged.
    """
    info = read_info(folder)
    splits = [open_split(folder, name) for name in info.splits]
    counts = np.zeros((len(info.classes), len(splits)), np.int64)
    for column, split in enumerate(splits):
        counts[:, column] = np.bincount(split.labels, minlength=len(info.classes))
    warnings = [*_class_warnings(info, counts), *_repeats(splits)]
    return Summary(info, counts, tuple(warnings))


def _class_warnings(info: DatasetInfo, counts: np.ndarray) -> Iterator[str]:
    """Yield what is wrong with the classes of each split, and with the splits themselves."""
    names = list(info.splits)
    if len(info.classes) < 2 and not info.multi_label:
        yield "there is only one class, so there is nothing to learn; training rejects this dataset"
    if len(names) < 2:
        yield (
            f"{names[0]} is the only split; training also needs one to evaluate on. Shard with"
            " shard.held_out=0.2, or add a column split to the labels"
        )
    if "train" not in names:
        yield f"there is no split train; set data.train_split to one of {', '.join(names)}"
        return
    train = counts[:, names.index("train")]
    present = train[train > 0]
    if len(present) and present.max() >= IMBALANCED * present.min():
        yield (
            f"the classes are imbalanced: {present.max()} videos of"
            f" {info.classes[int(train.argmax())]!r} against {present.min()} of"
            f" {info.classes[int(np.where(train > 0, train, train.max()).argmin())]!r}"
        )
    small = [
        name for name, count in zip(info.classes, train, strict=True) if 0 < count < SMALL_CLASS
    ]
    if small:
        yield f"{_listed(small, 'classes')} fewer than {SMALL_CLASS} videos in train"
    for column, split in enumerate(names):
        has_labels = counts[:, column].any()
        absent = [name for name, n in zip(info.classes, counts[:, column], strict=True) if not n]
        if absent and has_labels:
            yield f"{_listed(absent, 'classes')} no video in {split}"


def _repeats(splits: Sequence[Split]) -> Iterator[str]:
    """Yield videos of equal content that are in two splits or under two labels."""
    same: defaultdict[bytes, list[tuple[int, int]]] = defaultdict(list)
    for number, split in enumerate(splits):
        for row, digest in enumerate(_digests(split)):
            same[digest].append((number, row))
    groups = [places for places in same.values() if len(places) > 1]
    if not groups:
        return
    sources = [_sources(split) for split in splits]
    in_two_splits = []
    with_two_labels = []
    for places in groups:
        (first, row), *others = places
        labels = splits[first].labels_of(row)
        for other, other_row in others:
            pair = (
                f"{sources[first][row]} ({splits[first].name}) and {sources[other][other_row]}"
                f" ({splits[other].name})"
            )
            if other != first:
                in_two_splits.append(pair)
            if not np.array_equal(labels, splits[other].labels_of(other_row)):
                with_two_labels.append(pair)
    for pairs, problem in (
        (in_two_splits, "in two splits, which makes results look better than they are"),
        (with_two_labels, "under two labels"),
    ):
        if pairs:
            shown = "; ".join(pairs[:MAX_NAMES])
            more = f"; and {len(pairs) - MAX_NAMES} more" if len(pairs) > MAX_NAMES else ""
            yield f"the same video is {problem} ({len(pairs)} pairs): {shown}{more}"


def _digests(split: Split) -> Iterator[bytes]:
    """Yield a digest of the frames of each video: of their sizes and CRCs, in order."""
    for video in split.videos:
        start = int(video["first_frame"])
        frames = split.frames[start : start + int(video["num_frames"])]
        content = frames["crc32"].tobytes() + frames["size"].tobytes()
        yield hashlib.blake2b(content, digest_size=16).digest()


def _sources(split: Split) -> list[str]:
    path = split.folder / f"{split.name}.csv"
    table = pd.read_csv(path, usecols=["source"], dtype=str, keep_default_na=False)
    return table["source"].tolist()


def _listed(names: Sequence[str], noun: str) -> str:
    """Return `3 classes (a, b, c) have` with at most `MAX_NAMES` names."""
    shown = ", ".join(map(_cut, names[:MAX_NAMES]))
    if len(names) == 1:
        return f"class {shown} has"
    more = ", ..." if len(names) > MAX_NAMES else ""
    return f"{len(names)} {noun} ({shown}{more}) have"


def _cut(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:39]}…"
