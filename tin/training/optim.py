"""The optimizer: parameter groups, the learning rate of each step, and the loss."""

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase

from configs.schema import Config
from tin.models.network import TIN, stages_behind
from tin.models.temporal import TemporalInterlace

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
FLOW_FIRST_LR = 5.0  # of TSN, TSM and TIN: ImageNet's filters know nothing about flow
REFERENCE_OFFSET_LAYERS = 32  # the original counts two for each of ResNet-50's 16 blocks


STATE_TENSORS = ("momentum_buffer", "exp_avg", "exp_avg_sq")
"""Entries of the state of SGD and of AdamW that have the shape of their parameter."""


class Group(NamedTuple):
    """Parameters that share their factors to the learning rate and weight decay of the recipe."""

    name: str
    lr_factor: float
    decay_factor: float


def build_optimizer(model: TIN, config: Config) -> torch.optim.Optimizer:
    """Return the optimizer of the trainable parameters of `model`, in the groups of `optim.groups`.

    Biases learn twice as fast and do not decay. Scales and shifts of normalization layers do not
    decay. The classifier learns `optim.classifier_lr` times as fast, and for flow, the first
    convolution learns five times as fast. With `optim.layer_decay`, earlier stages learn slower
    (Howard and Ruder, ACL 2018, arXiv:1801.06146, section 3.2). AdamW is that of Loshchilov and
    Hutter, ICLR 2019, arXiv:1711.05101.

    The update is fused on a GPU and where `train.nan` is `skip`: a fused `step` does nothing if the
    attribute `found_inf` of the optimizer is a tensor of 1, and the host does not wait for the
    device. On a CPU the fused update rounds some elements differently, so other runs there stay
    equal, bit for bit, to those of earlier versions.
    """
    groups: dict[Group, list[nn.Parameter]] = {}
    for group, parameter in _grouped(model, config):
        groups.setdefault(group, []).append(parameter)
    is_fused = config.train.nan == "skip" or next(model.parameters()).is_cuda
    settings = config.optim
    described = [
        {
            "params": parameters,
            "name": group.name,
            "lr": config.lr * group.lr_factor,
            "weight_decay": settings.weight_decay * group.decay_factor,
            "lr_factor": group.lr_factor,
            "decay_factor": group.decay_factor,
        }
        for group, parameters in groups.items()
    ]
    if settings.optimizer == "adamw":
        betas = (settings.momentum, settings.beta2)
        adamw = torch.optim.AdamW(described, lr=config.lr, betas=betas, fused=is_fused or None)
        # torch would make the same zeros in the first step, partly from values of the host.
        for parameter in itertools.chain.from_iterable(groups.values()):
            adamw.state[parameter] = {
                "step": torch.zeros((), device=parameter.device if is_fused else "cpu"),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        return adamw
    optimizer = torch.optim.SGD(
        described,
        lr=config.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        fused=is_fused or None,
    )
    # A momentum of zero is the same start as none. But if the first step is skipped, torch would
    # leave a momentum that it creates in that step without values.
    if settings.momentum:
        for parameters in groups.values():
            for parameter in parameters:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load the state of a checkpoint, but keep whether the update is fused on this machine.

    Raises:
        ValueError: a tensor of the state does not have the shape of its parameter.
    """
    # torch reads the entry `fused` to decide where AdamW's number of steps is stored.
    fused = {"fused": optimizer.defaults["fused"]}
    groups = [group | fused for group in saved["param_groups"]]
    optimizer.load_state_dict({**saved, "param_groups": groups})
    for parameter, values in optimizer.state.items():
        for name in STATE_TENSORS:
            tensor = values.get(name)
            if tensor is not None and tensor.shape != parameter.shape:
                raise ValueError(
                    f"found a tensor of shape {tuple(tensor.shape)} for a parameter of shape"
                    f" {tuple(parameter.shape)}"
                )


def learning_rate(config: Config, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of an optimizer step, counted from 0 over the whole run.

    It rises from `optim.warmup_start` times lr to lr over `optim.warmup_epochs`. Then it falls as
    `optim.schedule` says: along half a cosine that ends at zero (Loshchilov and Hutter, ICLR 2017,
    arXiv:1608.03983), by `optim.gamma` at each milestone, or as in X-Temporal.
    """
    settings = config.optim
    warmup = config.warmup_epochs
    epoch = step / steps_per_epoch
    if epoch < warmup:
        start = settings.warmup_start
        if settings.warmup == "exponential":
            return config.lr * start ** (1 - epoch / warmup)
        # In this order of operations, runs of earlier versions resume with the same bits.
        return config.lr * (start + (1 - start) * epoch / warmup)
    if settings.schedule == "step":
        passed = sum(step >= milestone * steps_per_epoch for milestone in settings.milestones)
        return config.lr * settings.gamma**passed
    if settings.schedule == "xtemporal":
        return config.lr * _recursive_cosine(epoch, warmup, settings.cosine_epochs)
    progress = (epoch - warmup) / (config.train.epochs - warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


def _recursive_cosine(epoch: float, start: float, zero: float) -> float:
    """Return the factor on lr of torch's CosineAnnealingLR with T_max `zero`, run from `start`.

    That scheduler multiplies the last learning rate by the ratio of two values of the cosine. It
    runs from epoch 0, while a warm-up sets the learning rate until `start`. Therefore the curve is
    the cosine scaled to 1 at `start`. At `zero` the scheduler starts again from a learning rate of
    0, and from there the curve is the cosine itself.
    """
    height = 1 + math.cos(math.pi * epoch / zero)
    return height / (1 + math.cos(math.pi * start / zero)) if epoch <= zero else height / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of each group to `lr` times the factor of the group."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


def loss(logits: Tensor, targets: Tensor, config: Config) -> Tensor:
    """Return the mean loss of a batch, a scalar.

    Args:
        logits: ``(B, K)``.
        targets: classes ``(B,)`` int64, where -1 is ignored; or ``(B, K)`` float: shares of the
            classes for nll, 0 or 1 (or a value between, if clips are mixed) for bce.
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


def weighted_loss(logits: Tensor, targets: Tensor, config: Config, class_weights: Tensor) -> Tensor:
    """Return the mean cross-entropy of a batch, in which the class of a clip gives it a factor.

    The sum is divided by the number of clips with a label, not by their factors, so that the
    gradient does not depend on how clips are divided over ranks and passes.

    Args:
        logits: ``(B, K)``.
        targets: as in `loss` for nll.
        config: `train.label_smoothing`.
        class_weights: ``(K,)`` factors of the classes.
    """
    smoothing = config.train.label_smoothing
    each = F.cross_entropy(
        logits, targets, ignore_index=-1, label_smoothing=smoothing, reduction="none"
    )
    if targets.dim() == 2:  # mixed clips have shares of the classes
        return (each * (targets @ class_weights)).mean()
    factors = class_weights[targets.clamp_min(0)]
    return (each * factors).sum() / (targets >= 0).sum().clamp_min(1)


def _grouped(model: TIN, config: Config) -> Iterator[tuple[Group, nn.Parameter]]:
    """Yield each trainable parameter with its group."""
    if config.optim.groups == "single":
        everything = Group("all", 1.0, 1.0)
        trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
        yield from ((everything, parameter) for parameter in trained)
        return
    classifier = _classifier(model, config.optim.groups)
    first_conv = model.backbone.first_conv if model.modality == "flow" else None
    for path, module in model.named_modules():
        decay = config.optim.layer_decay ** stages_behind(path)
        suffix = f"@{stages_behind(path)}" if config.optim.layer_decay < 1 else ""
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if isinstance(module, NORMS):
                yield Group(f"norm{suffix}", decay, 0.0), parameter
                continue
            if module is first_conv:  # it has no bias
                yield Group(f"first_conv{suffix}", FLOW_FIRST_LR * decay, 1.0), parameter
                continue
            factor = (config.optim.classifier_lr if module in classifier else 1.0) * decay
            prefix = "classifier_" if module in classifier else ""
            if name == "bias":
                yield Group(f"{prefix}bias{suffix}", 2 * factor, 0.0), parameter
            else:
                yield Group(f"{prefix}weight{suffix}", factor, 1.0), parameter


def _classifier(model: TIN, groups: str) -> set[nn.Module]:
    """Return the layers that learn as a classifier: by identity, or as the original counts them."""
    interlaces = any(isinstance(module, TemporalInterlace) for module in model.modules())
    if groups == "module" or not interlaces:
        return {model.fc}
    # The original takes every linear layer after the first 32 for the classifier, which is right
    # for ResNet-50 alone.
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return set(linear[REFERENCE_OFFSET_LAYERS:])
