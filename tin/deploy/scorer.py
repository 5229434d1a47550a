"""A trained model that scores clips, and the settings that a prediction may change."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from configs.load import ConfigError, differences, parse, with_settings
from configs.schema import Config
from tin.models.clip_input import normalized
from tin.runs import checkpoint
from tin.runs.folder import Run
from tin.runs.restore import find_checkpoint, precision_of, restore, trusted_config

SECTIONS = ("test", "run", "data", "predict", "shard")
"""Sections of the settings that a prediction may change."""


class Scorer:
    """A trained model that scores batches of videos."""

    def __init__(self, model: Path, settings: Sequence[str], device: torch.device):
        """Load a model.

        Args:
            model: folder of a run, or one of its checkpoints.
            settings: ``section.key=value`` of `SECTIONS`.
            device: device to compute on.

        Raises:
            CheckpointError: no checkpoint can be used.
            ConfigError: settings of other sections differ.
        """
        run = Run(model) if model.is_dir() else None
        base = run.config() if run else trusted_config(model, checkpoint.load(model))
        self.config = changed(base, settings)
        self.path = find_checkpoint(run, self.config.test.checkpoint) if run else model
        state = checkpoint.load(self.path)
        self.classes: list[str] = state["classes"]
        self.device = device
        self.network = restore(state, self.config)
        # torch's stubs do not know memory_format
        self.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network.fc.register_forward_pre_hook(self._keep_features)
        self._features: Tensor | None = None

    def score(self, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return the scores ``(B, V, K)`` and the features ``(B, D)`` of clips.

        The clips are uint8 ``(B, V, T, L, S, S, C)``.

        The features are the input of the classifier, averaged over frames and views.
        """
        bce = self.config.train.loss == "bce"
        activation = torch.sigmoid if bce else functools.partial(torch.softmax, dim=1)
        bfloat16 = precision_of(self.config, self.device) == "bfloat16"
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16):
            logits = self.network(normalized(x).flatten(0, 1))
        scores = activation(logits.float()).unflatten(0, x.shape[:2])
        assert self._features is not None
        features = self._features.float().unflatten(0, (x.shape[0], -1)).mean(1)
        return scores.cpu().numpy(), features.half().cpu().numpy()

    def _keep_features(self, _: nn.Module, inputs: tuple[Tensor]) -> None:
        self._features = inputs[0].detach()


def changed(config: Config, settings: Sequence[str]) -> Config:
    """Return settings changed by ``section.key=value``, which may change `SECTIONS` only.

    Raises:
        ConfigError: a setting of another section differs.
    """
    after = parse(Config, with_settings(config.model_dump(mode="json"), settings), "settings")
    rejected = [line for line in differences(config, after) if not line.startswith(SECTIONS)]
    if rejected:
        raise ConfigError(
            f"the model was trained with other settings: {'; '.join(rejected)}. A prediction may"
            f" change only the sections {', '.join(SECTIONS)}; leave the other settings out."
        )
    return after


def check_frames(config: Config, what: str) -> None:
    """Raise ConfigError if a model does not see frames, but optical flow."""
    if config.clip.modality == "flow":
        raise ConfigError(
            f"{what} reads the frames of videos, but this model sees optical flow (clip.modality"
            " flow); predict a dataset of flow with `tin predict RUN DATASET --out DIR`"
        )


def device_setting(model: Path, settings: Sequence[str]) -> str:
    """Return `run.device` of a model, changed by ``settings``."""
    base = Run(model).config() if model.is_dir() else trusted_config(model, checkpoint.load(model))
    return changed(base, settings).run.device
