"""The offset net and the weight net of an interlace module as one operator on CUDA."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tin.op.interlace import LIBRARY

# The operators are declared at the end of this file. cuda/binding.cpp implements them for CUDA.


def interlace_nets(pooled: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Compute the offsets and weights of four groups, with one kernel for each direction.

    `OffsetNet` and `WeightNet` of `tin.models.temporal` define the results. Their weights stay in
    these modules, and devices other than CUDA run the modules themselves: on a CPU the operator
    would change the last bits, so that a run of an earlier version would not resume bit-equally.

    Args:
        pooled: ``(B*T, F)`` averages of the channels; float32 or float64.
        parameters: weight and bias of the offset net's conv, fc1 and fc2 and of the weight net's
            conv, in this order, of the type of `pooled` and on its GPU.

    Returns:
        The arguments of `tin.op.interlace.interlace`: offset ``(B, 4)``, whose last two columns are
        the negative of the first two, and weight ``(B, T, 4)``, whose last two are equal to them.
        Both can be differentiated once, with respect to all arguments.
    """
    contiguous = (parameter.contiguous() for parameter in parameters)
    offset, weight, _ = torch.ops.tin.interlace_nets(pooled.contiguous(), *contiguous)
    return offset, weight


_PARAMETERS = (
    "Tensor offset_conv, Tensor offset_conv_bias, Tensor fc1, Tensor fc1_bias, Tensor fc2,"
    " Tensor fc2_bias, Tensor weight_conv, Tensor weight_conv_bias"
)
_tags = (torch.Tag.needs_fixed_stride_order, torch.Tag.pt2_compliant_tag)
# The third result is the state that the backward needs.
LIBRARY.define(
    f"interlace_nets(Tensor pooled, {_PARAMETERS}) -> (Tensor, Tensor, Tensor)", tags=_tags
)
# The results are the gradients of the nine inputs of the forward.
LIBRARY.define(
    "interlace_nets_backward(Tensor grad_offset, Tensor grad_weight, Tensor pooled,"
    " Tensor offset_conv, Tensor fc1, Tensor fc2, Tensor weight_conv, Tensor state)"
    f" -> ({', '.join(['Tensor'] * 9)})",
    tags=_tags,
)


@torch.library.register_fake("tin::interlace_nets")
def _fake(
    pooled: Tensor, offset_conv: Tensor, offset_conv_bias: Tensor, fc1: Tensor, *others: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    T = fc1.shape[0]
    B = pooled.shape[0] // T
    state_size = 4 * T + 2  # as in cuda/nets.h
    return pooled.new_empty(B, 4), pooled.new_empty(B, T, 4), pooled.new_empty(B, state_size)


@torch.library.register_fake("tin::interlace_nets_backward")
def _fake_backward(
    grad_offset: Tensor,
    grad_weight: Tensor,
    pooled: Tensor,
    offset_conv: Tensor,
    fc1: Tensor,
    fc2: Tensor,
    weight_conv: Tensor,
    state: Tensor,
) -> tuple[Tensor, ...]:
    def with_bias(weight: Tensor) -> tuple[Tensor, Tensor]:
        return torch.empty_like(weight), weight.new_empty(weight.shape[0])

    layers = (with_bias(weight) for weight in (offset_conv, fc1, fc2, weight_conv))
    return torch.empty_like(pooled), *(tensor for layer in layers for tensor in layer)


# `ctx` is Any because torch adds attributes to it that its declared type lacks.
def _setup_context(
    ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Keep the inputs and the state that the backward needs."""
    pooled, offset_conv, _, fc1, _, fc2, _, weight_conv, _ = inputs
    state = output[2]
    ctx.mark_non_differentiable(state)
    # Otherwise torch would fill a tensor with zeros as the gradient of the state.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(pooled, offset_conv, fc1, fc2, weight_conv, state)


def _backward(
    ctx: Any, grad_offset: Tensor | None, grad_weight: Tensor | None, _: None
) -> tuple[Tensor, ...]:
    """Return the gradients of pooled and of all parameters, also those that are not needed."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "interlace_nets: its gradient is not differentiable; call backward without create_graph"
        )
    pooled, offset_conv, fc1, fc2, weight_conv, state = ctx.saved_tensors
    T = fc1.shape[0]
    B = pooled.shape[0] // T
    # An output that the loss does not depend on has no gradient.
    if grad_offset is None:
        grad_offset = pooled.new_zeros(B, 4)
    if grad_weight is None:
        grad_weight = pooled.new_zeros(B, T, 4)
    return torch.ops.tin.interlace_nets_backward(
        grad_offset.contiguous(),
        grad_weight.contiguous(),
        pooled,
        offset_conv,
        fc1,
        fc2,
        weight_conv,
        state,
    )


torch.library.register_autograd("tin::interlace_nets", _backward, setup_context=_setup_context)
