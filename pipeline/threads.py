"""Decodes JPEGs by libjpeg-turbo in threads of this process, and uploads the views to a GPU.

It needs no DALI. libjpeg-turbo and torch's scaling release Python's lock, so threads run in
parallel.
"""

import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import simplejpeg
import torch

from pipeline.decoded import Arguments, Shape

Cut = Callable[[np.ndarray, Arguments, int], list[np.ndarray]]


class ThreadDecoder:
    """Decodes batches in threads; the views leave it in the order in which batches entered."""

    def __init__(self, shape: Shape, cut: Cut, threads: int, device: torch.device) -> None:
        """Start no thread yet; ``cut`` makes the views of a clip from its decoded images."""
        self._shape = shape
        self._cut = cut
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._buffers = threading.local()
        self._running: deque[tuple[torch.Tensor, list[Future[None]]]] = deque()
        self._device = device
        self._memory = _Memory() if device.type == "cpu" else None
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def start(self, rows: Sequence[Sequence[np.ndarray]], arguments: Arguments) -> None:
        """Start a batch: the JPEGs of each row (uint8), and arguments with one entry per row."""
        shape = self._shape.of(len(rows))
        if self._memory:
            views = self._memory.take(shape)
        else:
            # torch gives this pinned memory away again only after the copy from it has ended.
            views = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        target = views.numpy()
        jpegs_per_clip = self._shape.frames * self._shape.planes
        futures = []
        for row, jpegs in enumerate(rows):
            values = {name: array[row] for name, array in arguments.items()}
            for clip in range(self._shape.clips):
                own = jpegs[clip * jpegs_per_clip : (clip + 1) * jpegs_per_clip]
                first = clip * self._shape.crops
                place = target[row, first : first + self._shape.crops]
                futures.append(self._pool.submit(self._fill, own, values, place))
        self._running.append((views, futures))

    def finish(self) -> torch.Tensor:
        """Wait for the oldest running batch; return its views ``(rows, V, F, S, S, C)``.

        Raises:
            ValueError: a frame cannot be decoded.
        """
        views, futures = self._running.popleft()
        for future in futures:
            future.result()
        if self._stream is None:
            return views
        # The copy runs beside the kernels of the step before; those of the next step wait for it.
        current = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            uploaded = views.to(self._device, non_blocking=True)
        current.wait_stream(self._stream)
        uploaded.record_stream(current)
        return uploaded

    def drain(self) -> None:
        """Wait for all running batches and drop them."""
        while self._running:
            _, futures = self._running.popleft()
            for future in futures:
                future.cancel()
            for future in futures:
                if not future.cancelled():
                    future.exception()

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _fill(self, jpegs: Sequence[np.ndarray], arguments: Arguments, place: np.ndarray) -> None:
        """Decode the images of a clip, and write its views ``(crops, F, S, S, C)``."""
        images = self._decoded(jpegs)
        for view, target in zip(self._cut(images, arguments, self._shape.side), place, strict=True):
            if self._shape.planes > 1:
                # The gray images of a frame become its colors.
                F, S = target.shape[:2]
                view = view.reshape(F, self._shape.planes, S, S).transpose(0, 2, 3, 1)
            target[:] = view

    def _decoded(self, jpegs: Sequence[np.ndarray]) -> np.ndarray:
        """Return the images of JPEGs of one size, in memory that this thread uses again."""
        gray = self._shape.planes > 1
        height, width, _, _ = simplejpeg.decode_jpeg_header(jpegs[0])
        shape = (len(jpegs), height, width, 1 if gray else 3)
        size = int(np.prod(shape))
        memory = getattr(self._buffers, "memory", None)
        if memory is None or memory.size < size:
            memory = self._buffers.memory = np.empty(size, np.uint8)
        images = memory[:size].reshape(shape)
        for jpeg, image in zip(jpegs, images, strict=True):
            found = simplejpeg.decode_jpeg(jpeg, "GRAY" if gray else "RGB", buffer=image)
            if found.shape != image.shape:
                raise ValueError(
                    f"a frame has {found.shape[1]}x{found.shape[0]} pixels, but another of its"
                    f" video has {width}x{height}"
                )
        return images


class _Memory:
    """Memory for batches, which is lent again when torch has dropped it.

    New memory for each batch costs time, which the system needs to clear the pages.
    """

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []

    def take(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Return a uint8 tensor with arbitrary content."""
        size = int(np.prod(shape))
        memory = self._free.pop() if self._free else np.empty(size, np.uint8)
        if memory.size < size:
            memory = np.empty(size, np.uint8)
        # A tensor holds the view while it uses the storage. Afterwards the memory is free again.
        lent = memory[:size]
        weakref.finalize(lent, self._free.append, memory).atexit = False
        return torch.from_numpy(lent).view(shape)
