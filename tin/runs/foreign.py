"""Turns checkpoints of other projects into runs that can be tested and reported, and back."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from configs.load import ConfigError, dataset_path, dump, load
from configs.schema import Config
from preprocess.shards import read_info
from tin.models.network import TIN, build_model
from tin.models.resnet import BASIC, LAYERS
from tin.models.tensor_names import from_reference
from tin.models.weights import (
    FIRST_CONVS,
    ImportReport,
    export_reference,
    import_file,
    read_clip,
    read_state,
)
from tin.runs import checkpoint
from tin.runs.folder import Run
from tin.runs.restore import find_checkpoint, restore, trusted_config

SHIFT_NAME = re.compile(r"\.(conv1\.(conv\.)?|conv\.0\.)net\.weight$")
"""Matches a tensor name that only TSM and MMAction2's TSM have."""
POOLED_NAME = re.compile(r"(module\.)?base_model\.layer2\.net\.")
"""Matches a tensor name behind the temporal pool of TIN and TSM."""
TSM_SHIFT_DIV = 8
"""The value of TSM's published checkpoints; no tensor depends on it."""


def import_run(
    path: Path, run_dir: Path | None = None, settings: Sequence[str] = ()
) -> ImportReport:
    """Read a checkpoint of any project, report on every tensor, and make a run from it.

    Args:
        path: the checkpoint. The settings of the network are inferred from its tensors.
        run_dir: folder of the new run, which is made only if every tensor was loaded that should
            be. None makes no run and only reports.
        settings: ``section.key=value``, applied last. `data.dataset` gives names to the classes;
            without it they are numbered.

    Raises:
        ConfigError: the file cannot be read, the settings do not fit it, or the run exists.
    """
    if run_dir is not None and Run(run_dir).exists():
        raise ConfigError(f"{run_dir} already contains a run; name another folder")
    tensors = read_state(path)
    clip = [f"clip.{key}={json.dumps(value)}" for key, value in read_clip(path).items()]
    init = f"model.init={path.absolute()}"
    config = load(None, [*_implied(path, tensors), *clip, init, *settings])
    classes = _classes(path, config, tensors)
    model = build_model(config, len(classes))
    report = import_file(path, model, config.model.init_interpolate)
    if run_dir is not None and not report.failed:
        if any(row.ours == "fc.weight" and row.status == "left out" for row in report.rows):
            raise ConfigError(
                f"{path} has no trained classifier for these classes; use it as model.init and"
                " train one"
            )
        _write_run(Run(run_dir), config, classes, model)
    return report


def export_run(source: Path, out: Path) -> None:
    """Write the best weights of a run, or a checkpoint file, in the original's format.

    Args:
        source: a run's folder, or a checkpoint file.
        out: the file to write.

    Raises:
        CheckpointError: the run has no best checkpoint, or the checkpoint cannot be used.
        ValueError: the original does not have the model's temporal module.
        WriteError: the disk is full or not writable.
    """
    path = find_checkpoint(Run(source), "best") if source.is_dir() else source
    state = checkpoint.load(path)
    config = trusted_config(path, state)
    model = restore(state, config)
    export_reference(model, config.model.arch, out, config.clip.model_dump(mode="json"))


def settings_of(tensors: dict[str, Tensor]) -> list[str]:
    """Return the settings that the tensors of a checkpoint imply, as ``section.key=value``.

    Only offset nets imply the number of frames; without them, `clip.num_segments` is not set.

    Raises:
        ConfigError: no known network has such layers.
    """
    ours = from_reference(tensors)
    settings = [f"model.arch={_arch(ours)}", *_modality(ours), *_time_blocks(tensors, ours)]
    # Find the first block with an offset net, if there is one.
    offset_convs = [name for name in ours if name.endswith(".temporal.offset_net.conv.weight")]
    if offset_convs:
        block = offset_convs[0].partition(".temporal.")[0]
        # The block's convolution sees all channels, the offset net only the interlaced ones.
        first = f"{block}.conv1.weight"
        if first not in ours:
            first = f"{block}.conv.0.0.weight"  # of MobileNetV2
        shift_div = ours[first].shape[1] // ours[offset_convs[0]].shape[1]
        num_segments = len(ours[f"{block}.temporal.offset_net.fc1.bias"])
        settings += [
            "model.temporal=interlace",
            f"model.shift_div={shift_div}",
            f"clip.num_segments={num_segments}",
        ]
    elif any(SHIFT_NAME.search(name) for name in tensors):
        settings += ["model.temporal=shift", f"model.shift_div={TSM_SHIFT_DIV}"]
    else:
        settings += ["model.temporal=none"]
    return settings


def _implied(path: Path, tensors: dict[str, Tensor]) -> list[str]:
    """Return `settings_of` the tensors of a file; an error names the file."""
    try:
        return settings_of(tensors)
    except (KeyError, IndexError, ZeroDivisionError, RuntimeError):
        raise ConfigError(
            f"{path}: a tensor is missing or has another number of dimensions than in the networks"
            " that this project knows"
        ) from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _write_run(run: Run, config: Config, classes: list[str], model: TIN) -> None:
    """Write best.pt and config.yaml of a run that starts with an imported model.

    config.yaml comes last: it makes the folder a run, so an import that was killed can be repeated.
    """
    state = {
        "config": config.model_dump(mode="json"),
        "dataset_digest": "",
        "classes": classes,
        "epoch": 0,
        "global_step": 0,
        "model": model.state_dict(),
        "ema": None,
    }
    checkpoint.save(run, state, "best.pt")
    run.write("config.yaml", dump(config))


def _modality(ours: dict[str, Tensor]) -> list[str]:
    """Return the settings that the input channels of the first convolution imply.

    The originals have 15 channels for RGB difference and 10 for flow; otherwise they are RGB.
    """
    name = next(name for name in FIRST_CONVS if name in ours)
    channels = ours[name].shape[1]
    modality, frames = {15: ("diff", 6), 10: ("flow", 5)}.get(channels, ("rgb", channels // 3))
    named = [] if modality == "rgb" else [f"clip.modality={modality}"]
    return [*named, f"clip.frames_per_segment={frames}"]


def _time_blocks(tensors: dict[str, Tensor], ours: dict[str, Tensor]) -> list[str]:
    """Return the settings of non-local blocks and of the temporal pool.

    The tensors of a dot product are those of the embedded Gaussian, which TIN and TSM use.
    """
    settings = []
    if any(".non_local.theta." in name for name in ours):
        settings += ["model.non_local=embedded_gaussian"]
    elif any(".non_local." in name for name in ours):
        settings += ["model.non_local=gaussian"]
    if any(POOLED_NAME.match(name) for name in tensors):
        settings += ["model.temporal_pool=true"]
    return settings


def _arch(ours: dict[str, Tensor]) -> str:
    """Return the network that has as many blocks in each layer, and such blocks."""
    if any(name.startswith("backbone.features.") for name in ours):
        return "mobilenetv2"
    counts = tuple(
        len({name.split(".")[2] for name in ours if name.startswith(f"backbone.layer{layer}.")})
        for layer in range(1, 5)
    )
    has_bottlenecks = "backbone.layer1.0.conv3.weight" in ours
    for arch, expected in LAYERS.items():
        if counts == expected and has_bottlenecks == (arch not in BASIC):
            return arch
    raise ConfigError(
        f"the file has a network with {counts} blocks in its four layers, which is not one of"
        f" {', '.join(LAYERS)}"
    )


def _classes(path: Path, config: Config, tensors: dict[str, Tensor]) -> list[str]:
    """Return the names of the classifier's classes: those of the dataset, else their numbers."""
    bias = from_reference(tensors).get("fc.bias")
    if bias is None:
        raise ConfigError(f"{path}: has no classifier, so the model cannot be tested")
    if not config.data.dataset:
        return [str(number) for number in range(len(bias))]
    info = read_info(dataset_path(config.data.dataset))
    if len(info.classes) != len(bias):
        raise ConfigError(
            f"dataset {info.name} has {len(info.classes)} classes, but the classifier of {path}"
            f" has {len(bias)}"
        )
    return list(info.classes)
