"""The queued and running jobs of a run: what is listed, cancelled and printed."""

import shutil
from pathlib import Path

import pytest

from launch import live_jobs, local
from launch.live_jobs import active, cancel
from launch.record import SubmittedJob, add_job, ends
from launch.slurm_query import Queued, SlurmError


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Return a run with one local job and two Slurm jobs, of which the second has ended."""
    path = tmp_path / "run"
    (path / "job" / "logs").mkdir(parents=True)
    for job_id, stage, executor in (
        ("11", "shard", "local"),
        ("7", "train", "slurm"),
        ("8", "test", "slurm"),
    ):
        add_job(path, SubmittedJob(job_id, stage, executor, str(path / "job" / "logs")))
    return path


@pytest.fixture
def stopped(monkeypatch, tmp_path: Path) -> list[str]:
    """Let job 11 and job 7 run, with an scancel that succeeds; return the stopped local jobs."""
    calls: list[str] = []
    monkeypatch.setattr(local, "is_alive", lambda job_id: job_id == "11")
    monkeypatch.setattr(local, "stop", calls.append)
    in_slurm = {"7": Queued("RUNNING", "None", "node[1-2]")}
    monkeypatch.setattr(
        live_jobs,
        "queued",
        lambda known: in_slurm if "7" in {job.id for job in known} else {},
    )
    scancel(tmp_path, "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    return calls


def scancel(tmp_path: Path, script: str) -> None:
    (tmp_path / "bin").mkdir(exist_ok=True)
    (tmp_path / "bin" / "scancel").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bin" / "scancel").chmod(0o755)


def test_active_jobs_are_listed_with_their_states(run_dir: Path, stopped: list[str]):
    assert active([run_dir]) == {run_dir: {"11": "running here", "7": "running on node[1-2]"}}


def test_cancel_stops_local_jobs_and_records_slurm_jobs(run_dir: Path, stopped: list[str]):
    assert cancel([run_dir]) == {run_dir: ["11 (shard)", "7 (train)"]}
    assert stopped == ["11"]
    assert [(end.id, end.stage, end.kind) for end in ends(run_dir)] == [("7", "train", "cancelled")]


@pytest.mark.parametrize("name", ["jobs.jsonl", "ends/7-0.json"])
def test_a_damaged_run_does_not_keep_the_jobs_of_another_from_being_cancelled(
    run_dir: Path, stopped: list[str], tmp_path: Path, name: str, caplog
):
    damaged = tmp_path / "damaged"
    shutil.copytree(run_dir, damaged)
    path = damaged / "job" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("nonsense")
    assert cancel([damaged, run_dir])[run_dir] == ["11 (shard)", "7 (train)"]
    assert path.name in caplog.text


def test_a_job_that_slurm_does_not_cancel_is_an_error(
    run_dir: Path, stopped: list[str], tmp_path: Path
):
    scancel(tmp_path, "echo Access denied >&2; exit 1")
    with pytest.raises(
        SlurmError,
        match="job 7 .* is not cancelled: scancel: Access denied",
    ):
        cancel([run_dir])
    assert ends(run_dir) == []
