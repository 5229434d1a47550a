"""BatchNorm whose frozen form is fast to train through on a GPU."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import batch_norm


class BatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` with another backward pass on a GPU while it is frozen.

    Most BatchNorms of `train.bn: partial` are frozen: they keep their statistics, scale and shift,
    and only the gradient of the input is needed. For that, torch has a kernel that does not know
    the layout channels_last. On an H100, it and the copies back to that layout took 41 % of a
    training step of a ResNet-50 with 6 clips.
    """

    def forward(self, x: Tensor) -> Tensor:
        if _has_fast_backward(self, x):
            mean, var = self.running_mean, self.running_var
            return _Frozen.apply(x, self.weight, self.bias, mean, var, self.eps)
        return super().forward(x)


def _has_fast_backward(norm: nn.BatchNorm2d, x: Tensor) -> bool:
    """Return whether only the gradient of `x` is needed, on a GPU; torch.compile fuses its own."""
    is_frozen = not norm.training and not norm.weight.requires_grad
    return is_frozen and x.is_cuda and x.requires_grad and not torch.compiler.is_compiling()


class _Frozen(torch.autograd.Function):
    """Normalize by fixed statistics; the gradient of the input is the gradient times the scale.

    The same kernel computes both passes, since multiplying by the scale is normalizing with a mean
    and a shift of zero.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(weight, var)
        ctx.eps = eps
        return batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        weight, var = ctx.saved_tensors
        zero = torch.zeros_like(var)
        dx = batch_norm(grad, zero, var, weight, zero, training=False, eps=ctx.eps)
        return dx, None, None, None, None, None
