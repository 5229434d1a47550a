"""What the folder and the result.json of a test say about it."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from configs.schema import Config
from pipeline.loader import ClipLoader
from tin.evaluation.scores import Scores
from tin.models.size import count

CROP = re.compile(r"[0-9]{1,6}")
"""The side of a crop, in pixels."""
OPTIONS = ("sampling", "average", "checkpoint", "last_checkpoints", "precise_bn")
"""Settings of a test that change its result, beside split, views and crop."""


def folder_name(config: Config, own: Config) -> str:
    """Return the name of a test: what is measured, and options that differ from the run's own."""
    name = f"{config.data.test_split}-{_views(config)}-{config.test_crop}"
    for option in OPTIONS:
        value = getattr(config.test, option)
        if value != getattr(own.test, option):
            name += f"+{option}={value}"
    return name


class TestName(NamedTuple):
    """What the name of a test's folder says."""

    split: str
    views: str
    """Clips and crops, such as 2x3."""
    crop: int
    options: list[str]
    """Settings of section `test`, such as average=logits, that differ from the run's own."""


def parsed_name(name: str) -> TestName | None:
    """Return what the name of a test's folder says; None for a folder of another name."""
    start, *options = name.split("+")
    parts = start.rsplit("-", 2)  # the name of a split may have dashes
    if len(parts) != 3 or not CROP.fullmatch(parts[2]):
        return None
    return TestName(parts[0], parts[1], int(parts[2]), options)


def _views(config: Config) -> str:
    return f"{config.test.clips}x{config.test.crops}"


def describe_data(config: Config, loader: ClipLoader, scores: Scores) -> dict[str, Any]:
    """Return the part of result.json that says what was measured."""
    return {
        "split": config.data.test_split,
        "views": _views(config),
        "crop": config.test_crop,
        "dataset": loader.info.name,
        "dataset_digest": loader.info.digest,
        "num_videos": loader.num_videos,
        "missing": sorted(set(loader.split.keys()) - set(scores.keys)),
    }


def describe_model(
    config: Config, paths: Sequence[Path], state: dict[str, Any], model: nn.Module
) -> dict[str, Any]:
    """Return the part of result.json that says which model was measured."""
    params, gflops = count(model, config)
    return {
        "checkpoint": paths[0].name,
        "averaged_checkpoints": [path.name for path in paths] if len(paths) > 1 else [],
        "precise_bn": config.test.precise_bn,
        "epoch": state["epoch"],
        "step": state["global_step"],
        "ema": state["ema"] is not None,
        "params": params,
        "gflops": gflops,
    }
