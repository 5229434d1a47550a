"""Stages as jobs of this machine: submitit's local executor, with real processes."""

import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import synthetic_dataset

from configs.small_files import DamagedFileError
from launch import record
from launch.jobs.job import StageJob, _exit_code_after, load_task, task_file
from launch.local import is_alive
from tin.runs.folder import Run
from tin.training.trainer import Stopped

RECIPE = """\
data: {dataset: %s, test_split: train}
clip: {num_segments: 2, crop: 16, resize: 24}
model: {arch: resnet18, init: none}
optim: {lr_batch: 4, warmup_epochs: 0}
train: {epochs: 1, batch: 4}
run: {device: cpu, threads: 1, readers: 1, log_steps: 1, tensorboard: false}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    synthetic_dataset.write_dataset(tmp_path / "data", [3] * 8)
    (tmp_path / "synthetic_dataset.yaml").write_text(RECIPE % (tmp_path / "data"))
    return tmp_path / "synthetic_dataset.yaml"


def tin(*words: object, code: int = 0) -> str:
    command = [sys.executable, "-m", "launch", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def submit(stages: str, recipe: Path, run: Path, *settings: str, code: int = 0) -> str:
    return tin("submit", stages, recipe, "--run", run, "--cluster", "local", *settings, code=code)


def wait_for_jobs(run: Path) -> None:
    end = time.monotonic() + 400  # long enough for a busy machine
    while any(is_alive(job.id) for job in record.jobs(run)):
        assert time.monotonic() < end, [path.read_text() for path in run.glob("job/logs/*.err")]
        time.sleep(0.2)


def test_a_pickle_holds_only_the_stage_and_the_run_folder():
    job = StageJob("train", "/runs/one")
    assert job.__reduce_ex__(4)[2] == {"stage": "train", "run_dir": "/runs/one"}
    assert len(pickle.dumps(job)) < 200


def test_stages_follow_one_another_on_this_machine(recipe: Path, tmp_path: Path):
    run = tmp_path / "run"
    told = submit("train,test,report", recipe, run, "cluster.stages={train: {tasks_per_node: 2}}")
    assert "afterok" in told
    wait_for_jobs(run)
    assert [(end.stage, end.kind) for end in record.ends(run)] == [
        ("train", "done"),
        ("test", "done"),
        ("report", "done"),
    ]
    assert (run / "tests" / "train-1x1-16" / "result.json").exists()
    assert (run / "report" / "results.csv").exists()
    assert re.search(r"run +report +done", tin("status", run))
    told = tin("logs", run)
    assert "epoch 1 step 2" in told
    assert "find_unused_parameters" not in told  # DDP's warning, at two ranks
    assert "no queued or running job" in tin("cancel", run)


def test_the_stage_after_a_failed_one_is_skipped(recipe: Path, tmp_path: Path):
    run = tmp_path / "run"
    # The dataset exists when the submission is checked, and no longer when the first job starts.
    submit("train,test", recipe, run, "cluster.setup=['sleep 5']")
    shutil.rmtree(tmp_path / "data")
    wait_for_jobs(run)
    said = {path.name.split("-")[0]: path.read_text() for path in run.glob("job/notes/*")}
    train, test = (job.id for job in record.jobs(run))
    assert "contains no dataset.yaml" in said[train]
    # The trace shows that the job ran the snapshot.
    assert (
        "job/code-01/launch/jobs/job.py"
        in (run / "job" / "logs" / f"{train}_0_log.err").read_text()
    )
    assert f"job {train} did not succeed, so stage test is skipped" in said[test]


def test_a_cancelled_run_saves_a_checkpoint_and_resumes(recipe: Path, tmp_path: Path):
    run = tmp_path / "run"
    submit("train", recipe, run, "train.epochs=200")
    end = time.monotonic() + 400
    while record.progress(run) < 3:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert "has queued or running jobs: " in submit(
        "train", recipe, run, "train.epochs=200", code=2
    )
    assert "(train)" in tin("cancel", run)
    wait_for_jobs(run)
    note = next(iter(run.glob("job/notes/*"))).read_text()
    assert '"kind": "stopped"' in note
    assert '"signal": "SIGTERM"' in note
    step = record.progress(run)
    assert list(run.glob(f"checkpoints/step-{step:08d}-a01.pt"))
    done = subprocess.Popen([sys.executable, "-m", "launch", "train", "--run", run])
    while len(Run(run).attempts()) < 2 or record.progress(run) <= step:
        assert done.poll() is None
        time.sleep(0.1)
    os.kill(done.pid, signal.SIGTERM)
    assert done.wait(400) == 75


@pytest.mark.parametrize(
    ("executor", "received", "code"),
    [
        ("local", signal.SIGUSR2, 144),  # the time limit: submitit starts the job again
        ("local", signal.SIGTERM, 75),  # `tin cancel`
        ("slurm", signal.SIGUSR2, 75),  # the batch script decides
    ],
)
def test_only_the_time_limit_of_a_local_job_starts_it_again(
    executor: str,
    received: signal.Signals,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    for name, value in {
        "SUBMITIT_EXECUTOR": executor,
        "SUBMITIT_LOCAL_JOB_ID": "7",
        "SUBMITIT_LOCAL_GLOBALID": "0",
        "SLURM_JOB_ID": "7",
    }.items():
        monkeypatch.setenv(name, value)
    error = Stopped("stopped while USR2 was not the reason")
    error.signal = received.name
    assert _exit_code_after(error, tmp_path) == code
    (note,) = record.read_notes(tmp_path, "7", 0)
    assert (note.kind, note.signal) == ("stopped", received.name)


@pytest.mark.parametrize("text", ["", "[]", '{"stage": 3, "run_dir": "r"}', '{"stage": "train"}'])
def test_what_a_job_executes_is_checked_and_comes_from_json(tmp_path, text):
    path = task_file(str(tmp_path / "job"), "0")
    path.write_text(text)
    with pytest.raises(DamagedFileError, match=path.name):
        load_task(str(tmp_path / "job"))
    path.write_text('{"stage": "train", "run_dir": "r"}')
    assert load_task(str(tmp_path / "job")) == StageJob("train", "r")
