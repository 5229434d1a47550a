"""Row types of the tables of a split, which are memory-mapped .npy files, and how they are stored.

videos.npy, frames.npy and labels.npy are in every dataset. groups.npy is in datasets whose shards
hold the groups of the videos, which those of earlier versions do not.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from configs.files import atomic_file
from configs.small_files import named, open_regular
from preprocess.tars import ADVICE, ShardError

VIDEO_ROW = np.dtype(
    [
        ("first_frame", "<i8"),
        ("num_frames", "<i4"),
        ("source_frames", "<i4"),
        ("width", "<i4"),
        ("height", "<i4"),
        ("first_label", "<i8"),
    ]
)
FRAME_ROW = np.dtype([("shard", "<u4"), ("offset", "<u8"), ("size", "<u4"), ("crc32", "<u4")])
LABEL = np.dtype("<i4")
GROUP = np.dtype("<u8")
TABLES = {"videos": VIDEO_ROW, "frames": FRAME_ROW, "labels": LABEL}
"""Row types of the tables that every split has, by name."""
ALL_TABLES = TABLES | {"groups": GROUP}


def table_types(groups: bool) -> dict[str, np.dtype]:
    """Return the row types of a split's tables, by name; `groups` says whether it has groups."""
    return ALL_TABLES if groups else TABLES


def table_path(folder: Path, split: str, table: str) -> Path:
    """Return the file of a table."""
    return folder / f"{split}.{table}.npy"


def group_number(name: str) -> int:
    """Return the number that stands for a group: equal in all splits, datasets and versions.

    It is the first 8 bytes of the name's sha256, so that parts of a dataset need no common list.
    """
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "little")


def open_table(folder: Path, split: str, table: str) -> np.ndarray:
    """Return a table, memory-mapped and checked for its type.

    Raises:
        ShardError: the file is missing, truncated or of another type.
    """
    path = table_path(folder, split, table)
    try:
        with open_regular(path):  # a FIFO would block
            rows = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy raises many types for a damaged header
        raise ShardError(f"{named(path, error)}. Run `tin data merge` again.") from None
    if rows.dtype != ALL_TABLES[table] or rows.ndim != 1:
        raise ShardError(
            f"{path}: found shape {rows.shape} of {rows.dtype}, expected one dimension of"
            f" {ALL_TABLES[table]}. Run `tin data merge` again."
        )
    return rows


def write_table(folder: Path, split: str, table: str, parts: Sequence[np.ndarray]) -> str:
    """Write a table part by part, so that it is never in memory as a whole; return its file name.

    Raises:
        WriteError: the disk is full or not writable.
    """
    path = table_path(folder, split, table)
    header = {
        "descr": np.lib.format.dtype_to_descr(ALL_TABLES[table]),
        "fortran_order": False,
        "shape": (sum(len(part) for part in parts),),
    }
    with atomic_file(path, advice=ADVICE) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(part.tobytes())
    return path.name
