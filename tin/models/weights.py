"""Imports and exports weights of other projects, with a report on every tensor.

This module reads files of torchvision, TIN, X-Temporal, TSM, MMAction2 (its TIN, TSM and TSN) and
this project. It unpickles only tensors, numbers and text, and never executes anything of a file.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from configs.load import ConfigError
from configs.schema import ClipSettings, Config, Modality
from tin.models.imagenet import initial_weights
from tin.models.modality import from_rgb
from tin.models.network import TIN
from tin.models.tensor_files import (
    TensorFileError,
    first_not_finite,
    read_tensors,
    write_tensors,
)
from tin.models.tensor_names import our_name, our_value, to_reference

log = logging.getLogger(__name__)

FIRST_CONVS = {"backbone.conv1.weight", "backbone.features.0.0.weight"}

TensorStatus = Literal["loaded", "renamed", "new", "left out", "rejected"]
"""What an import did with a tensor: copied it under the same name or under another one, kept the
model's own values (new), did not use the file's tensor (left out), or found a different shape
(rejected)."""


@dataclass(frozen=True)
class TensorRow:
    """What an import did with one tensor."""

    status: TensorStatus
    ours: str
    """Name in the model; empty if the model has no such tensor."""
    theirs: str
    """Name in the file; empty if the file has no such tensor."""
    note: str
    """The shape, or the reason."""
    failed: bool = False
    """Whether the tensor should have been loaded but was not."""


@dataclass(frozen=True)
class ImportReport:
    """What an import did with every tensor of the file and of the model."""

    path: Path
    rows: tuple[TensorRow, ...]

    @property
    def failed(self) -> tuple[TensorRow, ...]:
        """The tensors that should have been loaded but were not."""
        return tuple(row for row in self.rows if row.failed)

    def lines(self) -> list[str]:
        """Return one line for each tensor: its status, our name, the file's name and a note."""
        width = max(len(row.status) for row in self.rows)
        return [
            f"{row.status:{width}}  {row.ours or '-'} <- {row.theirs or '-'}  ({row.note})"
            + ("  FAILED" if row.failed else "")
            for row in self.rows
        ]

    def __str__(self) -> str:
        counts = Counter(row.status for row in self.rows)
        return f"{self.path}: " + ", ".join(f"{counts[name]} {name}" for name in counts)


def initialize(model: TIN, config: Config) -> ImportReport | None:
    """Load the initial weights that `model.init` names; return None if that is ``none``.

    Raises:
        ConfigError: the file does not exist, or a tensor that should be loaded was not.
    """
    init = config.model.init
    path = initial_weights(config)
    if path is None:
        return None
    report = import_file(path, model, interpolate=config.model.init_interpolate)
    if report.failed:
        first = report.failed[0]
        raise ConfigError(
            f"model.init {init}: {len(report.failed)} tensors of {path} could not be loaded; the"
            f" first is {first.ours or first.theirs} ({first.note}). `tin weights import {path}`"
            " lists all of them."
        )
    log.info("%s", report)
    return report


def import_file(path: Path, model: TIN, interpolate: bool = False) -> ImportReport:
    """Load the weights of a file into `model` and report on every tensor.

    The classifier is loaded only if its shape fits. If the file and the model have different
    temporal modules, the other tensors are loaded and the model's temporal modules keep their
    initial values.

    Args:
        path: a checkpoint of any project that this module reads.
        model: is changed in place, even if some tensors fail.
        interpolate: convert offset nets for a different number of frames by linear interpolation.

    Raises:
        ConfigError: the file cannot be read, or does not contain a known network.
    """
    state = read_state(path)
    sources = {our_name(name): name for name in state}
    own = model.state_dict()
    # One row for each tensor of the model, then one for each that only the file has.
    rows = [
        _load(name, value, sources, state, interpolate, model.modality)
        if name in sources
        else _new(name, sources)
        for name, value in own.items()
    ]
    rows += [_left_out(name, sources[name], own) for name in sources if name not in own]
    return ImportReport(Path(path), tuple(rows))


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by their names in the file, on the CPU.

    Raises:
        ConfigError: the file cannot be read, contains objects other than tensors, numbers and
            text, or does not contain a known network.
    """
    try:
        content = read_tensors(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: this file does not exist") from None
    except TensorFileError as error:
        raise ConfigError(
            f"{path}: cannot be read as plain tensors ({error}). If the file contains other"
            " objects and you trust it, save its tensors alone to a new file; docs/weights.md"
            " shows how."
        ) from None
    # Projects nest the tensors under one of these keys. Our checkpoints have `model` and `ema`,
    # and the moving average is the one to use. X-Temporal has `model`.
    for key in ("state_dict", "ema", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    state = content if isinstance(content, Mapping) else {}
    state = {
        name: value
        for name, value in state.items()
        if isinstance(value, Tensor) and isinstance(name, str)
    }
    bad = first_not_finite(state)
    if bad:
        raise ConfigError(
            f"{path}: tensor {bad} has NaN or infinite values; the file is damaged, or its training"
            " diverged"
        )
    names = Counter(map(our_name, state))
    if not names.keys() & FIRST_CONVS:
        raise ConfigError(
            f"{path}: does not contain a residual network or a MobileNetV2 with the tensor names of"
            " torchvision, TIN, X-Temporal, TSM, MMAction2 or this project"
        )
    name, times = names.most_common(1)[0]
    if times > 1:
        raise ConfigError(f"{path}: {times} tensors of this file have the same meaning, {name}")
    return state


def read_clip(path: Path) -> dict[str, Any]:
    """Return the settings of section `clip` in a checkpoint that this project wrote; else nothing.

    The file must be one that `read_state` has read.
    """
    content = read_tensors(path)
    if not isinstance(content, Mapping):
        return {}
    config = content.get("config")
    clip = config.get("clip") if isinstance(config, Mapping) else content.get("clip")
    known = clip if isinstance(clip, Mapping) else {}
    return {key: value for key, value in known.items() if key in ClipSettings.model_fields}


def export_reference(
    model: TIN, arch: str, path: Path, clip: Mapping[str, Any] | None = None
) -> None:
    """Write a checkpoint that the original's test and fine-tuning commands read.

    `clip` has the settings of section `clip`, which the original ignores and `read_clip` returns.

    Raises:
        ValueError: the original does not have the model's temporal module.
        WriteError: the disk is full or not writable.
    """
    state = {f"module.{name}": value.cpu() for name, value in to_reference(model).items()}
    content = {"epoch": 0, "arch": arch, "state_dict": state, "best_prec1": 0.0}
    write_tensors(path, {**content, "clip": dict(clip)} if clip else content)


def _load(
    name: str,
    value: Tensor,
    sources: Mapping[str, str],
    state: Mapping[str, Tensor],
    fit: bool,
    modality: Modality,
) -> TensorRow:
    """Copy the file's tensor for `name` into `value` if the shapes agree.

    With `fit`, an offset net for another number of frames is interpolated first. A first
    convolution for RGB becomes one for another modality.
    """
    source = sources[name]
    if state[source].dim() not in (value.dim(), value.dim() + 1):
        note = f"{_shape(state[source])} in the file, {_shape(value)} in the model"
        return TensorRow("rejected", name, source, note, failed=True)
    found = our_value(name, state[source])
    fitted = _interpolated(name, found, value.shape) if fit else found
    if name in FIRST_CONVS and modality != "rgb" and found.shape[1] == 3:
        fitted = from_rgb(found, value.shape[1])
    if name.startswith("fc."):
        if "conv1.weight" in state or "features.0.0.weight" in state:
            # Only torchvision's names have no prefix.
            return TensorRow("left out", name, source, "the classifier of ImageNet")
        if found.shape != value.shape:
            classes = f"{found.shape[0]} classes in the file, {value.shape[0]} in the model"
            return TensorRow("left out", name, source, classes)
    if fitted.shape != value.shape:
        note = f"{_shape(found)} in the file, {_shape(value)} in the model"
        if _interpolated(name, found, value.shape).shape == value.shape:
            note += "; set model.init_interpolate=true to interpolate between frames"
        return TensorRow("rejected", name, source, note, failed=True)
    value.copy_(fitted)
    note = _shape(value) if fitted is found else f"{_shape(value)} from {_shape(found)}"
    return TensorRow("loaded" if name == source else "renamed", name, source, note)


def _new(name: str, sources: Mapping[str, str]) -> TensorRow:
    """Return the row of a model's tensor that the file does not have."""
    if name.startswith("fc.") or name.endswith("num_batches_tracked"):
        return TensorRow("new", name, "", "not in the file")
    if _temporal_part(name) and _temporal_part(name) not in map(_temporal_part, sources):
        return TensorRow("new", name, "", "the file does not have this temporal module")
    if ".non_local." in name and not any(".non_local." in source for source in sources):
        return TensorRow("new", name, "", "the file does not have non-local blocks")
    return TensorRow("new", name, "", "not in the file", failed=True)


def _left_out(name: str, source: str, own: Mapping[str, Tensor]) -> TensorRow:
    """Return the row of a file's tensor that the model does not have."""
    if _temporal_part(name) and _temporal_part(name) not in map(_temporal_part, own):
        return TensorRow("left out", "", source, "the model does not have this temporal module")
    if ".non_local." in name and not any(".non_local." in ours for ours in own):
        return TensorRow("left out", "", source, "the model does not have non-local blocks")
    return TensorRow("left out", "", source, "the model does not have this tensor", failed=True)


def _temporal_part(name: str) -> str:
    """Return a tensor's name inside its temporal module; empty for a tensor outside of one."""
    return name.partition(".temporal.")[2]


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "scalar"


def _interpolated(name: str, found: Tensor, shape: torch.Size) -> Tensor:
    """Return an offset net's tensor, interpolated linearly to the number of frames in `shape`.

    A weight that sums over frames is divided by the growth of their number, which keeps the sum.
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
