"""Jobs on this machine: their processes, their order, and what a time limit does."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import synthetic_dataset

from configs.errors import TinError
from launch import local
from launch.record import End, Note, SubmittedJob, add_end, add_job, jobs, progress, read_notes
from tin.runs.folder import Run

RECIPE = """\
data: {dataset: %s, test_split: train}
clip: {num_segments: 2, crop: 16, resize: 24}
model: {arch: resnet18, init: none}
optim: {lr_batch: 4, warmup_epochs: 0}
train: {epochs: 500, batch: 4}
run: {device: cpu, threads: 1, readers: 1, log_steps: 1, tensorboard: false}
"""
WAIT_S = 400.0  # long enough for a busy machine
SLEEP = "import time; print('ready', flush=True); time.sleep(60)"


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "job").mkdir()
    return tmp_path


def started(*command: str) -> subprocess.Popen[str]:
    """Start a process that prints a line when it runs."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """Return a program that sleeps, in a file whose name is that of submitit's controller."""
    path = tmp_path / "submitit_controller.py"
    path.write_text(SLEEP)
    return path


@pytest.fixture
def controller(script: Path) -> Iterator[subprocess.Popen[str]]:
    """Return a process that looks like the controller of a local job."""
    process = started(sys.executable, str(script))
    yield process
    process.kill()
    process.wait()


def record_job(run_dir: Path, job_id: str, after: str = "") -> None:
    logs = str(run_dir / "job" / "logs")
    add_job(run_dir, SubmittedJob(job_id, "test", "local", logs, after))


def test_only_a_running_process_of_submitit_is_alive(controller: subprocess.Popen[str]):
    job_id = str(controller.pid)
    assert local.is_alive(job_id)
    assert not local.is_alive(str(os.getpid()))  # another process with that number
    assert not local.is_alive("123_4")
    controller.kill()
    while psutil.Process(controller.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert not local.is_alive(job_id)
    controller.wait()
    assert not local.is_alive(job_id)


def test_stop_terminates_the_controller(controller: subprocess.Popen[str]):
    local.stop(str(controller.pid))
    assert controller.wait(10) == -signal.SIGTERM


def test_stop_terminates_the_controller_below_the_shell_of_setup_lines(script: Path):
    shell = started("/bin/sh", "-c", f"{sys.executable} {script}; exit 3")
    (child,) = psutil.Process(shell.pid).children()
    local.stop(str(shell.pid))
    assert shell.wait(10) == 3  # the shell has seen its child end
    assert not child.is_running()


def test_stop_ignores_a_job_that_has_ended():
    process = subprocess.Popen(["true"])
    process.wait()
    local.stop(str(process.pid))


def test_a_job_waits_for_the_end_of_the_job_before_it(run_dir: Path, controller, monkeypatch):
    before = str(controller.pid)
    record_job(run_dir, "2", f"afterok:{before}")
    pauses = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            add_end(run_dir, End(before, 0, "train", "done"))
            controller.kill()
            controller.wait()

    monkeypatch.setattr(time, "sleep", sleep)
    local.wait_turn(run_dir, "2")
    assert len(pauses) == 3


def test_a_job_whose_dependency_failed_is_skipped(run_dir: Path):
    add_end(run_dir, End("1", 0, "train", "failed"))
    record_job(run_dir, "2", "afterok:1")
    record_job(run_dir, "3", "afterany:1")
    with pytest.raises(TinError, match="job 1 did not succeed, so stage test is skipped"):
        local.wait_turn(run_dir, "2")
    local.wait_turn(run_dir, "3")


def test_a_job_that_was_not_recorded_does_not_wait_for_ever(run_dir: Path, monkeypatch):
    monkeypatch.setattr(local, "RECORD_TIMEOUT_S", 0.2)
    with pytest.raises(TinError, match="did not record job 2"):
        local.wait_turn(run_dir, "2")


@pytest.mark.parametrize(
    ("executor", "name", "want"),
    [
        ("local", "SIGUSR2", True),
        ("local", "SIGTERM", False),
        ("local", "", False),
        ("slurm", "SIGUSR2", False),
    ],
)
def test_only_the_signal_of_the_time_limit_starts_a_local_job_again(
    executor: str, name: str, want: bool, monkeypatch
):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", executor)
    # the text has no influence: a path may contain the name of a signal
    note = Note("stopped", "resume with `tin train --run runs/USR2`", 0, signal=name)
    assert local.is_out_of_time(note) == want


def wait(ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def tin(*arguments: object) -> None:
    command = [sys.executable, "-m", "launch", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True, timeout=WAIT_S)


def test_training_that_is_out_of_time_starts_again_and_resumes(tmp_path: Path):
    synthetic_dataset.write_dataset(tmp_path / "data", [3] * 8)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE % (tmp_path / "data"))
    run_dir = tmp_path / "run"
    tin("submit", "train", recipe, "--run", run_dir, "--cluster", "local")
    job_id = jobs(run_dir)[0].id
    wait(lambda: progress(run_dir) >= 3)

    # submitit's controller sends USR2 to the ranks, which are its children
    for process in psutil.Process(int(job_id)).children(recursive=True):
        if "submitit.core._submit" in process.cmdline():
            process.send_signal(signal.SIGUSR2)
    wait(lambda: Run(run_dir).attempts() == [1, 2])
    (note,) = read_notes(run_dir, job_id, 0)
    assert (note.kind, note.signal) == ("stopped", "SIGUSR2")
    step = progress(run_dir)
    wait(lambda: progress(run_dir) > step)

    tin("cancel", run_dir)
    wait(lambda: not local.is_alive(job_id))
    (note,) = read_notes(run_dir, job_id, 0)
    assert (note.kind, note.signal) == ("stopped", "SIGTERM")
    assert Run(run_dir).attempts() == [1, 2]
