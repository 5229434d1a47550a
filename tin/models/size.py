"""The size of a model: its number of parameters and of operations."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from configs.schema import Config
from pipeline.batches import batch_channels


def count(model: nn.Module, config: Config) -> tuple[int, float]:
    """Return the number of parameters, and the multiply-adds of one view in units of 10^9.

    Only the multiply-adds of convolutions and linear layers are counted; papers call them FLOPs.
    To count them, one view of ``config.test_crop`` pixels runs through the model on its device,
    and the model is left in evaluation mode.
    """
    clip = config.clip
    side = config.test_crop
    parameter = next(model.parameters())
    x = parameter.new_zeros(1, clip.num_segments, batch_channels(clip), side, side)
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    params = sum(parameter.numel() for parameter in model.parameters())
    # torch counts a multiply-add as two operations
    return params, counter.get_total_flops() / 2e9
