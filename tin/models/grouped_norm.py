"""BatchNorm over groups of clips, so that training does not depend on the number of ranks."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


class GroupedBatchNorm(_BatchNorm):
    """A BatchNorm that normalizes equal groups along the first dimension, each by its statistics.

    In training it does not change its running statistics. It sums the statistics of the groups,
    and `update` changes the running ones by the mean over all groups of an optimizer step.
    """

    mean_sum: Tensor
    """Sum of the means of all groups since the last update, ``(C,)``."""
    variance_sum: Tensor
    """Sum of the unbiased variances of all groups since the last update, ``(C,)``."""

    def __init__(self, norm: _BatchNorm, num_groups: int):
        """Take over the parameters and running statistics of `norm`."""
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.to(norm.weight)  # its device and type
        self.load_state_dict(norm.state_dict())
        self.num_groups = num_groups
        # Not persistent: checkpoints are written between optimizer steps, where the sums are zero.
        self.register_buffer("mean_sum", torch.zeros_like(norm.bias.detach()), persistent=False)
        self.register_buffer("variance_sum", torch.zeros_like(norm.bias.detach()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize by the statistics of the groups in training, else by the running ones."""
        if not self.training:
            return super().forward(x)
        parts = [self._normalized(part) for part in x.chunk(self.num_groups)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def update(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards `mean` and `variance`, and clear the sums."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.momentum is not None and self.num_batches_tracked is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked += 1
        self.mean_sum.zero_()
        self.variance_sum.zero_()

    def _normalized(self, part: Tensor) -> Tensor:
        """Normalize a group and add its statistics to the sums."""
        mean = torch.zeros_like(self.mean_sum)
        variance = torch.zeros_like(self.variance_sum)
        # With a momentum of 1, torch writes the group's own statistics into the two tensors.
        y = F.batch_norm(part, mean, variance, self.weight, self.bias, True, 1.0, self.eps)
        self.mean_sum += mean
        self.variance_sum += variance
        return y

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any number of dimensions."""


def group_norms(model: nn.Module, num_groups: int) -> None:
    """Replace each BatchNorm of a model that trains by one that normalizes `num_groups` groups."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, _BatchNorm) and child.training:
                setattr(module, name, GroupedBatchNorm(child, num_groups))
