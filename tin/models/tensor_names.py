"""How other projects name the tensors of a network, and how these names map to ours."""

import re
from collections.abc import Mapping

from torch import Tensor

from tin.models.network import TIN
from tin.models.temporal import TemporalInterlace, TemporalShift

# All replacements are applied to a name, in this order. The result is our name.
RENAMES = [
    (re.compile(theirs), ours)
    for theirs, ours in [
        (r"^module\.", ""),  # DataParallel's prefix, in TIN, TSM and some X-Temporal files
        (r"^(new_fc|base_model\.fc|cls_head\.fc_cls)\.", "fc."),
        (r"^(base_model|backbone)\.", ""),
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


def our_name(theirs: str) -> str:
    """Return our name of a tensor that this or another project saved."""
    if theirs.startswith("backbone.") and ".temporal." in theirs:
        return theirs  # our own name; it may belong to a user's temporal module
    for pattern, ours in RENAMES:
        theirs = pattern.sub(ours, theirs)
    return theirs


def from_reference(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the original's (or another project's) state by our names."""
    return {our_name(name): value for name, value in state.items()}


def to_reference(model: TIN) -> dict[str, Tensor]:
    """Return a model's tensors by the names of the original, or by TSM's names for `shift`.

    Raises:
        ValueError: the original does not have the model's temporal module.
    """
    return {reference_name(model, name): value for name, value in model.state_dict().items()}


def reference_name(model: TIN, name: str) -> str:
    """Return the original's name of a tensor of `model`.

    Raises:
        ValueError: the original does not have the model's temporal module.
    """
    if name.startswith("fc."):
        # The original names its classifier by whether a dropout layer precedes it.
        return ("new_" if model.dropout.p else "base_model.") + name
    # Split the name into the block ("layer1.0." or ""), the layer inside it, and the tensor.
    name = name.removeprefix("backbone.")
    found = re.match(r"layer\d\.\d+\.", name)
    block = found[0] if found else ""
    inner, _, last = name.removeprefix(block).rpartition(".")
    if inner.startswith("temporal."):
        if inner not in REFERENCE_NAMES:
            raise ValueError(
                f"{name}: the original does not have this temporal module; only models with"
                " interlace, shift or none can be exported"
            )
        inner = REFERENCE_NAMES[inner]
    elif block and inner == "conv1":
        temporal = model.backbone.get_submodule(block + "temporal")
        inner = REFERENCE_CONV1.get(type(temporal), inner)
    return f"base_model.{block}{inner}.{last}"
