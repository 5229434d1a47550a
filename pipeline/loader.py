"""Batches of clips, from the shards to the device, at an exact position of an epoch."""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import torch

from configs.schema import Config
from pipeline.batches import BadDataError, Batch, Evaluation, Training, refuse
from pipeline.graph import Graph, evaluation_graph, training_graph
from pipeline.plan import EvaluationPlan, TrainingPlan
from pipeline.store import BadFrame, ClipFrames, FrameStore
from preprocess.shards import DatasetInfo, Split, open_split, read_info
from preprocess.workers import num_cpus

__all__ = ["BadDataError", "BadFrame", "Batch", "ClipLoader"]

DECODING = 2  # batches in the graph: one is made while the one before waits to be taken

Plan = TrainingPlan | EvaluationPlan
Reading = tuple[Plan, list[Future[ClipFrames]]]
Decoding = tuple[Plan, list[BadFrame]]


class ClipLoader:
    """Reads a split, one rank's part of it.

    Training takes ``train.batch / train.accumulate`` clips a pass over all ranks, evaluation
    ``test.batch`` videos a step on each. What a step holds depends on (seed, epoch, step) only.

    Args:
        folder: of the dataset.
        training: random clips and crops in a random order, or each video once as ``config.test``
            says.
        device: where batches go: ``cpu``, or a GPU, which then decodes too.

    Raises:
        ConfigError: there is no such split, it is smaller than a batch, or the ranks do not divide
            a batch.
        ShardError: the dataset cannot be read.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str,
        config: Config,
        *,
        training: bool,
        rank: int = 0,
        world_size: int = 1,
        device: str = "cpu",
    ) -> None:
        self.info: DatasetInfo = read_info(folder)
        self.split: Split = open_split(folder, split)
        self.num_videos = self.split.num_videos
        self.wait_s = 0.0
        kind = Training if training else Evaluation
        self._source = kind(self.split, self.info, config, rank, world_size)
        self.num_steps = self._source.num_steps
        self.max_bad_frames = self._source.limit
        self._config, self._device = config, torch.device(device)
        self._store = FrameStore(self.split, config.run.readers)
        self._graph: Graph | None = None
        self._bad_frames: list[BadFrame] = []
        self._turn = 0

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Iterate over an epoch from ``first_step`` on; an earlier iterator ends with that.

        Raises:
            BadDataError: this rank alone met more than ``max_bad_frames`` since ``first_step``.
            RuntimeError: a frame does not decode although its checksum is right.
        """
        self._turn += 1
        try:
            if self._graph:
                self._graph.drain()  # what an abandoned iterator left
        except RuntimeError:  # a broken frame in it is no matter of this epoch
            self._graph = None
        return self._batches(epoch, first_step, self._turn)

    def take_bad_frames(self) -> list[BadFrame]:
        """Return the damaged frames of the batches handed out since this was last asked."""
        taken, self._bad_frames = self._bad_frames, []
        return taken

    def close(self) -> None:
        """End all threads; the loader is of no further use."""
        self._turn += 1
        self._graph = None
        self._store.close()

    def _batches(self, epoch: int, first_step: int, turn: int) -> Iterator[Batch]:
        steps = iter(range(first_step, self.num_steps))
        reading: deque[Reading] = deque()
        decoding: deque[Decoding] = deque()
        met: list[BadFrame] = []
        try:
            while True:
                if turn != self._turn:
                    raise RuntimeError("the loader was closed or began another epoch meanwhile")
                began = time.perf_counter()
                self._read_ahead(epoch, steps, reading)
                while reading and (not decoding or (len(decoding) < DECODING and _ready(reading))):
                    decoding.append(self._decode(epoch, *reading.popleft()))
                    self._read_ahead(epoch, steps, reading)
                if not decoding:
                    return
                plan, bad_frames = decoding.popleft()
                self._bad_frames += bad_frames
                met += bad_frames
                refuse(met, self.max_bad_frames, self.split)
                batch = self._finish(plan)
                self.wait_s += time.perf_counter() - began
                yield batch
        finally:
            for _, futures in reading:
                for future in futures:
                    future.cancel()

    def _read_ahead(self, epoch: int, steps: Iterator[int], reading: deque[Reading]) -> None:
        while len(reading) < self._config.run.prefetch:
            step = next(steps, None)
            if step is None:
                return
            plan = self._source.plan(epoch, step)
            reading.append((plan, self._store.start(plan.clips, plan.frames)))

    def _decode(self, epoch: int, plan: Plan, futures: list[Future[ClipFrames]]) -> Decoding:
        clips = [future.result() for future in futures]
        plan, clips, bad_frames = self._source.complete(epoch, plan, clips, self._store)
        if clips:
            per_row = self._source.frames_per_row
            arguments = self._source.arguments(plan)
            if self._graph is None:
                self._graph = self._make_graph()
            self._graph.start(
                [jpeg for clip in clips for jpeg in clip.jpegs],
                **{name: np.repeat(rows, per_row, axis=0) for name, rows in arguments.items()},
            )
        return plan, bad_frames

    def _finish(self, plan: Plan) -> Batch:
        if not len(plan.clips):
            return self._source.batch(plan, [], self._device)
        try:
            return self._source.batch(plan, self._graph.finish(), self._device)
        except RuntimeError as error:
            self._graph = None  # DALI's pipelines do not outlive an error
            raise RuntimeError(
                f"{self.split.folder}: a frame of the videos {plan.clips.tolist()} of split"
                f" {self.split.name} does not decode, though its checksum is right; make the"
                f" dataset again. {error}"
            ) from error

    def _make_graph(self) -> Graph:
        num_frames = self._source.num_rows * self._source.frames_per_row
        threads = self._config.run.threads or num_cpus()
        if isinstance(self._source, Training):
            return training_graph(num_frames, self._config.clip.crop, threads, self._device)
        crop, mirrored = self._config.test_crop, self._source.mirrored
        return evaluation_graph(num_frames, crop, mirrored, threads, self._device)


def _ready(reading: deque[Reading]) -> bool:
    return all(future.done() for future in reading[0][1])
