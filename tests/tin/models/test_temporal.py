"""The temporal modules against the original's numbers and against their definitions."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tin.models.temporal import (
    OffsetNet,
    TemporalConv,
    TemporalInterlace,
    TemporalShift,
    WeightNet,
    temporal_module,
)
from tin.models.tensor_names import our_name

MODULES = ["c64_t8_div4_7x6", "c256_t8_div4_4x3", "c256_t8_div8_3x3", "c64_t8_div8_5x5",
           "c64_t16_div4_4x5"]  # fmt: skip


def name_in_module(key: str) -> str:
    """Return our name, inside the module, for a tensor name of the original's module."""
    return our_name(f"layer1.0.conv1.net1.{key}").partition(".temporal.")[2]


@pytest.mark.parametrize("name", MODULES)
def test_the_module_equals_the_original(shared: Path, name: str):
    with np.load(shared / "reference" / "module" / f"{name}.npz") as file:
        want = {key: torch.from_numpy(value) for key, value in file.items()}
    numbers = re.fullmatch(r"c(\d+)_t(\d+)_div(\d+)_.*", name)
    assert numbers is not None
    module = TemporalInterlace(*map(int, numbers.groups()))
    assert want["x"].shape[1] == int(numbers[1])
    module.load_state_dict(
        {name_in_module(key[6:]): value for key, value in want.items() if key.startswith("param/")}
    )
    module.record = True
    x = want["x"].requires_grad_()
    out = module(x)
    out.backward(want["grad_out"])
    torch.testing.assert_close(out, want["out"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x.grad, want["grad_x"], rtol=1e-5, atol=1e-5)
    b0, b1 = module.offset.unbind(1)
    torch.testing.assert_close(
        torch.stack([b0, b1, -b0, -b1], 1), want["x_offset4"], rtol=1e-5, atol=1e-6
    )
    gains = torch.cat([module.weight, module.weight], 2).repeat_interleave(module.channels // 4, 2)
    torch.testing.assert_close(gains[..., None, None], want["x_weight_c"], rtol=1e-5, atol=1e-6)
    for key, parameter in module.named_parameters():
        expected = next(
            value
            for name, value in want.items()
            if name.startswith("grad/") and name_in_module(name[5:]) == key
        )
        allowed = 1e-4 * expected.abs().max().item()
        torch.testing.assert_close(parameter.grad, expected, rtol=0, atol=allowed, msg=key)


def test_a_new_module_has_the_initial_biases_of_the_original(shared: Path):
    facts = json.loads((shared / "reference" / "module" / "init_facts.json").read_text())
    module = TemporalInterlace(64, 8)
    bias = module.offset_net.fc2.bias.tolist()
    assert bias == pytest.approx(facts["biasnet.net.lastlayer.bias"], abs=3e-5)
    assert module.weight_net.conv.bias.tolist() == facts["weightnet.net.lastlayer.bias"]


def test_training_starts_with_offsets_of_half_a_frame_and_weights_of_one():
    offsets = OffsetNet(8, num_segments=4)
    weights = WeightNet(8)
    nn.init.zeros_(offsets.fc2.weight)
    nn.init.zeros_(weights.conv.weight)
    pooled = torch.randn(3, 8, 4)
    torch.testing.assert_close(offsets(pooled), torch.full((3, 2), 0.5))
    torch.testing.assert_close(weights(pooled), torch.ones(3, 4, 2))


def test_offsets_are_at_most_two_frames_and_weights_are_between_zero_and_two():
    offsets = OffsetNet(8, num_segments=4)
    weights = WeightNet(8)
    pooled = 1e4 * torch.randn(50, 8, 4)
    assert offsets(pooled).abs().max() <= 2
    assert weights(pooled).min() >= 0
    assert weights(pooled).max() <= 2


def test_interlacing_equals_a_calculation_by_hand():
    """The groups move half a frame later or earlier; the other channels are copied."""
    module = TemporalInterlace(32, num_segments=3, shift_div=4)  # 8 channels in groups of 2
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    nn.init.constant_(module.offset_net.fc2.bias, math.log(0.625 / 0.375))  # half a frame
    x = torch.zeros(3, 32, 1, 1)
    x[:, :, 0, 0] = torch.tensor([2.0, 4.0, 8.0])[:, None]
    y = module(x)[:, :, 0, 0].T
    torch.testing.assert_close(y[:4], torch.tensor([[1.0, 3.0, 6.0]]).expand(4, 3))
    torch.testing.assert_close(y[4:8], torch.tensor([[3.0, 6.0, 4.0]]).expand(4, 3))
    torch.testing.assert_close(y[8:], torch.tensor([[2.0, 4.0, 8.0]]).expand(24, 3))


def test_tsm_shifts_a_quarter_of_the_channels_earlier_and_a_quarter_later():
    module = TemporalShift(8, num_segments=3, shift_div=4)
    x = torch.arange(1.0, 4.0)[:, None, None, None].expand(3, 8, 1, 2).clone()
    y = module(x)[:, :, 0, 0].T.tolist()
    assert y[:2] == [[2.0, 3.0, 0.0]] * 2
    assert y[2:4] == [[0.0, 1.0, 2.0]] * 2
    assert y[4:] == [[1.0, 2.0, 3.0]] * 4


def test_tsm_adds_no_tensors_to_a_checkpoint():
    assert TemporalShift(64, 8).state_dict() == {}


def test_gradients_of_tsm_equal_finite_differences():
    module = TemporalShift(8, num_segments=3, shift_div=4)
    x = torch.randn(3, 8, 1, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module.double(), x)


def test_the_temporal_convolution_starts_where_interlacing_starts():
    """Both shift by half a frame later and half a frame earlier, with a weight of one."""
    interlaced = TemporalInterlace(16, num_segments=6)
    # With weights of zero, the biases alone set offsets and weights.
    nn.init.zeros_(interlaced.offset_net.fc2.weight)
    nn.init.zeros_(interlaced.weight_net.conv.weight)
    x = torch.randn(12, 16, 2, 3)
    y = TemporalConv(16, num_segments=6)(x)
    torch.testing.assert_close(y, interlaced(x), rtol=1e-3, atol=1e-4)
    clips = x.unflatten(0, (2, 6))
    mixed = y.unflatten(0, (2, 6))
    torch.testing.assert_close(mixed[:, 1:, :2], (clips[:, 1:, :2] + clips[:, :-1, :2]) / 2)
    torch.testing.assert_close(mixed[:, :-1, 2:4], (clips[:, :-1, 2:4] + clips[:, 1:, 2:4]) / 2)


def test_the_temporal_convolution_sums_matrix_products_over_five_frames():
    module = TemporalConv(8, num_segments=3, shift_div=4)
    nn.init.normal_(module.conv.weight)
    x = torch.randn(6, 8, 2, 2)
    y = torch.zeros(2, 3, 2, 2, 2)
    clips = x.unflatten(0, (2, 3))
    for t in range(3):
        for s in range(-2, 3):
            if 0 <= t + s < 3:
                matrix = module.conv.weight[:, :, s + 2, 0]
                y[:, t] += torch.einsum("oi,bihw->bohw", matrix, clips[:, t + s, :2])
    expected = torch.cat([y, clips[:, :, 2:]], 2).flatten(0, 1)
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-5)


def test_interlacing_by_fixed_offsets_is_a_temporal_convolution():
    interlaced = TemporalInterlace(16, num_segments=6)
    for parameter in interlaced.parameters():
        nn.init.zeros_(parameter)
    share = 1.25 / 4 + 0.5  # the value of the sigmoid that gives an offset of 1.25 frames
    nn.init.constant_(interlaced.offset_net.fc2.bias, math.log(share / (1 - share)))
    convolved = TemporalConv(16, num_segments=6)
    kernel = torch.zeros(4, 4, 5)  # taps t-2, t-1, t, t+1, t+2
    for group, taps in enumerate([(0.25, 0.75, 0, 0, 0)] * 2 + [(0, 0, 0, 0.75, 0.25)] * 2):
        kernel[group, group] = torch.tensor(taps)
    convolved.conv.weight.data = kernel[..., None]
    x = torch.randn(12, 16, 2, 3)
    torch.testing.assert_close(interlaced(x), convolved(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["shift", "interlace", "conv", "none"])
def test_a_module_keeps_shape_and_type_in_either_memory_layout(name: str):
    module = temporal_module(name, 32, num_segments=4, shift_div=4)
    x = torch.randn(8, 32, 3, 5).to(memory_format=torch.channels_last)
    y = module(x)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    torch.testing.assert_close(y, module(x.contiguous()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["interlace", "shift"])
def test_bfloat16_features_stay_bfloat16(name: str):
    module = temporal_module(name, 32, num_segments=4, shift_div=4)
    assert module(torch.randn(8, 32, 3, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["shift", "interlace"])
def test_gradients_through_a_module_equal_finite_differences(name: str):
    module = temporal_module(name, 16, num_segments=3, shift_div=4).double()
    x = torch.randn(3, 16, 1, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, x, atol=1e-6)


@pytest.mark.parametrize("name", ["shift", "interlace"])
def test_a_module_compiles_without_a_graph_break(name: str):
    module = temporal_module(name, 16, num_segments=3, shift_div=4)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = torch.randn(6, 16, 2, 2, requires_grad=True)
    grad = torch.randn(6, 16, 2, 2)
    (found,) = torch.autograd.grad(compiled(x), x, grad)
    (expected,) = torch.autograd.grad(module(x), x, grad)
    torch.testing.assert_close(found, expected)


def test_a_number_of_channels_that_does_not_fit_is_rejected():
    with pytest.raises(ValueError, match="model.shift_div 4 selects 6 of 24 channels to interlace"):
        TemporalInterlace(24, 8)
    with pytest.raises(ValueError, match="shift_div 1 does not fit 8 channels"):
        TemporalShift(8, 4, shift_div=1)
