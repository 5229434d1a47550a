"""Loads batches of clips from the shards onto the device, from any position of an epoch.

A step passes two queues. In the first, threads read its frames from the shards, up to
``run.prefetch`` steps ahead. In the second, a decoder decodes them: threads of this process, or a
DALI graph on a GPU, as ``run.decode`` says.
"""

import importlib.util
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from configs.errors import TinError
from configs.load import ConfigError
from configs.schema import Config
from pipeline.batches import (
    Batch,
    EvaluationSource,
    EvaluationStep,
    Step,
    TrainingSource,
    check_bad_frames,
)
from pipeline.cutting import cut_evaluation, cut_training
from pipeline.store import BadFrame, ClipFrames, FrameStore
from pipeline.threads import ThreadDecoder
from preprocess.shards import DatasetInfo, Split, open_split, read_info
from preprocess.workers import num_cpus

if TYPE_CHECKING:
    from pipeline.graph import DaliDecoder

MAX_DECODING = 2  # steps in the decoder: one is decoded while a decoded one waits to be taken

Reading = tuple[Step, list[Future[ClipFrames]]]
Decoding = tuple[Step, list[BadFrame]]


class DecodeError(TinError, RuntimeError):
    """A frame cannot be decoded although its checksum is correct."""


class ClipLoader:
    """Loads one rank's share of a split.

    Training takes ``train.batch / train.accumulate`` clips per step over all ranks; evaluation
    takes ``test.batch`` videos per step on each rank. What a step holds depends only on (seed,
    epoch, step).

    Args:
        folder: folder of the dataset.
        split: name of the split.
        config: all settings of the run.
        training: True for random clips and crops in a random order; False for each video once, as
            ``config.test`` says.
        rank: rank of this process.
        world_size: number of ranks.
        device: where batches go.
        store: what reads the frames; None reads them from the shards with ``run.readers`` threads.

    Raises:
        ConfigError: the split does not exist, it is smaller than a batch, the ranks do not
            divide a batch, or `run.decode` does not fit the device.
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
        store: FrameStore | None = None,
    ) -> None:
        self.info: DatasetInfo = read_info(folder)
        self.split: Split = open_split(folder, split)
        self.num_videos = self.split.num_videos
        self.wait_s = 0.0
        self._source: TrainingSource | EvaluationSource
        if training:
            self._source = TrainingSource(self.split, self.info, config, rank, world_size)
        else:
            self._source = EvaluationSource(self.split, self.info, config, rank, world_size)
        self.num_steps = self._source.num_steps
        self.max_bad_frames = self._source.max_bad_frames
        self._config = config
        self._device = torch.device(device)
        self.decode = decode_way(config, self._device)
        self._store = store or FrameStore(self.split, config.run.readers)
        self._decoder: ThreadDecoder | DaliDecoder | None = None
        self._bad_frames: list[BadFrame] = []
        self._iteration = 0  # counts the iterators; only the latest one may continue

    def epoch(
        self, epoch: int, first_step: int = 0, end_step: int | None = None
    ) -> Iterator[Batch]:
        """Iterate over an epoch from ``first_step``; this ends the iterators made before.

        The batches end before ``end_step``, or at the end of the epoch.

        Raises:
            BadDataError: this rank alone found more than ``max_bad_frames`` since ``first_step``.
            DecodeError: a frame cannot be decoded although its checksum is correct.
        """
        self._iteration += 1
        try:
            if self._decoder:
                self._decoder.drain()  # steps of an abandoned iterator
        except RuntimeError:  # a broken frame of that iterator must not end this epoch
            self._drop_decoder()
        end = self.num_steps if end_step is None else min(end_step, self.num_steps)
        return self._batches(epoch, iter(range(first_step, end)), self._iteration)

    def reopen(self) -> None:
        """Open the shards again before the next reads, because other files may have their names."""
        self._store.reopen()

    def take_bad_frames(self) -> list[BadFrame]:
        """Return the damaged frames of the batches handed out since the last call."""
        taken = self._bad_frames
        self._bad_frames = []
        return taken

    def close(self) -> None:
        """End all threads. The loader cannot be used afterwards."""
        self._iteration += 1
        self._drop_decoder()
        self._store.close()

    def _batches(self, epoch: int, numbers: Iterator[int], iteration: int) -> Iterator[Batch]:
        """Yield the batches of the steps ``numbers``, and keep both queues filled."""
        reading: deque[Reading] = deque()
        decoding: deque[Decoding] = deque()
        epoch_bad_frames: list[BadFrame] = []
        try:
            while True:
                if iteration != self._iteration:
                    raise RuntimeError("the loader was closed or started another epoch meanwhile")
                began = time.perf_counter()

                # Fill the decoder with one step, and a second one if its frames have been read.
                self._read_ahead(epoch, numbers, reading)
                while reading and (
                    not decoding or (len(decoding) < MAX_DECODING and _is_read(reading[0]))
                ):
                    decoding.append(self._decode(reading.popleft()))
                    self._read_ahead(epoch, numbers, reading)
                if not decoding:
                    return

                # Take the oldest step out of the decoder. Its bad frames are counted first, so that
                # the caller can list them even if this step is rejected.
                step, bad_frames = decoding.popleft()
                self._bad_frames += bad_frames
                epoch_bad_frames += bad_frames
                check_bad_frames(epoch_bad_frames, self.max_bad_frames, self.split)
                batch = self._finish(step)
                self.wait_s += time.perf_counter() - began
                yield batch
        finally:
            for _, futures in reading:
                for future in futures:
                    future.cancel()

    def _read_ahead(self, epoch: int, numbers: Iterator[int], reading: deque[Reading]) -> None:
        while len(reading) < self._config.run.prefetch:
            number = next(numbers, None)
            if number is None:
                return
            step = self._source.step(epoch, number)
            reading.append((step, self._store.start(step.plan.clips, step.plan.frames)))

    def _decode(self, reading: Reading) -> Decoding:
        """Wait for the frames of a step and start to decode them."""
        step, futures = reading
        clips, bad_frames = step.complete([future.result() for future in futures], self._store)
        if clips:
            if self._decoder is None:
                self._decoder = self._make_decoder()
            self._decoder.start([clip.jpegs for clip in clips], step.arguments())
        return step, bad_frames

    def _finish(self, step: Step) -> Batch:
        """Wait for the decoded frames of a step and return its batch."""
        if isinstance(step, EvaluationStep) and not len(step.plan.clips):
            return step.batch(None, self._device)  # none of its videos has a good frame
        assert self._decoder, "a step with clips has been started in the decoder"
        try:
            views = self._decoder.finish()
        except (RuntimeError, ValueError) as error:
            self._drop_decoder()  # a DALI pipeline cannot be used after an error
            raise DecodeError(
                f"{self.split.folder}: a frame of the videos {step.plan.clips.tolist()} of split"
                f" {self.split.name} cannot be decoded although its checksum is correct. Create the"
                f" dataset again. {error}"
            ) from error
        return step.batch(views, self._device)

    def _make_decoder(self) -> "ThreadDecoder | DaliDecoder":
        """Return the decoder for the steps of this loader."""
        source = self._source
        is_training = isinstance(source, TrainingSource)
        threads = self._config.run.threads or num_cpus()
        if self.decode == "cpu":
            cut = cut_training if is_training else cut_evaluation
            return ThreadDecoder(source.shape, cut, threads, self._device)
        from pipeline.graph import DaliDecoder

        mirrored = None if isinstance(source, TrainingSource) else source.mirrored
        return DaliDecoder(source.shape, source.num_rows, mirrored, threads, self._device)

    def _drop_decoder(self) -> None:
        if self._decoder:
            self._decoder.close()
        self._decoder = None


def decode_way(config: Config, device: torch.device) -> Literal["cpu", "gpu"]:
    """Return how frames are decoded on a device: what `run.decode` says, or `auto` becomes.

    Raises:
        ConfigError: `run.decode` is `gpu`, but there is no GPU or DALI is not installed.
    """
    way = config.run.decode
    if way == "auto":
        return "gpu" if device.type == "cuda" and _has_dali() else "cpu"
    if way == "gpu" and device.type != "cuda":
        raise ConfigError(
            "run.decode is gpu, but the device is the CPU; set run.decode=cpu or run.decode=auto"
        )
    if way == "gpu" and not _has_dali():
        raise ConfigError(
            "run.decode is gpu, which needs NVIDIA DALI, but it cannot be imported; install"
            " tin-video[cuda13] or tin-video[cuda12], or set run.decode=cpu"
        )
    return way


def _has_dali() -> bool:
    try:
        return importlib.util.find_spec("nvidia.dali") is not None
    except (ImportError, ValueError):  # the package nvidia is missing, or its import is blocked
        return False


def _is_read(reading: Reading) -> bool:
    _, futures = reading
    return all(future.done() for future in futures)
