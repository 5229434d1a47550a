"""The optimizer: parameter groups, the learning rate of each step, and the loss."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase

from configs.schema import Config
from tin.models.network import TIN
from tin.models.temporal import TemporalInterlace

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
REFERENCE_OFFSET_LAYERS = 32  # the original counts two of each of ResNet-50's 16 blocks


def build_optimizer(model: TIN, config: Config) -> torch.optim.SGD:
    """Return SGD over the parameters of `model` that train, in the groups of `optim.groups`.

    Each group has a name, and an lr_factor and decay_factor to the learning rate and weight decay
    of the recipe: biases learn twice as fast without decay, scales and shifts of normalization do
    not decay, the classifier learns `optim.classifier_lr` times as fast.
    """
    groups: dict[str, dict] = {}
    for name, lr_factor, decay_factor, parameter in _grouped(model, config):
        new = {
            "params": [],
            "name": name,
            "lr": config.lr * lr_factor,
            "weight_decay": config.optim.weight_decay * decay_factor,
            "lr_factor": lr_factor,
            "decay_factor": decay_factor,
        }
        groups.setdefault(name, new)["params"].append(parameter)
    return torch.optim.SGD(
        list(groups.values()),
        lr=config.lr,
        momentum=config.optim.momentum,
        nesterov=config.optim.nesterov,
    )


def learning_rate(config: Config, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of an optimizer step, counted from 0 over the whole run.

    It rises from lr/10 to lr over `optim.warmup_epochs`, then falls as `optim.schedule` says: along
    half a cosine that ends at zero (Loshchilov and Hutter, ICLR 2017, arXiv:1608.03983), or by
    `optim.gamma` at each milestone.
    """
    settings, epoch = config.optim, step / steps_per_epoch
    if epoch < settings.warmup_epochs:
        return config.lr * (0.1 + 0.9 * epoch / settings.warmup_epochs)
    if settings.schedule == "step":
        passed = sum(step >= milestone * steps_per_epoch for milestone in settings.milestones)
        return config.lr * settings.gamma**passed
    progress = (epoch - settings.warmup_epochs) / (config.train.epochs - settings.warmup_epochs)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of each group to `lr` times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


def loss(logits: Tensor, targets: Tensor, config: Config) -> Tensor:
    """Return the mean loss of a batch, a scalar.

    Args:
        logits: ``(B, K)``.
        targets: classes ``(B,)`` int64, where -1 counts for nothing, or ``(B, K)`` float: shares
            of the classes for nll, one or zero (or between, where clips are mixed) for bce.
        config: `train.loss` and `train.label_smoothing` (Szegedy et al., CVPR 2016,
            arXiv:1512.00567, section 7).
    """
    if config.train.loss == "nll":
        return F.cross_entropy(
            logits, targets, ignore_index=-1, label_smoothing=config.train.label_smoothing
        )
    if targets.dim() == 1:
        classes = torch.arange(logits.shape[1], device=targets.device)
        targets = targets[:, None] == classes
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))


def _grouped(model: TIN, config: Config) -> Iterator[tuple[str, float, float, nn.Parameter]]:
    """Yield each parameter that trains with its group's name, lr and decay factors."""
    if config.optim.groups == "single":
        trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
        yield from (("all", 1.0, 1.0, parameter) for parameter in trained)
        return
    classifier = _classifier(model, config.optim.groups)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if isinstance(module, NORMS):
                yield "norm", 1.0, 0.0, parameter
                continue
            factor = config.optim.classifier_lr if module in classifier else 1.0
            group = "classifier_" if module in classifier else ""
            if name == "bias":
                yield f"{group}bias", 2 * factor, 0.0, parameter
            else:
                yield f"{group}weight", factor, 1.0, parameter


def _classifier(model: TIN, groups: str) -> set[nn.Module]:
    """Return the layers that learn as a classifier: by identity, or as the original counts."""
    interlaces = any(isinstance(module, TemporalInterlace) for module in model.modules())
    if groups == "module" or not interlaces:
        return {model.fc}
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return set(linear[REFERENCE_OFFSET_LAYERS:])
