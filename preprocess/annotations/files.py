"""Files of annotations: lines, csv rows and json, each with its place for messages."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preprocess.annotations.labels import AnnotationError


def find(folder: Path, pattern: str) -> Path:
    """Return the one file of a folder that a pattern fits.

    Raises:
        AnnotationError: there is none, or several.
    """
    paths = sorted(folder.glob(pattern))
    if len(paths) != 1:
        found = ", ".join(path.name for path in paths) or "none"
        raise AnnotationError(f"{folder}: one file {pattern} is expected, found {found}")
    return paths[0]


def read_lines(path: Path) -> list[tuple[str, str]]:
    """Return the lines of a file that are not empty, each with its place.

    Raises:
        AnnotationError: it cannot be read, or is no UTF-8.
    """
    lines = enumerate(_text(path).splitlines(), 1)
    return [(f"{path.name}:{number}", line.strip()) for number, line in lines if line.strip()]


def read_rows(path: Path) -> list[tuple[str, list[str]]]:
    """Return the rows of a csv file, each with its place.

    Raises:
        AnnotationError: it cannot be read, or is no csv.
    """
    reader = csv.reader(_text(path).splitlines(), strict=True)
    try:
        return [(f"{path.name}:{reader.line_num}", row) for row in reader if row]
    except csv.Error as error:
        raise AnnotationError(f"{path.name}:{reader.line_num}: {error}") from None


def read_json(path: Path, kind: type) -> Any:
    """Return the `dict` or `list` that a json file holds.

    Raises:
        AnnotationError: it cannot be read, or holds something else.
    """
    try:
        content = json.loads(_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise AnnotationError(f"{path}: {error}") from None
    if not isinstance(content, kind):
        raise AnnotationError(f"{path}: found a {type(content).__name__}, expected {kind.__name__}")
    return content


def in_order(path: Path, numbered: Sequence[tuple[str, Any]], first: int = 0) -> list[str]:
    """Return names in the order of their numbers, which start at `first` and leave nothing out.

    Raises:
        AnnotationError: numbers are missing or stand there twice; `path` is named.
    """
    names = {str(number).strip(): name.strip() for name, number in numbered}
    wanted = [str(first + place) for place in range(len(numbered))]
    if not numbered or sorted(names) != sorted(wanted):
        raise AnnotationError(f"{path}: classes are expected to be numbered from {first} on")
    return [names[number] for number in wanted]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path}: {error}") from None
