"""The whole network: clips in, class logits out."""

import functools

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from configs.load import ConfigError
from configs.schema import Config, Modality
from configs.train_schema import NonLocalKind
from tin.models.causal import causal_module
from tin.models.dropout import KeyedDropout
from tin.models.mobilenet import MobileNetV2
from tin.models.modality import input_channels, input_transform
from tin.models.resnet import LAYERS, ResNet
from tin.models.temporal import TemporalInterlace, temporal_module
from tin.models.time_blocks import NonLocal


class TIN(nn.Module):
    """A convolutional network over frames with a temporal module in each residual block.

    The network classifies each frame and averages the logits of a clip's frames (Wang et al.,
    ECCV 2016, arXiv:1608.00859). Only the temporal modules, non-local blocks and the pooling over
    time pass information between frames.
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
        modality: Modality = "rgb",
        non_local: NonLocalKind = "none",
        temporal_pool: bool = False,
        causal: bool = False,
    ):
        """Build the network with random weights; the arguments are settings of `model` and `clip`.

        Raises:
            ConfigError: `temporal` names a module that does not exist, or `causal` does not fit.
            ValueError: `arch` is unknown, or the temporal module does not fit the channels, or
                `temporal_pool` does not fit the number of frames.
        """
        super().__init__()
        self.num_segments = num_segments
        if causal and (non_local != "none" or temporal_pool):
            raise ConfigError(
                "model.causal cannot be combined with model.non_local or model.temporal_pool, which"
                " look at later frames"
            )
        self.modality = modality
        self.input = input_transform(modality)
        channels = input_channels(modality, frames_per_segment)
        make = causal_module if causal else temporal_module
        module = functools.partial(make, temporal, shift_div=shift_div)
        self.backbone: ResNet | MobileNetV2
        if arch == "mobilenetv2":
            self.backbone = MobileNetV2(channels, module, num_segments)
        else:
            # TSM shifts every second block of a network whose layer 3 has 23 or more blocks, and
            # its checkpoints expect that.
            is_deep = arch in LAYERS and LAYERS[arch][2] >= 23
            every = 2 if temporal == "shift" and is_deep else 1
            self.backbone = ResNet(
                arch, channels, module, every, num_segments, non_local, temporal_pool
            )
        self.dropout = KeyedDropout(dropout)
        self.fc = nn.Linear(self.backbone.num_features, num_classes)
        nn.init.normal_(self.fc.weight, std=0.001)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(B, K)``, float32 or wider, of clips ``(B, T, L*channels, H, W)``."""
        B, T, C, H, W = x.shape
        if self.num_segments != T:
            raise ValueError(f"the model takes clips of {self.num_segments} frames, found {T}")
        logits = self.fc(self.dropout(self.backbone(self.input(x.flatten(0, 1)))))
        # Under bfloat16 autocast, the mean over frames is still computed in float32.
        wide = torch.promote_types(logits.dtype, torch.float32)
        return logits.unflatten(0, (B, -1)).mean(1, dtype=wide)


def build_model(config: Config, num_classes: int) -> TIN:
    """Return the network of a recipe with random weights, in training mode.

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
        config.clip.modality,
        config.model.non_local,
        config.model.temporal_pool,
        config.model.causal,
    )
    # Set which BatchNorms train before an optimizer is built: it leaves out what is frozen.
    train_mode(model, config.train.bn)
    return model


def train_mode(model: nn.Module, bn: str) -> None:
    """Set training mode, and train those BatchNorms that `train.bn` selects.

    A BatchNorm that does not train keeps its statistics, scale and shift.

    Args:
        model: the network itself, not its DDP or compiled wrapper.
        bn: `full` and `sync` train every BatchNorm, `partial` only the first one of the network and
            those of non-local blocks, and `frozen` none. The scale of a new non-local block is 0,
            so it would never act if it did not train.

    Raises:
        ValueError: `sync` on a CPU; torch has synchronized BatchNorm for GPUs only.
    """
    if bn == "sync" and next(model.parameters()).device.type == "cpu" and _distributed():
        raise ValueError("train.bn sync needs GPUs, but the model is on the CPU; set train.bn=full")
    model.train()
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    new = {module.norm for module in model.modules() if isinstance(module, NonLocal)}
    trained = {
        "full": set(norms),
        "sync": set(norms),
        "partial": {*norms[:1], *new},
        "frozen": set(),
    }[bn]
    for norm in norms:
        norm.train(norm in trained)
        norm.requires_grad_(norm in trained)


def record_offsets(model: nn.Module, record: bool) -> None:
    """Start or stop recording the offsets and weights of each block's temporal interlacing."""
    for module in model.modules():
        if isinstance(module, TemporalInterlace):
            module.record = record
            module.offset = None
            module.weight = None


def recorded_offsets(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Return what the last forward pass recorded for each block.

    The keys are blocks such as ``layer1.0``; a value is the offset ``(B, 2)`` in frames and the
    weight ``(B, T, 2)``.
    """
    recorded = {}
    for name, module in model.named_modules():
        if not isinstance(module, TemporalInterlace):
            continue
        if module.offset is not None and module.weight is not None:
            block = name.removesuffix(".temporal").removeprefix("backbone.")
            recorded[block] = (module.offset, module.weight)
    return recorded


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
