"""The videos to predict, and their batches: from shards, or from files decoded by workers."""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from configs.load import ConfigError, dataset_path
from configs.schema import Config
from pipeline.loader import ClipLoader
from preprocess.decode import BadVideoError
from preprocess.workers import CrashError, Note, num_cpus, run_tasks
from tin.deploy.scorer import check_frames
from tin.deploy.video_lists import list_videos
from tin.evaluation.predict import encoded, views_of


@dataclass(frozen=True)
class VideoBatch:
    """The input of one forward pass, padded with zeros to `test.batch` rows."""

    rows: np.ndarray
    """int64 ``(B,)`` places in the list of videos; -1 marks padding."""
    x: Tensor
    """uint8 ``(B, V, T, L, S, S, C)``."""


@dataclass(frozen=True)
class Problem:
    """A video that cannot be predicted, or that is damaged in part."""

    row: int
    reason: str
    is_predicted: bool


class ShardVideos:
    """The videos of a split, read by the loader as in `tin test`."""

    def __init__(self, dataset: str, config: Config, device: torch.device):
        """Open the split.

        Raises:
            ConfigError: the dataset or the split does not exist.
        """
        folder = dataset_path(dataset)
        self._loader = ClipLoader(
            folder, config.data.test_split, config, training=False, device=str(device)
        )
        self._batch = config.test.batch
        self.keys = self._loader.split.keys()
        part = f" {config.data.fold} of {config.data.folds}" if config.data.folds else ""
        self.identity = f"{self._loader.info.digest} {config.data.test_split}{part}"
        self.classes = self._loader.info.classes

    def labels(self, row: int) -> list[str]:
        """Return the names of a video's classes; none if it has no label."""
        return [self.classes[label] for label in self._loader.split.labels_of(row)]

    def batches(self, first: int, end: int) -> Iterator[VideoBatch]:
        """Yield the batches of the videos from `first`, a multiple of `test.batch`, to `end`."""
        steps = (first // self._batch, -(-end // self._batch))
        for batch in self._loader.epoch(0, *steps):
            yield VideoBatch(batch.clips.cpu().numpy(), batch.x)

    def take_problems(self, predicted: Sequence[int]) -> list[Problem]:
        """Return the videos with damaged frames since the last call; `predicted` have scores."""
        first: dict[int, str] = {}
        for bad in self._loader.take_bad_frames():
            first.setdefault(bad.clip, f"frame {bad.frame}: {bad.reason}")
        return [Problem(row, text, row in predicted) for row, text in sorted(first.items())]

    def close(self) -> None:
        """End the threads of the loader."""
        self._loader.close()


class FileVideos:
    """Video files and folders of frames, encoded as in `tin shard` by worker processes."""

    def __init__(self, sources: Sequence[Path], config: Config, device: torch.device):
        """List the videos.

        Raises:
            ConfigError: a source does not exist, has no videos, or names a video twice.
        """
        check_frames(config, "`tin predict` of files")
        listed = list_videos(sources)
        self.keys = [entry.key for entry in listed]
        self._paths = [entry.path for entry in listed]
        self._labels = [entry.labels for entry in listed]
        text = "\n".join(
            f"{entry.key}\0{entry.path.absolute()}\0{entry.labels}" for entry in listed
        )
        self.identity = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
        self._config = config
        self._device = device
        self._problems: list[Problem] = []

    def labels(self, row: int) -> list[str]:
        """Return the names of a video's classes; none if it has no label."""
        return self._labels[row]

    def batches(self, first: int, end: int) -> Iterator[VideoBatch]:
        """Yield the batches of the videos from `first` to `end`, in their order."""
        decode = functools.partial(_decode, config=self._config)
        tasks = [_Task(row, self._paths[row]) for row in range(first, end)]
        workers = self._config.run.threads or num_cpus()
        limit = self._config.shard.max_seconds
        waiting: dict[int, _Decoded] = {}
        batch: list[_Decoded] = []
        following = first
        for decoded in run_tasks(decode, tasks, workers, _crashed, limit):
            # Workers end in any order; a batch takes the videos in theirs.
            waiting[decoded.row] = decoded
            while following in waiting:
                ready = waiting.pop(following)
                following += 1
                if ready.problem:
                    is_predicted = ready.views is not None
                    self._problems.append(Problem(ready.row, ready.problem, is_predicted))
                if ready.views is not None:
                    batch.append(ready)
                if len(batch) == self._config.test.batch:
                    yield self._batch(batch)
                    batch = []
        if batch:
            yield self._batch(batch)

    def take_problems(self, predicted: Sequence[int]) -> list[Problem]:
        """Return the videos with problems since the last call."""
        taken = self._problems
        self._problems = []
        return taken

    def close(self) -> None:
        """Do nothing: the workers end with the batches of a part."""

    def _batch(self, decoded: Sequence["_Decoded"]) -> VideoBatch:
        num_rows = self._config.test.batch
        rows = np.full(num_rows, -1)
        rows[: len(decoded)] = [item.row for item in decoded]
        T = self._config.clip.num_segments
        clips = np.stack([item.views for item in decoded if item.views is not None])
        x = np.zeros((num_rows, *clips.shape[1:]), np.uint8)
        x[: len(decoded)] = clips
        return VideoBatch(rows, torch.from_numpy(x).unflatten(2, (T, -1)).to(self._device))


Videos = ShardVideos | FileVideos


def open_videos(sources: Sequence[Path], config: Config, device: torch.device) -> Videos:
    """Return the videos of a dataset, or those of files, folders and lists.

    Raises:
        ConfigError: a source cannot be used.
    """
    datasets = [source for source in sources if (source / "dataset.yaml").exists()]
    if not datasets:
        return FileVideos(sources, config, device)
    if len(sources) > 1:
        raise ConfigError(f"{datasets[0]} is a dataset; predict it alone, without other videos")
    return ShardVideos(str(datasets[0]), config, device)


@dataclass(frozen=True)
class _Task:
    row: int
    path: Path
    crash: str = ""
    """The reason why a worker that decoded this video crashed or hung; it is not decoded again."""


@dataclass(frozen=True)
class _Decoded:
    row: int
    views: np.ndarray | None
    problem: str


def _decode(task: _Task, note: Note, config: Config) -> _Decoded:
    """Return the views of a video; this runs in a worker process."""
    if task.crash:
        return _Decoded(task.row, None, task.crash)
    note(str(task.path))  # the time limit of a video starts here
    try:
        video = encoded(task.path, config)
        return _Decoded(task.row, views_of(video, config), video.warning)
    except BadVideoError as error:
        return _Decoded(task.row, None, str(error))


def _crashed(error: CrashError[_Task]) -> _Task:
    return _Task(error.task.row, error.task.path, error.reason)
