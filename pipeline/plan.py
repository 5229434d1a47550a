"""What each step reads and how: clips, frames, crops and flips. Pure NumPy, nothing is opened.

A plan is a pure function of (seed, epoch, step): it depends on no earlier step, and a step's
clips, frames and crops depend on no number of ranks. N is the number of videos of the split.
"""

from dataclasses import dataclass

import numpy as np

from configs.schema import Config
from pipeline.crops import scaled_sizes, source_regions, training_boxes, view_corners
from pipeline.frames import evaluation_frames, training_frames
from pipeline.random_numbers import CROPS, FLIPS, FRAMES, ORDER, SHARDS, key, shuffled, uniforms
from preprocess.shards import Split


@dataclass(frozen=True)
class Order:
    """The order in which training visits the videos of a split, a new one each epoch."""

    seed: int
    num_videos: int
    shard_starts: np.ndarray | None = None
    """``(shards + 1,)`` first video of each shard and N; None shuffles over the whole split."""
    window_shards: int = 1
    """Shards that are mixed at a time."""

    def clips(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """Return the videos at ``positions`` of an epoch (each in 0 ... N-1), the same shape."""
        if self.shard_starts is None:
            return shuffled(positions, self.num_videos, key(self.seed, ORDER, epoch))
        sizes = np.diff(self.shard_starts)
        numbers = np.arange(len(sizes))
        shards = shuffled(numbers, len(sizes), key(self.seed, SHARDS, epoch))
        ends = np.cumsum(sizes[shards])
        window = np.searchsorted(ends, positions, side="right") // self.window_shards
        last = np.minimum((window + 1) * self.window_shards, len(sizes)) - 1
        start = np.where(window > 0, ends[window * self.window_shards - 1], 0)
        keys = key(self.seed, ORDER, epoch) + window.astype(np.uint64)
        mixed = start + shuffled(positions - start, ends[last] - start, keys)
        place = np.searchsorted(ends, mixed, side="right")
        inside = mixed - (ends[place] - sizes[shards[place]])
        return self.shard_starts[shards[place]] + inside


def epoch_order(split: Split, config: Config) -> Order:
    """Return the order that ``data.order`` asks for."""
    if config.data.order == "global":
        return Order(config.train.seed, split.num_videos)
    starts = _shard_starts(split)
    return Order(config.train.seed, split.num_videos, starts, config.data.window_shards)


@dataclass(frozen=True)
class TrainingPlan:
    """One random clip of each of B videos, F = T*L frames a clip."""

    positions: np.ndarray
    """``(B,)`` places in the order of the epoch."""
    clips: np.ndarray
    """``(B,)`` rows of the split."""
    frames: np.ndarray
    """``(B, F)`` frames of the videos, counted from 0."""
    boxes: np.ndarray
    """``(B, 4)`` x, y, width, height in pixels."""
    flips: np.ndarray
    """``(B,)`` whether the clip is mirrored."""

    def put(self, row: int, other: "TrainingPlan") -> None:
        """Put the only clip of ``other`` in the place of ``row``."""
        for name, values in vars(self).items():
            values[row] = getattr(other, name)[0]


@dataclass(frozen=True)
class EvaluationPlan:
    """K clips of each of B videos, C crops a clip."""

    clips: np.ndarray
    """``(B,)`` rows of the split."""
    frames: np.ndarray
    """``(B, K*F)`` frames of the videos, counted from 0."""
    regions: np.ndarray
    """``(B, C, 4)`` top, left, bottom, right in pixels of the stored frames."""


def training_positions(step: int, pass_clips: int, rank: int, world_size: int) -> np.ndarray:
    """Return the places in the epoch that a rank's part of a pass takes, one after the other."""
    share = pass_clips // world_size
    return step * pass_clips + rank * share + np.arange(share)


def plan_training(
    split: Split, config: Config, order: Order, epoch: int, positions: np.ndarray
) -> TrainingPlan:
    """Return the clips at ``positions`` ``(B,)`` of an epoch's order."""
    clips = order.clips(epoch, positions)
    videos, seed = split.videos[clips], config.train.seed
    draws = uniforms(seed, FRAMES, epoch, clips, config.clip.num_segments)
    frames = training_frames(videos["num_frames"].astype(np.int64), config.clip, draws)
    draws = uniforms(seed, CROPS, epoch, clips, 2)
    width, height = videos["width"], videos["height"]
    boxes = training_boxes(width, height, config.augment, config.clip.crop, draws)
    flips = uniforms(seed, FLIPS, epoch, clips, 1)[:, 0] < 0.5
    return TrainingPlan(positions, clips, frames, boxes, flips & (config.augment.flip != "none"))


def evaluation_clips(
    step: int, num_videos: int, batch: int, rank: int, world_size: int
) -> np.ndarray:
    """Return the videos of a rank's evaluation step: ``batch`` of them, fewer at the end."""
    first = (step * world_size + rank) * batch
    return np.arange(min(first, num_videos), min(first + batch, num_videos))


def plan_evaluation(split: Split, config: Config, clips: np.ndarray) -> EvaluationPlan:
    """Return the frames and crops that ``config.test`` asks of the videos ``clips`` ``(B,)``."""
    videos, settings, crop = split.videos[clips], config.clip, config.test_crop
    K, T = config.test.clips, settings.num_segments
    draws = uniforms(config.train.seed, FRAMES, 0, clips, K * T).reshape(-1, K, T)
    num_frames = videos["num_frames"].astype(np.int64)
    frames = evaluation_frames(num_frames, settings, K, draws)
    sizes = scaled_sizes(videos["width"], videos["height"], settings.resize)
    reference = settings.sampling.startswith("reference")
    corners = view_corners(sizes, crop, config.test.crops, reference)
    regions = source_regions(corners, crop, sizes, videos["width"], videos["height"])
    return EvaluationPlan(clips, frames.reshape(len(clips), K * frames.shape[2]), regions)


def _shard_starts(split: Split) -> np.ndarray:
    """Find where each shard begins by bisection: videos stand in the order of the shards."""

    def shards_of(videos: np.ndarray) -> np.ndarray:
        return split.frames["shard"][split.videos["first_frame"][videos]].astype(np.int64)

    num_shards = int(shards_of(np.array([split.num_videos - 1]))[0]) + 1
    low, high = np.zeros(num_shards, np.int64), np.full(num_shards, split.num_videos)
    while (low < high).any():
        middle = (low + high) // 2
        before = shards_of(np.minimum(middle, split.num_videos - 1)) < np.arange(num_shards)
        before &= low < high
        low, high = np.where(before, middle + 1, low), np.where(before, high, middle)
    return np.append(low, split.num_videos)
