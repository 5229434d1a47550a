"""The dataset on disk: tar shards of JPEG frames with their tables. Both sides of the format.

A folder holds dataset.yaml, the shards (one `<key>.mjpeg` and one `<key>.json` a video), and per
split videos.npy, frames.npy and labels.npy, which are memory-mapped, and a csv for people.
"""

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from configs.load import ConfigError, parse, read_yaml, to_yaml
from configs.settings import Settings
from preprocess.tars import ShardError, VideoRecord, read_shard, replacing

FORMAT = 1
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
Model = TypeVar("Model", bound=Settings)
COLUMNS = ("key", "labels", "frames", "width", "height", "fps", "shard", "seconds", "source")
COLUMNS += ("warning",)
TABLES = {"videos": VIDEO_ROW, "frames": FRAME_ROW, "labels": LABEL}


class ShardPlan(Settings):
    """What is known of a dataset before the first video is opened for good (plan.yaml)."""

    format: int
    """Version of this layout."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of their indices."""
    splits: dict[str, int]
    """Videos of each split: annotated in plan.yaml, stored in dataset.yaml."""
    multi_label: bool
    """Whether a video may have several labels."""
    left_right: tuple[int, ...]
    """For each class the index of its mirror image (itself where left and right are alike)."""
    short_side: int
    """Short side of the frames of larger videos, in pixels."""
    quality: int
    """JPEG quality."""
    fps: float
    """Frame rate that videos were resampled to; 0 is their own."""
    frame_cap: int
    """Most frames of a video; 0 is no limit."""
    videos_per_shard: int
    """Positions of the shuffled order that a shard holds."""
    seed: int
    """Seed of the shuffle."""
    annotations: str
    """sha256 of the list of videos with their labels, splits and keys."""
    tool: dict[str, str]
    """Versions of what made the frames."""


class DatasetInfo(ShardPlan):
    """What dataset.yaml says of a finished dataset."""

    tables: dict[str, str]
    """sha256 of each table."""
    digest: str
    """sha256 of classes, labels and frames together: equal digests, equal data."""
    name: str = ""
    """Name of the folder; not stored."""


@dataclass(frozen=True)
class Split:
    """The tables of a split, memory-mapped."""

    name: str
    folder: Path
    videos: np.ndarray
    """`(N,)` of `VIDEO_ROW`."""
    frames: np.ndarray
    """`(frames of all videos,)` of `FRAME_ROW`; offsets are bytes of the shard file."""
    labels: np.ndarray
    """`(labels of all videos,)` class indices."""

    @property
    def num_videos(self) -> int:
        """Number of videos."""
        return len(self.videos)

    def labels_of(self, video: int) -> np.ndarray:
        """Return the class indices of a video, shape `(number of its labels,)`."""
        first = self.videos["first_label"]
        end = first[video + 1] if video + 1 < len(first) else len(self.labels)
        return self.labels[first[video] : end]

    def shard_path(self, shard: int) -> Path:
        """Return the tar file of a shard."""
        return self.folder / shard_name(self.name, shard)

    def keys(self) -> list[str]:
        """Return the keys of the videos in order, read from the csv."""
        import pandas as pd

        path = self.folder / f"{self.name}.csv"
        return pd.read_csv(path, usecols=["key"], dtype=str, keep_default_na=False)["key"].tolist()


def shard_name(split: str, shard: int) -> str:
    """Return the file name of a shard."""
    return f"{split}-{shard:05d}.tar"


def read_info(folder: str | Path) -> DatasetInfo:
    """Return what dataset.yaml says.

    Raises:
        ShardError: there is none, it is broken, or of a newer format.
    """
    path = Path(folder) / "dataset.yaml"
    if not path.exists():
        raise ShardError(f"{path} is absent: make the dataset with `tin shard`, `tin data merge`")
    info = read_model(DatasetInfo, path)
    return info.model_copy(update={"name": path.resolve().parent.name})


def read_model(model: type[Model], path: Path) -> Model:
    """Return a YAML file of the dataset, checked against its model.

    Raises:
        ShardError: it is broken, or of a newer format.
    """
    try:
        values = read_yaml(path)
        found = values.get("format")
        if isinstance(found, int) and found > FORMAT:
            raise ShardError(
                f"{path}: format {found} is newer than {FORMAT}, the newest that this version"
                " reads; update tin-video, or make the dataset again"
            )
        return parse(model, values, str(path))
    except ConfigError as error:
        raise ShardError(f"{error}; restore the file or run `tin data merge` again") from None


def open_split(folder: str | Path, split: str) -> Split:
    """Return the tables of a split, memory-mapped.

    Raises:
        ConfigError: there is no such split.
        ShardError: a table is absent, cut short or of another type.
    """
    folder, info = Path(folder), read_info(folder)
    if split not in info.splits:
        names = ", ".join(info.splits)
        raise ConfigError(f"{folder} has no split {split!r}; there are {names}")
    tables = {name: _open_table(folder, split, name) for name in TABLES}
    if len(tables["videos"]) != info.splits[split]:
        raise ShardError(
            f"{folder / split}.videos.npy has {len(tables['videos'])} videos, dataset.yaml says"
            f" {info.splits[split]}; run `tin data merge` again"
        )
    return Split(split, folder, **tables)


def _open_table(folder: Path, split: str, name: str) -> np.ndarray:
    path = folder / f"{split}.{name}.npy"
    try:
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ShardError(f"{path}: {error}; run `tin data merge` again") from None
    if table.dtype != TABLES[name] or table.ndim != 1:
        raise ShardError(f"{path}: found {table.dtype}, expected {TABLES[name]}; merge again")
    return table


@dataclass(frozen=True)
class ShardRows:
    """The rows of one shard; first frames and first labels count from the shard's own."""

    videos: np.ndarray
    frames: np.ndarray
    labels: np.ndarray
    people: list[tuple]
    """Rows of the csv."""


def read_rows(folder: Path, split: str, shard: int, classes: Mapping[str, int]) -> ShardRows:
    """Return the rows of a shard, made of nothing but its tar; `classes` gives indices by name.

    Raises:
        ShardError: the file is absent, cut short, or names another class.
    """
    path = folder / shard_name(split, shard)
    videos, frames, labels, people = [], [], [], []
    num_frames = num_labels = 0
    for record, start in read_shard(path):
        unknown = [name for name in record.labels if name not in classes]
        if unknown:
            raise ShardError(f"{path}: {record.key} has label {unknown[0]!r}, which is no class")
        rows = np.empty(len(record.offsets), FRAME_ROW)
        rows["shard"], rows["offset"] = (
            shard,
            np.array(record.offsets, np.uint64) + np.uint64(start),
        )
        rows["size"] = np.diff([*record.offsets, record.size])
        rows["crc32"] = record.crcs
        size = (record.width, record.height)
        videos.append((num_frames, len(rows), record.source_frames, *size, num_labels))
        frames.append(rows)
        labels += [classes[name] for name in record.labels]
        people.append(_person_row(record, shard))
        num_frames, num_labels = num_frames + len(rows), len(labels)
    return ShardRows(
        np.array(videos, VIDEO_ROW),
        np.concatenate([np.empty(0, FRAME_ROW), *frames]),
        np.array(labels, LABEL),
        people,
    )


def write_split(folder: Path, split: str, shards: Sequence[ShardRows]) -> dict[str, str]:
    """Write the tables of a split; return the sha256 of each file by its name."""
    first_frame = first_label = 0
    for rows in shards:
        rows.videos["first_frame"] += first_frame
        rows.videos["first_label"] += first_label
        first_frame, first_label = first_frame + len(rows.frames), first_label + len(rows.labels)
    for name, dtype in TABLES.items():
        _write_table(
            folder / f"{split}.{name}.npy", [getattr(rows, name) for rows in shards], dtype
        )
    with replacing(folder / f"{split}.csv") as file:
        text = io.TextIOWrapper(file, "utf-8", errors="backslashreplace", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(row for rows in shards for row in rows.people)
        text.detach()
    names = [*(f"{split}.{name}.npy" for name in TABLES), f"{split}.csv"]
    return {name: file_digest(folder / name) for name in names}


def _write_table(path: Path, parts: Sequence[np.ndarray], dtype: np.dtype) -> None:
    shape = (sum(len(part) for part in parts),)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with replacing(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:  # never all of it twice in memory
            file.write(part.tobytes())


def _person_row(record: VideoRecord, shard: int) -> tuple:
    labels, frames = ";".join(record.labels), len(record.offsets)
    size, fps, seconds = (record.width, record.height), f"{record.fps:.6g}", f"{record.seconds:.3f}"
    return (record.key, labels, frames, *size, fps, shard, seconds, record.source, record.warning)


def write_info(folder: Path, info: DatasetInfo) -> None:
    """Write dataset.yaml, the digest of the whole dataset filled in. It comes last."""
    values = info.model_copy(update={"digest": dataset_digest(info)})
    with replacing(folder / "dataset.yaml") as file:
        file.write(to_yaml(values.model_dump(mode="json", exclude={"name"})).encode())


def dataset_digest(info: DatasetInfo) -> str:
    """Return the sha256 of classes and tables, and by the CRCs in them of all frames."""
    covered = info.model_dump(include={"classes", "multi_label", "left_right", "tables"})
    return hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the sha256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
