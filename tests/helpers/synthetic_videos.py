"""Small videos and datasets that tests make."""

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
    """Return frames whose gray level tells their place: 20, 30, 40 ..."""
    return [np.full((height, width, 3), 20 + 10 * i, np.uint8) for i in range(num_frames)]


def noise_frames(num_frames: int, side: int = 64) -> list[np.ndarray]:
    """Return frames that need many bytes, all about the same."""
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
    """Write RGB frames as a video of the container that the suffix names.

    `options` are the container's; every so many frames one is a key frame.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options or {}) as container:
        container.metadata["title"] = metadata
        stream = container.add_stream(codec, rate=fps, options={"g": str(key_frames)})
        stream.bit_rate = 10_000_000
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if times_ms is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times_ms is not None:
                frame.time_base, frame.pts = stream.codec_context.time_base, times_ms[index]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def cut(path: Path, share: float) -> Path:
    """Leave the first part of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


def levels(jpegs: Sequence[bytes]) -> list[int]:
    """Return the mean gray level of each frame, rounded to tens."""
    return [round(simplejpeg.decode_jpeg(jpeg).mean() / 10) * 10 for jpeg in jpegs]


def write_labels(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    """Write a labels CSV with the columns of the first row."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def shard_config(source: Path, *settings: str) -> Config:
    """Return a configuration that shards a folder."""
    return load(None, [f"shard.source={source}", *settings])
