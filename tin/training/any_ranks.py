"""What makes training the same at any number of ranks: BatchNorm groups and keyed dropout masks.

With `train.bn_clips`, a rank splits the clips of a pass, in order, into groups, and each BatchNorm
that trains normalizes each group by its own statistics. The groups of a global batch are then the
same at every number of ranks and of passes.
"""

import torch
from torch import Tensor, nn

from configs.schema import Config
from tin.models.grouped_norm import GroupedBatchNorm
from tin.models.network import TIN
from tin.ranks.distributed import World
from tin.training.device_random import DROPOUT, uniforms


def update_statistics(model: nn.Module, config: Config, world: World) -> None:
    """Update the running statistics of grouped BatchNorms; all ranks call it once a step.

    All ranks get the same values: the mean over the groups of all ranks and passes of the step.
    """
    modules = model.modules()
    norms = [norm for norm in modules if isinstance(norm, GroupedBatchNorm) and norm.training]
    if not norms:
        return
    # One all-reduce for the statistics of all norms.
    sums = [total for norm in norms for total in (norm.mean_sum, norm.variance_sum)]
    flat = torch.cat(sums)
    world.all_reduce(flat)
    flat /= config.train.batch // config.train.bn_clips
    means = flat.split([len(total) for total in sums])
    for index, norm in enumerate(norms):
        norm.update(means[2 * index], means[2 * index + 1])


def dropout_mask(model: TIN, config: Config, world: World, num_clips: int, number: int) -> Tensor:
    """Return which features of each clip of a pass dropout keeps, bool ``(B, T*F)``.

    The mask of a clip depends on the seed, the step, and the place of the clip in the global batch.

    Args:
        model: the network, for T and F.
        config: `model.dropout`, `train.seed` and `train.accumulate`.
        world: rank and number of ranks.
        num_clips: B, the clips of the pass on this rank.
        number: number of the pass since the start of the run.
    """
    step, index = divmod(number, config.train.accumulate)
    first = num_clips * (world.world_size * index + world.rank)
    places = torch.arange(first, first + num_clips, device=world.device)
    num_features = model.num_segments * model.backbone.num_features
    draws = uniforms(config.train.seed, DROPOUT, step, places, num_features)
    return draws >= config.model.dropout
