"""Times reading and decoding apart from each other and from training."""

import itertools
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from configs.load import dataset_path
from configs.schema import Config
from pipeline.batches import Batch, TrainingSource
from pipeline.loader import ClipLoader
from pipeline.store import ClipFrames, FrameStore
from preprocess.shards import Split, open_split, read_info
from tin.ranks.distributed import World

EPOCH = 1_000_000
"""Number of an epoch that no run reaches: its frames are not the ones that were read last."""
MIN_STEPS = 3
NUM_COPIES = 7
HELD_STEPS = 6
"""Steps whose frames are held in memory."""


@dataclass(frozen=True)
class Input:
    """Times of the input of a pass on this rank."""

    read: float
    """Seconds that the frames of a pass take to read."""
    decode: float
    """Seconds that they take to decode."""
    clip_mb: float
    """10^6 bytes of the frames of a clip."""


class HeldFrames(FrameStore):
    """Frames of the shards, which are kept in memory once they were read."""

    def __init__(self, split: Split, readers: int) -> None:
        super().__init__(split, readers)
        self._held: dict[tuple[int, int, int], bytes] = {}

    def pread(self, shard: int, size: int, offset: int) -> bytes:
        """Return bytes of a shard, of which only the first call reads the file."""
        key = (shard, size, offset)
        if key not in self._held:
            self._held[key] = super().pread(shard, size, offset)
        return self._held[key]


def measure_input(config: Config, world: World, seconds: float) -> Input:
    """Return the times of reading alone, and of decoding alone.

    Args:
        config: the settings of the run, with the clips of the passes to measure.
        world: the ranks, of which this one is measured.
        seconds: about how long the two measurements take together.
    """
    folder = dataset_path(config.data.dataset)
    read_s, clip_mb = _read(folder, config, world, seconds / 2)
    # Reading for the first time must leave time for decoding, also from slow storage.
    held = max(MIN_STEPS, min(HELD_STEPS, int(seconds / 4 / read_s)))
    return Input(read_s, _decode(folder, config, world, held, seconds / 2), clip_mb)


def endless(loader: ClipLoader, first_epoch: int = EPOCH) -> Iterator[Batch]:
    """Yield the batches of one epoch after the other."""
    for epoch in itertools.count(first_epoch):
        yield from loader.epoch(epoch)


def transfer_s(num_bytes: int, device: torch.device) -> float:
    """Return the seconds of copying bytes from pinned memory to the device; 0 if it is the CPU."""
    if device.type == "cpu":
        return 0.0
    source = torch.empty(num_bytes, dtype=torch.uint8).pin_memory()
    taken = []
    for _ in range(NUM_COPIES):
        synchronize(device)
        began = time.perf_counter()
        source.to(device, non_blocking=True)
        synchronize(device)
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _read(folder: Path, config: Config, world: World, seconds: float) -> tuple[float, float]:
    """Return the seconds of a step that is read as ahead as in training, and the MB of a clip."""
    split = open_split(folder, config.data.train_split)
    info = read_info(folder)
    source = TrainingSource(split, info, config, world.rank, world.world_size)
    store = FrameStore(split, config.run.readers)
    reading: deque[list[Future[ClipFrames]]] = deque()
    sizes: list[int] = []
    num_read = 0
    began = time.perf_counter()
    try:
        for number in itertools.count():
            plan = source.step(EPOCH + number // source.num_steps, number % source.num_steps).plan
            reading.append(store.start(plan.clips, plan.frames))
            if len(reading) < config.run.prefetch:
                continue
            sizes += _finish(reading.popleft())
            num_read += 1
            if num_read >= MIN_STEPS and time.perf_counter() - began > seconds:
                break
        while reading:
            sizes += _finish(reading.popleft())
            num_read += 1
        taken = time.perf_counter() - began
    finally:
        store.close()
    return taken / num_read, float(np.mean(sizes)) / 1e6


def _finish(step: list[Future[ClipFrames]]) -> list[int]:
    """Wait for the frames of a step; return the bytes of each of its clips."""
    return [sum(map(len, future.result().jpegs)) for future in step]


def _decode(folder: Path, config: Config, world: World, held: int, seconds: float) -> float:
    """Return the seconds of a step of the loader whose frames are already in memory."""
    split = open_split(folder, config.data.train_split)
    loader = ClipLoader(
        folder,
        config.data.train_split,
        config,
        training=True,
        rank=world.rank,
        world_size=world.world_size,
        device=str(world.device),
        store=HeldFrames(split, config.run.readers),
    )
    intervals: list[float] = []
    try:
        for _ in loader.epoch(EPOCH, 0, held):  # reads the frames and starts the threads
            pass
        end = time.perf_counter() + seconds
        while not intervals or time.perf_counter() < end:
            previous = time.perf_counter()
            for _ in loader.epoch(EPOCH, 0, held):
                now = time.perf_counter()
                intervals.append(now - previous)
                previous = now
    finally:
        loader.close()
    return float(np.mean(intervals))
