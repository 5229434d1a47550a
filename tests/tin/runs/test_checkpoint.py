"""Checkpoints: atomic, found newest first; damaged files are skipped, foreign ones rejected."""

import errno
import os
import pickle
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from configs.files import WriteError, temporary_path
from tin.runs import checkpoint
from tin.runs.checkpoint import CheckpointError, NewerFormatError
from tin.runs.folder import FencedError, Run


def state(step: int) -> dict:
    return {"global_step": step, "model": {"w": torch.full((3,), float(step))}}


def names(run: Run) -> list[str]:
    return sorted(path.name for path in run.checkpoints.iterdir())


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "run")
    run.start_attempt()
    return run


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """Let writes beyond this size fail, as they do on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_the_two_newest_checkpoints_are_kept_and_the_newest_is_found(run: Run):
    for step in (5, 20, 10):
        checkpoint.save(run, state(step))
    assert names(run) == ["step-00000010-a01.pt", "step-00000020-a01.pt"]
    newest = checkpoint.newest(run)
    assert newest == run.checkpoints / "step-00000020-a01.pt"
    assert torch.equal(checkpoint.load(newest)["model"]["w"], torch.full((3,), 20.0))


def test_at_the_same_step_the_newer_attempt_wins(run: Run):
    checkpoint.save(run, state(7))
    run.start_attempt()
    checkpoint.save(run, state(7))
    assert checkpoint.newest(run) == run.checkpoints / "step-00000007-a02.pt"


def test_an_older_attempt_cannot_write(run: Run):
    old = Run(run.path)
    old.attempt = run.attempt
    run.start_attempt()
    with pytest.raises(FencedError, match=r"attempt 2 .* has started, so attempt 1 must stop"):
        checkpoint.save(old, state(3))
    with pytest.raises(FencedError):
        old.append("metrics.csv", ["step"], {"step": 1})
    with pytest.raises(FencedError):
        old.write("config.yaml", "")
    assert checkpoint.newest(run) is None
    assert names(run) == []
    assert not (run.path / "config.yaml").exists()


def test_an_incomplete_file_is_never_found(run: Run):
    checkpoint.save(run, state(1))
    temporary_path(run.checkpoints / "step-00000009-a01.pt").write_bytes(b"half")
    (run.checkpoints / ".step-00000009-a01.pt.1").write_bytes(b"half")
    assert checkpoint.newest(run) == run.checkpoints / "step-00000001-a01.pt"


def test_temporary_files_from_before_this_attempt_are_removed(run: Run):
    run.checkpoints.mkdir()
    old = temporary_path(run.checkpoints / "step-00000009-a01.pt")
    old.write_bytes(b"half")
    os.utime(old, (1e9, 1e9))
    run.start_attempt()
    new = temporary_path(run.checkpoints / "step-00000009-a03.pt")
    new.write_bytes(b"half")  # a newer attempt may still be writing this file
    started = (run.job / "attempt-02").stat().st_mtime
    os.utime(new, (started + 1, started + 1))
    checkpoint.save(run, state(5))
    assert names(run) == [new.name, "step-00000005-a02.pt"]


def test_temporary_files_of_earlier_versions_are_removed(run: Run):
    """Earlier versions named them after the attempt that wrote them."""
    run.start_attempt()
    left = [".step-00000009-a01.pt.1", ".best.pt.1", ".step-00000009-a03.pt.3", ".best.pt.\u00b2"]
    run.checkpoints.mkdir()
    for name in left:
        (run.checkpoints / name).write_bytes(b"half")
    checkpoint.save(run, state(5))
    # The third attempt may still be writing its file, and the last name is not one of ours.
    assert names(run) == sorted([*left[2:], "step-00000005-a02.pt"])


@pytest.mark.parametrize("size_bytes", [100, 1 << 20, (4 << 20) + 900])
def test_a_failed_write_keeps_earlier_checkpoints_and_says_so(run: Run, size_bytes: int):
    """The tensor has 4 MiB: writes fail before it, inside it, and after it."""
    checkpoint.save(run, state(1))
    large = {"global_step": 2, "model": {"w": torch.zeros(1 << 20)}}
    with largest_file(size_bytes), pytest.raises(WriteError) as caught:
        checkpoint.save(run, large)
    path = run.checkpoints / "step-00000002-a01.pt"
    advice = f"`tin train --run {run.path}` resumes from step-00000001-a01.pt."
    assert str(caught.value).startswith(
        f"cannot write {path}: File too large. Earlier checkpoints are intact: {advice} "
    )
    assert names(run) == ["step-00000001-a01.pt"]
    assert checkpoint.load_newest(run)["global_step"] == 1


def test_a_full_disk_says_to_free_some_space(run: Run, monkeypatch: pytest.MonkeyPatch):
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("configs.files.os.fsync", full)
    with pytest.raises(WriteError, match=r"No space left on device\. Free some disk space"):
        checkpoint.save(run, state(1))
    assert names(run) == []


def test_an_error_of_torch_that_no_write_caused_is_reported(
    run: Run, monkeypatch: pytest.MonkeyPatch
):
    def broken(content: object, file: object) -> None:
        raise RuntimeError("storage is broken")

    monkeypatch.setattr("torch.save", broken)
    with pytest.raises(WriteError, match=r"cannot write .*a01\.pt: storage is broken"):
        checkpoint.save(run, state(1))
    assert names(run) == []


def test_csv_rows_are_flushed_before_the_checkpoint_that_follows_them(
    run: Run, monkeypatch: pytest.MonkeyPatch
):
    for name in ("metrics.csv", "steps.csv", "bad_frames.csv"):
        run.append(name, ["step"], {"step": 1})
    flushed = []
    fsync = os.fsync

    def recorded(handle: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        fsync(handle)

    monkeypatch.setattr("os.fsync", recorded)
    checkpoint.save(run, state(1))
    assert flushed[:4] == ["metrics.csv", "steps.csv", "bad_frames.csv", "run"]
    assert flushed[4].startswith(".step-00000001-a01.pt.")
    assert flushed[5:] == ["checkpoints"]


def test_a_damaged_checkpoint_is_skipped_for_the_one_before_it(
    run: Run, caplog: pytest.LogCaptureFixture
):
    checkpoint.save(run, state(1))
    newest = checkpoint.save(run, state(2))
    newest.write_bytes(newest.read_bytes()[:200])
    assert checkpoint.load_newest(run)["global_step"] == 1
    assert f"{newest}: cannot be read" in caplog.text
    for path in run.checkpoints.iterdir():
        path.write_bytes(b"")
    both = r"step-00000002-a01\.pt, step-00000001-a01\.pt"
    with pytest.raises(CheckpointError, match=rf"no checkpoint can be read.* remove {both}"):
        checkpoint.load_newest(run)


def test_a_newer_format_is_rejected_even_if_an_older_checkpoint_exists(run: Run):
    checkpoint.save(run, state(1))
    path = checkpoint.save(run, state(2))
    torch.save({"format": 2, "model": {}}, path)
    with pytest.raises(NewerFormatError, match="format 2 is newer than 1.*update tin-video"):
        checkpoint.load_newest(run)


def test_a_damaged_checkpoint_whose_name_says_newer_than_is_skipped(tmp_path: Path):
    run = Run(tmp_path / "newer than")  # no message may be taken for the error type
    run.start_attempt()
    checkpoint.save(run, state(1))
    checkpoint.save(run, state(2)).write_bytes(b"")
    assert checkpoint.load_newest(run)["global_step"] == 1


def test_foreign_files_are_rejected_and_never_executed(run: Run, tmp_path: Path):
    torch.save({"state_dict": {}}, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="`tin weights import`"):
        checkpoint.load(tmp_path / "foreign.pt")

    class Evil:
        def __reduce__(self) -> tuple:
            return (tmp_path.joinpath("executed").touch, ())

    torch.save({"format": 1, "model": Evil()}, tmp_path / "evil.pt", pickle_module=pickle)
    with pytest.raises(CheckpointError, match="evil.pt: cannot be read"):
        checkpoint.load(tmp_path / "evil.pt")
    assert not (tmp_path / "executed").exists()


def test_a_flipped_bit_in_the_newest_checkpoint_is_found_and_the_one_before_is_used(
    run: Run, caplog: pytest.LogCaptureFixture
):
    checkpoint.save(run, state(1))
    newest = checkpoint.save(run, state(2))
    data = bytearray(newest.read_bytes())
    data[data.index(torch.full((3,), 2.0).numpy().tobytes()) + 2] ^= 64
    newest.write_bytes(data)
    assert torch.load(newest, weights_only=True)["global_step"] == 2  # torch does not see it
    assert checkpoint.load_newest(run)["global_step"] == 1
    assert f"{newest}: cannot be read (BadZipFile: Bad CRC-32" in caplog.text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("global_step", -1),
        ("global_step", True),
        ("epoch", 1.5),
        ("classes", ["a", 2]),
        ("config", []),
        ("ema", {"w": 1}),
        ("model", {"w": "text"}),
        ("sums", [float("nan")]),
        ("best", float("nan")),
        ("early_stop", [float("nan"), 2]),
        ("early_stop", [0.5]),
    ],
)
def test_a_checkpoint_with_an_unexpected_entry_is_rejected_by_name(run: Run, key: str, value):
    torch.save({"format": 1, **state(1), key: value}, run.path / "odd.pt")
    with pytest.raises(CheckpointError, match=rf"odd\.pt: damaged: .*{key!r}"):
        checkpoint.load(run.path / "odd.pt")


def test_weights_that_are_not_finite_are_neither_written_nor_read(run: Run):
    checkpoint.save(run, state(1))
    with pytest.raises(ValueError, match=r"tensor model\.w has NaN or infinite values"):
        checkpoint.save(run, state(2) | {"model": {"w": torch.tensor([float("nan")])}})
    torch.save({"format": 1, "model": {"w": torch.tensor([float("inf")])}}, run.path / "bad.pt")
    with pytest.raises(CheckpointError, match=r"tensor model\.w has NaN or infinite values"):
        checkpoint.load(run.path / "bad.pt")
    assert names(run) == ["step-00000001-a01.pt"]
