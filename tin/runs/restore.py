"""A trained model, out of a run or a checkpoint file."""

import textwrap
from pathlib import Path
from typing import Any

import torch
from torch import nn

from configs.load import parse
from configs.schema import Config
from tin.models.network import build_model
from tin.runs import checkpoint
from tin.runs.folder import Run

SHOWN = 160  # characters of a list of tensors that do not fit


def find_checkpoint(run: Run, which: str) -> Path:
    """Return the `best` or the `last` checkpoint of a run.

    Raises:
        CheckpointError: there is none.
    """
    path = checkpoint.best(run) if which == "best" else checkpoint.newest(run)
    if path is None:
        other = "last" if which == "best" else "best"
        raise checkpoint.CheckpointError(
            f"{run.checkpoints} holds no {which} checkpoint; train the run first, or try"
            f" test.checkpoint={other}"
        )
    return path


def config_of(state: dict[str, Any]) -> Config:
    """Return the settings that a checkpoint was trained with."""
    return parse(Config, state["config"], "the checkpoint's settings")


def restore(state: dict[str, Any], config: Config) -> nn.Module:
    """Return the model of a checkpoint, with the moving average of its weights where it has one.

    Raises:
        CheckpointError: the weights do not fit the settings.
    """
    model = build_model(config, len(state["classes"]))
    load_weights(model, state["ema"] or state["model"], config)
    return model.eval()


def load_weights(model: nn.Module, weights: dict[str, Any], config: Config) -> None:
    """Put the weights of a checkpoint into a model that `config` describes.

    Raises:
        CheckpointError: they do not fit; the first that does not is named.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).partition("\n")[2].strip() or str(error)  # the first line says nothing
        raise checkpoint.CheckpointError(
            f"the checkpoint's weights do not fit {config.model.arch} with model.temporal"
            f" {config.model.temporal}: {textwrap.shorten(reason, SHOWN, placeholder=' ...')}"
        ) from None


def precision_of(config: Config, device: torch.device) -> str:
    """Return the type of autocast: bfloat16, or float32, which is none."""
    wanted = config.train.precision
    if wanted == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    return wanted
