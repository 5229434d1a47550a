"""Which videos a dataset has, with labels, splits and keys. No video is opened here."""

import csv
import difflib
import hashlib
import json
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from configs.load import ConfigError
from configs.schema import ShardSettings
from preprocess.tars import KEY

VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv .flv .3gp .ogv .ts .gif".split()
)
COLUMNS = ("path", "labels", "split", "key", "group", "reverse")
SPLIT_FOLDERS = frozenset(("train", "val", "validation", "test"))


class AnnotationError(ConfigError):
    """Annotations that cannot be used; says which file and line, and what was expected."""


@dataclass(frozen=True)
class Video:
    """A video that is to be stored, as the annotations describe it."""

    path: str
    """Where it lies, from the source folder on, with `/`."""
    labels: tuple[str, ...]
    """Names of classes; may be empty."""
    split: str
    """Name of its split; empty while it is not yet decided."""
    key: str
    """Its name in the dataset, unique in the split."""
    group: str = ""
    """Videos of one class and group stay in one split; empty is a group of its own file."""
    reverse: bool = False
    """Store the frames from last to first."""


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
    """Return the videos that the settings name: a labels CSV, or a folder per class.

    Raises:
        AnnotationError: file and line, what was found, what was expected.
    """
    source = Path(settings.source).expanduser()
    if not settings.source or not source.is_dir():
        raise AnnotationError(f"shard.source {settings.source!r} is no folder of videos")
    if settings.labels:
        videos = read_labels(Path(settings.labels).expanduser())
    else:
        videos = read_folders(source)
    videos = hold_out(videos, settings)
    if settings.format == "direction":
        videos = forwards_and_backwards(videos)
    elif settings.format:
        raise AnnotationError(f"shard.format {settings.format!r} is unknown; there is direction")
    return checked(videos, settings)


def read_labels(path: Path) -> list[Video]:
    """Return the rows of a labels CSV: path,labels,split[,key][,group][,reverse].

    Raises:
        AnnotationError: the line, what was found, what was expected.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True, restkey="")
            _check_columns(path, rows.fieldnames or [])
            return [_read_row(f"{path.name}:{rows.line_num}", row) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AnnotationError(f"{path}: {error}") from None


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


def default_key(path: str) -> str:
    """Return a key made of a path: other characters become `_`, a long one ends in its hash."""
    stem = str(PurePosixPath(path).with_suffix(""))
    key = re.sub(r"[^A-Za-z0-9_-]", "_", stem)
    if len(key) <= 80:  # leaves room for `-reversed`
        return key
    return f"{key[-70:]}-{hashlib.sha256(path.encode(errors='surrogateescape')).hexdigest()[:9]}"


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


def checked(videos: Sequence[Video], settings: ShardSettings) -> Annotations:
    """Return complete annotations, the classes in alphabetical order.

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
    _check_labels(videos, settings)
    return Annotations(
        tuple(videos), tuple(sorted({label for video in videos for label in video.labels}))
    )


def _check_columns(path: Path, found: Sequence[str]) -> None:
    for name in found:
        if name not in COLUMNS:
            close = difflib.get_close_matches(name, COLUMNS, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise AnnotationError(
                f"{path.name}: unknown column {name!r}{hint} There are {', '.join(COLUMNS)}"
            )
    missing = [name for name in COLUMNS[:3] if name not in found]
    if missing:
        raise AnnotationError(
            f"{path.name}: column {missing[0]} is missing, the first line must name"
            " path,labels,split[,key][,group][,reverse]"
        )


def _read_row(where: str, row: dict[str, str | None]) -> Video:
    if "" in row or None in row.values():
        raise AnnotationError(f"{where}: the line has more or fewer fields than the first line")
    path = _checked_path(where, row["path"])
    split, reverse = row["split"].strip(), row.get("reverse", "").strip().lower()
    if split and not re.fullmatch("[A-Za-z0-9_-]+", split):
        raise AnnotationError(f"{where}: split {split!r} may have only A-Z a-z 0-9 _ and -")
    if reverse not in ("", "true", "false"):
        raise AnnotationError(f"{where}: reverse {reverse!r} must be true, false or empty")
    labels = [label.strip() for label in row["labels"].split(";") if label.strip()]
    key = row.get("key", "").strip() or default_key(path) + "-reversed" * (reverse == "true")
    group = row.get("group", "").strip()
    return Video(path, tuple(dict.fromkeys(labels)), split, key, group, reverse == "true")


def _checked_path(where: str, text: str) -> str:
    """Return a normal path; it may follow links that stand in the source folder, but no `..`."""
    path = PurePosixPath(text.strip())
    if path.is_absolute() or ".." in path.parts:
        raise AnnotationError(f"{where}: path {text!r} leaves the source folder")
    if not path.parts or "\0" in text:
        raise AnnotationError(f"{where}: path {text!r} names no video")
    return str(path)


def _check_labels(videos: Sequence[Video], settings: ShardSettings) -> None:
    known = {label for video in videos if video.split == "train" for label in video.labels}
    labelled = {video.split for video in videos if video.labels}
    has_train = any(video.split == "train" for video in videos)
    for video in videos:
        unknown = [label for label in video.labels if label not in known]
        if has_train and unknown:
            raise AnnotationError(
                f"{video.path}: label {unknown[0]!r} of split {video.split} is no class: no video"
                " of split train has it"
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
