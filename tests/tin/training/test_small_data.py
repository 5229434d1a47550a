"""Settings for small datasets: freezing, AdamW, class weights, early stopping, and resuming."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from rank_processes import finish, start_ranks
from short_runs import SETTINGS, assert_same_bits, mark_as_incomplete, train_run, weights

from configs.load import load
from pipeline.loader import ClipLoader
from tin.models.network import build_model, train_mode
from tin.runs.folder import Run
from tin.training.early_stop import EarlyStop
from tin.training.loaders import class_weights
from tin.training.optim import build_optimizer, restore_optimizer, weighted_loss

SMALL = ["model.arch=resnet18", "model.temporal=none", "clip.num_segments=2"]
EVERYTHING = [
    "optim.optimizer=adamw", "optim.lr=0.001", "optim.layer_decay=0.7", "train.freeze=stem",
    "data.balanced=true", "train.patience=5", "train.evaluate_every=1",
]  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("stem", {"conv1", "bn1"}),
        ("layer2", {"conv1", "bn1", "layer1", "layer2"}),
        ("layer4", {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}),
    ],
)
def test_a_frozen_stage_trains_neither_weights_nor_statistics(stage, expected):
    config = load(None, [*SMALL, "train.bn=full", f"train.freeze={stage}"])
    model = build_model(config, 3)
    train_mode(model, "full", stage)
    frozen = {name.split(".")[1] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == expected
    assert {name for name, child in model.backbone.named_children() if not child.training} >= frozen
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = build_optimizer(model, config)
    model(torch.randn(2, 2, 3, 32, 32)).sum().backward()
    optimizer.step()
    for name, value in model.state_dict().items():
        is_frozen = name.startswith("backbone.") and name.split(".")[1] in expected
        assert torch.equal(value, before[name]) == is_frozen, name


def test_layer_decay_gives_each_stage_its_power():
    config = load(None, [*SMALL, "optim.layer_decay=0.5", "optim.classifier_lr=4"])
    model = build_model(config, 3)
    optimizer = build_optimizer(model, config)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {
        names[parameter]: group["lr_factor"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert found["fc.weight"] == 4 and found["fc.bias"] == 8
    expected = {"layer4.0": 1 / 2, "layer3.1": 1 / 4, "layer2.0": 1 / 8, "layer1.0": 1 / 16}
    for stage, factor in {**expected, "conv1": 1 / 32}.items():
        name = f"backbone.{stage}.conv1.weight" if "layer" in stage else "backbone.conv1.weight"
        assert found[name] == factor, name


def test_adamw_takes_the_step_of_its_paper():
    """With a gradient of 2 at the first step: m / (1 - beta1) = 2, v / (1 - beta2) = 4."""
    config = load(None, [*SMALL, "optim.optimizer=adamw", "optim.weight_decay=0.1"])
    model = build_model(config, 3)
    optimizer = build_optimizer(model, config)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.param_groups[0]["betas"] == (config.optim.momentum, config.optim.beta2)
    before = model.fc.weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    optimizer.step()
    lr = config.lr * config.optim.classifier_lr
    expected = before * (1 - lr * 0.1) - lr * 2 / (math.sqrt(4) + 1e-8)
    torch.testing.assert_close(model.fc.weight.detach(), expected)


def test_adamw_restores_its_state_where_the_update_is_fused():
    config = load(None, [*SMALL, "optim.optimizer=adamw"])
    model = build_model(config, 3)
    optimizer = build_optimizer(model, config)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    fused = build_optimizer(model, load(None, [*SMALL, "optim.optimizer=adamw", "train.nan=skip"]))
    restore_optimizer(fused, optimizer.state_dict())
    assert all(group["fused"] for group in fused.param_groups)
    before = model.fc.weight.detach().clone()
    fused.found_inf = torch.ones(())  # a skipped step
    fused.step()
    assert torch.equal(before, model.fc.weight)
    assert fused.state[model.fc.weight]["step"] == 1


def test_the_factors_of_classes_are_inverse_to_their_videos(dataset):
    loader = ClipLoader(dataset, "train", load(None, SETTINGS), training=True)
    loader.close()
    # 24 videos, of which 16, 8 and none are of the three classes.
    loader.split = replace(loader.split, labels=np.array([0, 0, 1] * 8))
    device = torch.device("cpu")
    inverse = class_weights(load(None, ["train.class_weights=inverse"]), loader, device)
    assert inverse.tolist() == pytest.approx([24 / (2 * 16), 24 / (2 * 8), 0])
    root = class_weights(load(None, ["train.class_weights=sqrt"]), loader, device)
    assert root[1] / root[0] == pytest.approx(math.sqrt(2))
    assert 16 * root[0] + 8 * root[1] == pytest.approx(24)
    assert class_weights(load(None), loader, device) is None


def test_the_weighted_loss_equals_values_by_hand():
    config = load(None)
    factors = torch.tensor([1.0, 3.0])
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0], [5.0, 5.0]])
    expected = (1 * -math.log(3 / 4) + 3 * -math.log(1 / 2)) / 2  # the last clip has no label
    found = weighted_loss(logits, torch.tensor([0, 1, -1]), config, factors)
    assert found.item() == pytest.approx(expected)
    mixed = torch.tensor([[0.5, 0.5]])  # half of each class: a factor of 2
    found = weighted_loss(logits[:1], mixed, config, factors)
    assert found.item() == pytest.approx(2 * -(math.log(3 / 4) + math.log(1 / 4)) / 2)


def test_a_run_with_all_of_them_resumes_with_the_same_bits(dataset, tmp_path):
    settings = [f"data.dataset={dataset}", *EVERYTHING, "run.checkpoint_steps=4"]
    whole = tmp_path / "whole"
    train_run(whole, *settings, "run.keep_checkpoints=20")
    resumed = shutil.copytree(whole, tmp_path / "resumed")
    mark_as_incomplete(resumed)
    for path in (resumed / "checkpoints").glob("step-*.pt"):
        if int(path.name.split("-")[1]) > 4:  # of 12 steps
            path.unlink()
    train_run(resumed)
    assert_same_bits(whole, resumed)
    one, two = (pd.read_csv(path / "metrics.csv") for path in (whole, resumed))
    assert two.loss.tolist() == one.loss.tolist()
    before = build_model(load(None, SETTINGS), 3).state_dict().keys()
    assert before == weights(whole).keys()


def test_early_stopping_counts_epochs_without_a_better_evaluation():
    stop = EarlyStop(load(None, ["train.patience=2"]))
    rows = [0.5, 0.6, 0.6, math.nan]  # the second one is the best
    found = [stop.update({"epoch": n, "loss": 1.0}, metric) for n, metric in enumerate(rows)]
    assert found == [False, False, False, True] and stop.epoch == 1
    by_loss = EarlyStop(load(None, ["train.patience=1", "train.patience_metric=loss"]))
    assert not by_loss.update({"epoch": 0, "loss": 1.0}, 0.9)
    assert not by_loss.update({"epoch": 1, "loss": 0.9}, 0.1)
    assert by_loss.update({"epoch": 2, "loss": 0.9}, 1.0)
    never = EarlyStop(load(None))
    assert not any(never.update({"epoch": n, "loss": 1.0}, 0.5) for n in range(100))


def test_all_ranks_stop_early_and_a_resumed_run_stops_at_the_same_epoch(dataset, tmp_path):
    settings = [
        f"data.dataset={dataset}", "train.epochs=9", "train.evaluate_every=1", "train.patience=2",
        "train.freeze=layer4", "optim.lr=1e-12",
    ]  # fmt: skip
    run = Run(tmp_path / "run")
    assert finish(start_ranks(2, train_run, run.path, *settings)) == [0, 0]
    expected = {"epoch": 3, "best_epoch": 1, "watched": "metric", "patience": 2}
    assert json.loads((run.path / "early_stop.json").read_text()) == expected
    assert pd.read_csv(run.path / "metrics.csv").epoch.max() == 2
    assert "train" in run.done()
    mark_as_incomplete(run.path)
    (run.path / "early_stop.json").unlink()
    assert finish(start_ranks(2, train_run, run.path, *settings)) == [0, 0]
    assert json.loads((run.path / "early_stop.json").read_text()) == expected
    assert pd.read_csv(run.path / "metrics.csv").epoch.max() == 2
