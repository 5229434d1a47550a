"""Networks of TIN and TSM with flow, non-local blocks, temporal pool and MobileNetV2.

Weights and inputs are those of shared/reference/more. They are drawn by the original's tensor
names, which each network must have.
"""

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference_model import recipe_tensor
from torch import nn

from tin.models.network import TIN
from tin.models.temporal import TemporalShift
from tin.models.tensor_names import from_reference, reference_name, to_reference
from tin.models.weights import import_file
from tin.runs.foreign import import_run

# The smaller weights of the last BatchNorm of each block. Those of layer 2 behind a temporal pool,
# and in nets.json those before a non-local block, are as large as the others.
BN2 = r".*layer\d+\.\d+\.bn2\.weight"
BN3 = r".*layer\d+\.\d+\.bn3\.weight"
BN3_IN_BLOCKS = r".*layer\d+\.\d+\.(block\.)?bn3\.weight"
MOBILENET = r".*features\.\d+\.conv\.7\.weight"
SHIFT = {"temporal": "shift", "shift_div": 8}
FLOW = {"modality": "flow", "frames_per_segment": 5}
NETWORKS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "flow_tin_resnet18_t8": ("nets.json", BN2, {"arch": "resnet18", **FLOW}),
    "non_local_tin_resnet50_t8": ("nets.json", BN3, {"non_local": "embedded_gaussian"}),
    "tsm_non_local_resnet50_t8": (
        "nets_tsm.json", BN3_IN_BLOCKS, {**SHIFT, "non_local": "embedded_gaussian"},
    ),
    "tsm_temporal_pool_resnet50_t8": ("nets_tsm.json", BN3, {**SHIFT, "temporal_pool": True}),
    "tsm_mobilenetv2_t8": ("nets_tsm.json", MOBILENET, {**SHIFT, "arch": "mobilenetv2"}),
    "tsm_flow_resnet50_t8": ("nets_tsm.json", BN3, {**SHIFT, **FLOW}),
}  # fmt: skip
POOLED_TIN = "temporal_pool_shift_resnet50_t8"


class Case:
    """The numbers of one network of shared/reference/more, with its weights and its input."""

    def __init__(self, shared: Path, file: str, name: str, last_norm: str):
        self.facts = json.loads((shared / "reference/more" / file).read_text())[name]
        self.state = {
            key: recipe_tensor(key, tuple(shape), self.facts["weight_seed"], last_norm)
            for key, shape in self.facts["state_dict_shapes"].items()
        }
        found = re.search(r"RandomState\((\d+)\)\.randn\(([\d,]+)\)", self.facts["input"])
        assert found
        shape = [int(size) for size in found[2].split(",")]
        values = np.random.RandomState(int(found[1])).randn(*shape).astype(np.float32)
        self.x = torch.from_numpy(values).unflatten(1, (8, -1))
        self.target = torch.tensor(self.facts["target"])
        self.num_classes = len(self.facts["logits"][0])


@pytest.fixture(scope="module")
def case(shared: Path) -> Callable[[str], Case]:
    """Return a function that loads a case by its name, each case once."""
    return functools.cache(lambda name: Case(shared, NETWORKS[name][0], name, NETWORKS[name][1]))


def network(name: str, case: Case) -> TIN:
    """Return the network of a case with its weights, in evaluation mode."""
    model = TIN(case.num_classes, **NETWORKS[name][2])
    model.load_state_dict(from_reference(case.state))
    model.dropout.p = 0.0
    return model.eval()


def check(name: str, model: nn.Module, case: Case, norms: Callable[[], dict[str, float]]) -> None:
    """Compare logits, loss and gradients in float64, and logits in float32, with the numbers."""
    facts = case.facts
    with torch.no_grad():
        logits = model(case.x)
    scale = np.abs(facts["logits_f64"]).max()
    tolerance = 3e-4 if "non_local" in name else 1e-4
    np.testing.assert_allclose(logits, facts["logits"], rtol=0, atol=tolerance * scale)

    logits = model.double()(case.x.double())
    np.testing.assert_allclose(logits.detach(), facts["logits_f64"], rtol=1e-6, atol=1e-6 * scale)
    value = nn.functional.cross_entropy(logits, case.target)
    assert value.item() == pytest.approx(facts["loss_f64"], rel=1e-6)
    value.backward()
    expected = facts["grad_norm_f64"]
    assert norms() == pytest.approx(expected, rel=1e-6, abs=1e-6 * max(expected.values()))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_equals_the_original(name: str, case: Callable[[str], Case]):
    model = network(name, case(name))
    model.dropout.p = 0.8  # the original then calls its classifier new_fc
    assert {key: list(value.shape) for key, value in to_reference(model).items()} == case(
        name
    ).facts["state_dict_shapes"]
    params = sum(parameter.numel() for parameter in model.parameters())
    assert params == case(name).facts["num_parameters"]
    model.dropout.p = 0.0

    def norms() -> dict[str, float]:
        model.dropout.p = 0.8
        return {
            reference_name(model, key): parameter.grad.norm().item()
            for key, parameter in model.named_parameters()
        }

    check(name, model, case(name), norms)


def test_a_temporal_pool_with_shifts_before_conv2_equals_the_original(shared: Path):
    """TIN's --shift also shifts before conv2, for which there is no setting here."""
    case = Case(shared, "nets.json", POOLED_TIN, BN3)
    model = TIN(6, **SHIFT, temporal_pool=True)
    own = {re.sub(r"conv2\.net\.", "conv2.", key): value for key, value in case.state.items()}
    model.load_state_dict(from_reference(own))
    model.dropout.p = 0.0
    for layer in range(1, 5):
        for block in model.backbone.get_submodule(f"layer{layer}"):
            shift = TemporalShift(block.conv2.in_channels, 8 if layer == 1 else 4, 8)
            block.conv2 = nn.Sequential(shift, block.conv2)

    def norms() -> dict[str, float]:
        model.dropout.p = 0.8
        found = {}
        for key, parameter in model.named_parameters():
            theirs = reference_name(model, key.replace("conv2.1.", "conv2."))
            theirs = theirs.replace("conv2.", "conv2.net.")
            found[theirs] = parameter.grad.norm().item()
        return found

    check(POOLED_TIN, model.eval(), case, norms)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_checkpoint_of_the_original_is_imported_with_the_same_logits(
    name: str, case: Callable[[str], Case], tmp_path: Path
):
    path = tmp_path / "theirs.pth.tar"
    state = {f"module.{key}": value for key, value in case(name).state.items()}
    torch.save({"epoch": 3, "arch": "resnet50", "state_dict": state, "best_prec1": 0.5}, path)
    report = import_run(path, tmp_path / "run")
    assert not report.failed
    assert {row.status for row in report.rows} == {"renamed"}
    model = TIN(case(name).num_classes, **NETWORKS[name][2], dropout=0.0)
    import_file(path, model)
    expected = network(name, case(name))
    for (key, found), value in zip(
        model.state_dict().items(), expected.state_dict().values(), strict=True
    ):
        assert torch.equal(found, value), key


def test_the_parameters_are_as_many_as_in_the_original(shared: Path):
    folder = shared / "reference/more"
    tsm = json.loads((folder / "counts_tsm.json").read_text())
    tin = json.loads((folder / "modality.json").read_text())["parameters"]

    def count(num_classes: int, **settings: Any) -> int:
        with torch.device("meta"):
            model = TIN(num_classes, **settings)
        return sum(parameter.numel() for parameter in model.parameters())

    non_local = {"non_local": "embedded_gaussian"}
    assert count(174, arch="resnet101", **SHIFT) == tsm["tsm_resnet101_174"]
    assert count(400, arch="mobilenetv2", **SHIFT) == tsm["tsm_mobilenetv2_400"]
    assert count(400, **non_local, **SHIFT) == tsm["tsm_resnet50_nl_400"]
    assert count(400, **FLOW, **SHIFT) == tsm["tsm_resnet50_flow_400"]
    assert count(400, **FLOW) == tin["tin_resnet50_flow_400"]
    assert count(400, **non_local) == tin["tin_resnet50_non_local_400"]
    assert count(313, arch="resnet101") == tin["tin_resnet101_313"]


@pytest.mark.parametrize(("arch", "count"), [("resnet152", 60_192_808), ("mobilenetv2", 3_504_872)])
def test_a_network_without_temporal_modules_has_the_parameters_of_torchvision(arch, count):
    with torch.device("meta"):
        model = TIN(1000, arch, "none")
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_interlacing_in_mobilenetv2_takes_half_of_the_channels():
    model = TIN(5, "mobilenetv2", "interlace", num_segments=4, shift_div=2, dropout=0.0)
    nn.init.normal_(model.fc.weight)
    blocks = [name for name, _ in model.named_modules() if name.endswith(".temporal.offset_net")]
    numbers = [int(name.split(".")[2]) for name in blocks]
    assert numbers == [3, 5, 6, 8, 9, 10, 12, 13, 15, 16]  # those that TSM shifts
    x = torch.randn(1, 4, 3, 32, 32)
    with torch.no_grad():
        assert not torch.allclose(model(x), model(x.flip(1)), atol=1e-5)
    with pytest.raises(ValueError, match="selects 6 of 24 channels .* choose another"):
        TIN(5, "mobilenetv2", "interlace", shift_div=4)


def test_torchvision_weights_of_mobilenetv2_load_into_every_layer_but_the_classifier(tmp_path):
    model = TIN(5, "mobilenetv2", **SHIFT)
    state = {name: torch.rand(value.shape) for name, value in model.backbone.state_dict().items()}
    state |= {name: torch.tensor(7) for name in state if name.endswith("num_batches_tracked")}
    assert "features.2.conv.0.0.weight" in state
    assert "features.1.conv.1.weight" in state
    imagenet = {
        "classifier.1.weight": torch.randn(1000, 1280),
        "classifier.1.bias": torch.randn(1000),
    }
    torch.save(state | imagenet, tmp_path / "file.pth")
    report = import_file(tmp_path / "file.pth", model)
    assert not report.failed
    assert {row.ours for row in report.rows if row.status == "left out"} == {"fc.weight", "fc.bias"}
    for name, value in state.items():
        assert torch.equal(model.state_dict()[f"backbone.{name}"], value)
