"""The quarantine: lists of the videos that a dataset lacks, each with a reason.

Each shard has its own list, `quarantine/<shard>.csv`; the merge joins them in `quarantine.csv`.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from configs.small_files import read_bytes
from preprocess.csv_files import harmless, write_csv
from preprocess.tars import ADVICE, ShardError

MISSING = "file missing (common for Kinetics)"
MAX_LIST_BYTES = 256 << 20
"""Largest list of a shard: a reason for each of a million videos."""
FORMER_MISSING = "it is not there"
"""How this reason began in lists of earlier versions, which a merge still reads."""


class QuarantinedVideo(NamedTuple):
    """A video that could not be stored; a row of a list."""

    key: str
    source: str
    """Path of the video, relative to the source folder."""
    reason: str

    @property
    def is_missing(self) -> bool:
        """Whether the file is one of those of Kinetics that can no longer be downloaded."""
        return self.reason == MISSING or self.reason.startswith(FORMER_MISSING)


def write_shard_list(folder: Path, shard: str, videos: Sequence[QuarantinedVideo]) -> None:
    """Write the list of a shard, named by its file; remove the list if no video is in it.

    Raises:
        WriteError: the disk is full or not writable.
    """
    path = _list_path(folder, shard)
    if videos:
        path.parent.mkdir(exist_ok=True)
        _write_list(path, videos)
    else:
        path.unlink(missing_ok=True)


def read_shard_list(folder: Path, shard: str) -> list[QuarantinedVideo]:
    """Return the list of a finished shard, named by its file.

    Raises:
        ShardError: the list is damaged.
    """
    path = _list_path(folder, shard)
    if not path.exists():
        return []
    try:
        text = read_bytes(path, MAX_LIST_BYTES).decode("utf-8")
        rows = list(csv.reader(io.StringIO(text, newline="")))
        return [QuarantinedVideo._make(row) for row in rows[1:]]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise ShardError(
            f"{path}: expected rows of {', '.join(QuarantinedVideo._fields)} ({error}). Delete the"
            f" file and {shard}, then run `tin shard` again."
        ) from None


def write_dataset_list(folder: Path, videos: Sequence[QuarantinedVideo]) -> None:
    """Write `quarantine.csv`, the list of the whole dataset.

    Raises:
        WriteError: the disk is full or not writable.
    """
    rows = [QuarantinedVideo(v.key, harmless(v.source), harmless(v.reason)) for v in videos]
    _write_list(folder / "quarantine.csv", rows)


def _write_list(path: Path, videos: Sequence[QuarantinedVideo]) -> None:
    write_csv(path, [QuarantinedVideo._fields, *videos], ADVICE)


def _list_path(folder: Path, shard: str) -> Path:
    return folder / "quarantine" / f"{Path(shard).stem}.csv"
