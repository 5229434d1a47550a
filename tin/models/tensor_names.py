"""How other projects name the tensors of a network, and how these names map to ours."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from tin.models.mobilenet import MobileNetV2
from tin.models.network import TIN
from tin.models.temporal import TemporalInterlace, TemporalShift

# All replacements are applied to a name, in this order. The result is our name.
RENAMES = [
    (re.compile(theirs), ours)
    for theirs, ours in [
        (r"^module\.", ""),  # DataParallel's prefix, in TIN, TSM and some X-Temporal files
        (r"^(new_fc|base_model\.fc|cls_head\.fc_cls)\.", "fc."),
        (r"^classifier\.1\.", "fc."),  # torchvision's MobileNetV2
        (r"^(base_model|backbone)\.", ""),
        (r"^layer2\.net\.", "layer2."),  # behind a temporal pool of TIN and TSM
        (r"^(layer\d\.\d+)\.block\.", r"\1."),  # before a non-local block of TIN and TSM
        (r"^(layer\d\.\d+)\.nl\.(theta|phi|g)(\.0)?\.", r"\1.non_local.\2."),
        (r"^(layer\d\.\d+)\.nl\.W\.0\.", r"\1.non_local.out."),
        (r"^(layer\d\.\d+)\.nl\.W\.1\.", r"\1.non_local.norm."),
        (r"\.conv1\.net1\.biasnet\.net\.conv\.", ".temporal.offset_net.conv."),  # TIN, X-Temporal
        (r"\.conv1\.net1\.biasnet\.net\.fc\.", ".temporal.offset_net.fc1."),
        (r"\.conv1\.net1\.biasnet\.net\.lastlayer\.", ".temporal.offset_net.fc2."),
        (r"\.conv1\.net1\.weightnet\.net\.lastlayer\.", ".temporal.weight_net.conv."),
        (r"\.conv1\.conv\.net1\.(offset|weight)_net\.", r".temporal.\1_net."),  # MMAction2
        (r"\.conv1(\.conv)?\.net2?\.", ".conv1."),  # the convolution after a temporal module
        (r"(^|\.)conv(\d)\.conv\.", r"\1conv\2."),
        (r"(^|\.)conv(\d)\.bn\.", r"\1bn\2."),
        (r"\.downsample\.conv\.", ".downsample.0."),
        (r"\.downsample\.bn\.", ".downsample.1."),
        (r"^(?!fc\.)", "backbone."),
    ]
]
# In the original, a block's temporal module is a part of its conv1. These are our names of the
# module's layers and the original's names.
REFERENCE_NAMES = {
    "temporal.offset_net.conv": "conv1.net1.biasnet.net.conv",
    "temporal.offset_net.fc1": "conv1.net1.biasnet.net.fc",
    "temporal.offset_net.fc2": "conv1.net1.biasnet.net.lastlayer",
    "temporal.weight_net.conv": "conv1.net1.weightnet.net.lastlayer",
}
REFERENCE_CONV1: dict[type, str] = {TemporalInterlace: "conv1.net2", TemporalShift: "conv1.net"}


# The original's names of the layers of a non-local block.
REFERENCE_NON_LOCAL = {
    "theta": "nl.theta",
    "phi": "nl.phi.0",
    "g": "nl.g.0",
    "out": "nl.W.0",
    "norm": "nl.W.1",
}
# TSM counts the layers of a block of MobileNetV2 in one list; torchvision groups them. The first
# block has no widening convolution.
TSM_MOBILENET_FIRST = {"0": "0.0", "1": "0.1", "3": "1", "4": "2"}
TSM_MOBILENET = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"}
TSM_MOBILENET_NAME = re.compile(
    r"(module\.)?base_model\.features\.(\d+)\.conv\.(\d)\.(net\.)?(\w+)"
)


def our_name(theirs: str) -> str:
    """Return our name of a tensor that this or another project saved."""
    if theirs.startswith("backbone.") and (".temporal." in theirs or ".features." in theirs):
        return theirs  # our own name; it may belong to a user's temporal module
    found = TSM_MOBILENET_NAME.fullmatch(theirs)
    if found:
        block, layer, last = found[2], found[3], found[5]
        names = TSM_MOBILENET_FIRST if block == "1" else TSM_MOBILENET
        return f"backbone.features.{block}.conv.{names.get(layer, layer)}.{last}"
    for pattern, ours in RENAMES:
        theirs = pattern.sub(ours, theirs)
    return theirs


def our_value(name: str, value: Tensor) -> Tensor:
    """Return the tensor of our name `name` with our shape.

    The originals write the 1x1 convolutions of non-local blocks as 1x1x1 convolutions.
    """
    is_pointwise = ".non_local." in name and value.shape[2:] == (1, 1, 1)
    return value.flatten(3) if is_pointwise else value


def from_reference(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the original's (or another project's) state by our names."""
    return {our_name(name): our_value(our_name(name), value) for name, value in state.items()}


def to_reference(model: TIN) -> dict[str, Tensor]:
    """Return a model's tensors by the names of the original, or by TSM's names for `shift`.

    Raises:
        ValueError: the original does not have the model's temporal module.
    """
    return {
        reference_name(model, name): value[..., None]
        if ".non_local." in name and value.dim() == 4
        else value
        for name, value in model.state_dict().items()
    }


def reference_name(model: TIN, name: str) -> str:
    """Return the original's name of a tensor of `model`.

    Raises:
        ValueError: the original does not have the model's temporal module.
    """
    if name.startswith("fc."):
        # The original names its classifier by whether a dropout layer precedes it.
        return ("new_" if model.dropout.p else "base_model.") + name
    if ".temporal." in name and not any(f".{inner}." in name for inner in REFERENCE_NAMES):
        raise ValueError(
            f"{name}: the original does not have this temporal module; only models with"
            " interlace, shift or none can be exported"
        )
    if isinstance(model.backbone, MobileNetV2):
        return _reference_mobilenet_name(model.backbone, name)
    # Split the name into the block ("layer1.0." or ""), the layer inside it, and the tensor.
    name = name.removeprefix("backbone.")
    found = re.match(r"layer\d\.\d+\.", name)
    block = found[0] if found else ""
    inner, _, last = name.removeprefix(block).rpartition(".")
    # The original wraps layer 2 behind a temporal pool, and a block before a non-local block.
    place = block
    if block.startswith("layer2.") and not isinstance(model.backbone.temporal_pool, nn.Identity):
        place = block.replace("layer2.", "layer2.net.")
    if inner.startswith("non_local."):
        return f"base_model.{place}{REFERENCE_NON_LOCAL[inner.partition('.')[2]]}.{last}"
    if block and not isinstance(model.backbone.get_submodule(block + "non_local"), nn.Identity):
        place += "block."
    if inner.startswith("temporal."):
        inner = REFERENCE_NAMES[inner]
    elif block and inner == "conv1":
        temporal = model.backbone.get_submodule(block + "temporal")
        inner = REFERENCE_CONV1.get(type(temporal), inner)
    return f"base_model.{place}{inner}.{last}"


def _reference_mobilenet_name(backbone: MobileNetV2, name: str) -> str:
    """Return TSM's name of a tensor of MobileNetV2."""
    found = re.fullmatch(r"backbone\.features\.(\d+)\.conv\.([\d.]+)\.(\w+)", name)
    if not found:
        if ".temporal." in name:
            raise ValueError(
                f"{name}: the original has no MobileNetV2 with interlacing; only models with shift"
                " or none can be exported"
            )
        return f"base_model.{name.removeprefix('backbone.')}"
    block, layer, last = found.groups()
    names = TSM_MOBILENET_FIRST if block == "1" else TSM_MOBILENET
    layer = {ours: theirs for theirs, ours in names.items()}[layer]
    temporal = backbone.get_submodule(f"features.{block}.temporal")
    wrapper = ".net" if layer == "0" and isinstance(temporal, TemporalShift) else ""
    return f"base_model.features.{block}.conv.{layer}{wrapper}.{last}"
