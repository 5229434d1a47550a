"""The videos of a dataset, with labels, splits and keys. No video is opened here."""

import hashlib
import json
import logging
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from configs.schema import ShardSettings
from preprocess.annotations.class_folders import read_folders
from preprocess.annotations.formats import read_format
from preprocess.annotations.labels import AnnotationError, Video, read_labels
from preprocess.tars import KEY

log = logging.getLogger(__name__)

QUARANTINE = "quarantine"
"""Not a name for a split, because its table would be the list of bad videos, quarantine.csv."""
HELD_OUT = 0.2
"""Fraction of the groups of each class that is held out if no video has a split."""


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
        videos = read_labels(Path(settings.labels).expanduser(), source)
    else:
        videos = read_folders(source)
    videos = hold_out(videos, settings)
    if settings.format == "direction":
        videos = forwards_and_backwards(videos)
    return _annotations(videos, settings, classes)


def hold_out(videos: Sequence[Video], settings: ShardSettings) -> list[Video]:
    """Assign each video without a split to val or to train.

    In each class, the fraction `held_out` of the groups becomes val: none if it is 0, otherwise at
    least one group but never all. A class with a single group stays in train. A group that
    several classes have is in one split. With `multi_label`, groups are drawn from all videos
    together instead of class by class.
    """
    fraction = _fraction(videos, settings)
    # Collect the groups of each class, and the classes of each group.
    groups: defaultdict[str, set[str]] = defaultdict(set)
    classes: defaultdict[str, set[str]] = defaultdict(set)
    for video in videos:
        if not video.split:
            name = _class_of(video, settings)
            groups[name].add(_group_of(video))
            classes[_group_of(video)].add(name)
    held: set[str] = set()

    def can_hold(group: str) -> bool:
        """Whether each class of a group has another group left for training."""
        return group not in held and all(len(groups[name] - held) > 1 for name in classes[group])

    # Draw the groups of val, seeded by the class, so that classes do not affect each other.
    for name, members in sorted(groups.items()):
        if not fraction or len(members) < 2:
            continue
        generator = random.Random(f"{settings.seed} {name}")
        wanted = min(max(round(fraction * len(members)), 1), len(members) - 1)
        missing = wanted - len(members & held)
        while missing > 0 and (candidates := sorted(filter(can_hold, members))):
            for group in generator.sample(candidates, min(missing, len(candidates))):
                if can_hold(group):
                    held.add(group)
                    missing -= 1
    result = [
        video
        if video.split
        else replace(video, split="val" if _group_of(video) in held else "train")
        for video in videos
    ]
    if settings.held_out is None and fraction:
        _log_held_out(result)
    return result


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
    _check_names(videos)
    _check_keys(videos)
    _check_labels(videos, settings, classes)
    classes = classes or sorted({label for video in videos for label in video.labels})
    return Annotations(tuple(videos), tuple(classes))


def _check_names(videos: Sequence[Video]) -> None:
    """Raise an error for a split or a class that cannot be the name of a file or in a text file."""
    for video in videos:
        if video.split == QUARANTINE:
            raise AnnotationError(
                f"{video.path}: split {QUARANTINE} has the name of the list of bad videos; rename"
                " the split"
            )
        for label in video.labels:
            try:
                label.encode("utf-8")
            except UnicodeEncodeError:
                raise AnnotationError(
                    f"{video.path}: class {label!a} is not valid Unicode; save the file as UTF-8"
                ) from None


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


def _group_of(video: Video) -> str:
    """Return what stays together in one split: the group of a video, or the video alone."""
    return video.group or video.path


def _fraction(videos: Sequence[Video], settings: ShardSettings) -> float:
    """Return the fraction to hold out: the setting, or a fifth if no video has a split."""
    if settings.held_out is not None:
        return settings.held_out
    return 0.0 if any(video.split for video in videos) else HELD_OUT


def _log_held_out(videos: Sequence[Video]) -> None:
    """Say that a part of the videos was held out, and how to choose another one."""
    count = sum(video.split == "val" for video in videos)
    kind = "groups" if any(video.group for video in videos) else "videos"
    log.info(
        "no split is given: %d of %d videos are held out as split val, a fifth of the %s of each"
        " class. To choose, set shard.held_out=0.3, or add a column split to the labels.",
        count,
        len(videos),
        kind,
    )
