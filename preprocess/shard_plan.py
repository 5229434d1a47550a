"""The plan of a dataset: which shard each video goes to, fixed before the first is encoded."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from configs.files import write_text
from configs.load import ConfigError, to_yaml
from configs.schema import ShardSettings
from preprocess.annotations.labels import Video
from preprocess.annotations.mirror import left_right
from preprocess.annotations.read import Annotations
from preprocess.decode import BadVideoError, probe
from preprocess.flow import NO_OPENCV
from preprocess.frame_folders import list_frames
from preprocess.shards import FORMATS, ShardPlan, read_model, shard_name, stored_values
from preprocess.tars import ShardError
from preprocess.videos import stored_size

NAME = "plan.yaml"
SAMPLE_SIZE = 128
"""How many videos are probed to estimate the bytes of one."""
BYTES_PER_PIXEL = 0.22
"""Of a JPEG of quality 90: the mean over 61 clips of UCF101, HMDB51 and Kinetics."""
MIN_SHARDS = 64
"""A small dataset gets up to this many shards, so that as many processes have work."""
MIN_VIDEOS = 4
"""For the sake of `MIN_SHARDS`, shards do not get fewer videos than this."""


@dataclass(frozen=True)
class ShardTask:
    """A shard to be written."""

    split: str
    shard: int
    videos: tuple[Video, ...]
    crashes: tuple[tuple[str, str], ...] = ()
    """Keys of videos that crashed their decoder, with the reason."""

    @property
    def name(self) -> str:
        """File name of the shard."""
        return shard_name(self.split, self.shard)


def load_or_create_plan(
    folder: Path, annotations: Annotations, settings: ShardSettings
) -> ShardPlan:
    """Return the plan of a dataset; write it if the folder has none yet.

    Raises:
        ConfigError: the dataset was started with other videos, settings or versions.
        ShardError: the plan in the folder is damaged, or of a newer format.
        WriteError: the disk is full or not writable.
    """
    path = folder / NAME
    if not path.exists():
        plan = make_plan(annotations, settings)
        write_text(path, to_yaml(stored_values(plan)))
        return plan
    # Make the plan again with the number of videos per shard that was estimated at the start.
    started = read_plan(folder)
    plan = make_plan(annotations, settings, started.videos_per_shard)
    # Finished shards of an earlier version hold no groups, so the others must not need them.
    plan = plan.model_copy(update={"groups": started.groups})
    before = started.model_dump()
    after = plan.model_dump()
    changed = [name for name in before if before[name] != after[name]]
    if changed:
        name = changed[0]
        raise ConfigError(
            f"{path}: this dataset was started with {name} {_short(before[name])}, but now it is"
            f" {_short(after[name])}. Use another folder, or delete this one."
        )
    return started


def read_plan(folder: Path) -> ShardPlan:
    """Return the plan of a dataset that has been started.

    Raises:
        ShardError: the file is missing, damaged, or of a newer format.
    """
    path = folder / NAME
    if not path.exists():
        raise ShardError(f"{path} is missing. Start the dataset with `tin shard`.")
    return read_model(ShardPlan, path)


def make_plan(
    annotations: Annotations, settings: ShardSettings, videos_per_shard: int = 0
) -> ShardPlan:
    """Return the plan of a dataset; with 0 videos per shard, estimate how many fit `shard_mb`."""
    names = sorted({video.split for video in annotations.videos})
    modality: Literal["rgb", "flow"] = "rgb" if settings.flow == "none" else "flow"
    return ShardPlan(
        format=FORMATS[modality],
        modality=modality,
        classes=annotations.classes,
        splits={name: sum(v.split == name for v in annotations.videos) for name in names},
        multi_label=settings.multi_label,
        left_right=left_right(annotations.classes),
        short_side=settings.short_side,
        quality=settings.quality,
        fps=settings.fps,
        frame_cap=settings.frame_cap,
        videos_per_shard=videos_per_shard or _videos_per_shard(annotations, settings),
        seed=settings.seed,
        annotations=annotations.digest,
        tool={name: version(name) for name in _tools(settings)},
        groups=True,
    )


def list_tasks(annotations: Annotations, plan: ShardPlan) -> list[ShardTask]:
    """Return the tasks of all shards: each split in a seeded order, cut into equal shards."""
    tasks = []
    step = plan.videos_per_shard
    for split in plan.splits:
        videos = shuffled([v for v in annotations.videos if v.split == split], plan.seed)
        for shard, first in enumerate(range(0, len(videos), step)):
            tasks.append(ShardTask(split, shard, tuple(videos[first : first + step])))
    return tasks


def shuffled(videos: Sequence[Video], seed: int) -> list[Video]:
    """Return videos in the seeded order, which does not depend on other videos."""
    return sorted(videos, key=lambda video: _shuffle_key(video, seed))


def num_shards(plan: ShardPlan, split: str) -> int:
    """Return how many shards a split has."""
    return math.ceil(plan.splits[split] / plan.videos_per_shard)


def _tools(settings: ShardSettings) -> list[str]:
    """Return the packages that make the frames.

    Raises:
        ConfigError: flow is to be computed, but OpenCV is not installed.
    """
    names = ["tin-video", "av", "simplejpeg", "pillow"]
    if settings.flow == "dis":
        if find_spec("cv2") is None:
            raise ConfigError(NO_OPENCV)
        names.append("opencv-python-headless")
    return names


def _videos_per_shard(annotations: Annotations, settings: ShardSettings) -> int:
    """Return how many videos fit `shard_mb`, estimated from a sample that all parts agree on."""
    # Estimate the bytes of a video from the first ones of the shuffled order.
    order = shuffled(annotations.videos, settings.seed)
    estimates = [_estimate_bytes(video, settings) for video in order[:SAMPLE_SIZE]]
    known = [size for size in estimates if size]
    count = len(annotations.videos)
    fits = int(settings.shard_mb * 1e6 * len(known) / sum(known)) if known else count
    # Make shards of a small dataset smaller than wanted, so that all processes have work.
    limit = max(MIN_VIDEOS, math.ceil(count / MIN_SHARDS))
    return max(1, min(fits, limit))


def _estimate_bytes(video: Video, settings: ShardSettings) -> float:
    """Return about how many bytes a video takes in a shard; 0 if it cannot be probed."""
    path = Path(settings.source).expanduser() / video.path
    try:
        if path.is_dir():
            return sum(file.stat().st_size for file in list_frames(path) if file.is_file())
        info = probe(path)
    except (BadVideoError, OSError):
        return 0.0
    frames = info.seconds * settings.fps or info.num_frames or info.seconds * info.fps
    frames = min(frames, settings.frame_cap or frames)
    width, height = stored_size(info.width, info.height, settings.short_side)
    return frames * (width * height) * BYTES_PER_PIXEL


def _shuffle_key(video: Video, seed: int) -> str:
    """Return what the seeded order is sorted by: a hash, the same in every version of Python."""
    return hashlib.sha256(f"{seed}/{video.split}/{video.key}".encode()).hexdigest()


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
