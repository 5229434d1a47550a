"""Videos: opened, probed and decoded in one thread."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av

from configs.errors import TinError

DEFAULT_FPS = 25.0  # where neither the container nor its timestamps tell
CONTAINERS = (  # playlists and scripts, which open other files, are not among them
    "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpeg,mpegts,mpegvideo,flv,asf,ogg,mjpeg,h264,hevc,"
    "m4v,ivf,nut,gif,mxf,dv,rm,vob"
)
OPTIONS = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}


class BadVideoError(TinError, ValueError):
    """A video that goes to quarantine; the text is the reason."""

    is_final = True


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


@dataclass
class Decoding:
    """What happened while a video was decoded."""

    times: list[float] = field(default_factory=list)
    """Seconds of each frame."""
    problems: list[str] = field(default_factory=list)
    """Errors of packets that could not be decoded, and of a container that broke off."""
    num_hidden: int = 0
    """Packets that are announced but not shown: an edit list starts after them."""


def probe(path: Path) -> VideoInfo:
    """Return what the container announces.

    Raises:
        BadVideoError: it is no video.
    """
    with _open(path) as container:
        return _info(container)


def decode_frames(
    path: Path, decoding: Decoding | None = None
) -> Iterator[tuple[av.VideoFrame, float]]:
    """Yield the frames of a video with their times in seconds, the first at 0.

    Rotation is not applied. A packet that cannot be decoded is passed over, a container that
    breaks off ends the frames; `decoding` tells of both.

    Raises:
        BadVideoError: it is no video.
    """
    decoding = decoding or Decoding()
    with _open(path) as container:
        stream = container.streams.best("video")
        stream.thread_count = 1
        interval = 1 / (_info(container).fps or DEFAULT_FPS)
        first, last = None, -interval
        for frame in _decoded(container, stream, decoding):
            first = frame.time if first is None else first
            now = last + interval if frame.time is None else frame.time - first
            last = max(now, last)  # a clock that runs backwards stands still
            decoding.times.append(last)
            yield frame, last


def _open(path: Path) -> av.container.InputContainer:
    if not path.is_file():
        raise BadVideoError("the file is missing")
    if not path.stat().st_size:
        raise BadVideoError("the file has 0 bytes")
    try:
        # UCF101 has metadata that is not UTF-8
        container = av.open(str(path), metadata_errors="ignore", options=OPTIONS)
    except (av.FFmpegError, ValueError) as error:
        raise BadVideoError(f"it is no video: {reason_of(error)}") from None
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
    container: av.container.InputContainer, stream: av.VideoStream, decoding: Decoding
) -> Iterator[av.VideoFrame]:
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            decoding.problems.append(reason_of(error))
            packet = None
        if packet is not None:
            decoding.num_hidden += packet.is_discard
        try:
            yield from stream.decode(packet)  # None asks for the frames that are held back
        except av.EOFError:
            return
        except (av.FFmpegError, ValueError) as error:
            decoding.problems.append(reason_of(error))
        if packet is None or (packet.dts is None and not packet.size):
            return


def reason_of(error: Exception) -> str:
    """Return the text of an error of FFmpeg."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
