"""Stages as jobs of this machine: through submitit's local executor, with real processes."""

import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import synthetic_dataset

from launch import record
from launch.jobs.job import StageJob
from launch.local import is_alive
from launch.submission.snapshot import snapshot
from tin.runs.folder import Run

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
    end = time.monotonic() + 400  # of a busy machine
    while any(is_alive(job.id) for job in record.jobs(run)):
        assert time.monotonic() < end, [path.read_text() for path in run.glob("job/logs/*.err")]
        time.sleep(0.2)


def test_a_pickle_holds_only_the_stage_and_the_run_folder():
    job = StageJob("train", "/runs/one")
    assert job.__reduce_ex__(4)[2] == {"stage": "train", "run": "/runs/one"}
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
    assert "epoch 0 step 2" in told
    assert "find_unused_parameters" not in told  # DDP's warning, at two ranks
    assert "no queued or running job" in tin("cancel", run)


def test_a_failed_stage_leaves_out_the_next(recipe: Path, tmp_path: Path):
    run = tmp_path / "run"
    submit("train,test", recipe, run, "data.train_split=nowhere")
    wait_for_jobs(run)
    said = {path.name.split("-")[0]: path.read_text() for path in run.glob("job/notes/*")}
    train, test = (job.id for job in record.jobs(run))
    assert "nowhere" in said[train]  # and it was the snapshot that ran:
    assert "job/code-01/launch/job.py" in (run / "job" / "logs" / f"{train}_0_log.err").read_text()
    assert f"job {train} did not succeed, so stage test is skipped" in said[test]


def test_a_signal_saves_and_the_run_goes_on(recipe: Path, tmp_path: Path):
    run = tmp_path / "run"
    submit("train", recipe, run, "train.epochs=200")
    end = time.monotonic() + 400
    while record.progress(run) < 3:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert "jobs work on it" in submit("train", recipe, run, "train.epochs=200", code=2)
    assert "(train)" in tin("cancel", run)
    wait_for_jobs(run)
    note = next(iter(run.glob("job/notes/*"))).read_text()
    assert '"kind": "stopped"' in note
    step = record.progress(run)
    assert list(run.glob(f"checkpoints/step-{step:08d}-a01.pt"))
    done = subprocess.Popen([sys.executable, "-m", "launch", "train", "--run", run])
    while len(Run(run).attempts()) < 2 or record.progress(run) <= step:
        assert done.poll() is None
        time.sleep(0.1)
    os.kill(done.pid, signal.SIGTERM)
    assert done.wait(400) == 75


def test_the_snapshot_is_what_runs_now_with_what_differs_from_its_commit(
    tmp_path: Path, monkeypatch
):
    other = tmp_path / "other" / "cuda" / "__init__.py"  # of an older cuda-python
    other.parent.mkdir(parents=True)
    other.touch()
    monkeypatch.syspath_prepend(tmp_path / "other")
    monkeypatch.delitem(sys.modules, "cuda", raising=False)
    commit = snapshot(tmp_path / "code")
    here = Path(__file__).parents[3]
    for name in ("launch/job.py", "tin/train.py", "cuda/core.h", "configs/clusters/local.yaml"):
        assert (tmp_path / "code" / name).read_bytes() == (here / name).read_bytes()
    assert not list((tmp_path / "code").rglob("*.pyc"))
    assert (tmp_path / "code" / "COMMIT").exists() == bool(commit)
    code = "import launch.jobs.job, tin; print(launch.jobs.job.__file__)"
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "code"), "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == str(tmp_path / "code" / "launch" / "job.py")
