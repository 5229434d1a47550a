"""A DALI graph that decodes whole JPEGs, cuts and scales them: on a GPU, or on a CPU for tests.

N is the number of images of a batch, S the side of the square crop, C its colors: red, green and
blue, or gray for an image of flow. Everything that is random or differs between videos is an input
of the graph; DALI draws no random numbers. This is the only module that imports DALI.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import nvidia.dali.fn as fn
import torch
from nvidia.dali import Pipeline
from nvidia.dali.data_node import DataNode
from nvidia.dali.tensors import TensorListCPU, TensorListGPU
from nvidia.dali.types import DALIDataType, DALIImageType

from pipeline.decoded import Arguments, Shape

Outputs = Sequence[TensorListCPU | TensorListGPU]


class DaliDecoder:
    """A running DALI pipeline: batches enter it, and their views leave it in the same order."""

    def __init__(
        self,
        shape: Shape,
        rows: int,
        mirrored: Sequence[bool] | None,
        threads: int,
        device: torch.device,
    ) -> None:
        """Build the pipeline.

        Args:
            shape: sizes of a batch.
            rows: largest number of rows of a batch.
            mirrored: whether each test crop is mirrored; None for training.
            threads: number of CPU threads of DALI.
            device: where to decode.
        """
        self._shape = shape
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        # Each call of schedule_run starts one batch. The dynamic executor still runs as many
        # batches as were started, and its outputs stay valid for as long as torch holds them.
        self._pipeline = Pipeline(
            batch_size=rows * shape.clips * shape.frames * shape.planes,
            num_threads=threads,
            device_id=device.index or 0 if device.type == "cuda" else None,
            prefetch_queue_depth=1,
            exec_dynamic=True,
        )
        with self._pipeline:
            frames = _decoded(device, gray=shape.planes > 1)
            if mirrored is None:
                views = [_training_view(frames, shape.side)]
            else:
                views = [_test_view(frames, v, flip, shape.side) for v, flip in enumerate(mirrored)]
            self._pipeline.set_outputs(*views)
        self._names = ["corner", "size", "flip"] if mirrored is None else []
        self._num_views = len(mirrored or ())
        self._pipeline.build()
        self._rows: list[int] = []  # of the running batches

    def start(self, rows: Sequence[Sequence[np.ndarray]], arguments: Arguments) -> None:
        """Start a batch: the JPEGs of each row (uint8), and arguments with one entry per row."""
        # The graph works on images: repeat the arguments of a row for each of its images.
        per_row = self._shape.clips * self._shape.frames * self._shape.planes
        inputs = {name: arguments[name] for name in self._names}
        inputs |= {f"region{v}": arguments["regions"][:, v] for v in range(self._num_views)}
        self._pipeline.feed_input("jpegs", [jpeg for row in rows for jpeg in row])
        for name, values in inputs.items():
            repeated = np.ascontiguousarray(np.repeat(values, per_row, axis=0))
            self._pipeline.feed_input(name, repeated)
        self._pipeline.schedule_run()
        self._rows.append(len(rows))

    def finish(self) -> torch.Tensor:
        """Wait for the oldest running batch; return its views ``(rows, V, F, S, S, C)``.

        Raises:
            RuntimeError: a frame cannot be decoded; the pipeline cannot be used afterwards.
        """
        rows = self._rows.pop(0)
        crops = self._copied(self._pipeline.share_outputs())
        self._pipeline.release_outputs()
        shape = self._shape
        side = shape.side
        views = []
        for crop in crops:
            view = crop.view(rows, shape.clips, shape.frames, -1, side, side, crop.shape[-1])
            # The gray images of a frame of flow become its colors.
            views.append(view[:, :, :, 0] if shape.planes == 1 else view[..., 0].movedim(3, -1))
        return torch.stack(views, 2).flatten(1, 2)

    def drain(self) -> None:
        """Wait for all running batches and drop them."""
        while self._rows:
            self.finish()

    def close(self) -> None:
        """Do nothing: DALI ends its threads with the pipeline."""

    def _copied(self, outputs: Outputs) -> list[torch.Tensor]:
        """Return DALI's outputs as tensors: shared on a CPU, copied on a GPU.

        DALI may reuse memory of the GPU as soon as torch frees the tensor, although kernels that
        read it are still queued in torch's stream. The copy belongs to torch's allocator, which
        keeps track of streams.
        """
        if self._stream is None:
            return [torch.from_dlpack(output.as_tensor()) for output in outputs]
        with torch.cuda.stream(self._stream):
            views = [torch.from_dlpack(output.as_tensor()).clone() for output in outputs]
        self._stream.synchronize()  # of this stream only, which does not wait for the step before
        for view in views:
            view.record_stream(torch.cuda.current_stream(self._device))
        return views


def _input(name: str, ndim: int, dtype: DALIDataType = DALIDataType.INT32) -> DataNode:
    return fn.external_source(name=name, dtype=dtype, ndim=ndim)


def _decoded(device: torch.device, gray: bool) -> DataNode:
    """Return the whole frames: only they use the hardware decoder of a GPU well."""
    return fn.decoders.image(
        _input("jpegs", 1, DALIDataType.UINT8),
        device="mixed" if device.type == "cuda" else "cpu",
        output_type=DALIImageType.GRAY if gray else DALIImageType.RGB,
        jpeg_fancy_upsampling=True,  # as on the CPU, so that both give nearly the same pixels
    )


def _training_view(frames: DataNode, side: int) -> DataNode:
    """Cut and scale ``corner`` and ``size`` (y, x in pixels) of each frame, and mirror ``flip``."""
    region = fn.slice(frames, start=_input("corner", 1), shape=_input("size", 1), axis_names="HW")
    return fn.flip(_resized(region, side), horizontal=_input("flip", 0))


def _test_view(frames: DataNode, number: int, mirror: bool, side: int) -> DataNode:
    """Scale the region of one crop: top, left, bottom, right in pixels, float32.

    This gives the same pixels as scaling the frame and cropping it afterwards, because the filter
    also reads the pixels around the region.
    """
    region = _input(f"region{number}", 1, DALIDataType.FLOAT)
    roi = {"roi_start": region[0:2], "roi_end": region[2:4], "roi_relative": False}
    resized = _resized(frames, side, **roi)
    return fn.flip(resized) if mirror else resized


def _resized(frames: DataNode, side: int, **roi: Any) -> DataNode:
    resized = fn.resize(frames, size=[side, side], **roi)
    assert isinstance(resized, DataNode)  # the declared type also allows several outputs
    return resized
