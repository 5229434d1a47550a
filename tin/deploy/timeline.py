"""Scores over time of videos of any length: windows at a stride, in constant memory.

A window is T frames at a distance of `predict.stride`, and the next window starts `predict.step`
of these frames later. Each frame is decoded once.
"""

import csv
import io
import logging
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from configs.files import atomic_file, write_bytes, write_text
from configs.load import ConfigError
from configs.progress import show_progress
from configs.schema import Config
from pipeline.batches import BadDataError
from preprocess.decode import DEFAULT_FPS, BadVideoError, Decoding, probe
from tin.deploy.rgb_frames import center_crop, video_frames
from tin.deploy.scorer import Scorer, check_frames
from tin.deploy.video_lists import list_videos
from tin.ranks.distributed import cpus

log = logging.getLogger(__name__)
SHOWN = 8
"""Number of classes in the picture of a timeline."""


@dataclass(frozen=True)
class Timeline:
    """The scores of the W windows of a video. A window stands for the time that it covers."""

    starts: np.ndarray
    """float64 ``(W,)`` time of the first frame of each window, in seconds."""
    ends: np.ndarray
    """float64 ``(W,)`` time up to which the last frame of each window is shown, in seconds."""
    scores: np.ndarray
    """float32 ``(W, K)``."""


@dataclass(frozen=True)
class Segment:
    """A time in which a class scores at least `predict.threshold`."""

    start: float
    end: float
    name: str
    score: float
    """Mean score of the windows of the segment."""


def write_timelines(
    model: Path, sources: Sequence[Path], out: Path, settings: Sequence[str]
) -> int:
    """Write the timelines of videos to ``out``; return how many videos could not be used.

    Each video gets a table of scores (.csv) and a picture (.png). segments.csv lists the segments
    of all videos, and bad.csv the videos that could not be used.

    Args:
        model: folder of a run, or one of its checkpoints.
        sources: videos, folders of videos, or lists of videos.
        out: folder that receives the files.
        settings: ``section.key=value`` that `tin.deploy.scorer` allows.

    Raises:
        BadDataError: no video can be used.
        ConfigError: a setting or a source cannot be used.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scorer = Scorer(model, settings, device)
    torch.set_num_threads(scorer.config.run.threads or cpus())
    check_frames(scorer.config, "--timeline")
    if scorer.config.clip.frames_per_segment > 1:
        raise ConfigError("--timeline needs a model with clip.frames_per_segment=1")
    out.mkdir(parents=True, exist_ok=True)
    segments: list[list[str]] = []
    bad: list[list[str]] = []
    listed = list_videos(sources)
    for number, video in enumerate(show_progress(listed, len(listed), "timelines")):
        decoding = Decoding()
        try:
            timeline = timeline_of(video.path, scorer, decoding)
        except BadVideoError as error:
            bad.append([video.key, "no", str(error)])
            continue
        if decoding.problems:
            bad.append([video.key, "yes", decoding.problems[0]])
        name = f"{number:05d}-{re.sub(r'[^A-Za-z0-9_.-]', '_', Path(video.key).stem)}"
        _write_scores(out / f"{name}.csv", timeline, scorer.classes)
        write_bytes(out / f"{name}.png", picture(timeline, scorer.classes, video.key))
        found = segments_of(timeline, scorer.classes, scorer.config)
        segments += [[video.key, *_texts(segment)] for segment in found]
        log.info("%s: %d windows, %d segments", video.key, len(timeline.starts), len(found))
    _write_table(out / "segments.csv", ["key", "class", "start_s", "end_s", "score"], segments)
    _write_table(out / "bad.csv", ["key", "predicted", "reason"], bad)
    num_bad = sum(row[1] == "no" for row in bad)
    if num_bad == len(listed):
        raise BadDataError(
            f"{out / 'bad.csv'}: none of {num_bad} videos can be used; this file gives the reasons"
        )
    return num_bad


def timeline_of(path: Path, scorer: Scorer, decoding: Decoding | None = None) -> Timeline:
    """Return the scores of all windows of a video.

    A video that is shorter than a window gives one window, in which its last frame repeats.

    Raises:
        BadVideoError: the video cannot be used.
    """
    config = scorer.config
    starts: list[float] = []
    ends: list[float] = []
    scores: list[np.ndarray] = []
    interval = 1 / (config.shard.fps or probe(path).fps or DEFAULT_FPS)
    pending: list[Tensor] = []

    def score() -> None:
        """Score the windows that are ready, in a batch of the size of all others."""
        x = pending[0].new_zeros(config.test.batch, 1, *pending[0].shape)
        x[: len(pending), 0] = torch.stack(pending)
        found, _ = scorer.score(x.to(scorer.device))
        scores.append(found[: len(pending), 0])
        pending.clear()

    for times, window in _windows(path, config, decoding):
        starts.append(times[0])
        ends.append(times[-1] + interval)
        pending.append(window)
        if len(pending) == config.test.batch:
            score()
    if pending:
        score()
    return Timeline(np.array(starts), np.array(ends), np.concatenate(scores))


def segments_of(timeline: Timeline, classes: Sequence[str], config: Config) -> list[Segment]:
    """Return the segments of all classes by their start.

    A segment joins consecutive windows in which the class scores at least `predict.threshold`. It
    lasts from the start of the first one to the end of the last one, at least
    `predict.min_seconds`.
    """
    segments = []
    for number, name in enumerate(classes):
        scores = timeline.scores[:, number]
        above = np.concatenate([[False], scores >= config.predict.threshold, [False]])
        changes = np.flatnonzero(np.diff(above.astype(np.int8)))
        for first, end in changes.reshape(-1, 2):
            start_s = float(timeline.starts[first])
            end_s = float(timeline.ends[end - 1])
            if end_s - start_s >= config.predict.min_seconds:
                segments.append(Segment(start_s, end_s, name, float(scores[first:end].mean())))
    return sorted(segments, key=lambda segment: (segment.start, segment.name))


def picture(timeline: Timeline, classes: Sequence[str], title: str) -> bytes:
    """Return a picture (.png) of the scores over time of the classes with the highest scores."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    best = np.argsort(-timeline.scores.max(0), kind="stable")[:SHOWN]
    figure = Figure(figsize=(10, 1.5 + 0.4 * len(best)), layout="constrained")
    axes = figure.subplots()
    # A window covers the time up to the middle of its overlap with the next one.
    middles = (timeline.starts + timeline.ends) / 2
    edges = np.concatenate(
        [timeline.starts[:1], (middles[:-1] + middles[1:]) / 2, timeline.ends[-1:]]
    )
    shown = axes.pcolormesh(
        edges, np.arange(len(best) + 1), timeline.scores[:, best].T, vmin=0, vmax=1, cmap="viridis"
    )
    axes.set_yticks(np.arange(len(best)) + 0.5, [classes[number] for number in best])
    axes.invert_yaxis()
    axes.set_xlabel("time (s)")
    axes.set_title(title)
    figure.colorbar(shown, ax=axes, label="score")
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()


def _windows(
    path: Path, config: Config, decoding: Decoding | None
) -> Iterator[tuple[list[float], Tensor]]:
    """Yield the times of the frames of each window, and its frames, uint8 ``(T, 1, S, S, 3)``."""
    T = config.clip.num_segments
    stride = config.predict.stride or config.clip.stride
    step = config.predict.step or max(1, T // 2)
    recent: deque[tuple[float, np.ndarray]] = deque(maxlen=T)
    num_taken = 0
    for frame in video_frames(path, config, decoding):
        if frame.number % stride:
            continue
        # Between two windows that do not touch, frames belong to no window.
        recent.append((frame.seconds, center_crop(frame.pixels, config)))
        num_taken += 1
        if num_taken >= T and (num_taken - T) % step == 0:
            yield _window(recent, T)
    if num_taken < T:
        recent.extend([recent[-1]] * (T - num_taken))
        yield _window(recent, T)


def _window(recent: Sequence[tuple[float, np.ndarray]], T: int) -> tuple[list[float], Tensor]:
    times = [seconds for seconds, _ in recent]
    pixels = torch.from_numpy(np.stack([crop for _, crop in recent]))
    return times, pixels.unflatten(0, (T, -1))


def _write_scores(path: Path, timeline: Timeline, classes: Sequence[str]) -> None:
    with atomic_file(path) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["start_s", "end_s", *classes])
        for start, end, scores in zip(timeline.starts, timeline.ends, timeline.scores, strict=True):
            writer.writerow([f"{start:.3f}", f"{end:.3f}", *(f"{score:.6f}" for score in scores)])
        text.detach()


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _texts(segment: Segment) -> list[str]:
    return [
        segment.name, f"{segment.start:.3f}", f"{segment.end:.3f}", f"{segment.score:.6f}",
    ]  # fmt: skip
