"""Training runs whose losses are compared: at several numbers of ranks, in float64, reversed."""

from dataclasses import replace
from pathlib import Path

import torch
from rank_processes import finish, start_ranks
from short_runs import train_run
from torch import nn

from tin.models.network import train_mode
from tin.models.temporal import TemporalInterlace
from tin.training import state, step
from tin.training.recorder import Recorder


def losses(world_size: int, run_dir: Path, *settings: str) -> torch.Tensor:
    """Train on some ranks, each with one thread, and return the loss of each step, float64.

    Three words among `settings` are not settings: `small` trains a small network, `float64`
    computes the model in float64, and `reversed` reverses the clips of each batch.
    """
    codes = finish(start_ranks(world_size, _train, run_dir, *settings))
    assert set(codes) == {0}, codes
    text = (run_dir / "losses.txt").read_text()
    return torch.tensor([float(line) for line in text.split()], dtype=torch.float64)


def _train(run_dir: Path, *settings: str) -> None:
    _record_losses(run_dir)
    if "small" in settings:
        replace_backbone()
    if "float64" in settings:
        _compute_in_float64()
    if "reversed" in settings:
        _reverse_batches()
    train_run(run_dir, *(setting for setting in settings if "=" in setting))


def _record_losses(run_dir: Path) -> None:
    """Write the losses with all their digits, of which steps.csv has six."""
    original = Recorder.interval

    def interval(self, row):
        with (run_dir / "losses.txt").open("a") as file:
            print(repr(row["loss"]), file=file)
        original(self, row)

    Recorder.interval = interval


class SmallBackbone(nn.Sequential):
    """Two convolutions with BatchNorm and a temporal interlacing between them."""

    num_features = 32

    def __init__(self, num_segments: int):
        super().__init__(
            nn.Conv2d(3, 16, 5, 2, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            TemporalInterlace(16, num_segments),
            nn.Conv2d(16, self.num_features, 3, 2, bias=False),
            nn.BatchNorm2d(self.num_features),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )


def replace_backbone() -> None:
    """Let networks have a small backbone, through which rounding errors do not grow."""
    original = state.build_model

    def build_model(config, num_classes):
        model = original(config, num_classes)
        model.backbone = SmallBackbone(config.clip.num_segments)
        model.fc = nn.Linear(SmallBackbone.num_features, num_classes)
        train_mode(model, config.train.bn)
        return model

    state.build_model = build_model


def _compute_in_float64() -> None:
    original = state.build_model

    def build_model(*args):
        model = original(*args).double()
        model.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
        return model

    state.build_model = build_model


def _reverse_batches() -> None:
    """Reverse the clips of each batch. The groups of clips and each clip's mask stay the same."""
    original = step._pass
    mask = step.dropout_mask

    def backwards(state, batch, *args):
        tensors = {name: value.flip(0) for name, value in vars(batch).items()}
        original(state, replace(batch, **tensors), *args)

    step._pass = backwards
    step.dropout_mask = lambda *args: mask(*args).flip(0)
