"""Encodes the frames of a video as JPEGs: upright, scaled down, resampled if asked."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
import simplejpeg
from av.video.reformatter import Colorspace, VideoReformatter

from configs.schema import ShardSettings
from preprocess.decode import (
    DEFAULT_FPS,
    BadVideoError,
    Decoding,
    VideoInfo,
    decode_frames,
    probe,
    reason_of,
)

Frame = TypeVar("Frame")
MAX_VIDEO_BYTES = 2 << 30
"""The size limit of the stored frames of a video."""
MAX_FRAMES = 1_000_000
"""The limit on the frames that `shard.fps` makes: 11 hours at 25 frames per second."""
TOO_LARGE = "its frames have more than 2 GiB; set shard.frame_cap or shard.fps"
MIN_SHARE = 0.9
"""A video with fewer than this share of its announced frames goes to quarantine."""


@dataclass(frozen=True)
class EncodedVideo:
    """A video as it is stored."""

    jpegs: list[bytes]
    width: int
    height: int
    source_width: int
    source_height: int
    source_frames: int
    fps: float
    """Rate of the stored frames, which is the source's average if they are not resampled; 0 if
    unknown."""
    seconds: float
    warning: str
    """Why fewer frames were found than expected; empty for a complete video."""
    planes: int = 1
    """JPEGs of a frame: 2 for flow, along x and along y."""


def encode_video(path: Path, settings: ShardSettings, reverse: bool = False) -> EncodedVideo:
    """Return the frames of a video as JPEGs: upright, short side at most `short_side`.

    If `settings.fps` is set, each tick of 1/fps gets the last frame that is not later.

    Raises:
        BadVideoError: no frame can be decoded, or fewer than 90 % of the announced frames.
    """
    info = probe(path)
    decoding = Decoding()
    frames = decode_frames(path, decoding)
    if settings.fps:
        frames = at_rate(frames, settings.fps, 1 / (info.fps or settings.fps))
    # Encode all frames to the size of the first one.
    sizes = None
    jpegs = []
    size_bytes = 0
    reformatter = VideoReformatter()  # keeps its scaler from frame to frame
    for frame, _ in frames:
        sizes = sizes or _sizes(frame, settings.short_side)
        jpegs.append(_encode(frame, sizes, reformatter, settings.quality))
        size_bytes += len(jpegs[-1])
        if size_bytes > MAX_VIDEO_BYTES and not settings.frame_cap:
            raise BadVideoError(TOO_LARGE)
    # Reject a video that lacks too many frames.
    times = decoding.times
    warning = check_share(len(times), _expected(info, decoding), decoding.problems)
    assert sizes is not None  # there is a frame, as checked
    width, height = _upright(sizes.width, sizes.height, sizes.turns)
    source_width, source_height = _upright(sizes.source_width, sizes.source_height, sizes.turns)
    jpegs = thinned(jpegs, settings.frame_cap)
    return EncodedVideo(
        jpegs=jpegs[::-1] if reverse else jpegs,
        width=width,
        height=height,
        source_width=source_width,
        source_height=source_height,
        source_frames=len(times),
        fps=settings.fps or info.fps,
        seconds=times[-1] + _interval(info, times),
        warning=warning,
    )


def check_share(found: int, expected: int, problems: list[str]) -> str:
    """Return a warning if frames are missing or damaged; empty for a complete video.

    Raises:
        BadVideoError: there are no frames, or fewer than 90 % of the expected ones.
    """
    because = f": {problems[0]}" if problems else ""
    if not found:
        raise BadVideoError(f"no frame can be decoded{because}")
    text = f"{found} of {expected} frames can be decoded{because}"
    if found < MIN_SHARE * expected:
        raise BadVideoError(text)
    return text if found < expected or problems else ""


def thinned(jpegs: list[Frame], frame_cap: int) -> list[Frame]:
    """Return at most `frame_cap` frames, the middles of equal parts; 0 keeps all."""
    count = len(jpegs)
    if not frame_cap or count <= frame_cap:
        return jpegs
    return [jpegs[(2 * i + 1) * count // (2 * frame_cap)] for i in range(frame_cap)]


def stored_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Return width and height, scaled down to a short side of at most `short_side`."""
    scale = min(1.0, short_side / max(1, min(width, height)))
    return max(1, round(width * scale)), max(1, round(height * scale))


def at_rate(
    frames: Iterable[tuple[av.VideoFrame, float]], fps: float, interval: float
) -> Iterator[tuple[av.VideoFrame, float]]:
    """Repeat and skip frames to get `fps`; the last one is shown for `interval` seconds.

    Raises:
        BadVideoError: a gap in the timestamps would be filled with too many frames.
    """
    tolerance = 1e-6  # containers round times
    shown = None
    end = 0.0
    tick = 0
    # Each frame is shown at the ticks from its own time up to the time of the next frame.
    for frame, time in frames:
        if time * fps > MAX_FRAMES:
            raise BadVideoError(
                f"a frame has the time {time:.0f} s; up to there, shard.fps={fps:g} would make more"
                f" than {MAX_FRAMES} frames"
            )
        while shown is not None and tick / fps < time - tolerance:
            yield shown, tick / fps
            tick += 1
        shown = frame
        end = time + interval
    # The last frame fills the ticks that are left; a single frame is shown at least once.
    while shown is not None and (tick == 0 or tick / fps < end - tolerance):
        yield shown, tick / fps
        tick += 1


@dataclass(frozen=True)
class _Sizes:
    """Sizes before rotation, in pixels, and the rotation in counter-clockwise quarter turns."""

    width: int
    height: int
    source_width: int
    source_height: int
    turns: int


def _expected(info: VideoInfo, decoding: Decoding) -> int:
    """Return how many frames are announced; if none are, estimate them from the duration."""
    times = decoding.times
    announced = info.num_frames - decoding.num_hidden
    if announced > 0 or not times:
        return announced
    # The rest of the duration would have frames at the rate of those that were found.
    covered = times[-1] + _interval(info, times)
    missing = max(0.0, info.seconds - covered) * len(times) / covered
    return len(times) + max(int(missing), len(decoding.problems))


def _interval(info: VideoInfo, times: list[float]) -> float:
    """Return the average time between frames, in seconds."""
    if len(times) > 1 and times[-1]:
        return times[-1] / (len(times) - 1)
    return 1 / (info.fps or DEFAULT_FPS)


def _sizes(frame: av.VideoFrame, short_side: int) -> _Sizes:
    width, height = stored_size(frame.width, frame.height, short_side)
    return _Sizes(
        width=width,
        height=height,
        source_width=frame.width,
        source_height=frame.height,
        turns=round(frame.rotation / 90) % 4,
    )


def _upright(width: int, height: int, turns: int) -> tuple[int, int]:
    return (height, width) if turns % 2 else (width, height)


def _encode(
    frame: av.VideoFrame, sizes: _Sizes, reformatter: VideoReformatter, quality: int
) -> bytes:
    """Return a frame as a JPEG: BT.601 and full range, whatever the video has."""
    try:
        scaled = reformatter.reformat(
            frame,
            sizes.width,
            sizes.height,
            "yuvj420p",
            interpolation="BICUBIC",
            dst_colorspace=Colorspace.ITU601,
            dst_color_range="JPEG",
            threads=1,
        )
        planes = [_pixels(plane) for plane in scaled.planes]
        if sizes.turns:
            planes = [np.ascontiguousarray(np.rot90(plane, sizes.turns)) for plane in planes]
        return simplejpeg.encode_jpeg_yuv_planes(*planes, quality=quality)
    except (av.FFmpegError, ValueError) as error:
        raise BadVideoError(f"a frame cannot be encoded: {reason_of(error)}") from None


def _pixels(plane: av.video.plane.VideoPlane) -> np.ndarray:
    """Return a plane as an array `(H, W)`, without the padding of its lines."""
    lines = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return lines[: plane.height, : plane.width]
