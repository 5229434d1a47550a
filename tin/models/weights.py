"""Weights of other projects: their tensor names, and an account of every tensor.

Read are torchvision, TIN, X-Temporal, TSM and MMAction2 (TIN, TSM, TSN) files, and our own.
Nothing of a file but tensors, numbers and text is unpickled.
"""

import logging
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from configs.load import ConfigError
from configs.schema import Config
from tin.models.imagenet import imagenet_path
from tin.models.network import TIN
from tin.models.temporal import TemporalInterlace, TemporalShift

log = logging.getLogger(__name__)

# Applied one after the other; each is a name of one project, or of several.
RENAMES = [
    (re.compile(theirs), ours)
    for theirs, ours in [
        (r"^module\.", ""),  # DataParallel wraps TIN, TSM and some X-Temporal files
        (r"^(new_fc|base_model\.fc|cls_head\.fc_cls)\.", "fc."),
        (r"^(base_model|backbone)\.", ""),
        (r"\.conv1\.net1\.biasnet\.net\.conv\.", ".temporal.offset_net.conv."),  # TIN, X-Temporal
        (r"\.conv1\.net1\.biasnet\.net\.fc\.", ".temporal.offset_net.fc1."),
        (r"\.conv1\.net1\.biasnet\.net\.lastlayer\.", ".temporal.offset_net.fc2."),
        (r"\.conv1\.net1\.weightnet\.net\.lastlayer\.", ".temporal.weight_net.conv."),
        (r"\.conv1\.conv\.net1\.(offset|weight)_net\.", r".temporal.\1_net."),  # MMAction2
        (r"\.conv1(\.conv)?\.net2?\.", ".conv1."),  # the convolution behind a temporal module
        (r"(^|\.)conv(\d)\.conv\.", r"\1conv\2."),
        (r"(^|\.)conv(\d)\.bn\.", r"\1bn\2."),
        (r"\.downsample\.conv\.", ".downsample.0."),
        (r"\.downsample\.bn\.", ".downsample.1."),
        (r"^(?!fc\.)", "backbone."),
    ]
]
# the original's names of what hangs on a block's conv1
REFERENCE_NAMES = {
    "temporal.offset_net.conv": "conv1.net1.biasnet.net.conv",
    "temporal.offset_net.fc1": "conv1.net1.biasnet.net.fc",
    "temporal.offset_net.fc2": "conv1.net1.biasnet.net.lastlayer",
    "temporal.weight_net.conv": "conv1.net1.weightnet.net.lastlayer",
}
REFERENCE_CONV1 = {TemporalInterlace: "conv1.net2", TemporalShift: "conv1.net"}


@dataclass(frozen=True)
class Row:
    """What became of one tensor."""

    status: str
    """loaded, renamed, new (starts fresh), left out (of the file), refused (for its shape)."""
    ours: str
    """Name in the model; empty where the model has no such tensor."""
    theirs: str
    """Name in the file; empty where the file has no such tensor."""
    note: str
    """Shape, or why."""
    failed: bool = False
    """Whether it should have loaded."""


@dataclass(frozen=True)
class Report:
    """What became of every tensor of a file and of a model."""

    path: Path
    rows: tuple[Row, ...]

    @property
    def failed(self) -> tuple[Row, ...]:
        """The tensors that should have loaded and did not."""
        return tuple(row for row in self.rows if row.failed)

    def lines(self) -> list[str]:
        """Return a line for each tensor: what became of it, its names here and there, and why."""
        width = max(len(row.status) for row in self.rows)
        return [
            f"{row.status:{width}}  {row.ours or '-'} <- {row.theirs or '-'}  ({row.note})"
            + ("  FAILED" if row.failed else "")
            for row in self.rows
        ]

    def __str__(self) -> str:
        counts = Counter(row.status for row in self.rows)
        return f"{self.path}: " + ", ".join(f"{counts[name]} {name}" for name in counts)


def initialize(model: TIN, config: Config) -> Report | None:
    """Load the starting weights that `model.init` names; return None where it is ``none``.

    Raises:
        ConfigError: there is no such file, or a tensor that should load did not.
    """
    init = config.model.init
    if init == "none":
        return None
    path = imagenet_path(config.model.arch) if init == "imagenet" else Path(init).expanduser()
    if not path.exists():
        raise ConfigError(
            f"model.init {init}: no such file; name a checkpoint of yours or of a zoo, or set"
            " model.init=imagenet or none"
        )
    report = import_file(path, model, interpolate=config.model.init_interpolate)
    if report.failed:
        first = report.failed[0]
        raise ConfigError(
            f"model.init {init}: {len(report.failed)} tensors of {path} did not load, the first"
            f" {first.ours or first.theirs} ({first.note}); `tin weights import {path}` lists all"
        )
    log.info("%s", report)
    return report


def import_file(path: Path, model: TIN, interpolate: bool = False) -> Report:
    """Load the weights of a file into `model` and account for every tensor.

    The classifier loads where its shape fits. Where file and model have different temporal
    modules, the rest loads and the model's temporal modules start fresh.

    Args:
        path: a checkpoint of any project that this module reads.
        model: changed in place, also where some tensors fail.
        interpolate: fit the offset nets of another number of frames by linear interpolation.

    Raises:
        ConfigError: the file cannot be read or holds no network.
    """
    state = read_state(path)
    sources = {our_name(name): name for name in state}
    own = model.state_dict()
    rows = [
        _load(name, value, sources, state, interpolate) if name in sources else _new(name, sources)
        for name, value in own.items()
    ]
    rows += [_left_out(name, sources[name], own) for name in sources if name not in own]
    return Report(Path(path), tuple(rows))


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by the names in the file, on the CPU.

    Raises:
        ConfigError: it cannot be read, holds other objects than tensors, or no network.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except Exception as error:  # torch.load raises many kinds for a damaged file
        reason = f"{type(error).__name__}: {error}".splitlines()[0]  # some errors say nothing more
        raise ConfigError(
            f"{path}: cannot be read as plain tensors ({reason}); a file that holds other objects"
            " must be saved again, tensors only, where it is trusted"
        ) from None
    for key in ("state_dict", "ema", "model"):  # model: X-Temporal; and ours, perhaps with ema
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    state = content if isinstance(content, Mapping) else {}
    state = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    names = Counter(map(our_name, state))
    if "backbone.conv1.weight" not in names:
        raise ConfigError(f"{path}: holds no residual network of a project that is known here")
    name, times = names.most_common(1)[0]
    if times > 1:
        raise ConfigError(f"{path}: {times} of its tensors are {name}")
    return state


def our_name(theirs: str) -> str:
    """Return our name of a tensor that another project, or we, saved."""
    if theirs.startswith("backbone.") and ".temporal." in theirs:
        return theirs  # ours, and perhaps of a user's own temporal module
    for pattern, ours in RENAMES:
        theirs = pattern.sub(ours, theirs)
    return theirs


def from_reference(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a state of the original (or another project) by our names."""
    return {our_name(name): value for name, value in state.items()}


def to_reference(model: TIN) -> dict[str, Tensor]:
    """Return the tensors of a model by the names of the original, or of TSM for shift.

    Raises:
        ValueError: the original has no such temporal module.
    """
    return {reference_name(model, name): value for name, value in model.state_dict().items()}


def reference_name(model: TIN, name: str) -> str:
    """Return the original's name of a tensor of `model`."""
    if name.startswith("fc."):
        return ("new_" if model.dropout.p else "base_model.") + name
    name = name.removeprefix("backbone.")
    block, inside = re.fullmatch(r"((?:layer\d\.\d+\.)?)(.+)", name).groups()
    inner, _, last = inside.rpartition(".")
    if inner.startswith("temporal."):
        if inner not in REFERENCE_NAMES:
            raise ValueError(f"{name}: the original has no such temporal module; it has interlace")
        inner = REFERENCE_NAMES[inner]
    elif block and inner == "conv1":
        temporal = model.backbone.get_submodule(block + "temporal")
        inner = REFERENCE_CONV1.get(type(temporal), inner)
    return f"base_model.{block}{inner}.{last}"


def export_reference(model: TIN, arch: str, path: Path) -> None:
    """Write a checkpoint that the original's test and fine-tuning commands read."""
    state = {f"module.{name}": value.cpu() for name, value in to_reference(model).items()}
    torch.save({"epoch": 0, "arch": arch, "state_dict": state, "best_prec1": 0.0}, path)


def _load(
    name: str, value: Tensor, sources: Mapping[str, str], state: Mapping[str, Tensor], fit: bool
) -> Row:
    """Copy a tensor of the file into `value`, if it fits."""
    source = sources[name]
    found = state[source]
    fitted = _interpolated(name, found, value.shape) if fit else found
    if name.startswith("fc."):
        if "conv1.weight" in state:  # torchvision
            return Row("left out", name, source, "the classifier of ImageNet")
        if found.shape != value.shape:
            classes = f"{found.shape[0]} classes in the file, {value.shape[0]} in the model"
            return Row("left out", name, source, classes)
    if fitted.shape != value.shape:
        note = f"{_shape(found)} in the file, {_shape(value)} in the model"
        if _interpolated(name, found, value.shape).shape == value.shape:
            note += "; set model.init_interpolate=true to interpolate between frames"
        return Row("refused", name, source, note, failed=True)
    value.copy_(fitted)
    note = _shape(value) if fitted is found else f"{_shape(value)} from {_shape(found)}"
    return Row("loaded" if name == source else "renamed", name, source, note)


def _new(name: str, sources: Mapping[str, str]) -> Row:
    if name.startswith("fc.") or name.endswith("num_batches_tracked"):
        return Row("new", name, "", "not in the file")
    if _temporal_part(name) and _temporal_part(name) not in map(_temporal_part, sources):
        return Row("new", name, "", "the file has no such temporal module")
    return Row("new", name, "", "not in the file", failed=True)


def _left_out(name: str, source: str, own: Mapping[str, Tensor]) -> Row:
    if _temporal_part(name) and _temporal_part(name) not in map(_temporal_part, own):
        return Row("left out", "", source, "the model has no such temporal module")
    return Row("left out", "", source, "the model has no such tensor", failed=True)


def _temporal_part(name: str) -> str:
    return name.partition(".temporal.")[2]


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "scalar"


def _interpolated(name: str, found: Tensor, shape: torch.Size) -> Tensor:
    """Return a tensor of an offset net for another number of frames, linear between frames.

    Weights that sum over frames shrink as frames grow more, so that the sums stay.
    """
    kind = name.partition(".temporal.offset_net.")[2]
    if kind not in ("fc1.weight", "fc1.bias", "fc2.weight") or found.shape == shape:
        return found
    size = shape[0] if kind == "fc1.bias" else shape[1]
    if kind == "fc1.bias":
        return F.interpolate(found[None, None], size, mode="linear")[0, 0]
    scale = found.shape[1] / size
    if kind == "fc2.weight":
        return scale * F.interpolate(found[None], size, mode="linear")[0]
    return scale * F.interpolate(found[None, None], (size, size), mode="bilinear")[0, 0]
