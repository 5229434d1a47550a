"""Which videos a dataset has, with labels, splits and keys. No video is opened here."""

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
    """All videos of a dataset, complete and checked."""

    videos: tuple[Video, ...]
    classes: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Return the sha256 of videos and classes."""
        rows = [list(vars(video).values()) for video in self.videos]
        return hashlib.sha256(json.dumps([self.classes, rows]).encode()).hexdigest()


def read_annotations(settings: ShardSettings) -> Annotations:
    """Return the videos that the settings name: a labels CSV, a format, or a folder per class.

    Raises:
        AnnotationError: file and line, what was found, what was expected.
    """
    source = Path(settings.source).expanduser()
    if not settings.source or not source.is_dir():
        raise AnnotationError(f"shard.source {settings.source!r} is no folder of videos")
    classes, own = (), settings.format in ("", "direction")
    if not own:
        videos, classes = read_format(settings)
    elif settings.labels:
        videos = read_labels(Path(settings.labels).expanduser())
    else:
        videos = read_folders(source)
    videos = hold_out(videos, settings)
    if settings.format == "direction":
        videos = forwards_and_backwards(videos)
    return checked(videos, settings, classes)


def read_folders(source: Path) -> list[Video]:
    """Return the videos and frame folders of a folder per class.

    Where the folders at the top are all called train, val, validation or test, they are splits.
    """
    top = _subfolders(source)
    if top and SPLIT_FOLDERS.issuperset(top):
        classes = [
            (split, f"{split}/{name}") for split in top for name in _subfolders(source / split)
        ]
    else:
        classes = [("", name) for name in top]
    videos = []
    for split, folder in classes:
        label = PurePosixPath(folder).name
        for entry in sorted(os.scandir(source / folder), key=lambda entry: entry.name):
            is_video = Path(entry.name).suffix.lower() in VIDEO_SUFFIXES
            if not entry.name.startswith(".") and (is_video or entry.is_dir()):
                path = f"{folder}/{entry.name}"
                videos.append(Video(path, (label,), split, default_key(path)))
    if not videos:
        raise AnnotationError(f"{source} has no videos in folders of classes: CLASS/VIDEO.mp4")
    return videos


def hold_out(videos: Sequence[Video], settings: ShardSettings) -> list[Video]:
    """Give videos without a split to train, and a share of each class's groups to val.

    A class of one group stays in train. Where a video may have several labels, groups are
    counted over all videos instead of class by class.
    """
    groups = defaultdict(set)
    for video in videos:
        if not video.split:
            groups[_class_of(video, settings)].add(video.group or video.path)
    held = set()
    for name, members in sorted(groups.items()):
        count = round(settings.held_out * len(members))
        if settings.held_out and len(members) > 1:
            count = min(max(count, 1), len(members) - 1)
            order = random.Random(f"{settings.seed} {name}")
            held |= {(name, group) for group in order.sample(sorted(members), count)}
    return [
        video if video.split else replace(video, split=_split_of(video, held, settings))
        for video in videos
    ]


def forwards_and_backwards(videos: Iterable[Video]) -> list[Video]:
    """Return each video twice, as it is and reversed, labelled by nothing but that.

    No single frame tells the classes apart. Both stand in the same split.
    """
    result = []
    for video in videos:
        result.append(replace(video, labels=("forwards",)))
        key = f"{video.key}-reversed"
        result.append(replace(video, labels=("backwards",), key=key, reverse=not video.reverse))
    return result


def checked(
    videos: Sequence[Video], settings: ShardSettings, classes: Sequence[str] = ()
) -> Annotations:
    """Return complete annotations; classes that are not given stand in alphabetical order.

    Raises:
        AnnotationError: keys that are taken or impossible, labels that are too many or missing.
    """
    if not videos:
        raise AnnotationError("the annotations name no video")
    keys = Counter((video.split, video.key) for video in videos)
    for video in videos:
        if not KEY.fullmatch(video.key):
            raise AnnotationError(
                f"{video.path}: key {video.key!r} may have 1 to 90 of A-Z a-z 0-9 _ and -"
            )
        if keys[video.split, video.key] > 1:
            same = [other.path for other in videos if other.key == video.key]
            raise AnnotationError(
                f"split {video.split}: {' and '.join(same[:2])} have one key, {video.key};"
                " give each its own in column key"
            )
        if len(video.labels) > 1 and not settings.multi_label:
            raise AnnotationError(
                f"{video.path} has {len(video.labels)} labels; set shard.multi_label=true"
            )
    _check_labels(videos, settings, classes)
    classes = classes or sorted({label for video in videos for label in video.labels})
    return Annotations(tuple(videos), tuple(classes))


def _check_labels(videos: Sequence[Video], settings: ShardSettings, classes: Sequence[str]) -> None:
    trained = {label for video in videos if video.split == "train" for label in video.labels}
    labelled = {video.split for video in videos if video.labels}
    has_train = any(video.split == "train" for video in videos)
    known = set(classes) or trained
    for video in videos:
        unknown = [label for label in video.labels if label not in known]
        if unknown and (has_train or classes):
            why = "the list of classes lacks it" if classes else "no video of split train has it"
            raise AnnotationError(
                f"{video.path}: label {unknown[0]!r} of split {video.split} is no class: {why}"
            )
        if not video.labels and video.split in labelled and not settings.multi_label:
            raise AnnotationError(
                f"{video.path} has no label, but other videos of split {video.split} do"
            )


def _class_of(video: Video, settings: ShardSettings) -> str:
    return "" if settings.multi_label else ";".join(video.labels)


def _split_of(video: Video, held: set[tuple[str, str]], settings: ShardSettings) -> str:
    group = (_class_of(video, settings), video.group or video.path)
    return "val" if group in held else "train"


def _subfolders(folder: Path) -> list[str]:
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_dir() and not entry.name.startswith(".")
    )
