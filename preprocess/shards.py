"""Reads and writes the dataset on disk: tar shards of JPEG frames, with their tables.

A folder holds dataset.yaml, the shards (with a `<key>.mjpeg` and a `<key>.json` for each video),
and the tables of each split: videos.npy, frames.npy, labels.npy and groups.npy, which are
memory-mapped, and a CSV file for people.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from configs.digests import file_digest
from configs.files import write_text
from configs.load import ConfigError, parse, read_yaml, to_yaml
from configs.settings import Settings
from preprocess.csv_files import read_keys, write_csv
from preprocess.tables import TABLES, open_table, table_types, write_table
from preprocess.tars import ADVICE, ShardError

FORMATS = {"rgb": 1, "flow": 2}
"""The version of the layout of a dataset, by its modality."""
FORMAT = max(FORMATS.values())
"""The newest version of the layout that this code reads."""
PLANES = {"rgb": 1, "flow": 2}
"""JPEGs, and rows of the table of frames, for each frame: of flow, along x and along y."""
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
    groups: bool = False
    """Whether the shards hold the group of each video. Those of earlier versions do not."""


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
    groups: np.ndarray | None = None
    """`(N,)` of `GROUP`: equal for the videos of a group. A video without a group has a number of
    its own. None: the dataset is of an earlier version, which did not store groups."""
    whole: "Split | None" = None
    """The split that these tables are a part of; None for a whole split."""
    rows: np.ndarray | None = None
    """`(N,)` rows of `whole`."""

    @property
    def num_videos(self) -> int:
        """The number of videos."""
        return len(self.videos)

    def labels_of(self, video: int) -> np.ndarray:
        """Return the class indices of a video, shape `(number of its labels,)`."""
        first = self.videos["first_label"]
        end = first[video + 1] if video + 1 < len(first) else len(self.labels)
        return self.labels[first[video] : end]

    def required_groups(self, purpose: str) -> np.ndarray:
        """Return `groups`; `purpose` says what needs them.

        Raises:
            ConfigError: the dataset does not store them.
        """
        if self.groups is None:
            raise ConfigError(
                f"{purpose} needs the groups of the videos, but {self.folder} was made by an"
                " earlier version, which did not store them. Make the dataset again in another"
                " folder with `tin shard`; the groups come from column group of the labels."
            )
        return self.groups

    def shard_path(self, shard: int) -> Path:
        """Return the tar file of a shard."""
        return self.folder / shard_name(self.name, shard)

    def keys(self) -> list[str]:
        """Return the keys of the videos in order, read from the CSV file.

        Raises:
            ShardError: the file is damaged.
        """
        if self.whole is not None and self.rows is not None:
            keys = self.whole.keys()
            return [keys[row] for row in self.rows]
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
    group: str
    """Datasets that do not store groups lack this column."""

    @classmethod
    def columns(cls, groups: bool) -> tuple[str, ...]:
        """Return the columns of the file; `groups` says whether the dataset stores groups."""
        return cls._fields if groups else cls._fields[:-1]


@dataclass(frozen=True)
class ShardRows:
    """The rows of one shard; first frames and first labels are counted from its own start."""

    videos: np.ndarray
    frames: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
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
    tables = {name: open_table(folder, split, name) for name in table_types(info.groups)}
    num_videos = len(tables["videos"])
    if num_videos != info.splits[split]:
        raise ShardError(
            f"{folder / split}.videos.npy has {num_videos} videos, but dataset.yaml says"
            f" {info.splits[split]}. Run `tin data merge` again."
        )
    videos, frames, labels = (tables[name] for name in TABLES)
    planes = PLANES[info.modality]
    return Split(split, folder, videos, frames, labels, planes, tables.get("groups"))


def write_split(
    folder: Path, split: str, shards: Sequence[ShardRows], *, groups: bool = False
) -> dict[str, str]:
    """Write the tables of a split; return the sha256 of each file by its name.

    The first frames and first labels in `shards` are changed to count from the split's start.
    `groups` says whether the shards hold groups, which then get a table and a column.

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
    names = [
        write_table(folder, split, table, [getattr(rows, table) for rows in shards])
        for table in table_types(groups)
    ]
    names.append(f"{split}.csv")
    columns = CsvRow.columns(groups)
    csv_rows = (row[: len(columns)] for rows in shards for row in rows.csv_rows)
    write_csv(folder / names[-1], chain([columns], csv_rows), ADVICE)
    return {name: file_digest(folder / name) for name in names}


def write_info(folder: Path, info: DatasetInfo) -> None:
    """Write dataset.yaml, with the digest of the whole dataset. It is written after all tables.

    Raises:
        WriteError: the disk is full or not writable.
    """
    values = info.model_copy(update={"digest": dataset_digest(info)})
    write_text(folder / "dataset.yaml", to_yaml(stored_values(values)), advice=ADVICE)


def stored_values(plan: ShardPlan) -> dict[str, Any]:
    """Return what plan.yaml or dataset.yaml holds: as earlier versions wrote it, where possible."""
    values = plan.model_dump(mode="json", exclude={"name"})
    if plan.modality == "rgb":
        del values["modality"]
    if not plan.groups:
        del values["groups"]
    return values


def dataset_digest(info: DatasetInfo) -> str:
    """Return the sha256 of classes and tables; the CRCs in the tables cover all frames."""
    covered = info.model_dump(include={"classes", "multi_label", "left_right", "tables"})
    return hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()
