"""Builds a trained model from a run or a checkpoint file."""

import logging
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from configs.load import ConfigError, parse
from configs.schema import Config
from tin.models.network import TIN, build_model
from tin.runs import checkpoint
from tin.runs.best import find_best
from tin.runs.folder import Run

log = logging.getLogger(__name__)
MAX_REASON = 160
"""Most characters of an error message's list of tensors that do not fit."""


def find_checkpoint(run: Run, which: Literal["best", "last"]) -> Path:
    """Return the best or the last checkpoint of a run, after comparing the CRCs of its bytes.

    Raises:
        CheckpointError: the run does not have this checkpoint, or it is damaged and no other
            checkpoint can take its place.
    """
    if which == "best":
        return find_best(run)
    damaged = []
    for path in checkpoint.newest_first(run):
        problem = checkpoint.damage(path)
        if not problem:
            return path
        damaged.append(path.name)
        log.warning("%s; trying the checkpoint before it", problem)
    if damaged:
        raise checkpoint.CheckpointError(
            f"{run.checkpoints}: all checkpoints are damaged ({', '.join(damaged)}); restore them"
            " from a backup, or train the run again in another folder"
        )
    raise checkpoint.CheckpointError(
        f"{run.checkpoints} has no last checkpoint; train the run first, or try"
        " test.checkpoint=best"
    )


def config_of(state: dict[str, Any]) -> Config:
    """Return the settings that a checkpoint was trained with.

    Raises:
        CheckpointError: the checkpoint lacks an entry.
        ConfigError: the settings are not valid.
    """
    require(state, ("config", "classes", "epoch", "global_step", "model", "ema"))
    return parse(Config, state["config"], "the checkpoint's settings")


def trusted_config(path: Path, state: dict[str, Any]) -> Config:
    """Return the settings of a checkpoint file, if using them executes no code that it names.

    A temporal module of a user's own is imported only if config.yaml of the run that has the
    checkpoint names the same one. A checkpoint alone cannot make this program import something.

    Raises:
        CheckpointError: the checkpoint lacks an entry.
        ConfigError: the checkpoint names a module that no run beside it names.
    """
    config = config_of(state)
    name = config.model.temporal
    run = Run(path.absolute().parent.parent)
    if ":" in name and not (run.exists() and run.config().model.temporal == name):
        raise ConfigError(
            f"{path}: model.temporal is {name}, which would be imported because a file names it."
            " If you trust the file, put it into the folder checkpoints/ of a run whose config.yaml"
            f" has model.temporal: {name}"
        )
    return config


def require(state: dict[str, Any], names: Sequence[str]) -> None:
    """Check that a checkpoint has these entries.

    Raises:
        CheckpointError: it lacks some.
    """
    missing = [name for name in names if name not in state]
    if missing:
        raise checkpoint.CheckpointError(
            f"the checkpoint has no {', '.join(missing)}; it was not written by `tin train`"
        )


def restore(state: dict[str, Any], config: Config) -> TIN:
    """Return the model of a checkpoint in evaluation mode.

    If the checkpoint has a moving average of the weights, the model gets the average.

    Raises:
        CheckpointError: the weights do not fit the settings.
    """
    require(state, ("classes", "model", "ema"))
    model = build_model(config, len(state["classes"]))
    load_weights(model, state["ema"] or state["model"], config)
    return model.eval()


def load_weights(model: nn.Module, weights: dict[str, Any], config: Config) -> None:
    """Load the weights of a checkpoint into a model that was built from `config`.

    Raises:
        CheckpointError: the weights do not fit the model; the message lists the first tensors.
    """
    # torch would convert another data type without a word.
    for name, tensor in model.state_dict().items():
        found = weights.get(name, tensor)
        if found.dtype != tensor.dtype:
            raise checkpoint.CheckpointError(
                f"the checkpoint's tensor {name} is {found.dtype}, expected {tensor.dtype}"
            )
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        # The first line of torch's message is a title; the tensors follow it.
        reason = str(error).partition("\n")[2].strip() or str(error)
        raise checkpoint.CheckpointError(
            f"the checkpoint's weights do not fit {config.model.arch} with model.temporal"
            f" {config.model.temporal}: {textwrap.shorten(reason, MAX_REASON, placeholder=' ...')}"
        ) from None


def precision_of(config: Config, device: torch.device) -> Literal["float32", "bfloat16"]:
    """Return the precision to compute in; float32 means that autocast is off."""
    wanted = config.train.precision
    if wanted == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    return wanted
