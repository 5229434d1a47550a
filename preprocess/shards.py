"""Reads and writes the dataset on disk: tar shards of JPEG frames, with their tables.

A folder holds dataset.yaml, the shards (`<key>.mjpeg` and `<key>.json` of each video), and the
tables of each split: videos.npy, frames.npy and labels.npy, memory-mapped, and a CSV for people.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from configs.files import atomic_file, write_text
from configs.load import ConfigError, parse, read_yaml, to_yaml
from configs.settings import Settings
from configs.small_files import open_regular
from preprocess.csv_files import read_keys, write_csv
from preprocess.tars import ADVICE, ShardError

FORMATS = {"rgb": 1, "flow": 2}
"""The version of the layout of a dataset, by its modality."""
FORMAT = max(FORMATS.values())
"""The newest version of the layout that this code reads."""
PLANES = {"rgb": 1, "flow": 2}
"""JPEGs, and rows of the table of frames, for each frame: of flow, along x and along y."""
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
TABLES = {"videos": VIDEO_ROW, "frames": FRAME_ROW, "labels": LABEL}
"""Row types of the memory-mapped tables of a split, by name."""
Model = TypeVar("Model", bound=Settings)


class ShardPlan(Settings):
    """What is fixed before the first video of a dataset is encoded; stored in plan.yaml."""

    format: int
    """Version of this layout."""
    modality: Literal["rgb", "flow"] = "rgb"
    """What the frames are. Only the files of flow datasets contain it."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of their indices."""
    splits: dict[str, int]
    """Number of videos by split: annotated ones in plan.yaml, stored ones in dataset.yaml."""
    multi_label: bool
    """Whether a video may have several labels."""
    left_right: tuple[int, ...]
    """For each class the index of its mirror image; its own if it has neither left nor right."""
    short_side: int
    """Short side that larger frames are scaled down to, in pixels."""
    quality: int
    """JPEG quality."""
    fps: float
    """Frame rate that videos are resampled to; 0 keeps their own."""
    frame_cap: int
    """Maximum number of frames of a video; 0 means no limit."""
    videos_per_shard: int
    """How many consecutive videos of the shuffled order a shard holds."""
    seed: int
    """Seed of the shuffle."""
    annotations: str
    """sha256 of the list of videos with their labels, splits and keys."""
    tool: dict[str, str]
    """Versions of the packages that make the frames."""


class DatasetInfo(ShardPlan):
    """The description of a finished dataset; stored in dataset.yaml."""

    tables: dict[str, str]
    """sha256 of each table, by file name."""
    digest: str
    """sha256 of classes, labels and frames together; datasets with equal digests are equal."""
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
    """`(frames of all videos,)` of `FRAME_ROW`; offsets are in bytes of the shard file."""
    labels: np.ndarray
    """`(labels of all videos,)` class indices."""
    planes: int = 1
    """Rows of `frames` of each frame of a video: 2 for flow, along x and along y."""

    @property
    def num_videos(self) -> int:
        """The number of videos."""
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
        """Return the keys of the videos in order, read from the CSV file.

        Raises:
            ShardError: the file is damaged.
        """
        return read_keys(self.folder / f"{self.name}.csv", self.num_videos)


class CsvRow(NamedTuple):
    """The row of a video in `<split>.csv`; the fields are its columns."""

    key: str
    labels: str
    frames: int
    width: int
    height: int
    fps: str
    shard: int
    seconds: str
    source: str
    warning: str


@dataclass(frozen=True)
class ShardRows:
    """The rows of one shard; first frames and first labels are counted from its own start."""

    videos: np.ndarray
    frames: np.ndarray
    labels: np.ndarray
    csv_rows: list[CsvRow]


def shard_name(split: str, shard: int) -> str:
    """Return the file name of a shard."""
    return f"{split}-{shard:05d}.tar"


def read_info(folder: str | Path) -> DatasetInfo:
    """Return the content of dataset.yaml.

    Raises:
        ShardError: the file is missing, damaged, or of a newer format.
    """
    path = Path(folder) / "dataset.yaml"
    if not path.exists():
        raise ShardError(
            f"{path} is missing. Make the dataset with `tin shard`; if its shards are complete, run"
            " `tin data merge`."
        )
    info = read_model(DatasetInfo, path)
    return info.model_copy(update={"name": path.resolve().parent.name})


def read_model(model: type[Model], path: Path) -> Model:
    """Return the content of a YAML file of a dataset, checked against its model.

    Raises:
        ShardError: the file is damaged, or of a newer format.
    """
    try:
        values = read_yaml(path)
        found = values.get("format")
        if isinstance(found, int) and found > FORMAT:
            raise ShardError(
                f"{path}: format {found} is newer than {FORMAT}, the newest that this version"
                " reads. Update tin-video, or make the dataset again."
            )
        return parse(model, values, str(path))
    except ConfigError as error:
        raise ShardError(f"{error}; restore the file or run `tin data merge` again") from None


def open_split(folder: str | Path, split: str) -> Split:
    """Return the tables of a split, memory-mapped.

    Raises:
        ConfigError: the dataset does not have this split.
        ShardError: a table is missing, truncated or of another type.
    """
    folder = Path(folder)
    info = read_info(folder)
    if split not in info.splits:
        names = ", ".join(info.splits)
        raise ConfigError(f"{folder} has no split {split!r}; its splits are {names}")
    tables = {name: _open_table(folder, split, name) for name in TABLES}
    num_videos = len(tables["videos"])
    if num_videos != info.splits[split]:
        raise ShardError(
            f"{folder / split}.videos.npy has {num_videos} videos, but dataset.yaml says"
            f" {info.splits[split]}. Run `tin data merge` again."
        )
    videos, frames, labels = (tables[name] for name in ("videos", "frames", "labels"))
    return Split(split, folder, videos, frames, labels, PLANES[info.modality])


def write_split(folder: Path, split: str, shards: Sequence[ShardRows]) -> dict[str, str]:
    """Write the tables of a split; return the sha256 of each file by its name.

    The first frames and first labels in `shards` are changed to count from the split's start.

    Raises:
        WriteError: the disk is full or not writable.
    """
    first_frame = 0
    first_label = 0
    for rows in shards:
        rows.videos["first_frame"] += first_frame
        rows.videos["first_label"] += first_label
        first_frame += len(rows.frames)
        first_label += len(rows.labels)
    names = []
    for table, dtype in TABLES.items():
        names.append(f"{split}.{table}.npy")
        _write_table(folder / names[-1], [getattr(rows, table) for rows in shards], dtype)
    names.append(f"{split}.csv")
    csv_rows = chain([CsvRow._fields], *(rows.csv_rows for rows in shards))
    write_csv(folder / names[-1], csv_rows, ADVICE)
    return {name: file_digest(folder / name) for name in names}


def write_info(folder: Path, info: DatasetInfo) -> None:
    """Write dataset.yaml, with the digest of the whole dataset. It is written after all tables.

    Raises:
        WriteError: the disk is full or not writable.
    """
    values = info.model_copy(update={"digest": dataset_digest(info)})
    write_text(folder / "dataset.yaml", to_yaml(stored_values(values)), advice=ADVICE)


def stored_values(plan: ShardPlan) -> dict[str, Any]:
    """Return what plan.yaml or dataset.yaml holds; earlier versions do not know `modality`."""
    values = plan.model_dump(mode="json", exclude={"name"})
    if plan.modality == "rgb":
        del values["modality"]
    return values


def dataset_digest(info: DatasetInfo) -> str:
    """Return the sha256 of classes and tables; the CRCs in the tables cover all frames."""
    covered = info.model_dump(include={"classes", "multi_label", "left_right", "tables"})
    return hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the sha256 of a file in hex."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_table(folder: Path, split: str, name: str) -> np.ndarray:
    """Return a table, memory-mapped and checked for its type."""
    path = folder / f"{split}.{name}.npy"
    try:
        with open_regular(path):  # a FIFO would block
            table = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy raises many types for a damaged header
        raise ShardError(f"{path}: {error}. Run `tin data merge` again.") from None
    if table.dtype != TABLES[name] or table.ndim != 1:
        raise ShardError(
            f"{path}: found shape {table.shape} of {table.dtype}, expected one dimension of"
            f" {TABLES[name]}. Run `tin data merge` again."
        )
    return table


def _write_table(path: Path, parts: Sequence[np.ndarray], dtype: np.dtype) -> None:
    """Write an array part by part, so that it is never in memory as a whole."""
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (sum(len(part) for part in parts),),
    }
    with atomic_file(path, advice=ADVICE) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(part.tobytes())
