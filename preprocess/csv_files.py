"""CSV files for people and pandas, written atomically."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from configs.files import atomic_file
from configs.small_files import named, open_regular
from preprocess.tars import ShardError

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of cells that a spreadsheet takes for a formula."""


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


def harmless(cell: str) -> str:
    """Return a text that a spreadsheet shows and never computes; numbers stay as they are.

    This is for files that people open. Keys, and files that code reads back, are left alone.
    """
    if not cell.startswith(FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def read_keys(path: Path, num_videos: int) -> list[str]:
    """Return the column `key` of a CSV file that has a row for each of `num_videos`.

    Raises:
        ShardError: the file is missing, damaged, or has another number of rows.
    """
    import pandas as pd

    try:
        with open_regular(path) as file:
            rows = pd.read_csv(file, usecols=["key"], dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise ShardError(f"{named(path, error)}. Run `tin data merge` again.") from None
    if len(rows) != num_videos:
        raise ShardError(
            f"{path} has {len(rows)} rows, but the split has {num_videos} videos. Run"
            " `tin data merge` again."
        )
    return rows["key"].tolist()
