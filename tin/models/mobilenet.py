"""MobileNetV2 with torchvision's tensor names and temporal modules."""

from collections.abc import Callable

from torch import Tensor, nn

from tin.models.norm import BatchNorm

# Expansion, output channels, number of blocks and stride of the first one: table 2 of the paper.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Convolutions 1x1 (wider), 3x3 of each channel, and 1x1 (narrow), with a shortcut if it fits.

    As in TSM, only a block with a shortcut has a temporal module, before its first convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int):
        super().__init__()
        width = in_channels * expansion
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.temporal: nn.Module = nn.Identity()
        widening = [_convolution(in_channels, width, 1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *widening,
            _convolution(width, width, 3, stride, groups=width),
            nn.Conv2d(width, out_channels, 1, bias=False),
            BatchNorm(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.temporal(x))
        return x + y if self.has_shortcut else y


class MobileNetV2(nn.Module):
    """MobileNetV2 without its classifier: ``(N, in_channels, H, W) -> (N, num_features)``.

    Source: Sandler et al., CVPR 2018, arXiv:1801.04381, table 2.
    """

    def __init__(
        self,
        in_channels: int = 3,
        temporal: Callable[[int, int], nn.Module] | None = None,
        num_segments: int = 8,
    ):
        """Build the network with random weights.

        Args:
            in_channels: channels of the input.
            temporal: takes the input channels of a block and the frames of a clip, and returns the
                block's temporal module; None builds a network without temporal modules.
            num_segments: T, the frames of a clip.
        """
        super().__init__()
        features: list[nn.Module] = [_convolution(in_channels, 32, 3, stride=2)]
        channels = 32
        for expansion, width, num_blocks, first_stride in STAGES:
            for index in range(num_blocks):
                stride = first_stride if index == 0 else 1
                block = InvertedResidual(channels, width, stride, expansion)
                if temporal is not None and block.has_shortcut:
                    block.temporal = temporal(channels, num_segments)
                features.append(block)
                channels = width
        self.num_features = 1280
        features.append(_convolution(channels, self.num_features, 1))
        self.features = nn.Sequential(*features)
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d) and ".temporal" not in name:
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    @property
    def first_conv(self) -> nn.Conv2d:
        """The convolution that sees the frames."""
        return self.get_submodule("features.0.0")  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).mean((2, 3))


def _convolution(
    in_channels: int, out_channels: int, size: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Return a convolution with BatchNorm and ReLU6."""
    padding = size // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, size, stride, padding, groups=groups, bias=False),
        BatchNorm(out_channels),
        nn.ReLU6(inplace=True),
    )
