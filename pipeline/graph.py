"""DALI graphs over a flat batch of frames: decode, crop, resize, mirror, normalize.

N is the number of images of a batch, S the side of the square crop, C its colors: red, green and
blue, or gray for an image of flow. Everything that is random or
differs between videos is an input of the graph; DALI draws no random numbers.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import nvidia.dali.fn as fn
import torch
from nvidia.dali import Pipeline
from nvidia.dali.data_node import DataNode
from nvidia.dali.tensors import TensorListCPU, TensorListGPU
from nvidia.dali.types import DALIDataType, DALIImageType
from torch.nn.functional import interpolate

from pipeline.batches import FLOW_MEAN, FLOW_STD, MEAN, STD

Outputs = Sequence[TensorListCPU | TensorListGPU]


class Graph:
    """A running DALI pipeline: batches enter it, and their views leave it in the same order."""

    def __init__(
        self, pipeline: Pipeline, to_views: Callable[[Outputs], list[torch.Tensor]]
    ) -> None:
        self._pipeline = pipeline
        self._to_views = to_views
        self._pipeline.build()
        self._running = 0

    def start(self, jpegs: Sequence[np.ndarray], **arguments: np.ndarray) -> None:
        """Start a batch of N JPEGs (uint8); each argument has one row per JPEG."""
        self._pipeline.feed_input("jpegs", list(jpegs))
        for name, values in arguments.items():
            self._pipeline.feed_input(name, np.ascontiguousarray(values))
        self._pipeline.schedule_run()
        self._running += 1

    def finish(self) -> list[torch.Tensor]:
        """Wait for the oldest running batch; return its views, ``(N, C, S, S)`` float32 each.

        Raises:
            RuntimeError: a frame cannot be decoded; the graph cannot be used afterwards.
        """
        self._running -= 1
        views = self._to_views(self._pipeline.share_outputs())
        self._pipeline.release_outputs()
        return views

    def drain(self) -> None:
        """Wait for all running batches and drop them."""
        while self._running:
            self.finish()


def training_graph(
    num_frames: int, crop: int, threads: int, device: torch.device, gray: bool = False
) -> Graph:
    """Return a graph that takes ``corner``, ``size`` (y, x in pixels) and ``flip`` of each frame.

    Only the region is decoded, and it is scaled to the crop, whatever its shape. On a CPU, torch
    does the scaling: it takes a seventh of the time of DALI's scaling, which is half of the total
    (tests/bench_loader.py).
    """
    if device.type == "cuda":
        return dali_training_graph(num_frames, crop, threads, device, gray)
    pipeline = _pipeline(num_frames, threads, device)
    with pipeline:
        region, flip = _region(device, gray)
        pipeline.set_outputs(region, flip)
    memory = _Memory((num_frames, 1 if gray else 3, crop, crop))

    def to_views(outputs: Outputs) -> list[torch.Tensor]:
        regions, flips = outputs
        assert isinstance(regions, TensorListCPU) and isinstance(flips, TensorListCPU)
        return [_scaled(regions, flips, memory.take())]

    return Graph(pipeline, to_views)


def dali_training_graph(
    num_frames: int, crop: int, threads: int, device: torch.device, gray: bool = False
) -> Graph:
    """Return a graph like `training_graph`, in which DALI does the scaling, on a GPU or a CPU."""
    pipeline = _pipeline(num_frames, threads, device)
    with pipeline:
        region, flip = _region(device, gray)
        pipeline.set_outputs(_normalized(_resized(region, crop), flip, gray))
    return Graph(pipeline, _to_torch(device))


def evaluation_graph(
    num_frames: int,
    crop: int,
    mirrored: Sequence[bool],
    threads: int,
    device: torch.device,
    gray: bool = False,
) -> Graph:
    """Return a graph that decodes each frame once and gives one view per value of ``mirrored``.

    View v takes ``region<v>`` of each frame: top, left, bottom, right in pixels, float32. Scaling
    only the region gives the same pixels as scaling the frame and cropping it afterwards, because
    the filter also reads the pixels around the region.
    """
    pipeline = _pipeline(num_frames, threads, device)
    with pipeline:
        frames = fn.decoders.image(_jpegs(), **_decoding(device, gray))
        views = []
        for v, mirror in enumerate(mirrored):
            region = _input(f"region{v}", ndim=1, dtype=DALIDataType.FLOAT)
            views.append(_normalized(_resized(frames, crop, region), mirror, gray))
        pipeline.set_outputs(*views)
    return Graph(pipeline, _to_torch(device))


def _pipeline(num_frames: int, threads: int, device: torch.device) -> Pipeline:
    """Return a pipeline without operators.

    Each call of schedule_run starts one batch. The dynamic executor still runs as many batches as
    were started, and its outputs stay valid for as long as torch holds them.
    """
    return Pipeline(
        batch_size=num_frames,
        num_threads=threads,
        device_id=device.index or 0 if device.type == "cuda" else None,
        prefetch_queue_depth=1,
        exec_dynamic=True,
    )


def _jpegs() -> DataNode:
    return fn.external_source(name="jpegs", dtype=DALIDataType.UINT8, ndim=1)


def _input(name: str, ndim: int, dtype: DALIDataType = DALIDataType.INT32) -> DataNode:
    return fn.external_source(name=name, dtype=dtype, ndim=ndim)


def _region(device: torch.device, gray: bool) -> tuple[DataNode, DataNode]:
    """Return the decoded region of each frame, and whether it is flipped."""
    region = fn.decoders.image_slice(
        _jpegs(),
        start=_input("corner", ndim=1),
        shape=_input("size", ndim=1),
        axis_names="HW",
        **_decoding(device, gray),
    )
    return region, _input("flip", ndim=0)


def _decoding(device: torch.device, gray: bool) -> dict[str, Any]:
    """Return the arguments that all decoders share."""
    return {
        "device": "mixed" if device.type == "cuda" else "cpu",
        "output_type": DALIImageType.GRAY if gray else DALIImageType.RGB,
        "jpeg_fancy_upsampling": True,  # as on the CPU, so that both devices give the same pixels
    }


def _resized(frames: DataNode, crop: int, region: DataNode | None = None) -> DataNode:
    """Scale the frames, or a region of each of them, to a square."""
    roi: dict[str, Any] = {}
    if region is not None:
        roi = {"roi_start": region[0:2], "roi_end": region[2:4], "roi_relative": False}
    resized = fn.resize(frames, size=[crop, crop], **roi)
    assert isinstance(resized, DataNode)  # the declared type also allows several outputs
    return resized


def _normalization(gray: bool) -> tuple[Sequence[float], Sequence[float]]:
    """Return the mean and deviation of each color, for values from 0 to 1."""
    return ((FLOW_MEAN,), (FLOW_STD,)) if gray else (MEAN, STD)


def _normalized(images: DataNode, mirror: DataNode | bool, gray: bool) -> DataNode:
    mean, std = _normalization(gray)
    return fn.crop_mirror_normalize(
        images,
        mirror=mirror,
        mean=[255 * value for value in mean],
        std=[255 * value for value in std],
        dtype=DALIDataType.FLOAT,
        output_layout="CHW",
    )


def _to_torch(device: torch.device) -> Callable[[Outputs], list[torch.Tensor]]:
    """Return a function that turns DALI's outputs into tensors: shared on a CPU, copied on a GPU.

    DALI may reuse memory of the GPU as soon as torch frees the tensor, although kernels that read
    it are still queued in torch's stream. The copy belongs to torch's allocator, which keeps track
    of streams.
    """
    if device.type == "cpu":
        return lambda outputs: [torch.from_dlpack(output.as_tensor()) for output in outputs]
    stream = torch.cuda.Stream(device)

    def copy(outputs: Outputs) -> list[torch.Tensor]:
        with torch.cuda.stream(stream):
            views = [torch.from_dlpack(output.as_tensor()).clone() for output in outputs]
        stream.synchronize()  # of the own stream only, which does not wait for the previous step
        for view in views:
            view.record_stream(torch.cuda.current_stream(device))
        return views

    return copy


class _Memory:
    """Memory for batches, which is lent again when torch has dropped it.

    New memory for each batch would cost a third of the loader's time, which the system needs to
    clear the pages.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._free: list[np.ndarray] = []

    def take(self) -> torch.Tensor:
        """Return a float32 tensor with arbitrary content."""
        memory = self._free.pop() if self._free else np.empty(self._shape, np.float32)
        # A tensor holds the view while it uses the storage. Afterwards the memory is free again.
        lent = memory.view()
        weakref.finalize(lent, self._free.append, memory).atexit = False
        return torch.from_numpy(lent)


def _scaled(regions: TensorListCPU, flips: TensorListCPU, views: torch.Tensor) -> torch.Tensor:
    """Fill ``views`` with what DALI's resize and `_normalized` would give, computed by torch."""
    colors = _normalization(gray=views.shape[1] == 1)
    # Multiplied in float32, as in earlier versions, so that their runs resume with the same bits.
    mean, std = (255 * torch.tensor(values).view(-1, 1, 1) for values in colors)
    frames = (torch.from_dlpack(regions[index]) for index in range(len(regions)))
    for view, frame, flip in zip(views, frames, flips.as_array(), strict=True):
        frame = frame.permute(2, 0, 1)[None]
        frame = interpolate(frame, size=view.shape[1:], mode="bilinear", antialias=True)[0]
        torch.sub(frame.flip(-1) if flip else frame, mean, out=view).div_(std)
    return views
