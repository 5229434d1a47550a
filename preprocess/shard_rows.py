"""The rows of a shard's tables, made from its tar file alone."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from preprocess.csv_files import harmless
from preprocess.shards import CsvRow, ShardRows, shard_name
from preprocess.tables import FRAME_ROW, GROUP, LABEL, VIDEO_ROW, group_number
from preprocess.tars import ShardError, VideoRecord, read_shard


def read_rows(folder: Path, split: str, shard: int, classes: Mapping[str, int]) -> ShardRows:
    """Return the rows of a shard.

    Args:
        folder: folder of the dataset.
        split: split of the shard.
        shard: number of the shard.
        classes: indices of the classes by name.

    Raises:
        ShardError: the file is missing or damaged, or has a label that is not a class.
    """
    path = folder / shard_name(split, shard)
    videos: list[tuple[int, ...]] = []
    frames = [np.empty(0, FRAME_ROW)]
    labels: list[int] = []
    groups: list[int] = []
    csv_rows = []
    first_frame = 0
    for record, start in read_shard(path):
        unknown = [name for name in record.labels if name not in classes]
        if unknown:
            raise ShardError(
                f"{path}: video {record.key} has label {unknown[0]!r}, which is not one of the"
                f" dataset's {len(classes)} classes. Delete the file and run `tin shard` again."
            )
        videos.append(_video_row(record, first_frame, first_label=len(labels)))
        frames.append(_frame_rows(record, start, shard))
        labels += [classes[name] for name in record.labels]
        groups.append(group_number(_group_of(record)))
        csv_rows.append(_csv_row(record, shard))
        first_frame += len(record.offsets)
    return ShardRows(
        videos=np.array(videos, VIDEO_ROW),
        frames=np.concatenate(frames),
        labels=np.array(labels, LABEL),
        groups=np.array(groups, GROUP),
        csv_rows=csv_rows,
    )


def _video_row(record: VideoRecord, first_frame: int, first_label: int) -> tuple[int, ...]:
    """Return the row of a video, in the order of `VIDEO_ROW`."""
    return (
        first_frame,
        record.num_frames,
        record.source_frames,
        record.width,
        record.height,
        first_label,
    )


def _frame_rows(record: VideoRecord, start: int, shard: int) -> np.ndarray:
    """Return the rows of a video's frames, which start at byte `start` of the shard."""
    rows = np.empty(len(record.offsets), FRAME_ROW)
    rows["shard"] = shard
    rows["offset"] = np.array(record.offsets, np.uint64) + np.uint64(start)
    rows["size"] = np.diff([*record.offsets, record.size])
    rows["crc32"] = record.crcs
    return rows


def _group_of(record: VideoRecord) -> str:
    """Return the group of a video; without one, its source, which a reversed copy shares."""
    return record.group or record.source


def _csv_row(record: VideoRecord, shard: int) -> CsvRow:
    return CsvRow(
        key=record.key,
        labels=harmless(";".join(record.labels)),
        frames=record.num_frames,
        width=record.width,
        height=record.height,
        fps=f"{record.fps:.6g}",
        shard=shard,
        seconds=f"{record.seconds:.3f}",
        source=harmless(record.source),
        warning=harmless(record.warning),
        group=harmless(record.group),
    )
