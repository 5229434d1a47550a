"""Decoded frames of the first test clip of a few videos, for checks of exported models."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg

from configs.load import ConfigError, dataset_path
from configs.schema import Config
from pipeline.folds import open_part
from pipeline.plan import plan_evaluation
from pipeline.store import FrameStore
from tin.evaluation.predict import encoded, split_of


@dataclass(frozen=True)
class Clip:
    """The frames that a model sees of a video, before they are scaled and cropped."""

    name: str
    """Path or key of the video."""
    frames: np.ndarray
    """uint8 ``(T*L, H, W, C)``: RGB, or x and y of optical flow."""


def clips_of_videos(videos: Sequence[Path], config: Config) -> list[Clip]:
    """Return the first test clip of each video file, encoded as in `tin shard`.

    Raises:
        BadVideoError: a video cannot be decoded.
    """
    clips = []
    for path in videos:
        video = encoded(path, config)
        plan = plan_evaluation(split_of(video), config, np.array([0]))
        jpegs = [video.jpegs[frame] for frame in _first_clip(plan.frames[0], config)]
        clips.append(Clip(str(path), _decoded(jpegs, config)))
    return clips


def clips_of_dataset(config: Config, count: int) -> list[Clip]:
    """Return the first test clips of `data.test_split`, of at most `count` videos.

    Raises:
        ConfigError: the dataset or the split does not exist.
    """
    split = open_part(
        dataset_path(config.data.dataset), config.data.test_split, config.data, training=False
    )
    keys = split.keys()
    rows = np.arange(min(count, split.num_videos))
    plan = plan_evaluation(split, config, rows)
    store = FrameStore(split, readers=1)
    try:
        read = [store.read(int(row), _first_clip(plan.frames[row], config)) for row in rows]
    finally:
        store.close()
    clips = [Clip(keys[row], _decoded(found.jpegs, config)) for row, found in enumerate(read)
             if found.jpegs]  # fmt: skip
    if not clips:
        raise ConfigError(f"{split.folder}: split {split.name} has no video with a readable frame")
    return clips


def _first_clip(frames: np.ndarray, config: Config) -> list[int]:
    return frames[: config.clip.num_segments * config.clip.frames_per_segment].tolist()


def _decoded(jpegs: Sequence[bytes | np.ndarray], config: Config) -> np.ndarray:
    """Return frames ``(T*L, H, W, C)``; a frame of flow is two gray images, x before y."""
    if config.clip.modality != "flow":
        return np.stack([simplejpeg.decode_jpeg(jpeg) for jpeg in jpegs])
    planes = np.stack([simplejpeg.decode_jpeg(jpeg, "GRAY")[..., 0] for jpeg in jpegs])
    return np.stack([planes[0::2], planes[1::2]], axis=-1)
