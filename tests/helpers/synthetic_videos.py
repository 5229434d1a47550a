"""Small videos with known frames, and the settings that shard them."""

import csv
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import simplejpeg

from configs.load import load
from configs.schema import Config


def gray_frames(num_frames: int, width: int = 32, height: int = 24) -> list[np.ndarray]:
    """Return frames whose gray level shows their position: 20, 30, 40 ..."""
    return [np.full((height, width, 3), 20 + 10 * i, np.uint8) for i in range(num_frames)]


def noise_frames(num_frames: int, side: int = 64) -> list[np.ndarray]:
    """Return frames of random pixels, which need many bytes, all about as many."""
    return list(np.random.default_rng(0).integers(0, 255, (num_frames, side, side, 3), np.uint8))


def write_clip(
    path: Path,
    frames: Sequence[np.ndarray],
    fps: int = 10,
    codec: str = "mpeg4",
    times_ms: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    metadata: str = "",
    key_frames: int = 1,
) -> Path:
    """Write RGB frames as a video; return its path.

    Args:
        path: the file, whose suffix selects the container.
        frames: arrays of shape `(H, W, 3)`.
        fps: frame rate.
        codec: FFmpeg's name of the encoder.
        times_ms: times of the frames in milliseconds; None spaces them by `fps`.
        options: options of the container.
        metadata: title in the container's metadata.
        key_frames: distance between key frames; 1 makes every frame one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options or {}) as container:
        container.metadata["title"] = metadata
        stream = container.add_stream(codec, rate=fps, options={"g": str(key_frames)})
        assert isinstance(stream, av.VideoStream)
        stream.bit_rate = 10_000_000
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        milliseconds = Fraction(1, 1000)
        if times_ms is not None:
            stream.codec_context.time_base = milliseconds
            stream.time_base = milliseconds
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times_ms is not None:
                frame.time_base = milliseconds
                frame.pts = times_ms[index]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def cut(path: Path, share: float) -> Path:
    """Truncate a file to a share of its bytes; return its path."""
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


def levels(jpegs: Sequence[bytes]) -> list[int]:
    """Return the mean gray level of each frame, rounded to tens."""
    return [round(simplejpeg.decode_jpeg(jpeg).mean() / 10) * 10 for jpeg in jpegs]


def write_labels(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    """Write a labels CSV with the columns of the first row; return its path."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def shard_config(source: Path, *settings: str) -> Config:
    """Return a configuration that shards a folder; without splits, all videos are in train."""
    return load(None, [f"shard.source={source}", "shard.held_out=0", *settings])
