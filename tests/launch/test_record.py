"""The records of a run's jobs: complete lines, flushed files, and notes of older versions."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from configs.errors import TinError
from launch.record import (
    End,
    Note,
    Place,
    SubmittedJob,
    add_end,
    add_job,
    ends,
    jobs,
    last_row,
    place,
    progress,
    read_notes,
    write_note,
)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "job").mkdir()
    return tmp_path


def job(number: int, logs: str = "/logs") -> SubmittedJob:
    return SubmittedJob(str(number), "train", "local", logs, "afterok:1")


def test_jobs_are_read_back_in_the_order_of_submission(run_dir: Path):
    assert jobs(run_dir) == []
    submitted = [job(number) for number in (7, 3, 5)]
    for one in submitted:
        add_job(run_dir, one)
    assert jobs(run_dir) == submitted


def test_a_line_is_flushed_to_the_disk_before_add_job_returns(run_dir: Path, monkeypatch):
    path = run_dir / "job" / "jobs.jsonl"
    sizes = []

    def fsync(handle: int) -> None:
        if path.exists() and os.fstat(handle).st_ino == path.stat().st_ino:
            sizes.append(os.fstat(handle).st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    for number in (1, 2):
        add_job(run_dir, job(number))
        assert sizes[-1:] == [path.stat().st_size]
    assert len(sizes) == 2


def test_lines_of_two_writers_do_not_mix(run_dir: Path):
    long = "/logs" * 10_000  # longer than the buffer of a file
    with ThreadPoolExecutor(8) as pool:
        for number in range(200):
            pool.submit(add_job, run_dir, job(number, long))
    assert sorted(int(one.id) for one in jobs(run_dir)) == list(range(200))


def test_a_damaged_line_is_named(run_dir: Path):
    add_job(run_dir, job(1))
    path = run_dir / "job" / "jobs.jsonl"
    path.write_text(path.read_text() + '{"id": "2", "sta')
    with pytest.raises(TinError, match=f"{path}, line 2: expected a submitted job"):
        jobs(run_dir)


def test_ends_are_read_back_in_the_order_of_time(run_dir: Path):
    late = End("7", 0, "train", "failed", 12, "rank 1 on node2: Killed", ["node2"], time=20.0)
    early = End("9", 0, "train", "lost", time=10.0)
    for end in (late, early):
        add_end(run_dir, end)
    assert ends(run_dir) == [early, late]
    assert not list((run_dir / "job" / "ends").glob(".*"))


def test_notes_are_read_back_in_the_order_of_ranks(run_dir: Path):
    stopped = Note("stopped", "stopped by SIGUSR2", 10, "node2", "SIGUSR2")
    failed = Note("failed", "because", 9, "node1")
    for note in (stopped, failed):
        write_note(run_dir, "7", 1, note)
    assert read_notes(run_dir, "7", 1) == [failed, stopped]
    assert read_notes(run_dir, "7", 0) == []


def test_a_note_of_an_older_version_has_no_signal(run_dir: Path):
    older = {"kind": "stopped", "text": "stopped by SIGUSR2", "rank": 0, "node": "node1"}
    (run_dir / "job" / "notes").mkdir()
    (run_dir / "job" / "notes" / "7-0-0.json").write_text(json.dumps(older))
    (note,) = read_notes(run_dir, "7", 0)
    assert note == Note("stopped", "stopped by SIGUSR2", 0, "node1", signal="", time=note.time)


@pytest.mark.parametrize(
    ("variables", "want"),
    [
        ({}, Place("debug", 0, 0)),
        (
            {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "9", "SLURM_PROCID": "3"},
            Place("9", 0, 3),
        ),
        (
            {
                "SUBMITIT_EXECUTOR": "slurm",
                "SLURM_JOB_ID": "9",
                "SLURM_ARRAY_JOB_ID": "8",
                "SLURM_ARRAY_TASK_ID": "4",
                "SLURM_RESTART_COUNT": "2",
            },
            Place("8_4", 2, 0),
        ),
        (  # a local job inside of a Slurm job
            {
                "SUBMITIT_EXECUTOR": "local",
                "SUBMITIT_LOCAL_JOB_ID": "123",
                "SUBMITIT_LOCAL_GLOBALID": "1",
                "SLURM_JOB_ID": "9",
                "SLURM_RESTART_COUNT": "2",
            },
            Place("123", 0, 1),
        ),
    ],
)
def test_a_process_knows_its_job_restart_and_rank(
    variables: dict[str, str], want: Place, monkeypatch
):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "SUBMITIT_")):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert place() == want


def test_progress_is_the_highest_step_of_checkpoints_and_rows(run_dir: Path):
    assert progress(run_dir) == 0
    (run_dir / "checkpoints").mkdir()
    for name in ("step-00000012-a01.pt", "step-00000008-a02.pt", "best.pt"):
        (run_dir / "checkpoints" / name).touch()
    assert progress(run_dir) == 12
    (run_dir / "steps.csv").write_text("epoch,step\n0,10\n1,15\n1")  # the last row is incomplete
    assert last_row(run_dir / "steps.csv") == {"epoch": "1", "step": "15"}
    assert progress(run_dir) == 15
