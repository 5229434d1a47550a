"""Small datasets whose frames show their video and position by their color, and their loaders."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import simplejpeg
import torch

from configs.files import atomic_file
from configs.load import load
from pipeline.loader import ClipLoader
from preprocess.shard_rows import read_rows
from preprocess.shards import (
    FORMATS,
    DatasetInfo,
    open_split,
    shard_name,
    write_info,
    write_split,
)
from preprocess.tars import VideoRecord, append_video, end_shard

CLASSES = ("left", "right", "still")
SETTINGS = (
    "train.batch=4",
    "test.batch=2",
    "clip.num_segments=4",
    "clip.crop=16",
    "clip.resize=24",
    "run.threads=1",
    "run.readers=2",
    "augment.flip=random",
)
"""Settings of the loaders that `clip_loaders` makes."""


def color(video: int, frame: int) -> np.ndarray:
    """Return the RGB color of a frame."""
    return np.array([10 * video % 250, 10 * frame % 250, 128], np.uint8)


def frame_image(video: int, frame: int, width: int, height: int) -> np.ndarray:
    """Return a frame whose left half has its color and whose right half is black."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2] = color(video, frame)
    return image


def jpeg(image: np.ndarray) -> bytes:
    """Return an image as a JPEG with the settings of a dataset."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=90, colorsubsampling="420")


def gray_jpeg(image: np.ndarray) -> bytes:
    """Return the red of an image as a gray JPEG."""
    plane = np.ascontiguousarray(image[..., :1])
    return simplejpeg.encode_jpeg(plane, quality=90, colorspace="GRAY", colorsubsampling="Gray")


def write_dataset(
    folder: Path,
    num_frames: Sequence[int],
    *,
    per_shard: int = 4,
    sizes: Sequence[tuple[int, int]] = ((32, 24),),
    labels: Sequence[Sequence[str]] = (("left",), ("right",), ("still",)),
    multi_label: bool = False,
    modality: Literal["rgb", "flow"] = "rgb",
    groups: Sequence[str] = (),
) -> Path:
    """Write a dataset whose split `train` has a video for each of `num_frames`.

    The sizes (width, height), the labels and the groups are repeated over the videos. Without
    `groups`, the dataset does not store them. A frame of flow is the same image twice, in gray.
    """
    folder.mkdir(parents=True)
    for first in range(0, len(num_frames), per_shard):
        with atomic_file(folder / shard_name("train", first // per_shard)) as file:
            for video in range(first, min(first + per_shard, len(num_frames))):
                width, height = sizes[video % len(sizes)]
                record = _record(video, labels[video % len(labels)], width, height)
                if groups:
                    record = replace(record, group=groups[video % len(groups)])
                images = [frame_image(video, f, width, height) for f in range(num_frames[video])]
                jpegs = [jpeg(image) for image in images]
                if modality == "flow":
                    record = replace(record, planes=2)
                    jpegs = [gray_jpeg(image) for image in images for _ in range(2)]
                append_video(file, record, jpegs)
            end_shard(file)
    num_shards = math.ceil(len(num_frames) / per_shard)
    index = {name: number for number, name in enumerate(CLASSES)}
    rows = [read_rows(folder, "train", shard, index) for shard in range(num_shards)]
    tables = write_split(folder, "train", rows, groups=bool(groups))
    write_info(
        folder,
        DatasetInfo(
            format=FORMATS[modality],
            modality=modality,
            classes=CLASSES,
            splits={"train": len(num_frames)},
            multi_label=multi_label,
            left_right=(1, 0, 2),
            short_side=256,
            quality=90,
            fps=0.0,
            frame_cap=0,
            videos_per_shard=per_shard,
            seed=0,
            annotations="",
            tool={},
            tables=tables,
            digest="",
            groups=bool(groups),
        ),
    )
    return folder


def flip_byte(folder: Path, video: int, frame: int) -> None:
    """Change a bit in the middle of a stored frame."""
    split = open_split(folder, "train")
    row = split.frames[split.videos["first_frame"][video] + frame]
    middle = int(row["offset"]) + int(row["size"]) // 2
    with split.shard_path(row["shard"]).open("r+b") as file:
        file.seek(middle)
        byte = file.read(1)[0]
        file.seek(middle)
        file.write(bytes([byte ^ 1]))


def _record(video: int, labels: Sequence[str], width: int, height: int) -> VideoRecord:
    return VideoRecord(
        key=f"video{video}",
        labels=tuple(labels),
        width=width,
        height=height,
        source=f"{video}.mp4",
        source_width=width,
        source_height=height,
        source_frames=0,
        fps=25.0,
        seconds=1.0,
        warning="",
    )


def left_color(x: torch.Tensor) -> torch.Tensor:
    """Return the mean color of the leftmost column of ``(..., H, W, 3)``, shape ``(..., 3)``."""
    return x[..., 0, :].float().mean(dim=-2)


@contextmanager
def clip_loaders() -> Iterator[Callable[..., ClipLoader]]:
    """Yield a function that makes loaders of split `train`; close them at the end.

    Its keyword arguments are those of `ClipLoader`.
    """
    made: list[ClipLoader] = []

    def make(folder: Path, *settings: str, training: bool = True, **options: Any) -> ClipLoader:
        config = load(None, [*SETTINGS, *settings])
        made.append(ClipLoader(folder, "train", config, training=training, **options))
        return made[-1]

    yield make
    for loader in made:
        loader.close()
