"""Videos become JPEG frames: resized, upright, at another rate if asked."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import simplejpeg
from av.video.reformatter import VideoReformatter

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

MIN_SHARE = 0.9  # of the announced frames; what has fewer is quarantined


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
    """Rate of the stored frames, by the average of the source; 0 where it is unknown."""
    seconds: float
    warning: str


def encode_video(path: Path, settings: ShardSettings, reverse: bool = False) -> EncodedVideo:
    """Return the frames of a video as JPEGs: upright, short side at most `short_side`.

    With `settings.fps` each tick of 1/fps gets the last frame that is not later.

    Raises:
        BadVideoError: nothing can be decoded, or fewer than 90 % of the announced frames.
    """
    info, decoding, jpegs, sizes = probe(path), Decoding(), [], None
    frames = decode_frames(path, decoding)
    if settings.fps:
        frames = _at_rate(frames, settings.fps, 1 / (info.fps or settings.fps))
    reformatter = VideoReformatter()  # keeps its scaler from frame to frame
    for frame, _ in frames:
        sizes = sizes or _sizes(frame, settings.short_side)
        jpegs.append(_encode(frame, sizes, reformatter, settings.quality))
    times = decoding.times
    warning = check_share(len(times), _expected(info, decoding), decoding.problems)
    jpegs = thinned(jpegs, settings.frame_cap)
    return EncodedVideo(
        jpegs[::-1] if reverse else jpegs,
        *_upright(sizes.width, sizes.height, sizes.turns),
        *_upright(sizes.source_width, sizes.source_height, sizes.turns),
        source_frames=len(times),
        fps=settings.fps or info.fps,
        seconds=times[-1] + _interval(info, times),
        warning=warning,
    )


def check_share(found: int, expected: int, problems: list[str]) -> str:
    """Return a warning for a video with fewer frames than expected, empty for a whole one.

    Raises:
        BadVideoError: no frames, or fewer than 90 % of those expected.
    """
    because = f": {problems[0]}" if problems else ""
    if not found:
        raise BadVideoError(f"no frame can be decoded{because}")
    text = f"{found} of {expected} frames can be decoded{because}"
    if found < MIN_SHARE * expected:
        raise BadVideoError(text)
    return text if found < expected or problems else ""


def thinned(jpegs: list[bytes], frame_cap: int) -> list[bytes]:
    """Return at most `frame_cap` frames, the middles of equal parts; 0 keeps all."""
    count = len(jpegs)
    if not frame_cap or count <= frame_cap:
        return jpegs
    return [jpegs[(2 * i + 1) * count // (2 * frame_cap)] for i in range(frame_cap)]


def stored_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Return width and height with the short side at most `short_side`; never enlarged."""
    scale = min(1.0, short_side / max(1, min(width, height)))
    return max(1, round(width * scale)), max(1, round(height * scale))


@dataclass(frozen=True)
class _Sizes:
    """Sizes before rotation, in pixels, and quarter turns counter-clockwise."""

    width: int
    height: int
    source_width: int
    source_height: int
    turns: int


def _at_rate(
    frames: Iterable[tuple[av.VideoFrame, float]], fps: float, interval: float
) -> Iterator[tuple[av.VideoFrame, float]]:
    """Repeat and leave out frames; the last one is shown for `interval` seconds."""
    shown, end, tick = None, 0.0, 0
    for frame, now in frames:
        while shown is not None and tick / fps < now - 1e-6:  # times are rounded by containers
            yield shown, tick / fps
            tick += 1
        shown, end = frame, now + interval
    while shown is not None and (tick == 0 or tick / fps < end - 1e-6):
        yield shown, tick / fps
        tick += 1


def _expected(info: VideoInfo, decoding: Decoding) -> int:
    """Announced frames; else duration x rate, at the rate of the frames that were found."""
    times, announced = decoding.times, info.num_frames - decoding.num_hidden
    if announced > 0 or not times:
        return announced
    covered = times[-1] + _interval(info, times)
    missing = max(0.0, info.seconds - covered) * len(times) / covered
    return len(times) + max(int(missing), len(decoding.problems))


def _interval(info: VideoInfo, times: list[float]) -> float:
    """Return the seconds from frame to frame, on average."""
    if len(times) > 1 and times[-1]:
        return times[-1] / (len(times) - 1)
    return 1 / (info.fps or DEFAULT_FPS)


def _sizes(frame: av.VideoFrame, short_side: int) -> _Sizes:
    width, height = stored_size(frame.width, frame.height, short_side)
    return _Sizes(width, height, frame.width, frame.height, round(frame.rotation / 90) % 4)


def _upright(width: int, height: int, turns: int) -> tuple[int, int]:
    return (height, width) if turns % 2 else (width, height)


def _encode(
    frame: av.VideoFrame, sizes: _Sizes, reformatter: VideoReformatter, quality: int
) -> bytes:
    """Return a JPEG, which is BT.601 of full range whatever the video is."""
    try:
        scaled = reformatter.reformat(
            frame,
            sizes.width,
            sizes.height,
            "yuvj420p",
            interpolation="BICUBIC",
            dst_colorspace="ITU601",
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
    lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return lines[: plane.height, : plane.width]
