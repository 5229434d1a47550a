"""RGB difference and flow against the original."""

import json

import numpy as np
import pytest
import torch

from configs.load import load
from pipeline.batches import MEAN, STD
from tin.models.modality import FrameDifference, from_rgb, input_channels
from tin.models.network import TIN, build_model
from tin.models.weights import import_file
from tin.training.optim import build_optimizer

FLOW = ["clip.modality=flow", "clip.frames_per_segment=5"]
DIFF = ["clip.modality=diff", "clip.frames_per_segment=6"]


@pytest.fixture(scope="module")
def blocks(shared):
    with np.load(shared / "reference/more/modality_blocks.npz") as arrays:
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def test_differences_of_frames_equal_the_original(blocks):
    pixels = blocks["rgbdiff_input"]  # (B, T*6*3, H, W) of values as in an image
    B, T = blocks["rgbdiff_output"].shape[:2]
    frames = pixels.unflatten(1, (T, 6, 3))
    mean = torch.tensor(MEAN)[:, None, None]
    std = torch.tensor(STD)[:, None, None]
    normalized = ((frames - mean) / std).flatten(0, 1).flatten(1, 2)
    found = FrameDifference()(normalized).unflatten(1, (5, 3)).unflatten(0, (B, T))
    torch.testing.assert_close(found, blocks["rgbdiff_output"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "settings", "channels"),
    [("flow_conv1_from_rgb", FLOW, 10), ("rgbdiff_conv1_from_rgb", DIFF, 15)],
)
def test_a_first_convolution_is_made_from_rgb_as_in_the_original(
    name, settings, channels, blocks, tmp_path
):
    config = load(None, [*settings, "model.arch=resnet18", "model.temporal=none"])
    assert input_channels(config.clip.modality, config.clip.frames_per_segment) == channels
    torch.testing.assert_close(from_rgb(blocks["rgb_conv1"], channels), blocks[name])
    # The same through a file of torchvision.
    state = TIN(1000, "resnet18", "none").backbone.state_dict()
    state["conv1.weight"] = blocks["rgb_conv1"]
    torch.save(state, tmp_path / "imagenet.pth")
    model = build_model(config, 3)
    report = import_file(tmp_path / "imagenet.pth", model)
    assert not report.failed
    torch.testing.assert_close(model.backbone.conv1.weight.detach(), blocks[name])
    note = next(row.note for row in report.rows if row.ours == "backbone.conv1.weight")
    assert note == f"64x{channels}x7x7 from 64x3x7x7"


def test_the_parameter_groups_of_flow_equal_the_original(shared):
    table = json.loads((shared / "reference/more/modality.json").read_text())
    expected = table["flow_resnet50_partial_bn_groups_lr_decay_count"]
    config = load(None, FLOW)
    with torch.device("meta"):
        optimizer = build_optimizer(build_model(config, 400), config)
    found = {
        group["name"]: [group["lr_factor"], group["decay_factor"], len(group["params"])]
        for group in optimizer.param_groups
    }
    assert found.pop("first_conv") == expected["first_conv_weight"]
    assert found.pop("norm") == expected["BN scale/shift"]
    assert found.pop("classifier_weight") == expected["lr5_weight"]
    assert found.pop("classifier_bias") == expected["lr10_bias"]
    # The original has groups of their own for the linear layers of the offset nets.
    for name in ("weight", "bias"):
        normal, linear = expected[f"normal_{name}"], expected[f"cs_{name}"]
        assert normal[:2] == linear[:2]
        assert found.pop(name) == [*normal[:2], normal[2] + linear[2]]
    assert not found


def test_only_the_first_convolution_of_flow_learns_faster():
    for settings in (DIFF, []):
        config = load(None, settings)
        with torch.device("meta"):
            optimizer = build_optimizer(build_model(config, 400), config)
        assert "first_conv" not in {group["name"] for group in optimizer.param_groups}
    config = load(None, [*FLOW, "model.arch=mobilenetv2", "model.temporal=none"])
    with torch.device("meta"):
        model = build_model(config, 400)
        optimizer = build_optimizer(model, config)
    (group,) = [group for group in optimizer.param_groups if group["name"] == "first_conv"]
    assert group["params"] == [model.backbone.first_conv.weight]


@pytest.mark.parametrize(("settings", "channels"), [(DIFF, 18), (FLOW, 10)])
def test_a_model_takes_the_batches_of_its_modality(settings, channels):
    model = build_model(load(None, [*settings, "model.arch=resnet18"]), 3)
    assert model(torch.zeros(1, 8, channels, 32, 32)).shape == (1, 3)
