"""Videos: probed, decoded in one thread, resized and encoded as JPEG frames."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import simplejpeg
from av.video.reformatter import VideoReformatter

from configs.schema import ShardSettings

MIN_SHARE = 0.9  # of the announced frames; what has fewer is quarantined
CONTAINERS = (  # playlists and scripts, which open other files, are not among them
    "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpeg,mpegts,mpegvideo,flv,asf,ogg,mjpeg,h264,hevc,"
    "m4v,ivf,nut,gif,mxf,dv,rm,vob"
)
OPTIONS = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}


class BadVideoError(ValueError):
    """A video that goes to quarantine; the text is the reason."""


@dataclass(frozen=True)
class VideoInfo:
    """What the container says of a video, before anything is decoded."""

    width: int
    height: int
    num_frames: int
    """Announced frames; 0 where none are."""
    fps: float
    """Average frames per second; 0 where it is unknown."""
    seconds: float
    """Announced duration; 0 where it is unknown."""


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


def probe(path: Path) -> VideoInfo:
    """Return what the container announces.

    Raises:
        BadVideoError: it is no video.
    """
    with _open(path) as container:
        return _info(container)


def decode_frames(
    path: Path, problems: list[str] | None = None
) -> Iterator[tuple[av.VideoFrame, float]]:
    """Yield the frames of a video with their times in seconds, the first at 0.

    Rotation is not applied. A packet that cannot be decoded is passed over, its error appended
    to `problems`; a container that breaks off ends the frames.

    Raises:
        BadVideoError: it is no video.
    """
    problems = [] if problems is None else problems
    with _open(path) as container:
        stream = container.streams.best("video")
        stream.thread_count = 1
        interval = 1 / (_info(container).fps or 25.0)
        first, last = None, -interval
        for frame in _decoded(container, stream, problems):
            first = frame.time if first is None else first
            now = last + interval if frame.time is None else frame.time - first
            last = max(now, last)  # a clock that runs backwards stands still
            yield frame, last


def encode_video(path: Path, settings: ShardSettings, reverse: bool = False) -> EncodedVideo:
    """Return the frames of a video as JPEGs: upright, short side at most `short_side`.

    With `settings.fps` each tick of 1/fps gets the last frame that is not later.

    Raises:
        BadVideoError: nothing can be decoded, or fewer than 90 % of the announced frames.
    """
    info, problems, times = probe(path), [], []
    frames = _recorded(decode_frames(path, problems), times)
    if settings.fps:
        frames = _at_rate(frames, settings.fps, 1 / (info.fps or settings.fps))
    jpegs, sizes = [], None
    reformatter = VideoReformatter()  # keeps its scaler from frame to frame
    for frame, _ in frames:
        sizes = sizes or _sizes(frame, settings.short_side)
        jpegs.append(_encode(frame, sizes, reformatter, settings.quality))
    warning = check_share(len(times), _expected(info, times, problems), problems)
    jpegs = thinned(jpegs, settings.frame_cap)
    stored = _upright(sizes.width, sizes.height, sizes.turns)
    source = _upright(sizes.source_width, sizes.source_height, sizes.turns)
    return EncodedVideo(
        jpegs[::-1] if reverse else jpegs,
        *stored,
        *source,
        len(times),
        settings.fps or info.fps,
        times[-1] + _interval(info, times),
        warning,
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


def _open(path: Path) -> av.container.InputContainer:
    if not path.is_file():
        raise BadVideoError("the file is missing")
    if not path.stat().st_size:
        raise BadVideoError("the file has 0 bytes")
    try:
        # UCF101 has metadata that is not UTF-8
        container = av.open(str(path), metadata_errors="ignore", options=OPTIONS)
    except (av.FFmpegError, ValueError) as error:
        raise BadVideoError(f"it is no video: {_reason(error)}") from None
    stream = container.streams.best("video")
    if stream is None or stream.codec_context is None:
        container.close()
        raise BadVideoError("it has no video stream that can be decoded")
    return container


def _info(container: av.container.InputContainer) -> VideoInfo:
    stream = container.streams.best("video")
    return VideoInfo(
        stream.width,
        stream.height,
        stream.frames,
        float(stream.average_rate or stream.guessed_rate or 0),
        _seconds(container, stream),
    )


def _seconds(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    try:  # Matroska: the container's duration may be that of a longer sound track
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except (KeyError, ValueError):
        return (container.duration or 0) / av.time_base


def _decoded(
    container: av.container.InputContainer, stream: av.VideoStream, problems: list[str]
) -> Iterator[av.VideoFrame]:
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            problems.append(_reason(error))
            packet = None
        try:
            yield from stream.decode(packet)  # None asks for the frames that are held back
        except av.EOFError:
            return
        except (av.FFmpegError, ValueError) as error:
            problems.append(_reason(error))
        if packet is None or (packet.dts is None and not packet.size):
            return


def _recorded(
    frames: Iterable[tuple[av.VideoFrame, float]], times: list[float]
) -> Iterator[tuple[av.VideoFrame, float]]:
    for frame, now in frames:
        times.append(now)
        yield frame, now


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


def _expected(info: VideoInfo, times: list[float], problems: list[str]) -> int:
    """Announced frames; else duration x rate, at the rate of the frames that were found."""
    if info.num_frames or not times:
        return info.num_frames
    covered = times[-1] + _interval(info, times)
    missing = max(0.0, info.seconds - covered) * len(times) / covered
    return len(times) + max(int(missing), len(problems))


def _interval(info: VideoInfo, times: list[float]) -> float:
    return times[-1] / (len(times) - 1) if len(times) > 1 and times[-1] else 1 / (info.fps or 25.0)


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
        raise BadVideoError(f"a frame cannot be encoded: {_reason(error)}") from None


def _pixels(plane: av.video.plane.VideoPlane) -> np.ndarray:
    lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return lines[: plane.height, : plane.width]


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
