"""Shards: tar files of JPEG frames, whose bytes do not depend on where they are written.

A video is two members: `<key>.mjpeg`, its frames back to back, and `<key>.json`, its `VideoRecord`.
"""

import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Annotated, BinaryIO

from pydantic import Field, TypeAdapter, ValidationError

from configs.errors import TinError
from configs.small_files import first_problem, named, open_regular

Pixels = Annotated[int, Field(ge=1, le=65535)]
"""A side of a JPEG."""
Count = Annotated[int, Field(ge=0, lt=2**31)]
Crc = Annotated[int, Field(ge=0, lt=2**32)]
Finite = Annotated[float, Field(ge=0, allow_inf_nan=False)]
MAX_RECORD_BYTES = 256 << 20
"""The size limit of a `.json`: about ten million frames."""
KEY = re.compile(r"[A-Za-z0-9_-]{1,90}")
"""Keys of videos. webdataset ends a key at a dot, and names in USTAR have at most 100 bytes."""
END = bytes(2 * tarfile.BLOCKSIZE)
ADVICE = "Finished shards are kept."
"""What is still intact when a file of a dataset cannot be written."""


class ShardError(TinError, ValueError):
    """A file of a dataset is missing or damaged; the message names it and says what to do."""

    is_final = True


@dataclass(frozen=True)
class VideoRecord:
    """The `<key>.json` of a video. The tables of a dataset can be rebuilt from these records."""

    key: str
    labels: tuple[str, ...]
    width: Pixels
    height: Pixels
    source: str
    source_width: Count
    source_height: Count
    source_frames: Count
    fps: Finite
    seconds: Finite
    warning: str
    offsets: tuple[int, ...] = ()
    """Where each frame starts in `<key>.mjpeg`, in bytes."""
    crcs: tuple[Crc, ...] = ()
    """zlib.crc32 of each frame."""
    size: int = 0
    """Size of `<key>.mjpeg`, in bytes."""
    planes: int = 1
    """JPEGs of a frame: 2 for flow, along x and along y. Only records of flow contain it."""
    group: str = ""
    """Group of the video in the annotations. Only records of videos with a group contain it."""

    @property
    def num_frames(self) -> int:
        """The number of frames."""
        return len(self.offsets) // self.planes


RECORD = TypeAdapter(VideoRecord)


def append_video(file: BinaryIO, record: VideoRecord, jpegs: Sequence[bytes]) -> None:
    """Append a video to an open shard; fill in the offsets, CRCs and size of its record."""
    assert KEY.fullmatch(record.key), record.key
    sizes = [len(jpeg) for jpeg in jpegs]
    record = replace(
        record,
        offsets=tuple(accumulate(sizes[:-1], initial=0)),
        crcs=tuple(zlib.crc32(jpeg) for jpeg in jpegs),
        size=sum(sizes),
    )
    values = asdict(record)
    if record.planes == 1:
        del values["planes"]
    if not record.group:
        del values["group"]
    text = json.dumps(values, separators=(",", ":")).encode()
    _append(file, f"{record.key}.mjpeg", record.size, jpegs)
    _append(file, f"{record.key}.json", len(text), [text])


def end_shard(file: BinaryIO) -> None:
    """Write the two empty blocks that end a tar file."""
    file.write(END)


def read_shard(path: Path) -> Iterator[tuple[VideoRecord, int]]:
    """Yield the record of each video of a shard, and where its frames start in the file, in bytes.

    Raises:
        ShardError: the file is truncated, damaged, or not a shard.
    """
    try:
        with open_regular(path) as file:
            yield from _read_videos(file)
    except (OSError, tarfile.TarError, ValueError) as error:
        raise ShardError(
            f"{named(path, error)}. Delete the file and run `tin shard` again."
        ) from None


def _append(file: BinaryIO, name: str, size: int, parts: Sequence[bytes]) -> None:
    # Time, user and group of the member stay 0, so that the bytes are the same in every shard.
    member = tarfile.TarInfo(name)
    member.size = size
    file.write(member.tobuf(tarfile.USTAR_FORMAT))
    file.writelines(parts)
    file.write(bytes(-size % tarfile.BLOCKSIZE))


def _read_videos(file: BinaryIO) -> Iterator[tuple[VideoRecord, int]]:
    """Yield the records of an open shard and where their frames start.

    Only plain members as `append_video` writes them are read. tarfile would follow sparse members,
    links and headers of any size, and would end without an error at a damaged header.

    Raises:
        ValueError: the file has other members, or ends too early or too late.
    """
    file_size = os.fstat(file.fileno()).st_size
    keys: set[str] = set()
    position = 0
    while (member := _read_header(file, position, file_size)) is not None:
        start = position + tarfile.BLOCKSIZE
        description_at = start + member.size + -member.size % tarfile.BLOCKSIZE
        description = _read_header(file, description_at, file_size)
        if description is None or description.size > MAX_RECORD_BYTES:
            raise ValueError(f"found {member.name} without a valid .json after it")
        file.seek(description_at + tarfile.BLOCKSIZE)
        record = _read_record(member, description, file.read(description.size))
        if record.key in keys:
            raise ValueError(f"key {record.key} occurs twice")
        keys.add(record.key)
        yield record, start
        position = description_at + tarfile.BLOCKSIZE
        position += description.size + -description.size % tarfile.BLOCKSIZE
    expected = position + len(END)
    if file_size != expected:
        raise ValueError(
            f"found {file_size} bytes, but its videos end at byte {expected}; the file is"
            " truncated or damaged"
        )


def _read_header(file: BinaryIO, position: int, file_size: int) -> tarfile.TarInfo | None:
    """Return the member whose header is at `position`; None at the empty blocks of the end.

    Raises:
        ValueError: this is not the header of a regular file that lies inside the shard.
    """
    file.seek(position)
    block = file.read(tarfile.BLOCKSIZE)
    if block == bytes(tarfile.BLOCKSIZE):
        return None
    try:
        member = tarfile.TarInfo.frombuf(block, "ascii", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        raise ValueError(f"no member at byte {position} ({error}); truncated or damaged") from None
    if member.type != tarfile.REGTYPE:
        raise ValueError(f"{member.name!r} is not a regular file")
    if member.size < 0 or position + tarfile.BLOCKSIZE + member.size > file_size:
        raise ValueError(f"{member.name!r} is truncated: it announces {member.size} bytes")
    return member


def _read_record(
    frames: tarfile.TarInfo, description: tarfile.TarInfo, content: bytes
) -> VideoRecord:
    """Return the record of a video, checked against the two members that it is read from.

    Raises:
        ValueError: the members are not a video, or the record does not describe its frames.
    """
    # Check that the members are <key>.mjpeg and <key>.json.
    stem = frames.name.removesuffix(".mjpeg")
    if frames.name == stem or description.name != f"{stem}.json":
        raise ValueError(
            f"found {frames.name} and then {description.name}, expected a .mjpeg and its .json"
        )
    # Parse the record strictly.
    try:
        record = RECORD.validate_json(content, strict=True)
    except ValidationError as error:
        raise ValueError(f"{description.name} {first_problem(error)}") from None
    # Compare the record with the size of the frames.
    if record.key != stem or not KEY.fullmatch(stem) or record.size != frames.size:
        raise ValueError(
            f"{description.name} describes {record.key!r} with {record.size} bytes, but"
            f" {frames.name} has {frames.size}"
        )
    ends = [*record.offsets, record.size]
    is_increasing = ends == sorted(set(ends))
    if len(record.crcs) != len(record.offsets) or ends[0] != 0 or not is_increasing:
        raise ValueError(
            f"the offsets and CRCs in {description.name} do not describe {frames.name}"
        )
    if record.planes < 1 or len(record.offsets) % record.planes:
        raise ValueError(
            f"{description.name}: {len(record.offsets)} JPEGs are not a multiple of the"
            f" {record.planes} of each frame"
        )
    return record
