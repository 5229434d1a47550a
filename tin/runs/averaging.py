"""The average of the weights of the newest checkpoints of a run."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tin.runs import checkpoint
from tin.runs.folder import Run


def load_average(run: Run, count: int) -> tuple[list[Path], dict[str, Any]]:
    """Return the newest ``count`` checkpoints, and the newest state with their mean weights.

    A checkpoint with a moving average of the weights counts with that average. Numbers that are
    not floating-point, such as the batches that a BatchNorm has seen, are those of the newest one.

    Raises:
        CheckpointError: the run has fewer checkpoints, or one of them cannot be used.

    Source: Izmailov et al., UAI 2018, arXiv:1803.05407.
    """
    paths = checkpoint.newest_first(run)[:count]
    if len(paths) < count:
        raise checkpoint.CheckpointError(
            f"{run.checkpoints} has {len(paths)} checkpoints, but test.last_checkpoints is {count};"
            f" train with run.keep_checkpoints={count}, or average fewer"
        )
    state = checkpoint.load(paths[0])
    totals = {name: _wide(value) for name, value in _weights(state).items()}
    for path in paths[1:]:
        weights = _weights(checkpoint.load(path))
        for name, total in totals.items():
            if total.is_floating_point():
                total += weights[name]
    mean = {
        name: (total / count).to(value.dtype) if value.is_floating_point() else value
        for (name, total), value in zip(totals.items(), _weights(state).values(), strict=True)
    }
    key = "ema" if state["ema"] is not None else "model"
    return paths, {**state, key: mean}


def _weights(state: dict[str, Any]) -> dict[str, Tensor]:
    return state["ema"] or state["model"]


def _wide(value: Tensor) -> Tensor:
    return value.to(torch.float64, copy=True) if value.is_floating_point() else value
