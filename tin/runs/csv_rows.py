"""Rows of the CSV files of a run, also of files that an earlier version began."""

import csv
import re
from collections.abc import Sequence

STEP = re.compile(r"[0-9]{1,18}")
"""A number of steps in a CSV file."""


def rows_before(text: str, columns: Sequence[str], before: int) -> list[list[str]]:
    """Return the rows of a CSV file whose step is less than `before`, without the header.

    Incomplete and damaged rows are left out. If the file has other columns than `columns`, because
    another version wrote it, cells keep their columns: new columns are empty, and unknown ones
    are dropped.
    """
    lines = [_cells(line) for line in text.splitlines()]
    if not lines:
        return []
    header = lines[0]
    if "step" not in header or len(set(header)) < len(header):  # the header is damaged
        header = list(columns)
    found = []
    for cells in lines[1:]:
        if len(cells) != len(header):
            continue
        row = dict(zip(header, cells, strict=True))
        if STEP.fullmatch(row["step"]) and int(row["step"]) < before:
            found.append([row.get(name, "") for name in columns])
    return found


def last_time(text: str) -> float:
    """Return the time in the last complete row of a CSV file; 0 if there is none."""
    lines = [_cells(line) for line in text.splitlines()]
    if not lines or "time" not in lines[0]:
        return 0.0
    place = lines[0].index("time")
    rows = [cells for cells in lines[1:] if len(cells) == len(lines[0])]
    try:
        return float(rows[-1][place]) if rows else 0.0
    except ValueError:
        return 0.0


def _cells(line: str) -> list[str]:
    """Return the cells of a line of CSV; none for a line that is not CSV."""
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []
