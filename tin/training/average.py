"""The exponential moving average of a model's weights and statistics."""

import itertools

import torch
from torch import Tensor, nn


def values(model: nn.Module) -> list[Tensor]:
    """Return the weights and buffers of a model, detached."""
    return [value.detach() for value in itertools.chain(model.parameters(), model.buffers())]


def update_average(average: nn.Module, model: nn.Module, decay: float, *, first: bool) -> None:
    """Move `average` towards `model` by ``1 - decay``; the `first` update copies the model.

    torch's AveragedModel counts updates on the CPU and copies the count to the GPU in each update,
    where the host waits for the GPU.
    """
    averaged = values(average)
    current = values(model)
    if not first:
        floats = [index for index, value in enumerate(current) if value.is_floating_point()]
        torch._foreach_lerp_(
            [averaged[index] for index in floats], [current[index] for index in floats], 1 - decay
        )
    for value, new in zip(averaged, current, strict=True):
        if first or not value.is_floating_point():  # counters have no average
            value.copy_(new)
