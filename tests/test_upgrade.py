"""What an earlier version wrote stays usable: a dataset, a run, its checkpoints, a submitted job.

The earlier code is taken from this repository's history, and runs in processes of its own.
"""

import csv
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from launch import record
from tin.runs import checkpoint
from tin.runs.folder import Run

ROOT = Path(__file__).resolve().parent.parent
EARLIER = "94407fa483c963abd036657201de96e4454f30ea"
"""The last commit before the modules moved into folders."""
SETTINGS = (
    "model.arch=resnet18 model.init=none model.dropout=0.5 clip.num_segments=4 clip.crop=32"
    " clip.resize=36 optim.lr_batch=8 train.batch=8 train.epochs=3 optim.warmup_epochs=0.5"
    " run.device=cpu run.threads=1 run.readers=2 run.log_steps=1 run.tensorboard=false"
    " run.checkpoint_steps=2"
).split()


@pytest.fixture(scope="module")
def earlier(tmp_path_factory) -> Path:
    """Return a folder with the code of the earlier version."""
    folder = tmp_path_factory.mktemp("earlier")
    archive = folder / "code.tar"
    command = ["git", "-C", ROOT, "archive", "--output", archive, EARLIER]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = f"the history of this clone does not reach {EARLIER[:7]}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module", autouse=True)
def _empty_cache(tmp_path_factory) -> Iterator[None]:
    """Let both versions use the operator's definition.

    A compiled operator differs from it in the last bits, and only the version whose sources it was
    compiled from finds it.
    """
    folder = tmp_path_factory.mktemp("site")
    (folder / "site.yaml").write_text(f"cache: {folder / 'cache'}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIN_SITE", str(folder / "site.yaml"))
        yield


@pytest.fixture(scope="module")
def work(earlier: Path, tmp_path_factory) -> Path:
    """Return a folder with videos and a dataset that the earlier version made."""
    folder = tmp_path_factory.mktemp("work")
    videos = folder / "videos"
    tin(earlier, "data", "demo", videos, "--train", 24, "--val", 8, "--size", 36)
    tin(earlier, "shard", videos, folder / "data", "--labels", videos / "labels.csv")
    return folder


def environment(code: Path) -> dict[str, str]:
    """Return the variables with which Python runs the code in a folder."""
    return {**os.environ, "PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"}


def tin(code: Path, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command of `tin` with the code in a folder."""
    command = [sys.executable, "-m", "launch", *map(str, words)]
    done = subprocess.run(command, env=environment(code), capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr
    return done


def interrupted(code: Path, run_dir: Path, *words: object) -> None:
    """Start a training and stop it with SIGTERM after its first rows."""
    command = [sys.executable, "-m", "launch", "train", *words, "--run", run_dir]
    process = subprocess.Popen([str(word) for word in command], env=environment(code))
    end = time.monotonic() + 120
    while not (run_dir / "steps.csv").exists() and time.monotonic() < end:
        time.sleep(0.02)
    process.terminate()
    assert process.wait(60) == 75


def losses(run_dir: Path) -> list[str]:
    with (run_dir / "steps.csv").open(newline="") as file:
        return [row["loss"] for row in csv.DictReader(file)]


def test_a_dataset_and_a_run_of_the_earlier_version_are_resumed_and_tested(earlier, work, tmp_path):
    words = ["demo", f"data.dataset={work / 'data'}", *SETTINGS]
    whole = tmp_path / "whole"
    tin(earlier, "train", *words, "--run", whole)
    begun = tmp_path / "begun"
    interrupted(earlier, begun, *words)
    tin(ROOT, "data", "verify", work / "data")
    resumed = tin(ROOT, "train", "--run", begun)
    assert "the result may not be bit-equal" in resumed.stderr  # because versions differ
    # The last one: of equal metrics, the earlier version keeps the first as the best, this one the
    # checkpoint with the lowest loss.
    tin(ROOT, "test", begun, "test.checkpoint=last")
    assert losses(begun) == losses(whole)
    states = [checkpoint.load(checkpoint.newest(Run(run))) for run in (whole, begun)]
    assert states[0]["step"] == states[1]["step"]
    for name, tensor in states[0]["model"].items():
        assert torch.equal(tensor, states[1]["model"][name]), name
    tin(earlier, "test", whole, "test.checkpoint=last")
    results = [json.loads(file.read_text()) for file in tmp_path.glob("*/tests/*/result.json")]
    # The pixels are the same, but DALI multiplied by the reciprocal of the deviation.
    assert results[0]["metrics"] == pytest.approx(results[1]["metrics"], rel=1e-6)
    shown = tin(ROOT, "report", whole, begun, "--out", tmp_path).stdout
    assert "whole" in shown
    assert "begun" in shown


def test_a_job_that_the_earlier_version_submitted_runs_and_is_seen(earlier, work, tmp_path):
    run_dir = tmp_path / "run"
    words = ["demo", "--run", run_dir, "--cluster", "local", f"data.dataset={work / 'data'}"]
    tin(earlier, "submit", "train,test", *words, *SETTINGS)
    assert "running" in tin(ROOT, "status", run_dir).stdout
    end = time.monotonic() + 240
    while len(record.ends(run_dir)) < 2 and time.monotonic() < end:
        time.sleep(0.5)
    assert [(end.stage, end.kind) for end in record.ends(run_dir)] == [
        ("train", "done"),
        ("test", "done"),
    ]
    assert "done" in tin(ROOT, "status", run_dir).stdout
    assert "epoch 3" in tin(ROOT, "logs", run_dir).stdout
    again = tin(ROOT, "submit", "test", "demo", "--run", run_dir, "--cluster", "local", "--dry-run",
                f"data.dataset={work / 'data'}", *SETTINGS)  # fmt: skip
    assert "test" in again.stdout
