"""Shards: tar files of JPEG frames that have the same bytes wherever they are written.

A video is `<key>.mjpeg`, its frames back to back, and then `<key>.json`, its `VideoRecord`.
"""

import json
import os
import re
import socket
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

from pydantic import TypeAdapter, ValidationError

from configs.errors import TinError

KEY = re.compile(r"[A-Za-z0-9_-]{1,90}")  # no dots (webdataset), within 100 bytes (USTAR)
MAX_BYTES = 8**11 - 1  # of a video: USTAR writes sizes in 11 octal digits
END = bytes(2 * tarfile.BLOCKSIZE)


class ShardError(TinError, ValueError):
    """A dataset that cannot be read or written; says where, what was found and what to do."""

    is_final = True


@dataclass(frozen=True)
class VideoRecord:
    """The `<key>.json` of a video: every table can be made of these."""

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
    """First byte of each frame within `<key>.mjpeg`."""
    crcs: tuple[int, ...] = ()
    """zlib.crc32 of each frame."""
    size: int = 0
    """Bytes of `<key>.mjpeg`."""


RECORD = TypeAdapter(VideoRecord)


def append_video(file: BinaryIO, record: VideoRecord, jpegs: Sequence[bytes]) -> None:
    """Append a video to an open shard; offsets, CRCs and size of the record are filled in here."""
    assert KEY.fullmatch(record.key), record.key
    sizes = [len(jpeg) for jpeg in jpegs]
    record = replace(
        record,
        offsets=tuple(accumulate(sizes[:-1], initial=0)),
        crcs=tuple(zlib.crc32(jpeg) for jpeg in jpegs),
        size=sum(sizes),
    )
    text = json.dumps(asdict(record), separators=(",", ":")).encode()
    _append(file, f"{record.key}.mjpeg", record.size, jpegs)
    _append(file, f"{record.key}.json", len(text), [text])


def end_shard(file: BinaryIO) -> None:
    """Write the two empty blocks that end a tar."""
    file.write(END)


def read_shard(path: Path) -> Iterator[tuple[VideoRecord, int]]:
    """Yield each video of a shard with the first byte of its frames in the file.

    Raises:
        ShardError: the file is cut short, or is no shard.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            members = iter(tar)
            for frames in members:
                record = _read_record(tar, frames, next(members, None))
                yield record, frames.offset_data
            end = tar.offset
    except (OSError, tarfile.TarError, ValueError) as error:
        raise ShardError(f"{path}: {error}; delete the file and run `tin shard` again") from None
    want, found = end + len(END), path.stat().st_size
    if found != want:  # tarfile stops without a word where a header is cut or damaged
        raise ShardError(
            f"{path} has {found} bytes, its videos end at {want}: it is cut short or damaged;"
            " delete the file and run `tin shard` again"
        )


def _append(file: BinaryIO, name: str, size: int, parts: Sequence[bytes]) -> None:
    member = tarfile.TarInfo(name)  # its time, user and group are 0: same bytes every time
    member.size = size
    file.write(member.tobuf(tarfile.USTAR_FORMAT))
    file.writelines(parts)
    file.write(bytes(-size % tarfile.BLOCKSIZE))


def _read_record(
    tar: tarfile.TarFile, frames: tarfile.TarInfo, about: tarfile.TarInfo | None
) -> VideoRecord:
    stem = frames.name.removesuffix(".mjpeg")
    if about is None or frames.name == stem or about.name != f"{stem}.json":
        found = about.name if about else "the end of the file"
        raise ValueError(f"found {frames.name} and then {found}, expected a .mjpeg and its .json")
    if not (frames.isfile() and about.isfile()):
        raise ValueError(f"{frames.name} and {about.name} are no plain files")
    try:
        record = RECORD.validate_json(tar.extractfile(about).read(), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(
            f"{about.name} {'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from None
    if record.key != stem or record.size != frames.size:
        raise ValueError(
            f"{about.name} describes {record.key} of {record.size} bytes, beside it stands"
            f" {frames.name} of {frames.size}"
        )
    ends = (*record.offsets, record.size)
    if len(record.crcs) != len(record.offsets) or ends[0] or list(ends) != sorted(set(ends)):
        raise ValueError(f"{about.name}: its offsets and CRCs do not describe {frames.name}")
    return record


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` when it is complete, flushed to the disk.

    Raises:
        ShardError: it could not be written, a full disk above all.
    """
    aside = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")
    try:
        with aside.open("xb", buffering=1 << 20) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise ShardError(
            f"{path}: {error.strerror or error}; finished shards are kept: mend this and run the"
            " same command again"
        ) from error
    finally:
        aside.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
