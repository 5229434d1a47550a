"""The description of a video in annotations, and the labels CSV."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from preprocess.annotations.label_file import AnnotationError, LabelRow, read_label_rows

MAX_DEFAULT_KEY = 80  # characters, of the 90 that a key may have: leaves room for `-reversed`


@dataclass(frozen=True)
class Video:
    """A video to be stored, as the annotations describe it."""

    path: str
    """Path relative to the source folder, with `/` between folders."""
    labels: tuple[str, ...]
    """Names of its classes; may be empty."""
    split: str
    """Name of its split; empty if it is not decided yet."""
    key: str
    """Name in the dataset, unique within the split."""
    group: str = ""
    """Videos of the same class and group stay in one split. Empty: the video is its own group."""
    reverse: bool = False
    """Store the frames from last to first."""


def read_labels(path: Path, source: Path) -> list[Video]:
    """Return the videos of a labels file, whose columns `read_label_rows` describes.

    Args:
        path: the file.
        source: the folder that paths start in; an absolute path must lie inside it.

    Raises:
        AnnotationError: the file cannot be read, or a line has errors; says what was expected.
    """
    return [_read_row(row, source) for row in read_label_rows(path)]


def default_key(path: str) -> str:
    """Return a key made from a path: `_` replaces other characters, a hash shortens a long path."""
    stem = str(PurePosixPath(path).with_suffix(""))
    key = re.sub(r"[^A-Za-z0-9_-]", "_", stem)
    if len(key) <= MAX_DEFAULT_KEY:
        return key
    digest = hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()
    return f"{key[-70:]}-{digest[:9]}"


def checked_path(where: str, text: str) -> str:
    """Return a normalized path relative to the source folder.

    The path may follow links inside the source folder, but it must not contain `..`.

    Args:
        where: file and line of the path, for messages.
        text: the path as it was read.

    Raises:
        AnnotationError: the path is empty or leaves the source folder.
    """
    path = PurePosixPath(text.strip())
    if path.is_absolute() or ".." in path.parts:
        raise AnnotationError(
            f"{where}: path {text!r} leads out of the source folder; write it relative to that"
            " folder and without `..`"
        )
    if not path.parts or "\0" in text:
        raise AnnotationError(f"{where}: expected the path of a video, found {text!r}")
    return str(path)


def _read_row(row: LabelRow, source: Path) -> Video:
    """Return the video of a line."""
    where, fields = row
    path = checked_path(where, _inside(fields["path"], source))
    split = fields.get("split", "").strip()
    if split and not re.fullmatch("[A-Za-z0-9_-]+", split):
        raise AnnotationError(
            f"{where}: split {split!r} contains other characters than A-Z a-z 0-9 _ and -"
        )
    reverse = fields.get("reverse", "").strip().lower()
    if reverse not in ("", "true", "false"):
        raise AnnotationError(
            f"{where}: reverse is {reverse!r}, expected true, false or an empty field"
        )
    labels = [label.strip() for label in fields["labels"].split(";") if label.strip()]
    key = fields.get("key", "").strip()
    if not key:
        key = default_key(path)
        if reverse == "true":
            key += "-reversed"
    return Video(
        path=path,
        labels=tuple(dict.fromkeys(labels)),
        split=split,
        key=key,
        group=fields.get("group", "").strip(),
        reverse=reverse == "true",
    )


def _inside(text: str, source: Path) -> str:
    """Return an absolute path inside the source folder relative to it; other texts unchanged."""
    path = Path(text.strip())
    for folder in (source.absolute(), source.resolve()):
        if path.is_absolute() and path.is_relative_to(folder):
            return path.relative_to(folder).as_posix()
    return text
