"""Atomic writes: a file or a folder appears complete and flushed to disk, or does not appear."""

import contextlib
import errno
import io
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from configs.errors import TinError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

BUFFER_BYTES = 1 << 20
SUFFIX = ".tmp"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


class WriteError(TinError, OSError):
    """A file that could not be written. No part of it appears under its name."""


@contextlib.contextmanager
def atomic_file(
    path: Path,
    *,
    check: Callable[[], None] | None = None,
    verify: Callable[[Path], None] | None = None,
    advice: str = "",
) -> Iterator[BinaryIO]:
    """Open a binary file that takes the place of `path` when the block ends without an error.

    The bytes go to a temporary file beside `path`, whose random name is created exclusively, so
    that nobody can guess it or redirect it through a link. They are flushed to the disk before the
    rename, and the folder is flushed after it.

    Args:
        path: the file to write; its folder must exist.
        check: called just before the rename, for example to detect a newer attempt of a run. If
            it raises an error, the old file stays.
        verify: called with the flushed temporary file, for example to read it back. If it raises
            an error, the old file stays.
        advice: a sentence for the error message that says what is still intact or what to run.

    Raises:
        WriteError: the disk is full or not writable; names the file, the reason and what to do.
    """
    temporary = temporary_path(path)
    try:
        with explained(path, advice):
            raw = _File(temporary, path, advice)
        with io.BufferedWriter(raw, BUFFER_BYTES) as file:
            yield file
            with explained(path, advice):
                file.flush()
                os.fsync(file.fileno())
        if verify:
            verify(temporary)
        if check:
            check()
        with explained(path, advice):
            temporary.replace(path)
            _sync(path.parent)
    except OSError as error:
        if error.errno is None:  # numpy does not say why it failed to write an array
            raise _write_error(path, error, advice) from error
        raise
    finally:
        _remove(temporary)


def write_bytes(
    path: Path, data: bytes, *, check: Callable[[], None] | None = None, advice: str = ""
) -> None:
    """Write a file atomically; see `atomic_file`."""
    with atomic_file(path, check=check, advice=advice) as file:
        file.write(data)


def write_text(
    path: Path, text: str, *, check: Callable[[], None] | None = None, advice: str = ""
) -> None:
    """Write a UTF-8 file atomically, without changing line ends; see `atomic_file`."""
    write_bytes(path, text.encode(), check=check, advice=advice)


def write_link(path: Path, target: Path) -> None:
    """Make `path` a symbolic link to `target` atomically, also where `path` is an older file.

    Raises:
        WriteError: the disk is full or not writable.
    """
    temporary = temporary_path(path)
    try:
        with explained(path):
            temporary.symlink_to(target)
            temporary.replace(path)
            _sync(path.parent)
    finally:
        _remove(temporary)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of `path` when the block ends without an error.

    All files in it are flushed before the rename; `path` must not exist yet.

    Raises:
        WriteError: the disk is full or not writable.
    """
    temporary = temporary_path(path)
    try:
        with explained(path):
            temporary.mkdir()
        try:
            yield temporary
        except OSError as error:
            if error.errno in FULL:  # of whatever fills the folder
                raise _write_error(path, error, "") from error
            raise
        with explained(path):
            for parent, _, names in os.walk(temporary):
                for name in names:
                    _sync(Path(parent, name))
                _sync(Path(parent))
            temporary.rename(path)
            _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def temporary_path(path: Path) -> Path:
    """Return a name beside `path` that is hidden, random, and recognized by `remove_leftovers`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{SUFFIX}")


def remove_leftovers(folder: Path, name: str = "*", before: float | None = None) -> None:
    """Remove temporary files that killed writers left in `folder`.

    Args:
        folder: folder of the files; folders below it are left alone.
        name: pattern of the files' final names.
        before: remove only files that were last changed before this time, in seconds since the
            epoch, by the file system's clock. None removes all, which is safe only if nobody
            else writes to the folder.
    """
    for leftover in folder.glob(f".{name}.*{SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):
            if before is None or leftover.stat().st_mtime < before:
                leftover.unlink()


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, so that a rename survives a power failure.

    Raises:
        WriteError: the disk is full or broken; names the folder, the reason and what to do.
    """
    with explained(folder):
        _sync(folder)


def sync_file(path: Path) -> None:
    """Flush the content of an existing file to the disk.

    Raises:
        WriteError: the disk is full or broken; names the file, the reason and what to do.
    """
    with explained(path):
        _sync(path)


class _File(io.FileIO):
    """A new file that is opened exclusively, without following a link, and explains its errors."""

    def __init__(self, temporary: Path, path: Path, advice: str):
        super().__init__(temporary, "x")
        self._path = path
        self._advice = advice

    def write(self, data: "ReadableBuffer") -> int:
        with explained(self._path, self._advice):
            return super().write(data)


def _remove(temporary: Path) -> None:
    """Remove a temporary file if there is one.

    A read-only file system rejects the removal of any name, which would hide the first error.
    """
    if os.path.lexists(temporary):
        temporary.unlink()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def explained(path: Path, advice: str = "") -> Iterator[None]:
    """Turn an OSError of the block into a WriteError that names the file and says what to do."""
    try:
        yield
    except OSError as error:
        raise _write_error(path, error, advice) from error


def _write_error(path: Path, error: OSError, advice: str) -> WriteError:
    if error.errno in FULL:
        todo = "Free some disk space, then run the same command again."
    elif error.errno in FORBIDDEN:
        todo = "Choose a folder that you may write to."
    elif error.errno == errno.ENOENT:
        todo = "Its folder does not exist; create it first."
    else:
        todo = "Check the file system, then run the same command again."
    text = f"cannot write {path}: {error.strerror or error}. {f'{advice} ' if advice else ''}{todo}"
    found = WriteError(text)
    found.errno = error.errno
    return found
