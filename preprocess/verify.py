"""Reads a whole dataset again and reports every problem in it."""

import csv
import math
import random
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import simplejpeg

from configs.digests import file_digest
from configs.progress import show_progress
from configs.small_files import DamagedFileError, open_regular
from preprocess.integrity import check_shards
from preprocess.shard_plan import num_shards, read_plan
from preprocess.shard_rows import read_rows
from preprocess.shards import (
    CsvRow,
    DatasetInfo,
    ShardRows,
    Split,
    dataset_digest,
    open_split,
    read_info,
    shard_name,
)
from preprocess.tables import table_path, table_types
from preprocess.tars import ShardError, VideoRecord, read_shard
from preprocess.workers import Note, num_cpus, run_tasks

MAX_PROBLEMS = 20
"""How many problems of one shard are listed; the others are counted."""


def verify(folder: str | Path, sample: float = 1.0) -> list[str]:
    """Return the problems of a dataset, one per line; the list is empty if there are none.

    Reads every shard and checks its structure, the CRC of each frame, that each frame decodes to
    its size, and that the tables agree. Uses as many processes as there are CPUs.

    Args:
        folder: folder of the dataset.
        sample: share of the shards to read. Below 1, each call reads other shards, drawn at random,
            and the tables are compared with their digests alone.
    """
    folder = Path(folder)
    try:
        info = read_info(folder)
        plan = read_plan(folder)
    except ShardError as error:
        return [str(error)]
    problems = list(_check_files(folder, info))
    if info.digest != dataset_digest(info):
        problems.append(
            f"{folder / 'dataset.yaml'}: its content does not match its digest, so it was changed."
            " Restore the file or run `tin data merge` again."
        )
    for split in info.splits:
        shards = _sampled(num_shards(plan, split), sample)
        check = partial(check_shard, folder, split)
        checked = run_tasks(check, shards, num_cpus())
        found = dict(show_progress(checked, len(shards), f"verify {split}, shards"))
        problems += [problem for shard in shards for problem in found[shard]]
        try:
            tables = open_split(folder, split)
            if sample < 1:
                problems += check_shards(tables)  # every shard must be there with its size
            else:
                problems += _check_tables(tables, info, shards)
        except ShardError as error:
            problems.append(str(error))
    return list(dict.fromkeys(problems))  # a damaged shard is found twice


def _sampled(count: int, sample: float) -> Sequence[int]:
    """Return all shards or, with a sample below 1, at least one shard drawn at random."""
    if sample >= 1:
        return range(count)
    size = min(count, math.ceil(sample * count))
    return sorted(random.SystemRandom().sample(range(count), size))


def check_shard(folder: Path, split: str, shard: int, note: Note) -> tuple[int, list[str]]:
    """Return the number of the shard and the problems of its frames."""
    path = folder / shard_name(split, shard)
    found: list[str] = []
    try:
        with open_regular(path) as file:
            for record, start in read_shard(path):
                file.seek(start)
                found += _check_video(file.read(record.size), record)
    except OSError as error:
        found.append(error.strerror or str(error))
    except (ShardError, DamagedFileError) as error:
        found.append(str(error))
    problems = [text if str(path) in text else f"{path}: {text}" for text in found]
    if len(problems) > MAX_PROBLEMS:
        problems[MAX_PROBLEMS:] = [f"{path}: {len(problems) - MAX_PROBLEMS} more problems"]
    return shard, problems


def _check_video(data: bytes, record: VideoRecord) -> Iterator[str]:
    """Yield the problems of a video's frames: a wrong CRC, no JPEG, or another size."""
    ends = (*record.offsets[1:], record.size)
    for index, (first, end, crc) in enumerate(zip(record.offsets, ends, record.crcs, strict=True)):
        where = f"{record.key} frame {index}"
        frame = data[first:end]
        found = zlib.crc32(frame)
        if found != crc:
            yield f"{where}: found crc32 {found}, expected {crc}; the bytes have changed"
            continue
        try:
            height, width, _ = simplejpeg.decode_jpeg(frame).shape
        except ValueError as error:
            yield f"{where}: {error}"
            continue
        if (width, height) != (record.width, record.height):
            yield (
                f"{where}: found {width}x{height} pixels, expected {record.width}x{record.height}"
            )


def _check_files(folder: Path, info: DatasetInfo) -> Iterator[str]:
    """Yield the tables that are missing or that do not have the sha256 of dataset.yaml."""
    for name, digest in info.tables.items():
        path = folder / name
        if not path.exists():
            yield f"{path} is missing. Run `tin data merge` again."
        elif file_digest(path) != digest:
            yield f"{path}: its sha256 differs from dataset.yaml. Run `tin data merge` again."


def _check_tables(split: Split, info: DatasetInfo, shards: Sequence[int]) -> Iterator[str]:
    """Yield the tables that differ from the shards, which are read one after the other."""
    classes = {name: index for index, name in enumerate(info.classes)}
    seen = dict.fromkeys(table_types(info.groups), 0)  # rows of the shards so far
    num_columns = len(CsvRow.columns(info.groups))
    csv_path = split.folder / f"{split.name}.csv"
    with csv_path.open(encoding="utf-8", errors="replace", newline="") as file:
        stored_rows = csv.reader(file)
        next(stored_rows, None)
        for shard in shards:
            advice = f"differs from {split.shard_path(shard).name}. Run `tin data merge` again."
            rows = read_rows(split.folder, split.name, shard, classes)
            rows.videos["first_frame"] += seen["frames"]
            rows.videos["first_label"] += seen["labels"]
            for table in _differing(split, rows, seen):
                yield f"{table_path(split.folder, split.name, table)} {advice}"
            # Compare every row, so that the reader is at the next shard's rows afterwards.
            differs = [
                list(map(str, row[:num_columns])) != next(stored_rows, None)
                for row in rows.csv_rows
            ]
            if any(differs):
                yield f"{csv_path} {advice}"
            seen = {table: seen[table] + len(getattr(rows, table)) for table in seen}
    for table, count in seen.items():
        found = len(getattr(split, table))
        if found != count:
            path = table_path(split.folder, split.name, table)
            yield f"{path} has {found} rows, but the shards have {count}"


def _differing(split: Split, rows: ShardRows, seen: dict[str, int]) -> Iterator[str]:
    """Yield the names of the tables that differ from the rows of a shard."""
    for table, first in seen.items():
        expected = getattr(rows, table)
        if not np.array_equal(getattr(split, table)[first : first + len(expected)], expected):
            yield table
