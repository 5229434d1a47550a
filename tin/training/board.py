"""TensorBoard files of a run: scalars, offsets, settings, hyperparameters, and training clips."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.load import dump, leaves
from configs.schema import Config

NUM_CLIPS = 4
"""Training clips that are shown, the first ones of each attempt."""
RANKED = ("top1", "top5", "map_class", "map_sample", "loss")
"""Metrics of the test split that the page of hyperparameters shows."""


class Board:
    """The TensorBoard writer of a run. Each scalar appears once for each step."""

    def __init__(self, run_dir: Path, config: Config, since: int):
        """Start after `since` optimizer steps; what was written from there on is hidden."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=since)
        self._config = config
        self._metrics: dict[str, float] = {}
        self._writer.add_text("settings", _indented(dump(config)), since)

    def close(self, *, complete: bool) -> None:
        """Close the files; of a complete run, first write its hyperparameters and last metrics."""
        if complete and self._metrics:
            self._write_hyperparameters()
        self._writer.close()

    def scalars(self, group: str, values: dict[str, Any], step: int) -> None:
        """Write scalars under `group/name`."""
        for name, value in values.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)
        if group == self._config.data.test_split:
            self._metrics = {name: values[name] for name in RANKED if name in values}

    def offsets(self, recorded: dict[str, tuple[Tensor, Tensor]], step: int) -> None:
        """Write histograms of the offsets and weights of each block."""
        for block, (offset, weight) in recorded.items():
            self._writer.add_histogram(f"offset/{block}", offset.float().cpu(), step)
            self._writer.add_histogram(f"weight/{block}", weight.float().cpu(), step)

    def clips(self, x: Tensor, step: int) -> None:
        """Show the first clips of a batch, the frames of each side by side.

        A batch is uint8 ``(B, T, L, H, W, C)``. Of a segment with several frames, the first one is
        shown, and of two colors the first.
        """
        clips = x[:NUM_CLIPS, :, 0].movedim(-1, 2).float().cpu()
        B, _, C, _, _ = clips.shape
        clips = clips[:, :, : 3 if C == 3 else 1]
        # Stretch each clip to [0, 1]: the scale of the input depends on its modality.
        low = clips.reshape(B, -1).min(1).values.view(B, 1, 1, 1, 1)
        high = clips.reshape(B, -1).max(1).values.view(B, 1, 1, 1, 1)
        clips = (clips - low) / (high - low).clamp_min(1e-6)
        for number, clip in enumerate(clips):
            strip = torch.cat(list(clip), dim=-1)
            self._writer.add_image(f"training clips/{number}", strip, step)

    def _write_hyperparameters(self) -> None:
        """Write the settings for the page of hyperparameters, which reads metrics by their tags."""
        from torch.utils.tensorboard.summary import hparams

        settings = {
            name: value if isinstance(value, (bool, int, float, str)) else str(value)
            for name, value in leaves(self._config.model_dump(mode="json"))
            if not name.startswith("run.")
        }
        split = self._config.data.test_split
        tags = {
            f"{split}/{name}": value
            for name, value in self._metrics.items()
            if math.isfinite(value)
        }
        for summary in hparams(settings, tags):
            self._writer._get_file_writer().add_summary(summary)


def _indented(text: str) -> str:
    """Return a text as a block of code in Markdown."""
    return "\n".join(f"    {line}" for line in text.splitlines())
