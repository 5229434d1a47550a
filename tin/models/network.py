"""The whole network: clips in, class logits out."""

import functools

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from configs.schema import Config
from tin.models.resnet import ResNet
from tin.models.temporal import TemporalInterlace, temporal_module


class TIN(nn.Module):
    """A residual network over frames with a temporal module in each block.

    Frames are classified one by one and their logits averaged (Wang et al., ECCV 2016,
    arXiv:1608.00859); what passes between frames passes through the temporal modules.
    """

    def __init__(
        self,
        num_classes: int,
        arch: str = "resnet50",
        temporal: str = "interlace",
        num_segments: int = 8,
        shift_div: int = 4,
        dropout: float = 0.8,
        frames_per_segment: int = 1,
    ):
        """Build the network with fresh weights; the arguments are settings of `model` and `clip`.

        Raises:
            ValueError: the temporal module does not fit the channels, or there is none such.
        """
        super().__init__()
        self.num_segments = num_segments
        module = functools.partial(
            temporal_module, temporal, num_segments=num_segments, shift_div=shift_div
        )
        # TSM shifts every second block of so deep a network, and its checkpoints expect that
        every = 2 if temporal == "shift" and arch == "resnet101" else 1
        self.backbone = ResNet(arch, 3 * frames_per_segment, module, every)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(self.backbone.num_features, num_classes)
        nn.init.normal_(self.fc.weight, std=0.001)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(B, K)``, float32 or wider, of clips ``(B, T, L*3, H, W)``."""
        B, T, C, H, W = x.shape
        if self.num_segments != T:
            raise ValueError(f"the model takes {self.num_segments} frames a clip, found {T}")
        logits = self.fc(self.dropout(self.backbone(x.flatten(0, 1))))
        wide = torch.promote_types(logits.dtype, torch.float32)
        return logits.unflatten(0, (B, T)).mean(1, dtype=wide)


def build_model(config: Config, num_classes: int) -> TIN:
    """Return the network of a recipe with fresh weights, in training mode.

    Raises:
        ConfigError: `model.temporal` cannot be imported.
        ValueError: the temporal module does not fit the channels.
    """
    model = TIN(
        num_classes,
        config.model.arch,
        config.model.temporal,
        config.clip.num_segments,
        config.model.shift_div,
        config.model.dropout,
        config.clip.frames_per_segment,
    )
    train_mode(model, config.train.bn)  # the optimizer's groups leave out what is frozen
    return model


def train_mode(model: nn.Module, bn: str) -> None:
    """Set training mode, with BatchNorm as `train.bn` says.

    Args:
        model: the network, not its DDP or compiled wrapper.
        bn: full and sync train all BatchNorm, partial only the network's first, frozen none. A
            BatchNorm that does not train keeps its statistics, scale and shift.

    Raises:
        ValueError: sync on a CPU, where torch has no synchronized BatchNorm.
    """
    if bn == "sync" and next(model.parameters()).device.type == "cpu" and _distributed():
        raise ValueError("train.bn sync needs GPUs, the model is on the CPU; set train.bn=full")
    model.train()
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    trained = {"full": len(norms), "sync": len(norms), "partial": 1, "frozen": 0}[bn]
    for index, norm in enumerate(norms):
        norm.train(index < trained)
        norm.requires_grad_(index < trained)


def record_offsets(model: nn.Module, record: bool) -> None:
    """Make the temporal interlacing of each block keep its offsets and weights, or stop it."""
    for module in model.modules():
        if isinstance(module, TemporalInterlace):
            module.record = record
            module.offset = module.weight = None


def recorded_offsets(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Return ``{block: (offset (B, 2) in frames, weight (B, T, 2))}`` of the last forward."""
    return {
        name.removesuffix(".temporal").removeprefix("backbone."): (module.offset, module.weight)
        for name, module in model.named_modules()
        if isinstance(module, TemporalInterlace) and module.offset is not None
    }


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
