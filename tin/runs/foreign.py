"""A checkpoint of another project as a run of ours, to be tested, predicted with and reported."""

import re
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from configs.load import ConfigError, dataset_path, dump, load
from configs.schema import Config
from preprocess.shards import read_info
from tin.models.network import build_model
from tin.models.resnet import LAYERS
from tin.models.weights import Report, export_reference, from_reference, import_file, read_state
from tin.runs import checkpoint
from tin.runs.folder import Run
from tin.runs.restore import config_of, find_checkpoint, restore

SHIFTED = re.compile(r"\.conv1\.(conv\.)?net\.weight$")  # of TSM and of MMAction2's TSM
TSM_DIV = 8  # which no tensor tells


def import_run(path: Path, run: Path | None = None, settings: Sequence[str] = ()) -> Report:
    """Read a checkpoint of any project, account for every tensor, and make a run of it.

    Args:
        path: the checkpoint; what its tensors tell of the network becomes the run's settings.
        run: folder of the run; it is made only if every tensor that should load did. None: the
            account alone.
        settings: ``section.key=value`` that come last. `data.dataset` gives the classes their
            names; without it they are numbered.

    Raises:
        ConfigError: the file cannot be read, the settings do not fit it, or there is such a run.
    """
    if run is not None and Run(run).exists():
        raise ConfigError(f"{run} is a run already; name another folder")
    state = read_state(path)
    config = load(None, [*settings_of(state), f"model.init={path.absolute()}", *settings])
    classes = _classes(path, config, state)
    model = build_model(config, len(classes))
    report = import_file(path, model, config.model.init_interpolate)
    if run is not None and not report.failed:
        if any(row.ours == "fc.weight" and row.status == "left out" for row in report.rows):
            raise ConfigError(f"{path} has no classifier of its own: train one with model.init")
        folder = Run(run)
        folder.write("config.yaml", dump(config))
        words = {
            "config": config.model_dump(mode="json"),
            "dataset_digest": "",
            "classes": classes,
            "epoch": 0,
            "global_step": 0,
            "model": model.state_dict(),
            "ema": None,
        }
        checkpoint.save(folder, words, "best.pt")
    return report


def export_run(run: Path, out: Path) -> None:
    """Write the best weights of a run, or a checkpoint file, in the original's format.

    Raises:
        CheckpointError: there is no checkpoint, or it cannot be used.
        ValueError: the original has no such temporal module.
    """
    path = find_checkpoint(Run(run), "best") if run.is_dir() else run
    state = checkpoint.load(path)
    config = config_of(state)
    export_reference(restore(state, config), config.model.arch, out)


def settings_of(state: dict[str, Tensor]) -> list[str]:
    """Return what the tensors of a checkpoint tell of its network, as ``section.key=value``.

    The number of frames is told by offset nets only.

    Raises:
        ConfigError: no network that is known here has such layers.
    """
    own = from_reference(state)
    settings = [
        f"model.arch={_arch(own)}",
        f"clip.frames_per_segment={own['backbone.conv1.weight'].shape[1] // 3}",
    ]
    block = "backbone.layer1.0"
    offsets = own.get(f"{block}.temporal.offset_net.conv.weight")
    if offsets is not None:
        div = own[f"{block}.conv1.weight"].shape[1] // offsets.shape[1]
        num_segments = len(own[f"{block}.temporal.offset_net.fc1.bias"])
        temporal = ["interlace", f"model.shift_div={div}", f"clip.num_segments={num_segments}"]
    elif any(map(SHIFTED.search, state)):
        temporal = ["shift", f"model.shift_div={TSM_DIV}"]
    else:
        temporal = ["none"]
    return [*settings, f"model.temporal={temporal[0]}", *temporal[1:]]


def _arch(own: dict[str, Tensor]) -> str:
    layers = tuple(
        len({name.split(".")[2] for name in own if name.startswith(f"backbone.layer{layer}.")})
        for layer in range(1, 5)
    )
    deep = "backbone.layer1.0.conv3.weight" in own
    for arch, counts in LAYERS.items():
        if counts == layers and deep == (arch in ("resnet50", "resnet101")):
            return arch
    raise ConfigError(f"a network of {layers} blocks is none of {', '.join(LAYERS)}")


def _classes(path: Path, config: Config, state: dict[str, Tensor]) -> list[str]:
    bias = from_reference(state).get("fc.bias")
    if bias is None:
        raise ConfigError(f"{path}: holds no classifier, so that there is nothing to test")
    if not config.data.dataset:
        return [str(number) for number in range(len(bias))]
    info = read_info(dataset_path(config.data.dataset))
    if len(info.classes) != len(bias):
        raise ConfigError(
            f"{info.name} has {len(info.classes)} classes, the classifier of {path} {len(bias)}"
        )
    return list(info.classes)
