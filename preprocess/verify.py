"""Reads a whole dataset again and names what is wrong with it."""

import csv
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import simplejpeg

from preprocess.shard_plan import num_shards, read_plan
from preprocess.shards import (
    DatasetInfo,
    ShardRows,
    Split,
    dataset_digest,
    file_digest,
    open_split,
    read_info,
    read_rows,
    shard_name,
)
from preprocess.tars import ShardError, VideoRecord, read_shard
from preprocess.workers import Note, num_cpus, run_tasks

MOST = 20  # problems that are named of one shard


def verify(folder: str | Path) -> list[str]:
    """Return the problems of a dataset, one a line; none for a sound one.

    Every shard is read: its structure, the CRC of each frame, whether it decodes to its size, and
    whether the tables say the same. The work is done in as many processes as there are CPUs.
    """
    folder = Path(folder)
    try:
        info, plan = read_info(folder), read_plan(folder)
    except ShardError as error:
        return [str(error)]
    problems = list(_check_files(folder, info))
    if info.digest != dataset_digest(info):
        problems.append(f"{folder / 'dataset.yaml'}: it was changed, its digest does not fit")
    for split in info.splits:
        shards = range(num_shards(plan, split))
        check = partial(check_shard, folder, split)
        found = dict(run_tasks(check, shards, num_cpus()))
        problems += [problem for shard in shards for problem in found[shard]]
        try:
            problems += _check_tables(open_split(folder, split), info, shards)
        except ShardError as error:
            problems.append(str(error))
    return list(dict.fromkeys(problems))


def check_shard(folder: Path, split: str, shard: int, note: Note) -> tuple[int, list[str]]:
    """Return the number of the shard and the problems of its frames."""
    path, problems = folder / shard_name(split, shard), []
    try:
        with path.open("rb") as file:
            for record, start in read_shard(path):
                file.seek(start)
                problems += _check_video(file.read(record.size), record)
    except OSError as error:
        problems.append(error.strerror)
    except ShardError as error:
        problems.append(str(error))
    problems = [p if str(path) in p else f"{path}: {p}" for p in problems]
    if len(problems) > MOST:
        problems[MOST:] = [f"{path}: {len(problems) - MOST} problems more"]
    return shard, problems


def _check_video(data: bytes, record: VideoRecord) -> Iterator[str]:
    ends = (*record.offsets[1:], record.size)
    for index, (first, end, crc) in enumerate(zip(record.offsets, ends, record.crcs, strict=True)):
        where, frame = f"{record.key} frame {index}", data[first:end]
        if zlib.crc32(frame) != crc:
            yield f"{where}: crc32 is {zlib.crc32(frame)}, written was {crc}; the bytes changed"
            continue
        try:
            height, width, _ = simplejpeg.decode_jpeg(frame).shape
        except ValueError as error:
            yield f"{where}: {error}"
            continue
        if (width, height) != (record.width, record.height):
            yield f"{where}: {width}x{height} pixels, expected {record.width}x{record.height}"


def _check_files(folder: Path, info: DatasetInfo) -> Iterator[str]:
    for name, digest in info.tables.items():
        path = folder / name
        if not path.exists():
            yield f"{path} is absent; run `tin data merge` again"
        elif file_digest(path) != digest:
            yield f"{path}: its sha256 is not that of dataset.yaml; run `tin data merge` again"


def _check_tables(split: Split, info: DatasetInfo, shards: range) -> Iterator[str]:
    """Compare the tables with the tars, a shard at a time."""
    classes = {name: index for index, name in enumerate(info.classes)}
    done = {"videos": 0, "frames": 0, "labels": 0}
    with (split.folder / f"{split.name}.csv").open(
        encoding="utf-8", errors="replace", newline=""
    ) as file:
        people = csv.reader(file)
        next(people, None)
        for shard in shards:
            rows = read_rows(split.folder, split.name, shard, classes)
            rows.videos["first_frame"] += done["frames"]
            rows.videos["first_label"] += done["labels"]
            for name in _differing(split, rows, done):
                path = split.folder / f"{split.name}.{name}.npy"
                yield f"{path} differs from {split.shard_path(shard).name}; merge again"
            if any([str(value) for value in row] != next(people, None) for row in rows.people):
                yield f"{file.name} differs from {split.shard_path(shard).name}; merge again"
            done = {name: done[name] + len(getattr(rows, name)) for name in done}
    for name, count in done.items():
        found = len(getattr(split, name))
        if found != count:
            yield f"{split.folder / split.name}.{name}.npy has {found} rows, the shards {count}"


def _differing(split: Split, rows: ShardRows, done: dict[str, int]) -> Iterator[str]:
    for name, first in done.items():
        want = getattr(rows, name)
        if not np.array_equal(getattr(split, name)[first : first + len(want)], want):
            yield name
