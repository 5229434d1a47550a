"""What is read from squeue and sacct, and what is kept of it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.record import SubmittedJob, add_job
from launch.slurm_query import (
    BusyError,
    Ended,
    SlurmError,
    account,
    ask,
    executions,
    is_preempted,
    queued,
    tasks_of,
)

SACCT = """\
7|NODE_FAIL|1:0|node[1-2]|100|cpu=8,gres/gpu=4,mem=16G
7|COMPLETED|0:0|node3|50|cpu=4,mem=8G
8_0|CANCELLED by 1000|0:15|node3||
8_[1-3%2]|CANCELLED by 0|0:0|None assigned|0|
"""

Command = Callable[[str, str], None]


@pytest.fixture
def command(tmp_path: Path, monkeypatch) -> Command:
    """Return a function that makes a command of Slurm print a text."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")

    def write(name: str, text: str) -> None:
        (folder / f"{name}.txt").write_text(text)
        (folder / name).write_text(f"#!/bin/sh\ncat {folder / name}.txt\n")
        (folder / name).chmod(0o755)

    return write


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    (path / "job").mkdir(parents=True)
    add_job(path, SubmittedJob("7", "train", "slurm", "/logs"))
    add_job(path, SubmittedJob("8_0", "test", "slurm", "/logs"))
    return path


SQUEUE = """\
7|RUNNING|None|node[1-2]|root|1:00|59:00|7|first-train-a1b2c3
8_0|PENDING|Priority||root|0:00|1:00:00|8|first-test-a1b2c3
9|RUNNING|None|node3|root|1:00|59:00|9|a|name
11_1|RUNNING|None|node4|bob|1:00|59:00|12|of-bob
"""


def job(job_id: str, name: str = "", user: str = "") -> SubmittedJob:
    return SubmittedJob(job_id, "train", "slurm", "/logs", name=name, user=user)


def test_queued_jobs_are_those_that_squeue_lists(command: Command):
    command("squeue", SQUEUE)
    found = queued([job("7"), job("8_0"), job("6")])
    assert {job_id: (row.state, row.reason, row.nodes) for job_id, row in found.items()} == {
        "7": ("RUNNING", "None", "node[1-2]"),
        "8_0": ("PENDING", "Priority", ""),
    }
    assert (found["7"].elapsed, found["7"].left, found["7"].user) == ("1:00", "59:00", "root")


def test_a_job_without_a_number_is_found_by_its_name(command: Command):
    command("squeue", SQUEUE)
    assert set(queued([job("", name="a|name")])) == {"9"}


def test_a_task_of_an_array_is_found_by_the_number_that_its_processes_know(command: Command):
    command("squeue", SQUEUE)
    assert set(queued([job("12")])) == {"12"}


def test_the_queue_of_other_users_who_submitted_jobs_is_asked_for(tmp_path: Path, monkeypatch):
    script = f"#!/bin/sh\necho $* > {tmp_path}/words\n"
    (tmp_path / "squeue").write_text(script)
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("launch.slurm_query.getpass.getuser", lambda: "root")
    queued([job("7", user="nobody"), job("8", user="left-the-institute")])
    assert "-u nobody,root " in (tmp_path / "words").read_text()


@pytest.mark.parametrize(
    ("job_id", "tasks"),
    [
        ("7", ["7"]),
        ("7_3", ["7_3"]),
        ("123_[0-1%2]", ["123_0", "123_1"]),
        ("123_[0,4-6]", ["123_0", "123_4", "123_5", "123_6"]),
        ("123_[0-6:3%1]", ["123_0", "123_3", "123_6"]),
    ],
)
def test_queued_tasks_of_an_array_are_told_apart(job_id: str, tasks: list[str]):
    assert tasks_of(job_id) == tasks


@pytest.mark.parametrize(
    ("shown", "preempted"),
    [
        ("   PreemptEligibleTime=2026-11-25T14:00:00 PreemptTime=None", False),
        ("   PreemptEligibleTime=2026-11-25T14:00:00 PreemptTime=2026-11-25T14:00:20", True),
    ],
)
def test_a_preempted_job_is_recognized(shown: str, preempted: bool, command: Command):
    command("scontrol", shown)
    assert is_preempted("7") == preempted


@pytest.mark.parametrize(
    ("said", "busy"),
    [
        ("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", True),
        ("slurm_load_jobs error: Socket timed out on send/recv operation", True),
        ("Requested operation is presently disabled for job 7", False),
    ],
)
def test_a_controller_that_does_not_answer_is_told_from_one_that_declines(
    said: str, busy: bool, tmp_path: Path
):
    with pytest.raises(SlurmError) as error:
        ask("sh", "-c", f"echo '{said}' >&2; exit 1")
    assert isinstance(error.value, BusyError) == busy


def test_executions_include_those_that_were_requeued(command: Command):
    command("sacct", SACCT)
    assert executions(["7", "8_0", "8_2"]) == [
        Ended("7", "NODE_FAIL", "1:0", "node[1-2]", 100, 4),
        Ended("7", "COMPLETED", "0:0", "node3", 50, 0),
        Ended("8_0", "CANCELLED by 1000", "0:15", "node3", 0, 0),
        Ended("8_2", "CANCELLED by 0", "0:0", "", 0, 0),
    ]


def test_the_account_of_a_run_holds_all_executions(command: Command, run_dir: Path):
    command("sacct", SACCT)
    account([run_dir.parent])
    rows = json.loads((run_dir / "job" / "executions.json").read_text())["executions"]
    assert [(row["id"], row["elapsed_s"], row["gpus"]) for row in rows] == [
        ("7", 100, 4),
        ("7", 50, 0),
        ("8_0", 0, 0),
    ]
    assert [row["state"] for row in rows] == ["NODE_FAIL", "COMPLETED", "CANCELLED by 1000"]


def test_the_account_is_replaced_atomically(command: Command, run_dir: Path, tmp_path: Path):
    """A reader that has opened the old file keeps reading all of it."""
    command("sacct", SACCT)
    account([run_dir])
    path = run_dir / "job" / "executions.json"
    before = path.read_text()
    with path.open() as reader:
        command("sacct", SACCT.splitlines()[0] + "\n")
        account([run_dir])
        assert reader.read() == before
    assert path.read_text() != before


def test_the_account_is_kept_if_slurm_does_not_answer(
    command: Command, run_dir: Path, tmp_path: Path, monkeypatch
):
    command("sacct", SACCT)
    account([run_dir])
    before = (run_dir / "job" / "executions.json").read_text()
    monkeypatch.setenv("PATH", str(tmp_path))
    account([run_dir])
    assert (run_dir / "job" / "executions.json").read_text() == before


def test_a_missing_command_is_named():
    with pytest.raises(SlurmError, match="no-such-command: "):
        ask("no-such-command")
