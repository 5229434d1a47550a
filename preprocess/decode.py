"""Opens, probes and decodes videos, each in one thread."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
from av.container import InputContainer

from configs.errors import TinError

DEFAULT_FPS = 25.0
"""Assumed when neither the container nor its timestamps tell the frame rate."""
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpeg,mpegts,mpegvideo,flv,asf,ogg,mjpeg,h264,hevc,"
    "m4v,ivf,nut,gif,mxf,dv,rm,vob"
)
"""Formats that may be opened. Playlists and scripts are left out, since they open other files."""
MAX_PIXELS = 64_000_000
"""Largest frame that is decoded. A file of a few bytes can announce a frame that fills the memory.
"""
OPTIONS = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}


class BadVideoError(TinError, ValueError):
    """A video that goes to quarantine; the text is the reason."""

    is_final = True


@dataclass(frozen=True)
class VideoInfo:
    """What the container announces about a video, before anything is decoded."""

    width: int
    height: int
    num_frames: int
    """Announced number of frames; 0 if none is announced."""
    fps: float
    """Average frames per second; 0 if unknown."""
    seconds: float
    """Announced duration; 0 if unknown."""


@dataclass
class Decoding:
    """What happened while a video was decoded."""

    times: list[float] = field(default_factory=list)
    """Time of each frame, in seconds."""
    problems: list[str] = field(default_factory=list)
    """Errors of packets that could not be decoded, and of a container that ended early."""
    num_hidden: int = 0
    """Packets that are announced but not shown, because an edit list starts after them."""


def probe(path: Path) -> VideoInfo:
    """Return what the container announces.

    Raises:
        BadVideoError: the file is not a video.
    """
    with _open(path) as container:
        return _info(container)


def decode_frames(
    path: Path, decoding: Decoding | None = None
) -> Iterator[tuple[av.VideoFrame, float]]:
    """Yield the frames of a video with their times in seconds, the first at 0.

    Rotation is not applied. A packet that cannot be decoded is skipped, and an error of the
    container ends the frames; both are recorded in `decoding`.

    Raises:
        BadVideoError: the file is not a video.
    """
    decoding = decoding or Decoding()
    with _open(path) as container:
        stream = _video_stream(container)
        stream.thread_count = 1
        interval = 1 / (_info(container).fps or DEFAULT_FPS)
        first_time = None
        last = -interval
        for frame in _decoded(container, stream, decoding):
            # Count times from the first frame; a frame without a timestamp follows the last one.
            if frame.time is None:
                time = last + interval
            else:
                first_time = frame.time if first_time is None else first_time
                time = frame.time - first_time
            last = max(time, last)  # timestamps that run backwards do not count
            decoding.times.append(last)
            yield frame, last


def reason_of(error: Exception) -> str:
    """Return the text of an error of FFmpeg."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _open(path: Path) -> InputContainer:
    """Return the open container of a file that has a video stream with a decoder."""
    if not path.is_file():
        raise BadVideoError("the file is missing")
    if not path.stat().st_size:
        raise BadVideoError("the file has 0 bytes")
    try:
        # UCF101 has metadata that is not UTF-8.
        container = av.open(str(path), metadata_errors="ignore", options=OPTIONS)
    except (av.FFmpegError, ValueError) as error:
        raise BadVideoError(f"the file is not a video: {reason_of(error)}") from None
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream) or stream.codec_context is None:
        container.close()
        raise BadVideoError("the file has no video stream that can be decoded")
    try:
        check_pixels(stream.width, stream.height)
    except BadVideoError:
        container.close()
        raise
    # A later frame may be larger than the first.
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    return container


def check_pixels(width: int, height: int) -> None:
    """Check that a frame is not too large to be decoded.

    Raises:
        BadVideoError: it has more than `MAX_PIXELS`.
    """
    if width * height > MAX_PIXELS:
        raise BadVideoError(f"frames of {width}x{height} pixels; the limit is {MAX_PIXELS} pixels")


def _video_stream(container: InputContainer) -> av.VideoStream:
    """Return the stream whose presence `_open` has checked."""
    stream = container.streams.best("video")
    assert isinstance(stream, av.VideoStream)
    return stream


def _info(container: InputContainer) -> VideoInfo:
    stream = _video_stream(container)
    return VideoInfo(
        width=stream.width,
        height=stream.height,
        num_frames=stream.frames,
        fps=float(stream.average_rate or stream.guessed_rate or 0),
        seconds=_seconds(container, stream),
    )


def _seconds(container: InputContainer, stream: av.VideoStream) -> float:
    """Return the announced duration of the video stream; 0 if unknown."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    # Matroska stores the duration of a stream as a tag. The duration of the container may be that
    # of a longer sound track.
    try:
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except (KeyError, ValueError):
        return (container.duration or 0) / av.time_base


def _decoded(
    container: InputContainer, stream: av.VideoStream, decoding: Decoding
) -> Iterator[av.VideoFrame]:
    """Yield the frames that can be decoded; record problems and hidden packets in `decoding`."""
    packets = container.demux(stream)
    while True:
        # An error of the container ends the packets.
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            decoding.problems.append(reason_of(error))
            packet = None
        if packet is not None:
            decoding.num_hidden += packet.is_discard
        # Decode the packet; None asks the decoder for the frames that it still holds.
        try:
            yield from stream.decode(packet)
        except av.EOFError:
            return
        except (av.FFmpegError, ValueError) as error:
            decoding.problems.append(reason_of(error))
        if packet is None or (packet.dts is None and not packet.size):
            return
