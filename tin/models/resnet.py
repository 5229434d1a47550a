"""Residual networks with torchvision's tensor names and a temporal module in each block.

A block may be followed by a non-local block, and the number of frames may be halved before layer 2.
"""

from collections.abc import Callable

from torch import Tensor, nn

from configs.train_schema import NonLocalKind
from tin.models.norm import BatchNorm
from tin.models.time_blocks import NonLocal, TemporalPool

LAYERS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}
BASIC = ("resnet18", "resnet34")  # networks of basic blocks
# The blocks of layers 2 and 3 that TIN and TSM follow by a non-local block.
NON_LOCAL = {2: (0, 2), 3: (0, 2, 4)}


class BasicBlock(nn.Module):
    """A temporal module and two 3x3 convolutions, with a shortcut around all three."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, temporal: nn.Module):
        super().__init__()
        self.temporal = temporal
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = BatchNorm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = BatchNorm(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, width, stride)
        self.non_local: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(self.temporal(x))))
        return self.non_local(self.relu(self.bn2(self.conv2(y)) + self.downsample(x)))


class Bottleneck(nn.Module):
    """A temporal module and 1x1, 3x3 and 1x1 convolutions, with a shortcut around all four.

    The 3x3 convolution has the stride, as in torchvision.
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, temporal: nn.Module):
        super().__init__()
        self.temporal = temporal
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = BatchNorm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = BatchNorm(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = BatchNorm(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, width * self.expansion, stride)
        self.non_local: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(self.temporal(x))))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.non_local(self.relu(self.bn3(self.conv3(y)) + self.downsample(x)))


class ResNet(nn.Module):
    """A residual network without its classifier: ``(N, in_channels, H, W) -> (N, num_features)``.

    Source: He et al., CVPR 2016, arXiv:1512.03385, table 1.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self,
        arch: str,
        in_channels: int = 3,
        temporal: Callable[[int, int], nn.Module] | None = None,
        temporal_every: int = 1,
        num_segments: int = 8,
        non_local: NonLocalKind = "none",
        temporal_pool: bool = False,
    ):
        """Build the network with random weights.

        Args:
            arch: resnet18, resnet34, resnet50, resnet101 or resnet152.
            in_channels: channels of the input.
            temporal: takes the input channels of a block and the frames of a clip, and returns the
                block's temporal module; None builds a network without temporal modules.
            temporal_every: n puts a temporal module into every n-th block of a layer, starting
                with its first block.
            num_segments: T, the frames of a clip.
            non_local: similarity of the non-local blocks; ``none`` builds none.
            temporal_pool: halve the number of frames before layer 2.

        Raises:
            ValueError: `arch` is unknown, or an odd number of frames is to be halved.
        """
        super().__init__()
        if arch not in LAYERS:
            raise ValueError(f"unknown network {arch}; choose one of {', '.join(LAYERS)}")
        block = BasicBlock if arch in BASIC else Bottleneck
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = BatchNorm(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.temporal_pool = TemporalPool(num_segments) if temporal_pool else nn.Identity()
        channels = 64
        for layer, num_blocks in enumerate(LAYERS[arch], start=1):
            width = 64 * 2 ** (layer - 1)
            T = num_segments // 2 if temporal_pool and layer > 1 else num_segments
            blocks = []
            for index in range(num_blocks):
                # The first block of layers 2 to 4 halves height and width.
                stride = 2 if layer > 1 and index == 0 else 1
                if temporal is not None and index % temporal_every == 0:
                    module = temporal(channels, T)
                else:
                    module = nn.Identity()
                blocks.append(block(channels, width, stride, module))
                channels = width * block.expansion
                if non_local != "none" and index in NON_LOCAL.get(layer, ()):
                    blocks[-1].non_local = NonLocal(channels, T, non_local)
            self.add_module(f"layer{layer}", nn.Sequential(*blocks))
        self.num_features = channels
        _initialize(self)

    @property
    def first_conv(self) -> nn.Conv2d:
        """The convolution that sees the frames."""
        return self.conv1

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.temporal_pool(self.layer1(x))
        return self.layer4(self.layer3(self.layer2(x))).mean((2, 3))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), BatchNorm(out_channels)
    )


def _initialize(network: ResNet) -> None:
    """Draw the convolutions' weights as He et al., ICCV 2015, arXiv:1502.01852.

    The temporal modules and the non-local blocks keep the weights that they start with.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and ".temporal" not in name and ".non_local" not in name:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
