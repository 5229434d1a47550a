"""The whole network against the original's numbers and against published counts."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from reference_model import Reference
from torch import Tensor, nn

from configs.load import ConfigError, load
from tin.models.network import TIN, build_model, record_offsets, recorded_offsets, train_mode
from tin.models.tensor_names import reference_name, to_reference
from tin.training.optim import build_optimizer, learning_rate, loss, set_learning_rate

MODES = {"train_partial_bn": "partial", "train_full_bn": "full"}
FLOAT64 = [
    ("resnet18_t8_64x64", "eval"),
    ("resnet18_t8_64x64", "train_partial_bn"),
    ("resnet18_t8_64x64", "train_full_bn"),
    ("resnet50_t16_65x79", "eval"),
    ("resnet50_t16_65x79", "train_partial_bn"),
    ("resnet50_t8_64x64", "eval"),
    ("resnet50_t8_64x64", "train_partial_bn"),
    ("resnet50_t8_64x64", "train_full_bn"),
]
FLOAT32 = [
    ("resnet18_t8_64x64", "eval"),
    ("resnet18_t8_64x64", "train_partial_bn"),
    ("resnet18_t8_64x64", "train_full_bn"),
    ("resnet50_t16_65x79", "eval"),
    ("resnet50_t16_65x79", "train_partial_bn"),
    ("resnet50_t8_64x64", "eval"),
    ("resnet50_t8_64x64", "train_partial_bn"),
    ("resnet50_t8_64x64", "train_full_bn"),
]


Cases = Callable[[str], Reference]


@pytest.fixture(scope="module")
def reference(shared: Path) -> Cases:
    """Return a function that loads a reference case by its name, each case once."""
    return functools.cache(functools.partial(Reference, shared))


def initial_model(case: Reference, dtype: torch.dtype = torch.float32) -> TIN:
    """Return the network of a case with the weights that its numbers start from."""
    model = case.empty_model(dropout=0.0)
    model.load_state_dict(case.initial_state)
    return model.to(dtype)


def run(case: Reference, mode: str, dtype: torch.dtype) -> tuple[TIN, Tensor, float]:
    """Return the model after a forward and backward pass, its logits and its loss."""
    model = initial_model(case, dtype)
    if mode == "eval":
        model.eval()
    else:
        train_mode(model, MODES[mode])
    record_offsets(model, True)
    logits = model(case.x.to(dtype))
    value = nn.functional.cross_entropy(logits, case.target)
    value.backward()
    return model, logits.detach(), value.item()


def set_dropout(model: TIN) -> None:
    """Set a dropout, as the reference has it: the original then calls its classifier `new_fc`."""
    model.dropout.p = 0.8


def gradients(model: TIN) -> dict[str, Tensor]:
    """Return the gradients of all trained parameters, by the original's names."""
    set_dropout(model)
    return {
        reference_name(model, name): value.grad.double()
        for name, value in model.named_parameters()
        if value.grad is not None
    }


@pytest.mark.parametrize("name, mode", FLOAT64)
def test_the_network_in_float64_equals_the_original(reference: Cases, name: str, mode: str):
    case = reference(name)
    facts = case.facts["modes"][mode]
    model, logits, value = run(case, mode, torch.float64)
    np.testing.assert_allclose(logits, case.arrays[f"{mode}/logits_f64"], rtol=1e-6, atol=1e-9)
    assert value == pytest.approx(facts["loss_f64"], rel=1e-6)
    norms = {key: grad.norm().item() for key, grad in gradients(model).items()}
    assert len(norms) == facts["n_params_requires_grad"]
    expected = facts["grad_norm_f64"]
    assert norms == pytest.approx({key: expected[key] for key in norms}, rel=1e-6)


@pytest.mark.parametrize("name, mode", FLOAT32)
def test_the_network_in_float32_equals_the_original(reference: Cases, name: str, mode: str):
    case = reference(name)
    facts = case.facts["modes"][mode]
    arrays = case.arrays
    model, logits, value = run(case, mode, torch.float32)
    np.testing.assert_allclose(logits, arrays[f"{mode}/logits"], rtol=1e-4, atol=1e-4)
    assert value == pytest.approx(facts["loss"], rel=1e-5)

    offsets, weights = zip(*recorded_offsets(model).values(), strict=True)
    pairs = torch.stack(offsets)
    np.testing.assert_allclose(
        torch.cat([pairs, -pairs], 2), arrays[f"{mode}/offsets4"], rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        torch.stack(weights), arrays[f"{mode}/weights_t2"], rtol=1e-4, atol=1e-5
    )

    for key, grad in gradients(model).items():
        norm, total = facts["grad_norm_sum"][key]
        # Gradients of net1 are sums of terms that cancel. The original's own float32 gradients
        # differ this much from its float64 gradients.
        allowed = 1e-4 * facts["total_grad_norm"] if "net1" in key else 2e-3 * norm
        assert abs(grad.norm().item() - norm) <= allowed, key
        assert abs(grad.sum().item() - total) <= allowed * grad.numel() ** 0.5, key
        if f"{mode}/grad/{key}" in arrays:
            whole = torch.from_numpy(arrays[f"{mode}/grad/{key}"])
            assert (grad - whole).norm() <= 5 * allowed, key  # entries differ more than norms


@pytest.mark.parametrize("name", ["resnet18_t8_64x64", "resnet50_t8_64x64"])
def test_the_weights_drawn_by_name_are_those_of_the_original(reference: Cases, name: str):
    case = reference(name)
    model = initial_model(case)
    set_dropout(model)
    found = {
        key: [value.double().sum().item(), value.double().abs().sum().item()]
        for key, value in to_reference(model).items()
    }
    expected = case.facts["state_checksums_sum_abssum"]
    assert found.keys() == expected.keys()
    for key, sums in expected.items():
        assert found[key] == pytest.approx(sums, rel=1e-6, abs=1e-6 * sums[1]), key


@pytest.mark.parametrize("name", ["resnet18_t8_64x64", "resnet50_t8_64x64"])
def test_batchnorm_statistics_after_a_pass_equal_the_original(reference: Cases, name: str):
    case = reference(name)
    for mode in ("train_partial_bn", "train_full_bn"):
        model = initial_model(case)
        train_mode(model, MODES[mode])
        with torch.no_grad():
            model(case.x)
        for norm in ("bn1", "layer2.0.bn1"):
            module = model.backbone.get_submodule(norm)
            for part in ("mean", "var"):
                np.testing.assert_allclose(
                    getattr(module, f"running_{part}"),
                    case.arrays[f"{mode}/{norm}_running_{part}_after"],
                    rtol=1e-5,
                    atol=1e-6,
                )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["resnet18_t8_64x64", "resnet50_t8_64x64"])
def test_steps_of_sgd_equal_the_original(reference: Cases, name: str, dtype: torch.dtype):
    case = reference(name)
    single = dtype == torch.float32
    steps = case.facts["train_steps" if single else "train_steps_f64"]
    settings = ["optim.lr=0.001", "optim.groups=reference", f"model.arch={case.facts['arch']}"]
    config = load(None, settings)
    model = initial_model(case, dtype)
    x = case.x.to(dtype)
    train_mode(model, "partial")
    optimizer = build_optimizer(model, config)
    for number, expected in enumerate(steps["trace"]):
        set_learning_rate(optimizer, learning_rate(config, number + 1, steps_per_epoch=8))
        value = loss(model(x), case.target, config)
        assert value.item() == pytest.approx(expected["loss_before"], rel=1e-4 if single else 1e-6)
        optimizer.zero_grad()
        value.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm)
        want = expected["total_norm_before_clip"]
        assert norm.item() == pytest.approx(want, rel=1e-3 if single else 1e-6)
        optimizer.step()
    set_dropout(model)
    norms = {
        reference_name(model, name): value.double().norm().item()
        for name, value in model.named_parameters()
    }
    tolerance = {"rel": 1e-5, "abs": 1e-6} if single else {"rel": 1e-6, "abs": 1e-12}
    assert norms == pytest.approx(steps["param_norm_after"], **tolerance)
    model.eval()
    with torch.no_grad():
        logits = model(x)
    want = case.arrays["after_steps/eval_logits" + ("" if single else "_f64")]
    allowed = 1e-3 if single else 1e-6
    np.testing.assert_allclose(logits, want, rtol=allowed, atol=allowed)


@pytest.mark.parametrize("num_classes, count", [(174, 23_895_566), (400, 24_358_640)])
def test_resnet50_has_the_published_number_of_parameters(num_classes: int, count: int):
    with torch.device("meta"):
        model = TIN(num_classes)
    assert sum(value.numel() for value in model.parameters()) == count


def test_interlacing_adds_93_parameters_per_block_and_nine_per_interlaced_channel():
    def count(temporal: str) -> int:
        with torch.device("meta"):
            return sum(value.numel() for value in TIN(10, temporal=temporal).parameters())

    # The input channels of ResNet-50's 16 blocks; a quarter of them is interlaced.
    channels = [64, *[256] * 3, *[512] * 4, *[1024] * 6, *[2048] * 2]
    assert count("interlace") - count("none") == sum(9 * C // 4 + 93 for C in channels)
    assert count("shift") == count("none")


@pytest.mark.parametrize("arch, layers", [("resnet18", 18), ("resnet34", 34), ("resnet50", 50),
                                          ("resnet101", 101)])  # fmt: skip
def test_a_network_has_as_many_layers_as_its_name_says(arch: str, layers: int):
    with torch.device("meta"):
        model = TIN(10, arch, temporal="none")
    convs = [name for name, value in model.named_modules() if isinstance(value, nn.Conv2d)]
    assert len([name for name in convs if "downsample" not in name]) + 1 == layers


def test_tsm_shifts_every_second_block_of_resnet101():
    with torch.device("meta"):
        shifted = TIN(10, "resnet101", "shift", shift_div=8)
        interlaced = TIN(10, "resnet101", "interlace")

    def blocks(model: TIN) -> list[int]:
        """Return the place in its layer of each block that has a temporal module."""
        return [
            int(name.split(".")[2])
            for name, module in model.named_modules()
            if name.endswith(".temporal") and not isinstance(module, nn.Identity)
        ]

    assert blocks(shifted) == [0, 2, 0, 2, *range(0, 23, 2), 0, 2]
    assert blocks(interlaced) == [*range(3), *range(4), *range(23), *range(3)]


@pytest.mark.parametrize("temporal", ["shift", "interlace", "conv"])
def test_only_a_temporal_module_distinguishes_a_clip_from_its_reverse(temporal: str):
    x = torch.randn(1, 4, 3, 32, 32)
    for name, equal in (("none", True), (temporal, False)):
        model = TIN(5, "resnet18", name, num_segments=4, shift_div=4, dropout=0.0)
        nn.init.normal_(model.fc.weight)
        model.eval()
        with torch.no_grad():
            forward = model(x)
            reverse = model(x.flip(1))
        assert torch.allclose(forward, reverse, atol=1e-5) == equal


def test_partial_and_frozen_batchnorm_can_be_undone():
    model = TIN(3, "resnet18", "none", num_segments=2)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]

    def trained() -> list[bool]:
        training = [norm.training for norm in norms]
        assert [norm.weight.requires_grad for norm in norms] == training
        assert [norm.bias.requires_grad for norm in norms] == training
        return training

    for bn, expected in [("partial", [True] + [False] * 19), ("frozen", [False] * 20),
                         ("full", [True] * 20)]:  # fmt: skip
        train_mode(model, bn)
        assert trained() == expected
        assert model.dropout.training


def test_frozen_batchnorm_keeps_its_statistics():
    model = TIN(3, "resnet18", "none", num_segments=2)
    train_mode(model, "frozen")
    before = {name: value.clone() for name, value in model.named_buffers()}
    model(torch.randn(1, 2, 3, 32, 32))
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_a_clip_of_a_different_length_is_rejected():
    model = TIN(3, "resnet18", "none", num_segments=4)
    with pytest.raises(ValueError, match="takes clips of 4 frames, found 8"):
        model(torch.zeros(1, 8, 3, 32, 32))


def test_an_unknown_network_is_rejected():
    with pytest.raises(ValueError, match="unknown network resnet19; choose one of resnet18"):
        TIN(3, "resnet19")


@pytest.mark.parametrize(
    "temporal", ["swap", "no.such.package:Module", "tin.models.temporal:NoSuchModule"]
)
def test_a_temporal_module_that_does_not_exist_is_rejected(temporal: str):
    config = load(None, [f"model.temporal='{temporal}'"])
    with pytest.raises(ConfigError, match=f"model.temporal {temporal}: "):
        build_model(config, 3)


def test_stacked_frames_add_input_channels_to_the_first_convolution():
    config = load(None, ["clip.frames_per_segment=5", "model.arch=resnet18", "clip.num_segments=4"])
    model = build_model(config, 3)
    assert model(torch.zeros(1, 4, 15, 32, 32)).shape == (1, 3)


def test_offsets_are_recorded_only_on_request():
    model = TIN(3, "resnet18", num_segments=4)
    x = torch.randn(2, 4, 3, 32, 32)
    model(x)
    assert recorded_offsets(model) == {}
    record_offsets(model, True)
    model(x)
    recorded = recorded_offsets(model)
    assert list(recorded)[:2] == ["layer1.0", "layer1.1"]
    offset, weight = recorded["layer1.0"]
    assert offset.shape == (2, 2)
    assert weight.shape == (2, 4, 2)
    assert not offset.requires_grad
    record_offsets(model, False)
    assert recorded_offsets(model) == {}


@pytest.mark.parametrize("temporal", ["interlace", "shift"])
def test_the_memory_layout_does_not_change_the_result(temporal: str):
    model = TIN(3, "resnet18", temporal, num_segments=4, shift_div=4).eval()
    x = torch.randn(2, 4, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)
        model.to(memory_format=torch.channels_last)
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-6)


def test_bfloat16_autocast_gives_float32_logits_close_to_those_of_float32():
    model = TIN(5, "resnet18", num_segments=4).eval()
    nn.init.normal_(model.fc.weight, std=0.05)
    x = torch.randn(2, 4, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(x)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, rtol=0.05, atol=0.05 * expected.abs().max().item())
