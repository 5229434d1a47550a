"""Which shard each video goes to: settled, and written down, before the first is encoded."""

import hashlib
import math
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from configs.load import ConfigError, to_yaml
from configs.schema import ShardSettings
from preprocess.annotations.mirror import left_right
from preprocess.annotations.read import Annotations, Video
from preprocess.decode import BadVideoError, probe
from preprocess.frame_folders import list_frames
from preprocess.shards import FORMAT, ShardPlan, read_model, shard_name
from preprocess.tars import ShardError, replacing
from preprocess.videos import stored_size

NAME = "plan.yaml"
SAMPLE = 128  # videos that are probed to guess the bytes of one
BYTES_PER_PIXEL = 0.22  # of a JPEG of quality 90: 61 clips of UCF101, HMDB51 and Kinetics
MIN_SHARDS = 64  # of a dataset that would fit into fewer: work for as many processes


@dataclass(frozen=True)
class ShardTask:
    """A shard that is to be written."""

    split: str
    shard: int
    videos: tuple[Video, ...]
    crashes: tuple[tuple[str, str], ...] = ()
    """Keys of videos that crashed their decoder, with the reason."""

    @property
    def name(self) -> str:
        """File name of the shard."""
        return shard_name(self.split, self.shard)


def begin(folder: Path, annotations: Annotations, settings: ShardSettings) -> ShardPlan:
    """Return the plan of a dataset, the one in the folder where it has been begun.

    Raises:
        ConfigError: the folder was begun with other videos, settings or versions.
        ShardError: its plan is broken, or of a newer format.
    """
    path = folder / NAME
    old = read_plan(folder) if path.exists() else None
    plan = make_plan(annotations, settings, old.videos_per_shard if old else 0)
    if old is None:
        with replacing(path) as file:
            file.write(to_yaml(plan.model_dump(mode="json")).encode())
        return plan
    before, after = old.model_dump(), plan.model_dump()
    changed = [name for name in before if before[name] != after[name]]
    if changed:
        name = changed[0]
        raise ConfigError(
            f"{path}: this dataset was begun with {name} {_short(before[name])}, now it is"
            f" {_short(after[name])}; use another folder, or delete this one"
        )
    return old


def read_plan(folder: Path) -> ShardPlan:
    """Return the plan of a dataset that has been begun.

    Raises:
        ShardError: there is none, it is broken, or of a newer format.
    """
    path = folder / NAME
    if not path.exists():
        raise ShardError(f"{path} is absent: begin the dataset with `tin shard`")
    return read_model(ShardPlan, path)


def make_plan(
    annotations: Annotations, settings: ShardSettings, videos_per_shard: int
) -> ShardPlan:
    """Return the plan of a new dataset; 0 videos per shard: as many as `shard_mb` holds."""
    names = sorted({video.split for video in annotations.videos})
    return ShardPlan(
        format=FORMAT,
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
        tool={name: version(name) for name in ("tin-video", "av", "simplejpeg", "pillow")},
    )


def list_tasks(annotations: Annotations, plan: ShardPlan) -> list[ShardTask]:
    """Return all shards: of each split in a seeded order, `videos_per_shard` at a time."""
    jobs, step = [], plan.videos_per_shard
    for split in plan.splits:
        videos = [video for video in annotations.videos if video.split == split]
        videos.sort(key=lambda video: _place(video, plan.seed))
        for shard, first in enumerate(range(0, len(videos), step)):
            jobs.append(ShardTask(split, shard, tuple(videos[first : first + step])))
    return jobs


def num_shards(plan: ShardPlan, split: str) -> int:
    """Return how many shards a split has."""
    return math.ceil(plan.splits[split] / plan.videos_per_shard)


def _videos_per_shard(annotations: Annotations, settings: ShardSettings) -> int:
    """Guess it from a sample that is the same in every part."""
    sample = sorted(annotations.videos, key=lambda video: _place(video, settings.seed))[:SAMPLE]
    sizes = [size for size in (_guess_bytes(video, settings) for video in sample) if size]
    count = len(annotations.videos)
    fits = settings.shard_mb * 1e6 * len(sizes) / sum(sizes) if sizes else count
    return max(1, min(int(fits), max(4, math.ceil(count / MIN_SHARDS))))


def _guess_bytes(video: Video, settings: ShardSettings) -> float:
    path = Path(settings.source).expanduser() / video.path
    if path.is_dir():
        return sum(file.stat().st_size for file in list_frames(path))
    try:
        info = probe(path)
    except BadVideoError:
        return 0.0
    frames = info.seconds * settings.fps or info.num_frames or info.seconds * info.fps
    frames = min(frames, settings.frame_cap or frames)
    return (
        frames
        * math.prod(stored_size(info.width, info.height, settings.short_side))
        * BYTES_PER_PIXEL
    )


def _place(video: Video, seed: int) -> str:
    """Return where a video stands in the seeded order: the same in every Python."""
    return hashlib.sha256(f"{seed}/{video.split}/{video.key}".encode()).hexdigest()


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
