"""The description of a video in annotations, and the labels CSV."""

import csv
import difflib
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from configs.load import ConfigError

COLUMNS = ("path", "labels", "split", "key", "group", "reverse")
REQUIRED_COLUMNS = COLUMNS[:3]
MAX_DEFAULT_KEY = 80  # characters, of the 90 that a key may have: leaves room for `-reversed`


class AnnotationError(ConfigError):
    """Annotations that cannot be used; says in which file and line, and what was expected."""


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


def read_labels(path: Path) -> list[Video]:
    """Return the videos of a labels CSV: path,labels,split[,key][,group][,reverse].

    Raises:
        AnnotationError: the file cannot be read, or a line has errors; says what was expected.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True, restkey="")
            _check_columns(path, rows.fieldnames or [])
            return [_read_row(f"{path.name}:{rows.line_num}", row) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AnnotationError(f"{path}: {error}") from None


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


def _check_columns(path: Path, found: Sequence[str]) -> None:
    """Raise an error for a column of a labels CSV that is unknown or missing."""
    for name in found:
        if name not in COLUMNS:
            close = difflib.get_close_matches(name, COLUMNS, n=1)
            hint = f"; did you mean {close[0]}?" if close else "."
            raise AnnotationError(
                f"{path.name}: unknown column {name!r}{hint} The columns are {', '.join(COLUMNS)}"
            )
    missing = [name for name in REQUIRED_COLUMNS if name not in found]
    if missing:
        raise AnnotationError(
            f"{path.name}: column {missing[0]} is missing; the first line must be"
            " path,labels,split[,key][,group][,reverse]"
        )


def _read_row(where: str, row: Mapping[str, str | None]) -> Video:
    """Return the video of a row of csv.DictReader; `where` is its file and line."""
    # DictReader puts surplus fields under the empty name, and None for missing ones.
    fields = {name: value for name, value in row.items() if value is not None}
    if "" in row or len(fields) < len(row):
        raise AnnotationError(f"{where}: the line has more or fewer fields than the first line")
    path = checked_path(where, fields["path"])
    split = fields["split"].strip()
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
