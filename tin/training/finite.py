"""The check that the loss and the gradient of a run are finite."""

import math

from torch import Tensor

from configs.errors import TinError
from tin.training.state import TrainingState


class NonFiniteError(TinError, FloatingPointError):
    """The loss or the gradient is NaN or infinite, and `train.nan` is `stop`."""

    is_final = True


def check_finite(loss_and_norm: float | Tensor, state: TrainingState) -> None:
    """Check the sum of the losses of an epoch plus the norm of the last gradient.

    Raises:
        NonFiniteError: it is NaN or infinite.
    """
    if not math.isfinite(loss_and_norm):
        raise NonFiniteError(
            f"the loss or the gradient is NaN or infinite in epoch {state.epoch + 1}, step"
            f" {state.step}; earlier checkpoints in {state.run.checkpoints} are intact."
            " Start a new run with a lower optim.lr, or with train.nan=skip to skip such steps"
        )
