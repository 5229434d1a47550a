"""Readers of annotation files: lines, CSV rows and JSON, with file and line for error messages."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from configs.small_files import named, read_bytes
from preprocess.annotations.label_file import MAX_LABELS_BYTES
from preprocess.annotations.labels import AnnotationError

Json = TypeVar("Json", dict, list)


def find(folder: Path, pattern: str) -> Path:
    """Return the only file in a folder that matches a pattern.

    Raises:
        AnnotationError: no file matches, or several do.
    """
    paths = sorted(folder.glob(pattern))
    if len(paths) != 1:
        found = ", ".join(path.name for path in paths) or "none"
        raise AnnotationError(f"{folder}: expected exactly one file {pattern}, found {found}")
    return paths[0]


def read_lines(path: Path) -> list[tuple[str, str]]:
    """Return the non-empty lines of a file as (`file:line`, text).

    Raises:
        AnnotationError: the file cannot be read or is not UTF-8.
    """
    lines = enumerate(_text(path).splitlines(), 1)
    return [(f"{path.name}:{number}", line.strip()) for number, line in lines if line.strip()]


def read_rows(path: Path) -> list[tuple[str, list[str]]]:
    """Return the rows of a CSV file as (`file:line`, fields).

    Raises:
        AnnotationError: the file cannot be read or is not valid CSV.
    """
    reader = csv.reader(_text(path).splitlines(), strict=True)
    try:
        return [(f"{path.name}:{reader.line_num}", row) for row in reader if row]
    except csv.Error as error:
        raise AnnotationError(f"{path.name}:{reader.line_num}: {error}") from None


def read_json(path: Path, kind: type[Json]) -> Json:
    """Return the `dict` or the `list` in a JSON file.

    Raises:
        AnnotationError: the file cannot be read or contains something else.
    """
    text = _text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path}: {error}") from None
    if not isinstance(content, kind):
        raise AnnotationError(
            f"{path}: expected a {kind.__name__}, found a {type(content).__name__}"
        )
    return content


def in_order(path: Path, numbered: Sequence[tuple[str, object]], first: int = 0) -> list[str]:
    """Return class names sorted by their numbers.

    Args:
        path: the file of the names, for messages.
        numbered: (name, number) in any order; the numbers are int or text.
        first: the smallest number; the others follow without a gap.

    Raises:
        AnnotationError: there are no names, or numbers are missing or repeated.
    """
    names = {str(number).strip(): name.strip() for name, number in numbered}
    wanted = [str(first + index) for index in range(len(numbered))]
    if not numbered or sorted(names) != sorted(wanted):
        raise AnnotationError(
            f"{path}: expected classes numbered from {first} on without gaps or repeats, found"
            f" {len(numbered)} classes with {len(names)} different numbers"
        )
    return [names[number] for number in wanted]


def _text(path: Path) -> str:
    try:
        return read_bytes(path, MAX_LABELS_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise AnnotationError(named(path, error)) from None
