"""CSV files for people and pandas, written atomically."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from configs.files import atomic_file


def write_csv(path: Path, rows: Iterable[Sequence[object]], advice: str = "") -> None:
    """Write rows, the header first, as UTF-8 with Unix line ends.

    Bytes of file names that are not UTF-8 are written as backslash escapes.

    Args:
        path: the file, which is replaced.
        rows: values of the columns.
        advice: a sentence for the error message, as in `configs.files.atomic_file`.

    Raises:
        WriteError: the disk is full or not writable.
    """
    with atomic_file(path, advice=advice) as file:
        text = io.TextIOWrapper(file, "utf-8", errors="backslashreplace", newline="")
        csv.writer(text, lineterminator="\n").writerows(rows)
        text.detach()  # flushes the text and leaves the file open
