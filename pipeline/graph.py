"""DALI graphs over a flat batch of frames: decode, crop, resize, mirror, normalize.

N is the number of frames of a batch, S the side of the square crop. All that is random or differs
from video to video comes in with the frames; DALI draws nothing.
"""

from collections.abc import Sequence

import numpy as np
import nvidia.dali.fn as fn
import torch
from nvidia.dali import Pipeline, types

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, in RGB, as the weights of the model zoos expect
STD = (0.229, 0.224, 0.225)


class Graph:
    """A running DALI pipeline: batches go in, and their views come out in the same order."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
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
        outputs = self._pipeline.share_outputs()
        views = [torch.from_dlpack(output.as_tensor()) for output in outputs]
        self._pipeline.release_outputs()
        return views

    def drain(self) -> None:
        """Throw away the batches in work."""
        while self._running:
            self.finish()


def training_graph(num_frames: int, crop: int, threads: int, device: torch.device) -> Graph:
    """Return a graph that takes ``corner``, ``size`` (y, x in pixels) and ``flip`` a frame.

    Only the region is decoded; it is scaled to the crop, whatever its shape.
    """
    pipeline = _pipeline(num_frames, threads, device)
    with pipeline:
        corner, size, flip = _input("corner", 1), _input("size", 1), _input("flip", 0)
        region = fn.decoders.image_slice(
            _jpegs(), start=corner, shape=size, axis_names="HW", **_decoding(device)
        )
        pipeline.set_outputs(_normalized(fn.resize(region, size=[crop, crop]), flip))
    return Graph(pipeline)


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
    return Graph(pipeline)


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
