"""Plans what each step reads: clips, frames, crops and flips. Pure NumPy; no file is opened.

A plan is a pure function of (seed, epoch, step). It does not depend on earlier steps, and the
clips, frames and crops of a step do not depend on the number of ranks. N is the number of videos of
the split.
"""

from dataclasses import dataclass

import numpy as np

from configs.load import ConfigError
from configs.schema import Config
from pipeline.crops import scaled_sizes, source_regions, training_boxes, view_corners
from pipeline.frames import evaluation_frames, training_frames, twice_frames
from pipeline.random_numbers import CROPS, FLIPS, FRAMES, ORDER, SHARDS, key, shuffled, uniforms
from preprocess.shards import Split


@dataclass(frozen=True)
class Order:
    """The order in which training visits the videos of a split, different in each epoch."""

    seed: int
    num_videos: int
    shard_starts: np.ndarray | None = None
    """``(shards + 1,)`` first video of each shard, then N; None shuffles over the whole split."""
    window_shards: int = 1
    """Number of shards whose videos are mixed with each other."""

    def clips(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """Return the videos at ``positions`` of an epoch (each in 0 ... N-1), the same shape."""
        if self.shard_starts is None:
            return shuffled(positions, self.num_videos, key(self.seed, ORDER, epoch))

        # Visit the shards in a random order. `ends` are the positions at which the visits end.
        sizes = np.diff(self.shard_starts)
        num_shards = len(sizes)
        shards = shuffled(np.arange(num_shards), num_shards, key(self.seed, SHARDS, epoch))
        ends = np.cumsum(sizes[shards])

        # Find the window of `window_shards` consecutive visits that each position falls into, and
        # the position at which that window starts.
        window = np.searchsorted(ends, positions, side="right") // self.window_shards
        first_visit = window * self.window_shards
        last_visit = np.minimum(first_visit + self.window_shards, num_shards) - 1
        start = np.where(window > 0, ends[first_visit - 1], 0)

        # Shuffle the videos of each window, so that reads stay local to a few shards while an epoch
        # still sees every video exactly once. Each window has its own key.
        keys = key(self.seed, ORDER, epoch) + window.astype(np.uint64)
        mixed = start + shuffled(positions - start, ends[last_visit] - start, keys)

        # Turn each mixed position into a video: the shard of that visit, and the place inside it.
        visit = np.searchsorted(ends, mixed, side="right")
        shard = shards[visit]
        inside = mixed - (ends[visit] - sizes[shard])
        return self.shard_starts[shard] + inside


def epoch_order(split: Split, config: Config) -> Order:
    """Return the order that ``data.order`` selects."""
    if config.data.order == "global":
        return Order(config.train.seed, split.num_videos)
    starts = _shard_starts(split)
    return Order(config.train.seed, split.num_videos, starts, config.data.window_shards)


@dataclass(frozen=True)
class TrainingPlan:
    """One random clip of each of B videos, F = T*L frames per clip."""

    positions: np.ndarray
    """``(B,)`` positions in the order of the epoch."""
    clips: np.ndarray
    """``(B,)`` rows of the split."""
    frames: np.ndarray
    """``(B, F)`` frames of the videos, counted from 0."""
    boxes: np.ndarray
    """``(B, 4)`` x, y, width, height in pixels."""
    flips: np.ndarray
    """``(B,)`` whether the clip is mirrored."""

    def replace(self, row: int, other: "TrainingPlan") -> None:
        """Replace the clip at ``row`` by the only clip of ``other``."""
        for name, values in vars(self).items():
            values[row] = getattr(other, name)[0]


@dataclass(frozen=True)
class EvaluationPlan:
    """K clips of each of B videos, C crops per clip."""

    clips: np.ndarray
    """``(B,)`` rows of the split."""
    frames: np.ndarray
    """``(B, K*F)`` frames of the videos, counted from 0."""
    regions: np.ndarray
    """``(B, C, 4)`` top, left, bottom, right in pixels of the stored frames."""
    sizes: np.ndarray
    """``(B, 2)`` width and height of the frames after scaling."""
    corners: np.ndarray
    """``(B, C, 2)`` x and y of the crops in the scaled frames."""

    def rows(self, rows: list[int]) -> "EvaluationPlan":
        """Return the plan of some of the videos."""
        return EvaluationPlan(**{name: values[rows] for name, values in vars(self).items()})


def check_batch(num_videos: int, config: Config, where: str) -> None:
    """Check that a step does not need more videos than there are.

    Args:
        num_videos: of the training split.
        config: `train.batch` and `train.accumulate`.
        where: names the split, for the message.

    Raises:
        ConfigError: names a batch that fits.
    """
    settings = config.train
    if num_videos >= settings.batch:
        return
    # Prefer a power of two; `train.accumulate` must divide the batch.
    fitting = 1 << max(num_videos, 1).bit_length() - 1
    if fitting % settings.accumulate:
        fitting = num_videos - num_videos % settings.accumulate
    advice = f"Set train.batch={fitting}." if fitting else "Add videos, or set train.accumulate=1."
    raise ConfigError(
        f"train.batch {settings.batch} is more than the {num_videos} videos of {where}. {advice}"
    )


def bn_groups(config: Config, world_size: int) -> int:
    """Return into how many groups of `train.bn_clips` a rank splits the clips of a pass.

    Raises:
        ConfigError: `train.bn_clips` does not divide them; names the numbers that do.
    """
    train = config.train
    clips = train.batch // train.accumulate // world_size
    if clips % train.bn_clips or not clips:
        fitting = [str(number) for number in range(1, clips + 1) if clips % number == 0]
        raise ConfigError(
            f"train.bn_clips {train.bn_clips} does not divide the {clips} clips of a pass on each"
            f" of {world_size} ranks; set it to one of {', '.join(fitting)}, or to 0"
        )
    return clips // train.bn_clips


def training_positions(step: int, clips_per_step: int, rank: int, world_size: int) -> np.ndarray:
    """Return the positions of an epoch that a rank takes at a step, in ascending order."""
    share = clips_per_step // world_size
    return step * clips_per_step + rank * share + np.arange(share)


def plan_training(
    split: Split, config: Config, order: Order, epoch: int, positions: np.ndarray
) -> TrainingPlan:
    """Return the clips at ``positions`` ``(B,)`` of an epoch's order."""
    seed = config.train.seed
    clips = order.clips(epoch, positions)
    videos = split.videos[clips]
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
    """Return the videos of a rank's evaluation step: ``batch`` videos, fewer at the end."""
    first = (step * world_size + rank) * batch
    return np.arange(min(first, num_videos), min(first + batch, num_videos))


def plan_evaluation(split: Split, config: Config, clips: np.ndarray) -> EvaluationPlan:
    """Return the plan of the videos ``clips`` ``(B,)`` with the views of ``config.test``."""
    settings = config.clip
    K = config.test.clips
    T = settings.num_segments
    videos = split.videos[clips]
    num_frames = videos["num_frames"].astype(np.int64)
    if config.test.sampling == "twice":
        frames = twice_frames(num_frames, settings, K)
    else:
        draws = uniforms(config.train.seed, FRAMES, 0, clips, K * T).reshape(-1, K, T)
        frames = evaluation_frames(num_frames, settings, K, draws)
    width, height = videos["width"], videos["height"]
    sizes = scaled_sizes(width, height, settings.resize)
    reference = settings.sampling.startswith("reference")
    corners = view_corners(sizes, config.test_crop, config.test.crops, reference)
    regions = source_regions(corners, config.test_crop, sizes, width, height)
    frames = frames.reshape(len(clips), K * frames.shape[2])
    return EvaluationPlan(clips, frames, regions, sizes, corners)


def _shard_starts(split: Split) -> np.ndarray:
    """Return the first video of each shard, then N, without reading the whole table.

    The videos are stored in the order of their shards, so a bisection finds each start. An empty
    shard starts where the next shard does.
    """

    def shards_of(videos: np.ndarray) -> np.ndarray:
        return split.frames["shard"][split.videos["first_frame"][videos]].astype(np.int64)

    num_shards = int(shards_of(np.array([split.num_videos - 1]))[0]) + 1
    # Bisect for all shards at once: shard s starts in low[s] ... high[s].
    low = np.zeros(num_shards, np.int64)
    high = np.full(num_shards, split.num_videos)
    while (low < high).any():
        middle = (low + high) // 2
        before = shards_of(np.minimum(middle, split.num_videos - 1)) < np.arange(num_shards)
        before &= low < high
        low = np.where(before, middle + 1, low)
        high = np.where(before, high, middle)
    return np.append(low, split.num_videos)
