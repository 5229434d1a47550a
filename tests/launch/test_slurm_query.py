"""What is read from squeue and sacct, and what is kept of it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.record import SubmittedJob, add_job
from launch.slurm_query import Ended, Queued, SlurmError, account, ask, executions, queued

SACCT = """\
7|NODE_FAIL|1:0|node[1-2]|100|cpu=8,gres/gpu=4,mem=16G
7|COMPLETED|0:0|node3|50|cpu=4,mem=8G
8_0|CANCELLED by 1000|0:15|node3||
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


def test_queued_jobs_are_those_that_squeue_lists(command: Command):
    command("squeue", "7|RUNNING|None|node[1-2]\n8_0|PENDING|Priority|\n9|RUNNING|None|node3\n")
    assert queued(["7", "8_0", "6"]) == {
        "7": Queued("RUNNING", "None", "node[1-2]"),
        "8_0": Queued("PENDING", "Priority", ""),
    }


def test_executions_include_those_that_were_requeued(command: Command):
    command("sacct", SACCT)
    assert executions(["7", "8_0"]) == [
        Ended("7", "NODE_FAIL", "1:0", "node[1-2]", 100, 4),
        Ended("7", "COMPLETED", "0:0", "node3", 50, 0),
        Ended("8_0", "CANCELLED by 1000", "0:15", "node3", 0, 0),
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
