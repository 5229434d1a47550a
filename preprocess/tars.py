"""Shards: tar files of JPEG frames, whose bytes do not depend on where they are written.

A video is two members: `<key>.mjpeg`, its frames back to back, and `<key>.json`, its `VideoRecord`.
"""

import json
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

from pydantic import TypeAdapter, ValidationError

from configs.errors import TinError

KEY = re.compile(r"[A-Za-z0-9_-]{1,90}")
"""Keys of videos. webdataset ends a key at a dot, and names in USTAR have at most 100 bytes."""
MAX_BYTES = 8**11 - 1
"""The size limit of a video: USTAR writes sizes in 11 octal digits."""
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
    width: int
    height: int
    source: str
    source_width: int
    source_height: int
    source_frames: int
    fps: float
    seconds: float
    warning: str
    offsets: tuple[int, ...] = ()
    """Where each frame starts in `<key>.mjpeg`, in bytes."""
    crcs: tuple[int, ...] = ()
    """zlib.crc32 of each frame."""
    size: int = 0
    """Size of `<key>.mjpeg`, in bytes."""
    planes: int = 1
    """JPEGs of a frame: 2 for flow, along x and along y. Only records of flow contain it."""

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
        with tarfile.open(path, "r:") as tar:
            members = iter(tar)
            for frames in members:
                record = _read_record(tar, frames, next(members, None))
                yield record, frames.offset_data
            end = tar.offset
    except (OSError, tarfile.TarError, ValueError) as error:
        raise ShardError(f"{path}: {error}. Delete the file and run `tin shard` again.") from None
    # tarfile stops without an error at a header that is truncated or damaged, so compare the size.
    expected = end + len(END)
    found = path.stat().st_size
    if found != expected:
        raise ShardError(
            f"{path}: found {found} bytes, but its videos end at byte {expected}; the file is"
            " truncated or damaged. Delete it and run `tin shard` again."
        )


def _append(file: BinaryIO, name: str, size: int, parts: Sequence[bytes]) -> None:
    # Time, user and group of the member stay 0, so that the bytes are the same in every shard.
    member = tarfile.TarInfo(name)
    member.size = size
    file.write(member.tobuf(tarfile.USTAR_FORMAT))
    file.writelines(parts)
    file.write(bytes(-size % tarfile.BLOCKSIZE))


def _read_record(
    tar: tarfile.TarFile, frames: tarfile.TarInfo, description: tarfile.TarInfo | None
) -> VideoRecord:
    """Return the record of a video, checked against the two members that it is read from.

    Raises:
        ValueError: the members are not a video, or the record does not describe its frames.
    """
    # Check that the members are <key>.mjpeg and <key>.json.
    stem = frames.name.removesuffix(".mjpeg")
    if description is None or frames.name == stem or description.name != f"{stem}.json":
        found = description.name if description else "the end of the file"
        raise ValueError(f"found {frames.name} and then {found}, expected a .mjpeg and its .json")
    content = tar.extractfile(description) if description.isfile() else None
    if content is None or not frames.isfile():
        raise ValueError(f"{frames.name} and {description.name} are not both regular files")
    # Parse the record strictly.
    try:
        record = RECORD.validate_json(content.read(), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise ValueError(f"{description.name} {key}: {first['msg']}") from None
    # Compare the record with the size of the frames.
    if record.key != stem or record.size != frames.size:
        raise ValueError(
            f"{description.name} describes {record.key} with {record.size} bytes, but {frames.name}"
            f" has {frames.size}"
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
