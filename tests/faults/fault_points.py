"""Faults at the n-th write, flush, rename or removal of a file, and a power loss after it.

The errors of writes are real: the file descriptor is exchanged for a device whose writes fail. A
kill is a real SIGKILL of a forked process. A power loss is a kill after which everything is undone
that no flush had brought to the disk.
"""

import contextlib
import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import configs.files

DEVICES = {errno.ENOSPC: "/dev/full", errno.EIO: "/proc/self/mem"}
"""Devices on which a write fails with an error: the second has no memory at address 0."""


class Operation(NamedTuple):
    """What a writer is about to do with a file."""

    kind: str
    """`write`, `fsync`, `rename` or `unlink`."""
    path: str
    target: str = ""
    """The new name in a rename."""


@contextlib.contextmanager
def watched(before: Callable[[Operation, Any], None]) -> Iterator[None]:
    """Call `before(operation, file)` before each operation in this block.

    Writes are those of `configs.files`. `file` is a pair of the open file and the data in a write,
    and None otherwise.
    """
    write = configs.files._File.write
    fsync = os.fsync
    replace = os.replace
    rename = os.rename
    unlink = os.unlink

    def watched_write(file: Any, data: Any) -> int:
        before(Operation("write", str(file.name)), (file, data))
        return write(file, data)

    def watched_fsync(handle: int) -> None:
        before(Operation("fsync", str(Path(f"/proc/self/fd/{handle}").readlink())), None)
        fsync(handle)

    def watched_replace(source: Any, target: Any, **options: Any) -> None:
        before(Operation("rename", str(source), str(target)), None)
        replace(source, target, **options)

    def watched_rename(source: Any, target: Any, **options: Any) -> None:
        before(Operation("rename", str(source), str(target)), None)
        rename(source, target, **options)

    def watched_unlink(path: Any, **options: Any) -> None:
        if os.path.lexists(path):
            before(Operation("unlink", str(path)), None)
        unlink(path, **options)

    configs.files._File.write = watched_write  # type: ignore[method-assign]
    os.fsync = watched_fsync  # type: ignore[assignment]
    os.replace = watched_replace
    os.rename = watched_rename
    os.unlink = watched_unlink
    try:
        yield
    finally:
        configs.files._File.write = write  # type: ignore[method-assign]
        os.fsync = fsync
        os.replace = replace
        os.rename = rename
        os.unlink = unlink


def operations(write: Callable[[], None]) -> list[Operation]:
    """Return the operations of a writer, in their order."""
    found: list[Operation] = []
    with watched(lambda operation, _: found.append(operation)):
        write()
    return found


def fail_at(number: int, code: int, write: Callable[[], None]) -> None:
    """Let operation `number` of a writer, counted from 0, fail with an error."""
    count = -1

    def before(operation: Operation, file: Any) -> None:
        nonlocal count
        count += 1
        if count != number:
            return
        if operation.kind != "write":
            raise OSError(code, os.strerror(code))
        device = os.open(DEVICES[code], os.O_RDWR)
        os.dup2(device, file[0].fileno())
        os.close(device)

    with watched(before):
        write()


def kill_at(number: int, write: Callable[[], None], log: Path) -> list[Operation]:
    """Kill a forked writer with SIGKILL before operation `number`; return what it did before.

    A write is half done when the process dies. If the writer has fewer operations, it is killed
    after it has returned.
    """
    pid = os.fork()
    if not pid:
        _write_and_die(number, write, log)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), f"the writer ended with status {status}"
    text = log.read_text() if log.exists() else ""
    log.unlink(missing_ok=True)
    return [Operation(*line.split("\t")) for line in text.splitlines()]


def _write_and_die(number: int, write: Callable[[], None], log: Path) -> None:
    """Run a writer in this process, note its operations in `log`, and die at one of them."""
    count = -1
    notes = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def before(operation: Operation, file: Any) -> None:
        nonlocal count
        count += 1
        if count == number:
            if operation.kind == "write":
                data = memoryview(file[1]).cast("B")
                os.write(file[0].fileno(), data[: len(data) // 2])
                os.write(notes, "\t".join(operation).encode() + b"\n")
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(notes, "\t".join(operation).encode() + b"\n")

    try:
        with watched(before):
            write()
    finally:
        os.kill(os.getpid(), signal.SIGKILL)


def lose_data(done: list[Operation]) -> None:
    """Empty the files whose content was not flushed; all names have reached the disk."""
    dirty: set[str] = set()
    for kind, path, target in done:
        if kind == "write":
            dirty.add(path)
        elif kind == "fsync":
            dirty.discard(path)
        elif path in dirty:
            dirty.discard(path)
            dirty.add(target)
    for path in dirty:
        if Path(path).exists():
            os.truncate(path, 0)


def lose_names(done: list[Operation], folder: Path, before: Path) -> None:
    """Undo the renames and removals whose folder was not flushed after them.

    Args:
        done: what the writer did.
        folder: the folder that it wrote to.
        before: a copy of that folder from before.
    """
    # Find the changes of names that are only in memory.
    unflushed: list[Operation] = []
    for operation in done:
        if operation.kind in ("rename", "unlink"):
            unflushed.append(operation)
        elif operation.kind == "fsync":
            unflushed = [o for o in unflushed if _parent(o) != operation.path]
    # Undo them, the last one first. A file that was removed before a rename took its place is
    # brought back only by undoing its removal.
    removed = {operation.path for operation in done if operation.kind == "unlink"}
    for operation in reversed(unflushed):
        target = Path(operation.target or operation.path)
        if operation.kind == "rename":
            if os.path.lexists(target):
                target.rename(operation.path)
            if str(target) in removed:
                continue
        old = before / target.relative_to(folder)
        if old.is_dir():
            shutil.copytree(old, target)
        elif os.path.lexists(old):
            shutil.copy2(old, target, follow_symlinks=False)


def _parent(operation: Operation) -> str:
    """Return the folder that has the changed name."""
    return str(Path(operation.target or operation.path).parent)
