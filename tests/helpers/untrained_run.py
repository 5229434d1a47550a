"""Runs of networks with random weights whose scores differ from video to video."""

from pathlib import Path

import torch

from configs.load import dump, load
from preprocess.shards import read_info
from tin.models.network import build_model
from tin.runs import checkpoint
from tin.runs.folder import Run

SETTINGS = (
    "model.arch=resnet18", "clip.num_segments=4", "clip.crop=32", "clip.resize=40", "test.batch=4",
    "run.threads=1", "run.device=cpu", "run.readers=2",
)  # fmt: skip


def write_run(folder: Path, dataset: Path, *settings: str) -> Path:
    """Write a run with a checkpoint best.pt; return its folder."""
    config = load(None, [f"data.dataset={dataset}", *SETTINGS, *settings])
    classes = read_info(dataset).classes
    torch.manual_seed(0)
    model = build_model(config, len(classes))
    torch.nn.init.normal_(model.fc.weight, std=0.2)
    for name, parameter in model.named_parameters():
        if "offset" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    state = {
        "config": config.model_dump(mode="json"),
        "classes": list(classes),
        "epoch": 0,
        "global_step": 0,
        "model": model.state_dict(),
        "ema": None,
    }
    checkpoint.save(Run(folder), state, "best.pt")
    (folder / "config.yaml").write_text(dump(config))
    return folder
