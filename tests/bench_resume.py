"""Kills a training run in the middle, resumes it, and compares it with a whole run, bit by bit.

    python -m tests.bench_resume DATASET [section.key=value ...]

On a GPU both runs use deterministic algorithms, with `train.compile` none and graphs. The script
prints a line for each, and exits with 1 if the weights differ in any bit.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from tin.runs import checkpoint
from tin.runs.folder import Run

SETTINGS = (
    "model.init=none",
    "optim.warmup_epochs=0",
    "optim.scale_lr=true",
    "train.epochs=1",
    "train.deterministic=true",
    "run.checkpoint_steps=4",
    "run.log_steps=1",
    "run.tensorboard=false",
)
LIMIT_S = 120


def train(run_dir: Path, *settings: str) -> subprocess.Popen[bytes]:
    """Start `tin train` on a run."""
    command = [sys.executable, "-m", "launch", "train", *settings, "--run", str(run_dir)]
    return subprocess.Popen(command)


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a run that must succeed."""
    if process.wait(LIMIT_S):
        sys.exit(f"the run failed with exit status {process.returncode}")


def kill_after_a_checkpoint(process: subprocess.Popen[bytes], run: Run) -> str:
    """Send SIGKILL when the run has a checkpoint; return its name."""
    end = time.monotonic() + LIMIT_S
    while process.poll() is None and time.monotonic() < end:
        found = checkpoint.newest(run)
        if found:
            process.kill()
            process.wait()
            return found.name
        time.sleep(0.02)
    sys.exit("the run ended before it had a checkpoint, so it could not be killed")


def weights(run: Run) -> dict[str, torch.Tensor]:
    """Return the weights of the newest checkpoint."""
    path = checkpoint.newest(run)
    if path is None:
        sys.exit(f"{run.path} has no checkpoint")
    return checkpoint.load(path)["model"]


def main(dataset: str, settings: list[str]) -> int:
    """Compare a killed and resumed run with a whole run, for each form of the pass."""
    differ = False
    for form in ("none", "graphs"):
        with tempfile.TemporaryDirectory() as folder:
            runs = [Run(Path(folder, name)) for name in ("whole", "killed")]
            own = [
                "clips",
                f"data.dataset={dataset}",
                *SETTINGS,
                *settings,
                f"train.compile={form}",
            ]
            finish(train(runs[0].path, *own))
            killed_at = kill_after_a_checkpoint(train(runs[1].path, *own), runs[1])
            finish(train(runs[1].path))
            whole, resumed = map(weights, runs)
            names = [name for name in whole if not torch.equal(whole[name], resumed[name])]
            result = f"{len(names)} tensors differ" if names else "equal bit for bit"
            print(f"train.compile={form}: killed after {killed_at}, resumed: {result}", flush=True)
            differ |= bool(names)
    return int(differ)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
