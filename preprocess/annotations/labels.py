"""A video as annotations describe it, and the labels CSV."""

import csv
import difflib
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from configs.load import ConfigError

COLUMNS = ("path", "labels", "split", "key", "group", "reverse")


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


def default_key(path: str) -> str:
    """Return a key made of a path: other characters become `_`, a long one ends in its hash."""
    stem = str(PurePosixPath(path).with_suffix(""))
    key = re.sub(r"[^A-Za-z0-9_-]", "_", stem)
    if len(key) <= 80:  # leaves room for `-reversed`
        return key
    return f"{key[-70:]}-{hashlib.sha256(path.encode(errors='surrogateescape')).hexdigest()[:9]}"


def checked_path(where: str, text: str) -> str:
    """Return a normal path; it may follow links that stand in the source folder, but no `..`."""
    path = PurePosixPath(text.strip())
    if path.is_absolute() or ".." in path.parts:
        raise AnnotationError(f"{where}: path {text!r} leaves the source folder")
    if not path.parts or "\0" in text:
        raise AnnotationError(f"{where}: path {text!r} names no video")
    return str(path)


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
    path = checked_path(where, row["path"])
    split, reverse = row["split"].strip(), row.get("reverse", "").strip().lower()
    if split and not re.fullmatch("[A-Za-z0-9_-]+", split):
        raise AnnotationError(f"{where}: split {split!r} may have only A-Z a-z 0-9 _ and -")
    if reverse not in ("", "true", "false"):
        raise AnnotationError(f"{where}: reverse {reverse!r} must be true, false or empty")
    labels = [label.strip() for label in row["labels"].split(";") if label.strip()]
    key = row.get("key", "").strip() or default_key(path) + "-reversed" * (reverse == "true")
    group = row.get("group", "").strip()
    return Video(path, tuple(dict.fromkeys(labels)), split, key, group, reverse == "true")
