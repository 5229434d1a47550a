"""The status of a run, from its folder, the records of its jobs, and Slurm."""

import time
from pathlib import Path

import pytest

from configs.load import ConfigError
from launch import status
from launch.record import End, Note, SubmittedJob, add_end, add_job, write_note
from launch.slurm_query import Ended, Queued, SlurmError
from launch.status import RunStatus, find_runs, statuses


class FakeSlurm:
    """What squeue and sacct answer in a test."""

    def __init__(self) -> None:
        self.queued: dict[str, Queued] = {}
        self.ended: list[Ended] = []
        self.problem = ""

    def squeue(self, known) -> dict[str, Queued]:
        if self.problem:
            raise SlurmError(self.problem)
        ids = {job.id for job in known}
        return {job_id: job for job_id, job in self.queued.items() if job_id in ids}

    def sacct(self, ids) -> list[Ended]:
        return [execution for execution in self.ended if execution.id in set(ids)]


@pytest.fixture
def slurm(monkeypatch) -> FakeSlurm:
    fake = FakeSlurm()
    monkeypatch.setattr(status, "queued", fake.squeue)
    monkeypatch.setattr(status, "executions", fake.sacct)
    return fake


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    for name in ("job", "checkpoints"):
        (path / name).mkdir(parents=True)
    (path / "config.yaml").touch()
    return path


def train(run_dir: Path, age_s: float) -> None:
    """Write what a run leaves that made its last step `age_s` seconds ago."""
    (run_dir / "job" / "attempt-01").touch()
    row = f"0,12,{time.time() - age_s},34.56,0.0214"
    (run_dir / "steps.csv").write_text(f"epoch,step,time,clips_per_s,data_wait\n{row}\n")


def submit(run_dir: Path, *jobs: tuple[str, str]) -> None:
    for job_id, stage in jobs:
        add_job(run_dir, SubmittedJob(job_id, stage, "slurm", str(run_dir / "job" / "logs")))


def status_of(run_dir: Path) -> RunStatus:
    (found,), _ = statuses([run_dir])
    return found


def test_a_run_without_jobs_is_judged_by_its_files(run_dir: Path, slurm: FakeSlurm):
    assert status_of(run_dir) == RunStatus(run_dir, stage="train", state="waiting")
    train(run_dir, age_s=10)
    assert status_of(run_dir) == RunStatus(
        run_dir,
        stage="train",
        state="running",
        step="12",
        epoch="1",
        clips_per_s="34.6",
        data_wait="2.1 %",
    )
    train(run_dir, age_s=600)
    assert status_of(run_dir).state == "stopped"
    (run_dir / "job" / "DONE").write_text('{"train": 10.0, "test": 20.0}')
    found = status_of(run_dir)
    assert (found.stage, found.state) == ("test", "done")


def test_a_running_job_comes_before_a_queued_one(run_dir: Path, slurm: FakeSlurm):
    submit(run_dir, ("7", "train"), ("8", "test"))
    slurm.queued = {
        "8": Queued("PENDING", "Dependency", ""),
        "7": Queued("RUNNING", "None", "node[1-2]"),
    }
    found = status_of(run_dir)
    assert (found.stage, found.state, found.nodes) == ("train", "running", "node[1-2]")
    assert found.why == ""


def test_a_queued_job_says_why_it_is_queued_and_what_was_before(run_dir: Path, slurm: FakeSlurm):
    submit(run_dir, ("7", "train"))
    add_end(run_dir, End("7", 0, "train", "failed", 5, "rank 1 on node2: Killed"))
    slurm.queued = {"7": Queued("PENDING", "BeginTime", "")}
    found = status_of(run_dir)
    assert (found.stage, found.state) == ("train", "pending")
    assert found.why == "requeued, starts soon; before: rank 1 on node2: Killed"
    slurm.queued = {"7": Queued("PENDING", "None", "")}
    assert status_of(run_dir).why == "rank 1 on node2: Killed"


@pytest.mark.parametrize(
    ("state", "exit_code", "want", "why"),
    [
        ("NODE_FAIL", "1:0", "node_fail", "a node failed"),
        ("OUT_OF_MEMORY", "0:125", "out_of_memory", "out of memory: raise mem_gb"),
        ("CANCELLED by 1000", "0:15", "cancelled", "cancelled by 1000"),
        ("FAILED", "9:0", "failed", "killed, most often because it used more memory than mem_gb"),
        ("FROM_THE_FUTURE", "1:0", "unknown", "from_the_future"),
    ],
)
def test_a_job_that_left_no_record_is_judged_by_slurm(
    state: str, exit_code: str, want: str, why: str, run_dir: Path, slurm: FakeSlurm
):
    submit(run_dir, ("7", "train"), ("8", "test"))
    slurm.ended = [Ended("7", state, exit_code, "node2", 10, 0)]
    found = status_of(run_dir)
    assert (found.stage, found.state, found.nodes, found.why) == ("train", want, "node2", why)


@pytest.mark.parametrize("kind", ["gave up", "cancelled"])
def test_a_final_record_comes_before_what_slurm_says(kind, run_dir: Path, slurm: FakeSlurm):
    submit(run_dir, ("7", "train"))
    add_end(run_dir, End("7", 0, "train", kind, 5, "because"))
    slurm.ended = [Ended("7", "FAILED", "1:0", "node2", 10, 0)]
    found = status_of(run_dir)
    assert (found.state, found.why) == (kind, "because")


def test_a_stage_that_was_submitted_again_forgets_its_earlier_failure(
    run_dir: Path, slurm: FakeSlurm
):
    submit(run_dir, ("7", "train"), ("8", "train"))
    add_end(run_dir, End("7", 0, "train", "gave up", 5, "because", time=10.0))
    add_end(run_dir, End("8", 0, "train", "done", 20, time=20.0))
    slurm.ended = [
        Ended("7", "FAILED", "1:0", "node2", 10, 0),
        Ended("8", "COMPLETED", "0:0", "node2", 10, 0),
    ]
    found = status_of(run_dir)
    assert (found.stage, found.state, found.why) == ("train", "done", "")


def test_a_run_whose_jobs_nobody_knows_is_unknown(run_dir: Path, slurm: FakeSlurm):
    submit(run_dir, ("7", "train"))
    slurm.problem = "squeue: no answer"
    (found,), problem = statuses([run_dir])
    assert found.state == "unknown"
    assert problem == "squeue: no answer"


def test_runs_are_found_in_a_folder_of_runs(run_dir: Path):
    assert find_runs([run_dir.parent]) == [run_dir]
    assert find_runs([run_dir]) == [run_dir]
    with pytest.raises(ConfigError, match="no run found here"):
        find_runs([run_dir / "job"])


def test_a_local_stage_that_failed_says_why_and_those_after_it_do_not(
    run_dir: Path, slurm: FakeSlurm, monkeypatch
):
    monkeypatch.setattr(status, "is_alive", lambda job_id: False)
    for job_id, stage in (("11", "shard"), ("12", "train"), ("13", "test")):
        add_job(run_dir, SubmittedJob(job_id, stage, "local", str(run_dir / "job" / "logs")))
    add_end(run_dir, End("11", 0, "shard", "done", 0))
    write_note(run_dir, "12", 0, Note("refused", "no dataset", 0))
    write_note(run_dir, "13", 0, Note("failed", "job 12 did not succeed", 0))
    (found,), _ = statuses([run_dir])
    assert (found.stage, found.state, found.why) == ("train", "failed", "no dataset")


def test_a_local_stage_without_a_note_is_lost(run_dir: Path, slurm: FakeSlurm, monkeypatch):
    monkeypatch.setattr(status, "is_alive", lambda job_id: False)
    add_job(run_dir, SubmittedJob("11", "shard", "local", str(run_dir / "job" / "logs")))
    (found,), _ = statuses([run_dir])
    assert (found.stage, found.state) == ("shard", "lost")
