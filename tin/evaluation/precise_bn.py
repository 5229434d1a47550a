"""BatchNorm statistics that are computed again from training clips, before a test."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from configs.load import ConfigError
from pipeline.loader import ClipLoader
from tin.models.clip_input import normalized
from tin.ranks.distributed import World


def recompute_statistics(
    model: nn.Module, loader: ClipLoader, num_batches: int, world: World, precision: str
) -> None:
    """Set the mean and variance of each BatchNorm to those of training batches.

    During training they are moving averages over weights that still change. Here they are the mean
    over ``num_batches`` batches on each rank, with the weights of the test.

    Args:
        model: is left in evaluation mode, with the same statistics on all ranks.
        loader: a loader of training clips.
        num_batches: number of forward passes on each rank.
        world: the ranks; all of them must call.
        precision: float32 or bfloat16.

    Raises:
        ConfigError: an epoch has fewer batches.

    Source: Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021, arXiv:2105.07576, section 3.
    """
    if num_batches > loader.num_steps:
        raise ConfigError(
            f"test.precise_bn {num_batches} is more than the {loader.num_steps} batches of an epoch"
            f" of split {loader.split.name}; set at most {loader.num_steps}"
        )
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    model.eval()  # only the BatchNorms are in training mode: there is no dropout
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch then keeps the mean over all batches
        norm.train()
    batches = loader.epoch(0)
    bfloat16 = precision == "bfloat16"
    with torch.no_grad(), torch.autocast(world.device.type, torch.bfloat16, enabled=bfloat16):
        for _ in range(num_batches):
            model(normalized(next(batches).x))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        for statistics in (norm.running_mean, norm.running_var):
            assert statistics is not None  # the networks here track statistics
            total = world.sum(statistics.double().tolist())
            statistics.copy_(torch.tensor(total, dtype=torch.float64) / world.world_size)
    model.eval()
