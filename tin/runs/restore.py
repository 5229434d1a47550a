"""Builds a trained model from a run or a checkpoint file."""

import textwrap
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from configs.load import parse
from configs.schema import Config
from tin.models.network import TIN, build_model
from tin.runs import checkpoint
from tin.runs.folder import Run

MAX_REASON = 160
"""Most characters of an error message's list of tensors that do not fit."""


def find_checkpoint(run: Run, which: Literal["best", "last"]) -> Path:
    """Return the best or the last checkpoint of a run.

    Raises:
        CheckpointError: the run does not have this checkpoint.
    """
    path = checkpoint.best(run) if which == "best" else checkpoint.newest(run)
    if path is None:
        other = "last" if which == "best" else "best"
        raise checkpoint.CheckpointError(
            f"{run.checkpoints} has no {which} checkpoint; train the run first, or try"
            f" test.checkpoint={other}"
        )
    return path


def config_of(state: dict[str, Any]) -> Config:
    """Return the settings that a checkpoint was trained with."""
    return parse(Config, state["config"], "the checkpoint's settings")


def restore(state: dict[str, Any], config: Config) -> TIN:
    """Return the model of a checkpoint in evaluation mode.

    If the checkpoint has a moving average of the weights, the model gets the average.

    Raises:
        CheckpointError: the weights do not fit the settings.
    """
    model = build_model(config, len(state["classes"]))
    load_weights(model, state["ema"] or state["model"], config)
    return model.eval()


def load_weights(model: nn.Module, weights: dict[str, Any], config: Config) -> None:
    """Load the weights of a checkpoint into a model that was built from `config`.

    Raises:
        CheckpointError: the weights do not fit the model; the message lists the first tensors.
    """
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
