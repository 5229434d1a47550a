"""Short training runs for tests: a small network on a small dataset, six steps an epoch."""

from pathlib import Path

import torch

from configs.load import load
from tin.runs import checkpoint
from tin.runs.folder import Run
from tin.runs.settings import resolve
from tin.training.trainer import train

SETTINGS = (
    "data.test_split=train", "model.arch=resnet18", "model.init=none", "model.dropout=0.3",
    "clip.num_segments=4", "clip.crop=32", "clip.resize=32", "optim.lr_batch=4",
    "optim.warmup_epochs=0.5", "train.batch=4", "train.epochs=2", "train.bn=full",
    "train.evaluate_every=2", "run.threads=1", "run.device=cpu", "run.log_steps=2",
    "run.tensorboard=false", "run.prefetch=1", "run.readers=2",
)  # fmt: skip
NUM_VIDEOS = 24
ONE_EPOCH = ("train.epochs=1", "train.evaluate_every=1")


def train_run(run_dir: Path, *settings: str) -> None:
    """Start a run with `settings`, or resume it with its own settings if it exists."""
    if Run(run_dir).exists():
        train(resolve(None, run_dir, []), run_dir)
    else:
        train(load(None, [*SETTINGS, *settings]), run_dir)


def mark_as_incomplete(run_dir: Path) -> None:
    """Make a complete run look as if it was killed during its last evaluation."""
    (run_dir / "job" / "DONE").unlink()


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    """Return the weights of the newest checkpoint."""
    path = checkpoint.newest(Run(run_dir))
    assert path, f"{run_dir} has no checkpoint"
    return checkpoint.load(path)["model"]


def assert_same_bits(one: Path, two: Path) -> None:
    """Check that two runs have equal weights, bit for bit."""
    first = weights(one)
    second = weights(two)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
