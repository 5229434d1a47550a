"""Frames of long videos, pipes and cameras, one after the other in constant memory."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from configs.load import ConfigError
from configs.schema import Config
from pipeline.crops import scaled_sizes, source_regions, view_corners
from preprocess.decode import BadVideoError, Decoding, decode_frames, probe, reason_of
from preprocess.videos import at_rate, stored_size
from tin.evaluation.predict import cut

CAMERA = "camera:"
"""Prefix of a source that names a video device, for example camera:/dev/video0."""
CAMERA_FORMAT = "v4l2"


@dataclass(frozen=True)
class Frame:
    """A decoded frame."""

    number: int
    """Number of the frame in the source, from 0."""
    seconds: float
    """Time of the frame, the first at 0; NaN if the source has no times."""
    pixels: np.ndarray
    """uint8 ``(H, W, 3)``, RGB, upright, with a short side of at most `shard.short_side`."""


def source_frames(source: str, config: Config, size: tuple[int, int] | None) -> Iterator[Frame]:
    """Yield the frames of a video file, of raw frames on the standard input, or of a camera.

    Raises:
        ConfigError: the size of raw frames is missing.
        BadVideoError: the source cannot be read.
    """
    if source == "-":
        if size is None:
            raise ConfigError("raw frames need their size: --size WIDTHxHEIGHT")
        return _raw_frames(*size)
    if source.startswith(CAMERA):
        return _camera_frames(source.removeprefix(CAMERA), config)
    return video_frames(Path(source), config)


def video_frames(path: Path, config: Config, decoding: Decoding | None = None) -> Iterator[Frame]:
    """Yield the frames of a video file, resampled to `shard.fps` if it is set.

    Each frame is decoded once, and one is in memory at a time. Unlike in `tin shard`, it is not
    compressed again.

    Raises:
        BadVideoError: the file is not a video, or it has no frame that can be decoded.
    """
    decoding = decoding or Decoding()
    frames = decode_frames(path, decoding)
    if config.shard.fps:
        frames = at_rate(frames, config.shard.fps, 1 / (probe(path).fps or config.shard.fps))
    reformatter = VideoReformatter()  # keeps its scaler from frame to frame
    for number, (frame, seconds) in enumerate(frames):
        yield Frame(number, seconds, _pixels(frame, config, reformatter))
    if not decoding.times:
        because = f": {decoding.problems[0]}" if decoding.problems else ""
        raise BadVideoError(f"no frame can be decoded{because}")


def center_crop(pixels: np.ndarray, config: Config) -> np.ndarray:
    """Return the center crop of a frame as tests cut it, uint8 ``(S, S, 3)``."""
    height, width = (np.array([side]) for side in pixels.shape[:2])
    side = config.test_crop
    sizes = scaled_sizes(width, height, config.clip.resize)
    corners = view_corners(sizes, side, 1, reference=False)
    region = source_regions(corners, side, sizes, width, height)[0, 0]
    return cut(Image.fromarray(pixels), region.tolist(), mirrored=False, side=side)


def _pixels(frame: av.VideoFrame, config: Config, reformatter: VideoReformatter) -> np.ndarray:
    """Return the pixels of a frame, scaled as in `tin shard` and turned upright."""
    width, height = stored_size(frame.width, frame.height, config.shard.short_side)
    try:
        scaled = reformatter.reformat(
            frame, width, height, "rgb24", interpolation="BICUBIC", threads=1
        )
    except (av.FFmpegError, ValueError) as error:
        raise BadVideoError(f"a frame cannot be scaled: {reason_of(error)}") from None
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(scaled.to_ndarray(), turns))


def _raw_frames(width: int, height: int) -> Iterator[Frame]:
    """Yield RGB frames of 8 bits per channel from the standard input until it ends."""
    size = width * height * 3
    number = 0
    while data := sys.stdin.buffer.read(size):
        if len(data) < size:
            raise BadVideoError(
                f"the last raw frame has {len(data)} bytes, expected {size} for {width}x{height}"
            )
        pixels = np.frombuffer(data, np.uint8).reshape(height, width, 3)
        yield Frame(number, float("nan"), pixels)
        number += 1


def _camera_frames(device: str, config: Config) -> Iterator[Frame]:
    """Yield the frames of a camera until it is unplugged or the process is stopped."""
    try:
        container = av.open(device, format=CAMERA_FORMAT)
    except (av.FFmpegError, ValueError) as error:
        raise BadVideoError(f"camera {device}: {reason_of(error)}") from None
    reformatter = VideoReformatter()
    with container:
        for number, frame in enumerate(container.decode(video=0)):
            yield Frame(number, float(frame.time or 0), _pixels(frame, config, reformatter))
