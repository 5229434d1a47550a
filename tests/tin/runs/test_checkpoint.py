"""Checkpoints: whole or absent, the newest found, foreign and damaged ones refused."""

import pickle

import pytest
import torch

from tin.runs import checkpoint
from tin.runs.checkpoint import CheckpointError
from tin.runs.folder import FencedError, Run


def state(step: int) -> dict:
    return {"global_step": step, "model": {"w": torch.full((3,), float(step))}}


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "run")
    run.start_attempt()
    return run


def test_the_last_two_are_kept_and_the_newest_is_found(run):
    for step in (5, 20, 10):
        checkpoint.save(run, state(step))
    names = sorted(path.name for path in run.checkpoints.iterdir())
    assert names == ["step-00000010-a01.pt", "step-00000020-a01.pt"]
    assert checkpoint.newest(run).name == "step-00000020-a01.pt"
    assert torch.equal(
        checkpoint.load(checkpoint.newest(run))["model"]["w"], torch.full((3,), 20.0)
    )


def test_of_two_attempts_at_one_step_the_newer_wins(run):
    checkpoint.save(run, state(7))
    run.start_attempt()
    checkpoint.save(run, state(7))
    assert checkpoint.newest(run).name == "step-00000007-a02.pt"


def test_an_old_attempt_cannot_write(run):
    old = Run(run.path)
    old.attempt = run.attempt
    run.start_attempt()
    with pytest.raises(FencedError, match="attempt 2 has begun; attempt 1 writes no more"):
        checkpoint.save(old, state(3))
    with pytest.raises(FencedError):
        old.append("metrics.csv", ["step"], {"step": 1})
    with pytest.raises(FencedError):
        old.write("config.yaml", "")
    assert checkpoint.newest(run) is None
    assert not (run.path / "config.yaml").exists()


def test_a_half_written_file_is_never_found(run):
    checkpoint.save(run, state(1))
    (run.checkpoints / ".step-00000009-a01.pt.1").write_bytes(b"half")
    assert checkpoint.newest(run).name == "step-00000001-a01.pt"


def test_what_a_killed_attempt_was_writing_is_removed(run):
    run.start_attempt()
    left = [".step-00000009-a01.pt.1", ".best.pt.1", ".step-00000009-a03.pt.3"]
    run.checkpoints.mkdir()
    for name in left:
        (run.checkpoints / name).write_bytes(b"half")
    checkpoint.save(run, state(5))
    names = sorted(path.name for path in run.checkpoints.iterdir())
    assert names == [left[2], "step-00000005-a02.pt"]  # the third attempt may be writing still


def test_a_damaged_one_gives_way_to_the_one_before(run, caplog):
    checkpoint.save(run, state(1))
    newest = checkpoint.save(run, state(2))
    newest.write_bytes(newest.read_bytes()[:200])
    assert checkpoint.load_newest(run)["global_step"] == 1
    assert f"{newest}: cannot be read" in caplog.text
    for path in run.checkpoints.iterdir():
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="no checkpoint can be read; remove step-00000002"):
        checkpoint.load_newest(run)


def test_a_newer_format_is_refused(run):
    path = checkpoint.save(run, state(1))
    torch.save({"format": 2, "model": {}}, path)
    with pytest.raises(CheckpointError, match="format 2 is newer than 1.*update tin-video"):
        checkpoint.load_newest(run)


def test_foreign_files_are_refused_and_never_executed(run, tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="`tin weights import`"):
        checkpoint.load(tmp_path / "foreign.pt")

    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("executed").touch, ())

    torch.save({"format": 1, "model": Evil()}, tmp_path / "evil.pt", pickle_module=pickle)
    with pytest.raises(CheckpointError, match="evil.pt: cannot be read"):
        checkpoint.load(tmp_path / "evil.pt")
    assert not (tmp_path / "executed").exists()
