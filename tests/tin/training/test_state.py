"""Resuming fails for another dataset, other settings, or another network."""

import pytest
import torch
from short_runs import NUM_VIDEOS, ONE_EPOCH, mark_as_incomplete, train_run
from synthetic_dataset import write_dataset

from configs.load import ConfigError
from tin.runs import checkpoint
from tin.runs.checkpoint import CheckpointError
from tin.runs.folder import Run


def test_another_dataset_is_rejected(dataset, tmp_path):
    train_run(tmp_path / "run", f"data.dataset={dataset}", *ONE_EPOCH)
    mark_as_incomplete(tmp_path / "run")
    # Put another dataset where the run expects its own.
    other = write_dataset(tmp_path / "other", [8] * NUM_VIDEOS, sizes=((48, 40),))
    dataset.rename(tmp_path / "aside")
    other.rename(dataset)
    told = "run was trained on a dataset with digest .*, but dataset tiny now has digest"
    try:
        with pytest.raises(CheckpointError, match=told):
            train_run(tmp_path / "run")
    finally:
        dataset.rename(tmp_path / "other")
        (tmp_path / "aside").rename(dataset)


def test_other_settings_than_those_of_the_checkpoint_are_rejected(dataset, tmp_path):
    train_run(tmp_path, f"data.dataset={dataset}", *ONE_EPOCH)
    mark_as_incomplete(tmp_path)
    config = tmp_path / "config.yaml"
    edited = config.read_text().replace("arch: resnet18", "arch: resnet34")
    config.write_text(edited.replace("  batch: 4\n", "  batch: 8\n", 1))
    told = (
        "config.yaml differ from those of the newest checkpoint: model.arch: resnet18 -> resnet34;"
        " train.batch: 4 -> 8; restore"
    )
    with pytest.raises(ConfigError, match=told):
        train_run(tmp_path)


def test_a_checkpoint_of_another_network_is_rejected_in_one_line(dataset, tmp_path):
    train_run(tmp_path, f"data.dataset={dataset}", *ONE_EPOCH)
    mark_as_incomplete(tmp_path)
    # Rename weights, as if the code of a user's own module had changed.
    path = checkpoint.newest(Run(tmp_path))
    saved = checkpoint.load(path)
    saved["model"] = {name.replace("layer1", "layer9"): w for name, w in saved["model"].items()}
    torch.save(saved, path)
    with pytest.raises(CheckpointError, match=r"do not fit resnet18 .*layer1") as caught:
        train_run(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
