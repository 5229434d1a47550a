"""Atomic writes: files are complete or absent, links are not followed, errors say what to do."""

import errno
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from configs.files import (
    WriteError,
    atomic_file,
    atomic_folder,
    remove_leftovers,
    temporary_path,
    write_bytes,
    write_link,
    write_text,
)


def test_a_file_appears_when_the_block_ends(tmp_path: Path):
    path = tmp_path / "a.txt"
    with atomic_file(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_keeps_the_old_file_and_leaves_no_temporary_file(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="stop"), atomic_file(path) as file:
        file.write(b"half")
        raise RuntimeError("stop")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_check_runs_before_the_rename(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fenced() -> None:
        assert path.read_text() == "old"
        raise RuntimeError("a newer attempt has begun")

    with pytest.raises(RuntimeError, match="newer attempt"):
        write_text(path, "new", check=fenced)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_files_follow_the_umask(tmp_path: Path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_a_link_at_the_temporary_name_is_not_followed(tmp_path: Path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("safe")
    name = tmp_path / ".a.txt.guessed.tmp"
    name.symlink_to(victim)
    monkeypatch.setattr("configs.files.temporary_path", lambda path: name)
    with pytest.raises(WriteError, match="File exists"):
        write_text(tmp_path / "a.txt", "evil")
    assert victim.read_text() == "safe"


def test_temporary_names_cannot_be_guessed(tmp_path: Path):
    names = {temporary_path(tmp_path / "a.txt").name for _ in range(100)}
    assert len(names) == 100
    assert all(len(name) == len(".a.txt..tmp") + 16 for name in names)


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(WriteError, match="folder does not exist; create it first") as error:
        write_text(tmp_path / "absent" / "a.txt", "x")
    assert str(tmp_path / "absent" / "a.txt") in str(error.value)
    assert error.value.errno == errno.ENOENT


def test_a_write_that_fails_names_the_file_and_what_is_intact(tmp_path: Path):
    path = tmp_path / "a.bin"
    path.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(WriteError, match="File too large. Finished shards are kept.") as error:
            write_bytes(path, bytes(1 << 22), advice="Finished shards are kept.")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(error.value).startswith(f"cannot write {path}: ")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "Free some disk space"),
        (errno.EROFS, "Choose a folder that you may write to"),
        (errno.EIO, "Check the file system"),
    ],
)
def test_a_flush_that_fails_says_what_to_do(number: int, advice: str, tmp_path: Path, monkeypatch):
    def fails(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("configs.files.os.fsync", fails)
    with pytest.raises(WriteError, match=advice):
        write_text(tmp_path / "a.txt", "x")
    assert not list(tmp_path.iterdir())


def test_an_error_of_another_file_keeps_its_type(tmp_path: Path):
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "a.txt"):
        (tmp_path / "source").read_text()


def test_a_file_is_flushed_before_its_rename_and_its_folder_after(strace: str, tmp_path: Path):
    code = "import sys, pathlib; from configs.files import write_text; "
    code += "write_text(pathlib.Path(sys.argv[1]), 'x')"
    trace = tmp_path / "trace"
    command = [strace, "-f", "-y", "-e", "trace=fsync,rename,renameat,renameat2", "-o", trace]
    subprocess.run([*command, sys.executable, "-c", code, tmp_path / "a.txt"], check=True)
    calls = [line.split(maxsplit=1)[1] for line in trace.read_text().splitlines()]
    calls = [call for call in calls if str(tmp_path) in call]
    assert [call.partition("(")[0] for call in calls] == ["fsync", "rename", "fsync"]
    assert ".tmp>" in calls[0]
    assert f"<{tmp_path}>" in calls[2]


def test_a_folder_appears_when_it_is_complete(tmp_path: Path):
    path = tmp_path / "code"
    with pytest.raises(RuntimeError, match="stop"), atomic_folder(path) as folder:
        (folder / "a").write_text("x")
        raise RuntimeError("stop")
    assert not list(tmp_path.iterdir())
    with atomic_folder(path) as folder:
        (folder / "b").mkdir()
        (folder / "b" / "a").write_text("x")
        assert not path.exists()
    assert (path / "b" / "a").read_text() == "x"
    assert list(tmp_path.iterdir()) == [path]


def test_a_read_only_file_system_is_named_although_nothing_can_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def reject(*arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "a temporary name")

    monkeypatch.setattr(Path, "unlink", reject)
    monkeypatch.setattr("configs.files._File", reject)
    with pytest.raises(WriteError, match=r"cannot write .*/model: Read-only file system. Choose"):
        write_text(tmp_path / "model", "new")


def test_leftovers_of_killed_writers_are_removed(tmp_path: Path):
    old, young = (temporary_path(tmp_path / name) for name in ("a.pt", "b.pt"))
    for file in (old, young, tmp_path / ".a.pt.keep", tmp_path / "a.pt"):
        file.write_text("x")
    os.utime(old, (1000, 1000))
    remove_leftovers(tmp_path, before=2000)
    assert not old.exists()
    assert young.exists()
    remove_leftovers(tmp_path, "b.pt")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.pt.keep", "a.pt"]


def test_a_link_takes_the_place_of_a_file_or_of_another_link(tmp_path: Path):
    path = tmp_path / "a.tar"
    path.write_text("old")
    for target in (tmp_path / "first", tmp_path / "second"):
        write_link(path, target)
        assert path.readlink() == target
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_that_fails_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.tar"
    path.write_text("old")

    def fails(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("configs.files.Path.replace", fails)
    with pytest.raises(WriteError, match="Free some disk space"):
        write_link(path, tmp_path / "target")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
