"""A step whose gradient is not finite changes nothing, and the host does not wait to find out."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tin.training.average import values
from tin.training.state import TrainingState


class SkippedStep:
    """Keeps what a step may change before its gradient is known; created before the step."""

    def __init__(self, model: nn.Module) -> None:
        # The forward passes or the update change the statistics of those BatchNorms that train.
        norms = (m for m in model.modules() if isinstance(m, _BatchNorm) and m.training)
        self._buffers = [buffer for norm in norms for buffer in norm.buffers()]
        self._before = [buffer.clone() for buffer in self._buffers]

    def update(self, state: TrainingState, norm: Tensor) -> Tensor:
        """Update the weights if the gradient is finite; else take back and count the step.

        Args:
            state: the model with its gradients.
            norm: norm of the gradient, a scalar on the device; the same on all ranks.

        Returns:
            The norm, or 0 if the step was skipped.
        """
        is_finite = norm.isfinite()
        state.skips += ~is_finite
        average = values(state.ema) if state.ema else []
        average_before = [tensor.clone() for tensor in average]
        # The fused update of torch reads this attribute, which GradScaler sets, too.
        state.optimizer.found_inf = (~is_finite).float()  # type: ignore[attr-defined]
        state.update()
        _keep(self._buffers, self._before, is_finite)
        _keep(average, average_before, is_finite)
        return norm.where(is_finite, 0)


def _keep(tensors: list[Tensor], before: list[Tensor], is_finite: Tensor) -> None:
    """Give tensors their values of before, unless the step is finite."""
    with torch.no_grad():
        for tensor, old in zip(tensors, before, strict=True):
            tensor.copy_(torch.where(is_finite, tensor, old))
