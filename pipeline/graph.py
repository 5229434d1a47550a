"""DALI graphs over a flat batch of frames: decode, crop, resize, mirror, normalize.

N is the number of frames of a batch, S the side of the square crop. All that is random or differs
from video to video comes in with the frames; DALI draws nothing.
"""

import weakref
from collections.abc import Callable, Sequence

import numpy as np
import nvidia.dali.fn as fn
import torch
from nvidia.dali import Pipeline, types
from torch.nn.functional import interpolate

from pipeline.batches import MEAN, STD


class Graph:
    """A running DALI pipeline: batches go in, and their views come out in the same order."""

    def __init__(
        self, pipeline: Pipeline, finish: Callable[[Sequence], list[torch.Tensor]]
    ) -> None:
        self._pipeline, self._finish = pipeline, finish
        self._pipeline.build()
        self._running = 0

    def start(self, jpegs: Sequence[np.ndarray], **arguments: np.ndarray) -> None:
        """Start a batch of N JPEGs (uint8); each argument has a row for each of them."""
        self._pipeline.feed_input("jpegs", list(jpegs))
        for name, values in arguments.items():
            self._pipeline.feed_input(name, np.ascontiguousarray(values))
        self._pipeline.schedule_run()
        self._running += 1

    def finish(self) -> list[torch.Tensor]:
        """Return the views of the oldest batch in work, ``(N, 3, S, S)`` float32 each.

        Raises:
            RuntimeError: a frame does not decode; the graph is of no further use.
        """
        self._running -= 1
        views = self._finish(self._pipeline.share_outputs())
        self._pipeline.release_outputs()
        return views

    def drain(self) -> None:
        """Throw away the batches in work."""
        while self._running:
            self.finish()


def training_graph(num_frames: int, crop: int, threads: int, device: torch.device) -> Graph:
    """Return a graph that takes ``corner``, ``size`` (y, x in pixels) and ``flip`` a frame.

    Only the region is decoded; it is scaled to the crop, whatever its shape. On a CPU torch does
    the scaling: it takes a seventh of the time of DALI's, which is half of all (bench_loader.py).
    """
    if device.type == "cuda":
        return dali_training_graph(num_frames, crop, threads, device)
    pipeline = _pipeline(num_frames, threads, device)
    with pipeline:
        region, flip = _region(device)
        pipeline.set_outputs(region, flip)
    memory = _Memory((num_frames, 3, crop, crop))
    return Graph(pipeline, lambda outputs: [_scaled(*outputs, memory.take())])


def dali_training_graph(num_frames: int, crop: int, threads: int, device: torch.device) -> Graph:
    """Return a graph like `training_graph` in which DALI scales, on a GPU or a CPU."""
    pipeline = _pipeline(num_frames, threads, device)
    with pipeline:
        region, flip = _region(device)
        pipeline.set_outputs(_normalized(fn.resize(region, size=[crop, crop]), flip))
    return Graph(pipeline, _taken(device))


def evaluation_graph(
    num_frames: int, crop: int, mirrored: Sequence[bool], threads: int, device: torch.device
) -> Graph:
    """Return a graph with one view for each of ``mirrored``, all of one decode.

    View v takes ``region<v>`` a frame: top, left, bottom, right in pixels, float32. Scaling just
    the region gives the pixels of scaling the frame and cropping it then: what the filter needs
    is read outside the region.
    """
    pipeline = _pipeline(num_frames, threads, device)
    with pipeline:
        frames = fn.decoders.image(_jpegs(), **_decoding(device))
        views = [
            _normalized(_scaled_region(frames, _input(f"region{v}", 1, types.FLOAT), crop), mirror)
            for v, mirror in enumerate(mirrored)
        ]
        pipeline.set_outputs(*views)
    return Graph(pipeline, _taken(device))


def _pipeline(num_frames: int, threads: int, device: torch.device) -> Pipeline:
    # One batch a call of schedule_run; the dynamic executor still runs as many as are started,
    # and its outputs stay valid for as long as torch holds them.
    return Pipeline(
        batch_size=num_frames,
        num_threads=threads,
        device_id=device.index or 0 if device.type == "cuda" else None,
        prefetch_queue_depth=1,
        exec_dynamic=True,
    )


def _jpegs():
    return fn.external_source(name="jpegs", dtype=types.UINT8, ndim=1)


def _input(name: str, ndim: int, dtype=types.INT32):
    return fn.external_source(name=name, dtype=dtype, ndim=ndim)


def _region(device: torch.device):
    corner, size = _input("corner", 1), _input("size", 1)
    region = fn.decoders.image_slice(
        _jpegs(), start=corner, shape=size, axis_names="HW", **_decoding(device)
    )
    return region, _input("flip", 0)


def _decoding(device: torch.device) -> dict:
    return {
        "device": "mixed" if device.type == "cuda" else "cpu",
        "output_type": types.RGB,
        "jpeg_fancy_upsampling": True,  # as the CPU does: the same pixels on both
    }


def _scaled_region(frames, region, crop: int):
    return fn.resize(
        frames, size=[crop, crop], roi_start=region[0:2], roi_end=region[2:4], roi_relative=False
    )


def _normalized(images, mirror):
    return fn.crop_mirror_normalize(
        images,
        mirror=mirror,
        mean=[255 * value for value in MEAN],
        std=[255 * value for value in STD],
        dtype=types.FLOAT,
        output_layout="CHW",
    )


def _taken(device: torch.device) -> Callable[[Sequence], list[torch.Tensor]]:
    """Return a function that takes outputs over: as they are on a CPU, copied on a GPU.

    DALI may write to a GPU's memory again as soon as torch frees it, though kernels that read it
    still wait in torch's stream; the copy belongs to torch's allocator, which knows of streams.
    """
    if device.type == "cpu":
        return lambda outputs: [torch.from_dlpack(output.as_tensor()) for output in outputs]
    stream = torch.cuda.Stream(device)

    def take(outputs: Sequence) -> list[torch.Tensor]:
        with torch.cuda.stream(stream):
            views = [torch.from_dlpack(output.as_tensor()).clone() for output in outputs]
        stream.synchronize()  # of its own, so that it does not wait for the step before
        for view in views:
            view.record_stream(torch.cuda.current_stream(device))
        return views

    return take


class _Memory:
    """Memory of batches, lent again once torch lets go of it.

    The system's time to clear new pages for each batch would be a third of the loader's.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape, self._free = shape, []

    def take(self) -> torch.Tensor:
        """Return a float32 tensor of any content."""
        memory = self._free.pop() if self._free else np.empty(self._shape, np.float32)
        lent = memory.view()  # lives for as long as a tensor has its storage
        weakref.finalize(lent, self._free.append, memory).atexit = False
        return torch.from_numpy(lent)


def _scaled(regions: Sequence, flips: Sequence, views: torch.Tensor) -> torch.Tensor:
    """Fill ``views`` with what `_normalized` makes of DALI's resize, computed by torch."""
    mean, std = (255 * torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    for view, region, flip in zip(views, regions, flips.as_array(), strict=True):
        frame = torch.from_dlpack(region).permute(2, 0, 1)[None]
        frame = interpolate(frame, size=view.shape[1:], mode="bilinear", antialias=True)[0]
        torch.sub(frame.flip(-1) if flip else frame, mean, out=view).div_(std)
    return views
