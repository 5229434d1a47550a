"""The status of a run, from its folder, the records of its jobs, and Slurm."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs.load import ConfigError
from launch import local, status
from launch.find import all_runs, find_runs
from launch.live_jobs import active
from launch.reasons import why_queued
from launch.record import End, Note, SubmittedJob, add_end, add_job, write_note
from launch.slurm_query import Ended, NoAccountsError, Queued, SlurmError
from launch.status import RunStatus, statuses


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
    (run_dir / "job").mkdir(parents=True, exist_ok=True)
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


def test_a_run_that_trains_names_its_slow_ranks(run_dir: Path, slurm: FakeSlurm):
    train(run_dir, age_s=10)
    rows = "1,0,30,5.0,3,node-7,2.1,slow\n1,0,30,5.0,2,node-6,1.7,slow\n"
    header = "attempt,epoch,step,time,rank,node,ratio,change\n"
    (run_dir / "slow_ranks.csv").write_text(f"{header}{rows}1,0,60,9.0,2,node-6,1.0,recovered\n")
    assert status_of(run_dir).why == "slow: rank 3 on node-7 (step 30: 2.1 times the median)"
    train(run_dir, age_s=600)
    assert status_of(run_dir).why == ""
    (run_dir / "slow_ranks.csv").write_bytes(b"\xff\x00,\n,,,\n")
    train(run_dir, age_s=10)
    assert (status_of(run_dir).state, status_of(run_dir).why) == ("running", "")


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
    assert problem.startswith("Slurm does not answer (squeue: no answer)")


def test_a_slurm_without_accounts_is_mentioned_once(run_dir: Path, slurm: FakeSlurm, monkeypatch):
    def no_accounts(ids) -> list[Ended]:
        raise NoAccountsError("sacct: Slurm accounting storage is disabled")

    other = run_dir.with_name("other")
    for path in (run_dir, other):
        submit(path, ("7", "train"))
        add_end(path, End("7", 0, "train", "gave up", 5, "because"))
    monkeypatch.setattr(status, "executions", no_accounts)
    found, problem = statuses([run_dir, other])
    assert [row.why for row in found] == ["because"] * 2
    assert problem == "this Slurm keeps no accounts: the run folders tell how earlier jobs ended"


@pytest.mark.parametrize(
    ("state", "exit_code", "said"),
    [
        ("FAILED", "0:9", "killed by SIGKILL"),
        ("FAILED", "0:15", "ended by SIGTERM"),
        ("FAILED", "75:0", "not requeued: submit it again"),
        ("FAILED", "0:53", "log folder cannot be written on the node"),
        ("FAILED", "1:0", "log folder cannot be written on the node"),  # Slurm 24.11
        ("TIMEOUT", "0:15", "raise signal_s"),
        ("DEADLINE", "0:15", "deadline"),
        ("BOOT_FAIL", "0:0", "could not start"),
    ],
)
def test_every_end_that_slurm_reports_has_a_reason(
    state: str, exit_code: str, said: str, run_dir: Path, slurm: FakeSlurm
):
    submit(run_dir, ("7", "train"))
    slurm.ended = [Ended("7", state, exit_code, "node2", 10, 0)]
    assert said in status_of(run_dir).why


def test_a_failure_with_a_log_but_without_a_reason_refers_to_the_log(
    run_dir: Path, slurm: FakeSlurm
):
    submit(run_dir, ("7", "train"))
    (run_dir / "job" / "logs").mkdir()
    (run_dir / "job" / "logs" / "7_0_log.err").touch()
    slurm.ended = [Ended("7", "FAILED", "1:0", "node2", 10, 0)]
    assert status_of(run_dir).why == "no reason was recorded: see `tin logs`"


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("BeginTime", "requeued, starts soon"),
        ("QOSMaxSubmitJobPerUserLimit", "because of a limit (QOSMax"),
        ("AssocMaxJobsLimit", "because of a limit (AssocMax"),
        ("QOSGrpCpuLimit", "because of a limit (QOSGrp"),
        ("JobHeldUser", "scontrol release"),
        ("ReqNodeNotAvail, UnavailableNodes:node7", "until nodes are up"),
        ("FromTheFuture", "FromTheFuture"),
    ],
)
def test_every_reason_of_a_queued_job_is_put_into_words(reason: str, said: str):
    assert said in why_queued(reason)


def test_a_used_up_chain_says_how_to_submit_again(run_dir: Path, slurm: FakeSlurm):
    submit(run_dir, ("7", "train"))
    add_end(run_dir, End("7", 0, "train", "stopped", 5, "stopped by SIGUSR2"))
    slurm.ended = [Ended("7", "COMPLETED", "0:0", "node2", 10, 0)]
    assert status_of(run_dir).why == (
        f"stopped by SIGUSR2; no job is queued any more: `tin submit train --run {run_dir}`"
        " resumes it"
    )


def test_a_full_disk_is_the_reason_of_a_job_that_left_none(
    run_dir: Path, slurm: FakeSlurm, monkeypatch
):
    submit(run_dir, ("7", "train"))
    slurm.ended = [Ended("7", "FAILED", "1:0", "node2", 10, 0)]
    monkeypatch.setattr(status, "FULL_BYTES", 2**62)
    assert "its disk is full" in status_of(run_dir).why


def test_the_newest_and_the_best_metric_are_shown(run_dir: Path, slurm: FakeSlurm):
    rows = ["0,train,0.9,", "0,val,0.5,", "1,train,0.9,", "1,val,0.25,"]
    (run_dir / "metrics.csv").write_text("\n".join(["epoch,split,top1,map_class", *rows, ""]))
    found = status_of(run_dir)
    assert (found.metric, found.best) == ("25.0 %", "50.0 %")


def test_a_running_job_shows_its_number_its_times_and_its_user(run_dir: Path, slurm: FakeSlurm):
    submit(run_dir, ("7", "train"))
    slurm.queued = {
        "7": Queued("RUNNING", "None", "node1", user="bob", elapsed="1:00", left="9:00")
    }
    found = status_of(run_dir)
    assert (found.job, found.elapsed, found.left) == ("7", "1:00", "9:00")
    assert found.why == "job of user bob"


def test_a_run_of_a_users_own_script_has_its_job(run_dir: Path, slurm: FakeSlurm):
    (run_dir / "job" / "attempt-01").write_text('{"job_id": "12", "started": 1.0}')
    slurm.queued = {"12": Queued("RUNNING", "None", "node1")}
    assert (status_of(run_dir).job, status_of(run_dir).state) == ("12", "running")


def test_the_jobs_of_a_sweep_itself_are_found(run_dir: Path):
    sweep = run_dir.parent
    submit_sweep = sweep / "job"
    submit_sweep.mkdir()
    add_job(sweep, SubmittedJob("9", "report", "slurm", "/logs"))
    assert find_runs([sweep]) == [sweep, run_dir]


def test_runs_are_found_by_a_pattern_and_at_any_depth(run_dir: Path, tmp_path: Path):
    deep = tmp_path / "papers" / "one" / "seed-0"
    (deep / "job").mkdir(parents=True)
    add_job(deep, SubmittedJob("9", "train", "slurm", "/logs"))
    assert find_runs([f"{tmp_path}/r*"]) == [run_dir]
    assert all_runs(tmp_path) == [deep, run_dir]
    with pytest.raises(ConfigError, match="no run matches"):
        find_runs([f"{tmp_path}/nothing*"])


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


def test_a_local_job_that_waits_for_another_is_not_shown_as_running(
    run_dir: Path, slurm: FakeSlurm, monkeypatch
):
    alive = {"11", "12"}
    monkeypatch.setattr(local, "is_alive", alive.__contains__)
    monkeypatch.setattr(status, "is_alive", alive.__contains__)
    logs = str(run_dir / "job" / "logs")
    add_job(run_dir, SubmittedJob("12", "train", "local", logs, after="afterok:10,afterany:11"))
    (found,), _ = statuses([run_dir])
    assert (found.stage, found.state, found.job) == ("train", "waiting", "12")
    assert found.why == "waits for job 11"
    assert active([run_dir]) == {run_dir: {"12": "waiting here"}}
    alive.remove("11")
    (found,), _ = statuses([run_dir])
    assert (found.state, found.why) == ("running", "")
    assert active([run_dir]) == {run_dir: {"12": "running here"}}


def test_the_status_of_runs_imports_no_large_package():
    large = "{'numpy', 'submitit', 'torch'}"
    code = "import sys, launch.cli, launch.output, launch.status, launch.usage;"
    code = f"{code} print({large} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
