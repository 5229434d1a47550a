"""How large a dataset becomes and how long it takes, estimated from a sample of its videos."""

import io
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from configs.schema import Config, ShardSettings
from preprocess.annotations.labels import Video
from preprocess.annotations.read import read_annotations
from preprocess.convert import encode
from preprocess.decode import BadVideoError
from preprocess.shard_plan import list_tasks, make_plan, shuffled
from preprocess.tars import append_video
from preprocess.videos import thinned
from preprocess.workers import num_cpus

QUALITIES = (90, 85, 80)
CAPS = (0, 64, 32)
SAMPLE_SIZE = 48
"""Videos that are encoded, if they do not take too long."""
MIN_SAMPLE = 8
SAMPLE_S = 60.0
"""After this many seconds and `MIN_SAMPLE` videos, no more videos are encoded."""
ROW_BYTES = 20
"""Of a frame in the table of frames."""
TABLES = 4
"""Files of a split beside its shards: three tables and a list."""
DATASET_FILES = 3
"""dataset.yaml, plan.yaml and quarantine.csv."""


@dataclass(frozen=True)
class _Sample:
    """A video that was encoded for the estimate."""

    num_frames: int
    """Frames with the cap of the settings."""
    seconds: float
    """Time that it takes to encode with the settings."""
    sizes: dict[tuple[int, int], int]
    """Bytes in a shard, for each quality and cap."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval, which follows from the spread of the sample."""

    value: float
    half_width: float
    """Half of the interval; NaN for a sample of one."""

    def text(self, unit: float = 1.0) -> str:
        """Return the figure in units, with its interval."""
        low = max(0.0, self.value - self.half_width) / unit
        high = (self.value + self.half_width) / unit
        return f"{_short(self.value / unit)} ({_short(low)} to {_short(high)})"


@dataclass(frozen=True)
class DryRun:
    """What `tin shard` would write."""

    num_videos: int
    splits: dict[str, int]
    num_sampled: int
    problems: list[str]
    """Why videos of the sample cannot be used."""
    frames: Estimate
    num_bytes: Estimate
    """Bytes of the shards and tables with the settings."""
    num_files: int
    cpu_s: Estimate
    """Seconds of one process for all videos."""
    processes: int
    sizes: dict[tuple[int, int], float]
    """Bytes for each quality and cap, of the qualities and caps that are compared."""
    quality: int
    cap: int
    is_dense: bool
    """Whether the recipe samples densely, which caps make impossible."""

    def lines(self) -> Iterator[str]:
        """Yield the estimate and the table of sizes as text."""
        splits = ", ".join(f"{count} in {split}" for split, count in self.splits.items())
        yield f"videos: {self.num_videos:,} ({splits})"
        if self.problems:
            share = 100 * len(self.problems) / (self.num_sampled + len(self.problems))
            yield (
                f"warning: {len(self.problems)} of the sampled videos ({share:.0f} %) would go to"
                f" quarantine; the first: {self.problems[0]}"
            )
        if not self.num_sampled:
            yield "no video of the sample can be used, so nothing can be estimated"
            return
        hours = Estimate(self.cpu_s.value / self.processes, self.cpu_s.half_width / self.processes)
        yield f"estimated from {self.num_sampled} videos, with 95 % intervals:"
        yield f"frames: {self.frames.text()}"
        yield f"GB: {self.num_bytes.text(1e9)}"
        yield f"files: {self.num_files}"
        unit, name = (3600, "hours") if hours.value >= 360 else (1, "seconds")
        yield f"{name}: {hours.text(unit)} with {self.processes} processes on CPUs like this one's"
        yield from self._table()

    def _table(self) -> Iterator[str]:
        """Yield the sizes in GB by quality and cap; the present settings have a star."""
        caps = sorted({cap for _, cap in self.sizes}, key=lambda cap: cap or math.inf, reverse=True)
        names = [f"{cap} frames" if cap else "all frames" for cap in caps]
        yield "GB by shard.quality and shard.frame_cap (* as set):"
        yield "quality" + "".join(f"  {name:>12}" for name in names)
        for quality in sorted({quality for quality, _ in self.sizes}, reverse=True):
            cells = []
            for cap in caps:
                star = "*" if (quality, cap) == (self.quality, self.cap) else " "
                size = f"{_short(self.sizes[quality, cap] / 1e9)}{star}"
                cells.append("-" if cap and self.is_dense else size)
            yield f"{quality:7}" + "".join(f"  {cell:>12}" for cell in cells)
        if self.is_dense:
            yield "Dense sampling needs all frames, so a recipe with it rejects shard.frame_cap."


def dry_run(config: Config) -> DryRun:
    """Encode a sample of the videos that `config.shard` names, and write nothing.

    Raises:
        ConfigError: settings or annotations are invalid.
    """
    settings = config.shard
    annotations = read_annotations(settings)
    plan = make_plan(annotations, settings)
    tasks = list_tasks(annotations, plan)
    qualities = sorted({*QUALITIES, settings.quality}, reverse=True)
    caps = sorted({*CAPS, settings.frame_cap})
    samples: list[_Sample] = []
    problems = []
    began = time.monotonic()
    for number, video in enumerate(shuffled(annotations.videos, plan.seed)[:SAMPLE_SIZE]):
        if number >= MIN_SAMPLE and time.monotonic() - began > SAMPLE_S:
            break
        try:
            samples.append(_encode(video, settings, qualities, caps))
        except BadVideoError as error:
            problems.append(f"{video.path}: {error}")
    count = len(annotations.videos)
    present = settings.quality, settings.frame_cap
    sizes = {
        (quality, cap): [one.sizes[quality, cap] for one in samples]
        for quality in qualities
        for cap in caps
    }
    return DryRun(
        num_videos=count,
        splits=dict(plan.splits),
        num_sampled=len(samples),
        problems=problems,
        frames=_total([one.num_frames for one in samples], count),
        num_bytes=_total(sizes[present], count),
        num_files=len(tasks) + TABLES * len(plan.splits) + DATASET_FILES,
        cpu_s=_total([one.seconds for one in samples], count),
        processes=settings.parts * (config.run.threads or num_cpus()),
        sizes={key: _total(values, count).value for key, values in sizes.items()},
        quality=settings.quality,
        cap=settings.frame_cap,
        is_dense=config.clip.sampling in ("dense", "reference_dense"),
    )


def _encode(
    video: Video, settings: ShardSettings, qualities: Sequence[int], caps: Sequence[int]
) -> _Sample:
    """Encode a video in each quality; a cap then keeps some of its frames.

    Raises:
        BadVideoError: the video would go to quarantine.
    """
    sizes = {}
    seconds = 0.0
    num_frames = 0
    for quality in qualities:
        every_frame = settings.model_copy(update={"quality": quality, "frame_cap": 0})
        began = time.perf_counter()
        record, jpegs = encode(video, every_frame)
        if quality == settings.quality:
            seconds = time.perf_counter() - began
        # A frame of flow has two JPEGs.
        frames = [jpegs[i : i + record.planes] for i in range(0, len(jpegs), record.planes)]
        num_frames = len(frames)
        for cap in caps:
            kept = thinned(frames, cap)
            shard = io.BytesIO()
            append_video(shard, record, [jpeg for frame in kept for jpeg in frame])
            sizes[quality, cap] = shard.tell() + ROW_BYTES * len(kept) * record.planes
    return _Sample(min(num_frames, settings.frame_cap or num_frames), seconds, sizes)


def _short(number: float) -> str:
    """Return a number with three digits and without an exponent."""
    return f"{number:,.0f}" if number >= 100 else f"{float(f'{number:.3g}'):.12g}"


def _total(values: Sequence[float], count: int) -> Estimate:
    """Return the sum over `count` videos of which some have these values.

    The interval is that of a mean: 1.96 standard errors on either side, without the part of the
    videos that is known.
    """
    if not values:
        return Estimate(0.0, math.nan)
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Estimate(count * mean, 0.0 if count == 1 else math.nan)
    error = statistics.stdev(values) / math.sqrt(len(values))
    unknown = math.sqrt(max(0.0, 1 - len(values) / count))
    return Estimate(count * mean, 1.96 * count * error * unknown)
