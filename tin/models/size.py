"""How large a model is: parameters and operations."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from configs.schema import Config


def count(model: nn.Module, config: Config) -> tuple[int, float]:
    """Return the parameters and the 10^9 multiply-adds of one view of ``config.test_crop`` pixels.

    Multiply-adds of convolutions and linear layers are counted, which papers call FLOPs. One view
    goes through the model, on its device and in evaluation mode.
    """
    clip, side = config.clip, config.test_crop
    parameter = next(model.parameters())
    x = parameter.new_zeros(1, clip.num_segments, 3 * clip.frames_per_segment, side, side)
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    params = sum(parameter.numel() for parameter in model.parameters())
    return params, counter.get_total_flops() / 2e9
