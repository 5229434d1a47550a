"""Compares a dataset with what dataset.yaml says, once per start, before the first frame is read.

The tables say where each frame is and which label each video has, so a changed table would train on
wrong labels without an error. The CRC of each frame is compared whenever the frame is read.
"""

import bisect
import os
import tarfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from configs.digests import file_digest
from configs.small_files import DamagedFileError, open_regular
from preprocess.shards import (
    Split,
    dataset_digest,
    open_split,
    read_info,
)
from preprocess.tables import table_path, table_types
from preprocess.tars import END, ShardError

READERS = 16
"""Shards whose size is checked at the same time, because a network file system is slow to answer"""
MAX_LISTED = 5


def check_dataset(folder: str | Path, splits: Iterable[str]) -> None:
    """Check the tables of some splits against their digests, and that their shards are complete.

    Raises:
        ShardError: lists the files that are missing, changed or truncated.
        ConfigError: the dataset does not have one of the splits.
    """
    folder = Path(folder)
    info = read_info(folder)
    if info.digest != dataset_digest(info):
        raise ShardError(
            f"{folder / 'dataset.yaml'}: its content does not match its digest, so it was changed."
            " Restore the file or run `tin data merge` again."
        )
    problems: list[str] = []
    for split in dict.fromkeys(splits):
        tables = open_split(folder, split)
        paths = [table_path(folder, split, table) for table in table_types(info.groups)]
        paths.append(folder / f"{split}.csv")
        problems += [text for path in paths if (text := _changed(path, info.tables))]
        if not problems:  # changed tables do not tell where the shards end
            problems += check_shards(tables)
    if problems:
        more = len(problems) - MAX_LISTED
        rest = f"\nand {more} more files" if more > 0 else ""
        raise ShardError("\n".join(problems[:MAX_LISTED]) + rest)


def check_shards(split: Split) -> list[str]:
    """Return a problem for each shard of a split that is missing or does not have its size."""
    with ThreadPoolExecutor(READERS, thread_name_prefix="check-shards") as pool:
        found = pool.map(lambda end: _shard_problem(split, *end), _shard_ends(split))
        return [problem for problem in found if problem]


def _changed(path: Path, digests: dict[str, str]) -> str:
    """Return what is wrong with a table; empty if it has the digest in dataset.yaml."""
    wanted = digests.get(path.name, "")
    try:
        found = file_digest(path)
    except OSError as error:
        return f"{path}: {error.strerror}. Run `tin data merge` to write the tables again."
    except DamagedFileError as error:
        return str(error)
    if found == wanted:
        return ""
    return (
        f"{path}: its sha256 differs from the one in dataset.yaml, so the file was changed. Run"
        " `tin data merge` to write the tables again from the shards."
    )


def _shard_ends(split: Split) -> Iterator[tuple[int, int]]:
    """Yield each shard that has frames, and the byte at which its last frame ends."""
    shards = split.frames["shard"]
    row = 0
    while row < len(shards):
        shard = int(shards[row])
        row = bisect.bisect_right(shards, shard, row)  # rows are ordered by shard
        last = split.frames[row - 1]
        yield shard, int(last["offset"]) + int(last["size"])


def _shard_problem(split: Split, shard: int, frames_end: int) -> str:
    """Return what is wrong with the size of a shard; empty if the file is complete.

    The record of the last video follows its frames, and two empty blocks end the file.
    """
    path = split.shard_path(shard)
    advice = "Restore the file, or delete it and run `tin shard` and `tin data merge` again."
    header_at = _padded(frames_end)
    try:
        with open_regular(path) as file:
            found = os.fstat(file.fileno()).st_size
            header = os.pread(file.fileno(), tarfile.BLOCKSIZE, header_at)
    except OSError as error:
        return f"{path}: {error.strerror}. {advice}"
    except DamagedFileError as error:
        return str(error)
    try:
        record = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return (
            f"{path}: found no record after the last frame, which ends at byte {frames_end} of"
            f" {found}; the file is truncated or damaged. {advice}"
        )
    expected = _padded(header_at + tarfile.BLOCKSIZE + record.size) + len(END)
    if found == expected:
        return ""
    return f"{path}: found {found} bytes, expected {expected}. {advice}"


def _padded(position: int) -> int:
    """Return the start of the next block of a tar file."""
    return position + -position % tarfile.BLOCKSIZE
