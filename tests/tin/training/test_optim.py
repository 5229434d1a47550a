"""Parameter groups, learning rates and losses, against the original and values by hand."""

import json
import math
from collections.abc import Sequence

import pytest
import torch

from configs.load import RECIPES, ConfigError, load
from configs.schema import Config
from tin.models.network import TIN, build_model
from tin.models.tensor_names import reference_name
from tin.training.optim import build_optimizer, learning_rate, loss, set_learning_rate

POLICIES = {
    "resnet50_tin_t8_fc_lr5=True_partial_bn=True": [],
    "resnet50_tin_t8_fc_lr5=True_partial_bn=False": ["train.bn=full"],
    "resnet50_tin_t8_fc_lr5=False_partial_bn=True": ["optim.classifier_lr=1"],
    "resnet50_tin_t8_fc_lr5=False_partial_bn=False": ["optim.classifier_lr=1", "train.bn=full"],
    "resnet18_tin_t8_fc_lr5=True_partial_bn=True (shows the linear_cnt<33 defect)": [
        "model.arch=resnet18"
    ],
    "resnet50_tsn_fc_lr5=True_partial_bn=True (tin off)": ["model.temporal=none"],
}
LR_TRACES = {
    "readme_cos_lr0.02_40ep_warm1_10steps": [],
    "readme_step_lr0.008_40ep_warm1_10steps": ["optim.lr=0.008", "optim.schedule=step"],
    "readme_cos_lr0.02_40ep_warm1_1792steps": [],
    "script_cos_lr0.008_36ep_warm1_5steps": ["optim.lr=0.008", "train.epochs=36"],
    "cos_nowarmup_lr0.01_10ep_4steps": [
        "optim.lr=0.01", "train.epochs=10", "optim.warmup_epochs=0"
    ],
    "step_nowarmup_lr0.01_12ep_3steps": [
        "optim.lr=0.01", "train.epochs=12", "optim.warmup_epochs=0", "optim.schedule=step",
        "optim.milestones=[4, 8]",
    ],
}  # fmt: skip

XTEMPORAL_TRACES = {
    "tin_default_4steps": ["train.epochs=35", "optim.warmup_start=0.015625"],
    "tin_default_10steps": ["train.epochs=35", "optim.warmup_start=0.015625"],
    "tsm_default_exp_warmup_4steps": [
        "optim.lr=0.01", "train.epochs=30", "optim.warmup_start=0.015625",
        "optim.warmup=exponential", "optim.warmup_epochs=5",
    ],
}  # fmt: skip


def built(settings: Sequence[str]) -> tuple[Config, TIN, torch.optim.SGD]:
    """Return the settings, their network without weights, and its optimizer."""
    config = load(None, settings)
    with torch.device("meta"):
        model = build_model(config, 174)
    return config, model, build_optimizer(model, config)


def factors(model: TIN, optimizer: torch.optim.SGD) -> dict[str, tuple[float, float]]:
    """Return {name: (lr factor, decay factor)} for every parameter in a group."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: (group["lr_factor"], group["decay_factor"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


@pytest.mark.parametrize("name", POLICIES)
def test_reference_groups_equal_the_original(shared, name):
    table = json.loads((shared / "reference/tables/optim_policies.json").read_text())[name]
    _, model, optimizer = built(["optim.groups=reference", *POLICIES[name]])
    found = {reference_name(model, key): value for key, value in factors(model, optimizer).items()}
    assert found == {key: tuple(value[1:]) for key, value in table["params"].items()}
    left = {reference_name(model, key) for key, _ in model.named_parameters()} - set(found)
    assert left == set(table["params_in_no_group"])


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnet101"])
def test_module_groups_find_the_classifier_of_every_backbone(arch):
    _, model, optimizer = built([f"model.arch={arch}"])
    found = factors(model, optimizer)
    assert [name for name, (lr, _) in found.items() if lr >= 5] == ["fc.weight", "fc.bias"]
    assert found["fc.weight"] == (5, 1)
    assert found["fc.bias"] == (10, 0)
    assert found["backbone.conv1.weight"] == (1, 1)
    assert found["backbone.bn1.weight"] == found["backbone.bn1.bias"] == (1, 0)
    assert found["backbone.layer2.0.temporal.offset_net.fc1.weight"] == (1, 1)
    assert found["backbone.layer2.0.temporal.offset_net.fc1.bias"] == (2, 0)


def test_reference_groups_miscount_the_classifier_if_the_backbone_is_not_resnet50():
    for arch, fast in (("resnet18", 0), ("resnet101", 34 + 1)):
        _, model, optimizer = built(["optim.groups=reference", f"model.arch={arch}"])
        found = factors(model, optimizer)
        assert sum(value == (5, 1) for value in found.values()) == fast


def test_module_and_reference_groups_agree_on_resnet50():
    _, model, by_module = built([])
    _, other, by_count = built(["optim.groups=reference"])
    assert factors(model, by_module) == factors(other, by_count)


def test_a_single_group_holds_every_trainable_parameter():
    config, model, optimizer = built(["optim.groups=single", "train.bn=full"])
    assert set(factors(model, optimizer)) == {name for name, _ in model.named_parameters()}
    assert [group["name"] for group in optimizer.param_groups] == ["all"]
    assert optimizer.param_groups[0]["weight_decay"] == config.optim.weight_decay


def test_each_group_applies_its_factors_to_learning_rate_and_decay():
    config, _, optimizer = built(["optim.nesterov=true"])
    set_learning_rate(optimizer, 0.3)
    for group in optimizer.param_groups:
        assert group["lr"] == pytest.approx(0.3 * group["lr_factor"])
        assert group["weight_decay"] == pytest.approx(5e-4 * group["decay_factor"])
        assert group["momentum"] == 0.9
        assert group["nesterov"]


@pytest.mark.parametrize("name", LR_TRACES)
def test_learning_rates_equal_the_original(shared, name):
    trace = json.loads((shared / "reference/tables/lr_traces.json").read_text())[name]
    config = load(None, LR_TRACES[name])
    num_steps = trace["steps_per_epoch"]
    for epoch, step, expected in trace["rows_epoch_step_lr"]:
        found = learning_rate(config, epoch * num_steps + step, num_steps)
        assert found == pytest.approx(expected, abs=1e-12, rel=1e-12), (epoch, step)


@pytest.mark.parametrize("name", XTEMPORAL_TRACES)
def test_learning_rates_equal_those_of_xtemporal(shared, name):
    trace = json.loads((shared / "reference/more/xtemporal_lr.json").read_text())[name]
    config = load(None, ["optim.schedule=xtemporal", *XTEMPORAL_TRACES[name]])
    num_steps = trace["steps_per_epoch"]
    expected = trace["lr_of_each_step"]
    assert len(expected) == num_steps * config.train.epochs
    found = [learning_rate(config, step, num_steps) for step in range(len(expected))]
    assert found == pytest.approx(expected, abs=1e-12, rel=1e-12)
    if name.startswith("tin"):  # T_max is 30 of 35 epochs
        assert found[30 * num_steps] == pytest.approx(0, abs=1e-12)
        last = math.pi * (5 - 1 / num_steps) / 30
        assert found[-1] == pytest.approx(0.02 * (1 - math.cos(last)) / 2)


def test_the_recipes_of_xtemporal_have_its_schedule(shared):
    trace = json.loads((shared / "reference/more/xtemporal_lr.json").read_text())
    expected = trace["tin_default_4steps"]["lr_of_each_step"]
    names = [path.stem for path in RECIPES.glob("tin_*.yaml") if "X-Temporal" in path.read_text()]
    assert len(names) >= 5
    for name in names:
        found = [learning_rate(load(name), step, 4) for step in range(len(expected))]
        assert found == pytest.approx(expected, abs=1e-12, rel=1e-12), name


def test_the_recipes_of_xtemporals_tsn_have_its_schedule(shared):
    trace = json.loads((shared / "reference/more/xtemporal_lr.json").read_text())
    expected = trace["tsm_default_exp_warmup_4steps"]["lr_of_each_step"]  # TSN has the same
    for name in ("tsn_r101_5f_mmit", "tsn_r50_8f_kinetics600"):
        found = [learning_rate(load(name), step, 4) for step in range(len(expected))]
        assert found == pytest.approx(expected, abs=1e-12, rel=1e-12), name


@pytest.mark.parametrize(
    ("warmup", "expected"),
    [
        ("linear", [0.25, 0.4375, 0.625, 0.8125, 1]),
        ("exponential", [0.25, 0.25**0.75, 0.5, 0.25**0.25, 1]),
    ],
)
def test_the_warmup_rises_by_equal_amounts_or_by_equal_factors(warmup, expected):
    settings = ["optim.lr=1", "optim.warmup_start=0.25", f"optim.warmup={warmup}"]
    config = load(None, settings)
    assert [learning_rate(config, step, 4) for step in range(5)] == pytest.approx(expected)


def test_a_warmup_longer_than_the_cosine_of_xtemporal_is_rejected():
    settings = ["optim.schedule=xtemporal", "optim.cosine_epochs=3", "optim.warmup_epochs=3"]
    with pytest.raises(ConfigError, match="warmup_epochs 3 is not less than optim.cosine_epochs 3"):
        load(None, settings)


def test_the_learning_rate_scales_with_the_batch_only_if_asked():
    config = load(None, ["train.batch=96", "optim.warmup_epochs=0"])
    assert learning_rate(config, 0, 10) == 0.02
    config = load(None, ["train.batch=96", "optim.warmup_epochs=0", "optim.scale_lr=true"])
    assert learning_rate(config, 0, 10) == 0.04


def test_a_warm_up_as_long_as_the_run_is_shortened_to_half_of_it():
    config = load(None, ["train.epochs=1", "optim.warmup_epochs=1", "optim.lr=1"])
    found = [learning_rate(config, step, 8) for step in range(8)]
    # A warm-up of 4 steps from 0.1 to 1, then half a cosine of 4 steps.
    rising = [0.1, 0.325, 0.55, 0.775]
    falling = [1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)]
    assert found == pytest.approx(rising + falling)


def test_cross_entropy_equals_a_value_computed_by_hand():
    config = load(None)
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, math.log(7.0)]])
    targets = torch.tensor([0, 0])
    expected = -(math.log(3 / 4) + math.log(1 / 8)) / 2
    assert loss(logits, targets, config).item() == pytest.approx(expected)


def test_cross_entropies_are_weighted_by_the_shares_of_the_classes():
    config = load(None)
    logits = torch.tensor([[math.log(3.0), 0.0]])
    expected = -(0.7 * math.log(3 / 4) + 0.3 * math.log(1 / 4))
    assert loss(logits, torch.tensor([[0.7, 0.3]]), config).item() == pytest.approx(expected)


def test_label_smoothing_spreads_a_share_evenly_over_all_classes():
    config = load(None, ["train.label_smoothing=0.2"])
    logits = torch.tensor([[math.log(3.0), 0.0]])
    expected = -(0.9 * math.log(3 / 4) + 0.1 * math.log(1 / 4))
    assert loss(logits, torch.tensor([0]), config).item() == pytest.approx(expected)


def test_a_clip_without_a_label_is_ignored():
    config = load(None)
    logits = torch.randn(2, 3)
    alone = loss(logits[:1], torch.tensor([2]), config)
    torch.testing.assert_close(loss(logits, torch.tensor([2, -1]), config), alone)


def test_binary_cross_entropy_equals_a_value_computed_by_hand():
    config = load(None, ["train.loss=bce"])
    logits = torch.tensor([[math.log(3.0), 0.0]])  # probabilities 3/4 and 1/2
    expected = -(math.log(3 / 4) + math.log(1 / 2)) / 2
    both = torch.tensor([[1.0, 0.0]])
    assert loss(logits, both, config).item() == pytest.approx(expected)
    assert loss(logits, torch.tensor([0]), config).item() == pytest.approx(expected)


def test_frozen_parameters_never_change():
    config = load(None, ["model.arch=resnet18", "train.bn=frozen", "clip.num_segments=2"])
    model = build_model(config, 3)
    optimizer = build_optimizer(model, config)
    frozen = {
        name: value.clone() for name, value in model.named_parameters() if not value.requires_grad
    }
    assert len(frozen) == 2 * 20
    value = loss(model(torch.randn(1, 2, 3, 32, 32)), torch.tensor([1]), config)
    value.backward()
    set_learning_rate(optimizer, 1.0)
    optimizer.step()
    named = dict(model.named_parameters())
    assert all(torch.equal(named[name], value) for name, value in frozen.items())


class _Scale(torch.nn.Module):
    """A temporal module of a user, with its own normalization."""

    def __init__(self, channels, num_segments):
        super().__init__()
        self.norm = torch.nn.GroupNorm(1, channels)
        self.mix = torch.nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        return self.mix(self.norm(x))


def test_a_users_own_module_is_grouped_by_the_types_of_its_layers():
    with torch.device("meta"):
        model = TIN(3, "resnet18", f"{__name__}:_Scale")
    found = factors(model, build_optimizer(model, load(None)))
    assert found["backbone.layer1.0.temporal.norm.weight"] == (1, 0)
    assert found["backbone.layer1.0.temporal.norm.bias"] == (1, 0)
    assert found["backbone.layer1.0.temporal.mix.weight"] == (1, 1)
    assert found["backbone.layer1.0.temporal.mix.bias"] == (2, 0)


def test_the_linear_warmup_has_the_same_bits_as_in_earlier_versions():
    """A run that is resumed after an update must end with the same weights."""
    for warmup in (0.5, 1.0, 0.3):
        config = load(None, [f"optim.warmup_epochs={warmup}"])
        for step in range(int(100 * warmup)):
            expected = config.lr * (0.1 + 0.9 * (step / 100) / warmup)
            assert learning_rate(config, step, 100) == expected
