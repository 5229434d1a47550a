"""The videos of a dataset, with labels, splits and keys. No video is opened here."""

import hashlib
import json
import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from configs.schema import ShardSettings
from preprocess.annotations.formats import read_format
from preprocess.annotations.labels import AnnotationError, Video, default_key, read_labels
from preprocess.tars import KEY

VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv .flv .3gp .ogv .ts .gif".split()
)
SPLIT_FOLDERS = frozenset(("train", "val", "validation", "test"))


@dataclass(frozen=True)
class Annotations:
    """All videos and classes of a dataset, complete and checked."""

    videos: tuple[Video, ...]
    classes: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Return the SHA-256 of videos and classes."""
        rows = [list(vars(video).values()) for video in self.videos]
        return hashlib.sha256(json.dumps([self.classes, rows]).encode()).hexdigest()


def read_annotations(settings: ShardSettings) -> Annotations:
    """Return the videos that the settings name: from a labels CSV, a format, or class folders.

    Raises:
        AnnotationError: names file and line, what was found and what was expected.
    """
    source = Path(settings.source).expanduser()
    if not settings.source or not source.is_dir():
        raise AnnotationError(f"shard.source {settings.source!r} is not a folder")
    classes: Sequence[str] = ()
    if settings.format not in ("", "direction"):
        videos, classes = read_format(settings)
    elif settings.labels:
        videos = read_labels(Path(settings.labels).expanduser())
    else:
        videos = read_folders(source)
    videos = hold_out(videos, settings)
    if settings.format == "direction":
        videos = forwards_and_backwards(videos)
    return _annotations(videos, settings, classes)


def read_folders(source: Path) -> list[Video]:
    """Return the videos and frame folders in a source that has one folder per class.

    If all folders at the top are named train, val, validation or test, they are the splits, and
    the folders of the classes are inside them.

    Raises:
        AnnotationError: there are no videos.
    """
    top = _subfolders(source)
    if top and SPLIT_FOLDERS.issuperset(top):
        class_folders = [
            (split, f"{split}/{name}") for split in top for name in _subfolders(source / split)
        ]
    else:
        class_folders = [("", name) for name in top]
    videos = []
    for split, folder in class_folders:
        label = PurePosixPath(folder).name
        for entry in sorted(os.scandir(source / folder), key=lambda entry: entry.name):
            is_video = Path(entry.name).suffix.lower() in VIDEO_SUFFIXES
            if not entry.name.startswith(".") and (is_video or entry.is_dir()):
                path = f"{folder}/{entry.name}"
                videos.append(Video(path, (label,), split, default_key(path)))
    if not videos:
        raise AnnotationError(
            f"{source} contains no videos in folders of classes (CLASS/VIDEO.mp4); give a labels"
            " CSV or a format if the videos are stored in another way"
        )
    return videos


def hold_out(videos: Sequence[Video], settings: ShardSettings) -> list[Video]:
    """Assign each video without a split to val or to train.

    In each class, the fraction `held_out` of the groups becomes val: none if it is 0, otherwise at
    least one group but never all. A class with a single group stays in train. With `multi_label`,
    groups are drawn from all videos together instead of class by class.
    """
    # Collect the groups of each class.
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for video in videos:
        if not video.split:
            groups[_class_of(video, settings)].add(video.group or video.path)
    # Draw the groups of val, seeded by the class, so that classes do not affect each other.
    held: set[tuple[str, str]] = set()
    for name, members in sorted(groups.items()):
        count = round(settings.held_out * len(members))
        if settings.held_out and len(members) > 1:
            count = min(max(count, 1), len(members) - 1)
            generator = random.Random(f"{settings.seed} {name}")
            held |= {(name, group) for group in generator.sample(sorted(members), count)}
    return [
        video if video.split else replace(video, split=_split_of(video, held, settings))
        for video in videos
    ]


def forwards_and_backwards(videos: Iterable[Video]) -> list[Video]:
    """Return each video twice: as it is, and reversed. The direction is the only label.

    No single frame tells the two classes apart. Both copies are in the same split.
    """
    result = []
    for video in videos:
        result.append(replace(video, labels=("forwards",)))
        key = f"{video.key}-reversed"
        result.append(replace(video, labels=("backwards",), key=key, reverse=not video.reverse))
    return result


def _annotations(
    videos: Sequence[Video], settings: ShardSettings, classes: Sequence[str]
) -> Annotations:
    """Return checked annotations; without `classes`, the labels are classes in alphabetical order.

    Raises:
        AnnotationError: there are no videos, or keys or labels are wrong.
    """
    if not videos:
        raise AnnotationError("the annotations contain no videos")
    _check_keys(videos)
    _check_labels(videos, settings, classes)
    classes = classes or sorted({label for video in videos for label in video.labels})
    return Annotations(tuple(videos), tuple(classes))


def _check_keys(videos: Sequence[Video]) -> None:
    """Raise an error for a key that is malformed, or not unique within its split."""
    counts = Counter((video.split, video.key) for video in videos)
    for video in videos:
        if not KEY.fullmatch(video.key):
            raise AnnotationError(
                f"{video.path}: key {video.key!r} must have 1 to 90 characters, all of them"
                " A-Z a-z 0-9 _ or -"
            )
        if counts[video.split, video.key] > 1:
            same = [other.path for other in videos if other.key == video.key]
            raise AnnotationError(
                f"split {video.split}: {' and '.join(same[:2])} have the same key, {video.key};"
                " give each its own in column key"
            )


def _check_labels(videos: Sequence[Video], settings: ShardSettings, classes: Sequence[str]) -> None:
    """Raise an error for a video with too many labels, an unknown label, or no label.

    A video without a label is an error only if other videos of its split have labels. The known
    labels are `classes`, or those of split train if no classes are given.
    """
    trained = {label for video in videos if video.split == "train" for label in video.labels}
    labelled = {video.split for video in videos if video.labels}
    has_train = any(video.split == "train" for video in videos)
    known = set(classes) or trained
    for video in videos:
        if len(video.labels) > 1 and not settings.multi_label:
            raise AnnotationError(
                f"{video.path} has {len(video.labels)} labels; set shard.multi_label=true"
            )
        unknown = [label for label in video.labels if label not in known]
        if unknown and (has_train or classes):
            where = "the list of classes" if classes else "the labels of split train"
            raise AnnotationError(
                f"{video.path}: label {unknown[0]!r} of split {video.split} is not in {where}"
            )
        if not video.labels and video.split in labelled and not settings.multi_label:
            raise AnnotationError(
                f"{video.path} has no label, but other videos of split {video.split} have one"
            )


def _class_of(video: Video, settings: ShardSettings) -> str:
    """Return the class whose groups are held out together; empty with several labels per video."""
    return "" if settings.multi_label else ";".join(video.labels)


def _split_of(video: Video, held: set[tuple[str, str]], settings: ShardSettings) -> str:
    group = (_class_of(video, settings), video.group or video.path)
    return "val" if group in held else "train"


def _subfolders(folder: Path) -> list[str]:
    """Return the names of the visible folders in a folder, sorted."""
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_dir() and not entry.name.startswith(".")
    )
