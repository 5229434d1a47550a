"""Reads planned frames from the shards: threads, checksums, and substitutes for damaged frames."""

import os
import resource
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np

from preprocess.shards import Split

_NO_FRAME = "; the video has no good frame"


@dataclass(frozen=True)
class BadFrame:
    """A planned frame that could not be used."""

    clip: int
    """Row of the split."""
    frame: int
    """Frame of the video, counted from 0."""
    reason: str
    """What was found, and which frame is used instead."""


@dataclass(frozen=True)
class ClipFrames:
    """The planned frames of one video as they were read."""

    jpegs: list[np.ndarray]
    """One JPEG per planned frame, uint8, or two for a frame of flow; empty if the video has no good
    frame."""
    bad_frames: list[BadFrame]
    """The planned frames that were damaged."""


class FrameStore:
    """The frames of a split, read by a pool of threads."""

    def __init__(self, split: Split, readers: int) -> None:
        self._split = split
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="read-frames")
        self._open: OrderedDict[int, _Shard] = OrderedDict()  # least recently used first
        self._max_open = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
        self._lock = Lock()

    def start(self, clips: np.ndarray, frames: np.ndarray) -> list[Future[ClipFrames]]:
        """Start to read ``frames`` ``(B, F)`` of the videos ``clips`` ``(B,)``, one task each."""
        return [
            self._pool.submit(self.read, clip, row)
            for clip, row in zip(clips.tolist(), frames.tolist(), strict=True)
        ]

    def read(self, clip: int, frames: Sequence[int]) -> ClipFrames:
        """Read ``frames`` of a video; the nearest good frame replaces a damaged one."""
        video = _Video(self, self._split, clip)
        jpegs = []
        bad_frames = []
        for frame in frames:
            used = video.nearest_good(frame)
            if used is None:
                bad_frames += [BadFrame(clip, f, video.damage[f] + _NO_FRAME) for f in frames]
                return ClipFrames([], bad_frames)
            if used != frame:
                reason = f"{video.damage[frame]}; frame {used} is used"
                bad_frames.append(BadFrame(clip, frame, reason))
            jpegs += video.good[used]
        return ClipFrames(jpegs, bad_frames)

    def reopen(self) -> None:
        """Forget the open shards, so that each is opened again when it is read next."""
        with self._lock:
            self._open.clear()

    def close(self) -> None:
        """End the threads and close the shards."""
        self._pool.shutdown(cancel_futures=True)
        self._open.clear()

    def pread(self, shard: int, size: int, offset: int) -> bytes:
        """Return ``size`` bytes of a shard, or fewer at its end.

        Raises:
            OSError: the shard cannot be opened or read.
        """
        with self._lock:
            file = self._open.get(shard)
        if file is None:  # opened outside the lock, because it is slow on a network file system
            file = _Shard(self._split.shard_path(shard))
        with self._lock:
            self._open[shard] = file
            self._open.move_to_end(shard)
            if len(self._open) > self._max_open:
                self._open.popitem(last=False)
        return os.pread(file.descriptor, size, offset)


class _Shard:
    """An open file that closes when the last thread drops it."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        if hasattr(os, "posix_fadvise"):  # no read-ahead: a clip needs a few scattered frames
            os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class _Video:
    """The frames of a video that were read so far, good and damaged, while its clip is read."""

    def __init__(self, store: FrameStore, split: Split, clip: int) -> None:
        video = split.videos[clip]
        first = int(video["first_frame"])
        self._num_frames = int(video["num_frames"])
        self._planes = split.planes
        self._rows = split.frames[first : first + self._num_frames * self._planes]
        self._store = store
        self.good: dict[int, list[np.ndarray]] = {}
        self.damage: dict[int, str] = {}

    def nearest_good(self, frame: int) -> int | None:
        """Return the good frame nearest to ``frame``, the earlier of two, or None."""
        for distance in range(self._num_frames):
            for candidate in (frame - distance, frame + distance):
                if 0 <= candidate < self._num_frames and self._is_good(candidate):
                    return candidate
        return None

    def _is_good(self, frame: int) -> bool:
        if frame not in self.good and frame not in self.damage:
            self._read(frame)
        return frame in self.good

    def _read(self, frame: int) -> None:
        """Read a frame, compare its checksums, and note it as good or as damaged."""
        jpegs = []
        for row in range(frame * self._planes, (frame + 1) * self._planes):
            found = self._read_jpeg(row)
            if isinstance(found, str):
                self.damage[frame] = found
                return
            jpegs.append(found)
        self.good[frame] = jpegs

    def _read_jpeg(self, row: int) -> np.ndarray | str:
        """Return the JPEG of a row of the table of frames, or what is wrong with it."""
        shard, offset, size, crc32 = self._rows[row].item()
        try:
            data = self._store.pread(shard, size, offset)
        except OSError as error:
            return f"{error.filename or f'shard {shard}'}: {error.strerror}"
        if len(data) < size:
            return f"shard {shard} ends after {len(data)} of {size} bytes"
        if zlib.crc32(data) != crc32:
            return f"shard {shard}: the crc32 of the bytes differs from the table"
        return np.frombuffer(data, np.uint8)
