"""Causal modules against their definitions: clips, streams, and no look into the future."""

import math

import pytest
import torch
from torch.nn import functional

from configs.load import ConfigError, load
from tin.deploy.stream import Stream, logits_over_time
from tin.models.causal import CausalInterlace, CausalShift, causal_module
from tin.models.network import TIN, build_model

T = 4


def random_interlace(channels: int = 8, num_frames: int = T) -> CausalInterlace:
    module = CausalInterlace(channels, num_frames, shift_div=2)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


def by_definition(module: CausalInterlace, x: torch.Tensor) -> torch.Tensor:
    """Return the output for one clip ``(T, C, H, W)``, frame by frame and group by group."""
    F = module.channels
    pooled = x[:, :F].mean((2, 3))
    y = x.clone()
    hidden_sum = torch.zeros(8)
    for t in range(len(x)):
        past = torch.stack([pooled[s] if s >= 0 else torch.zeros(F) for s in (t - 2, t - 1, t)], 1)
        hidden_sum += (
            (module.offset_conv.weight * past).sum((1, 2)) + module.offset_conv.bias
        ).relu()
        inner = module.offset_fc.weight @ (hidden_sum / (t + 1)) + module.offset_fc.bias
        gains = (module.gain_conv.weight * past).sum((1, 2)) + module.gain_conv.bias
        for group in range(2):
            offset = 2 / (1 + math.exp(-inner[group]))
            gain = 2 / (1 + math.exp(-gains[group]))
            own = slice(group * F // 2, (group + 1) * F // 2)
            y[t, own] = 0
            for s in range(min(t, 2) + 1):
                y[t, own] += gain * max(0, 1 - abs(offset - s)) * x[t - s, own]
    return y


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_causal_interlacing_equals_its_definition(layout):
    module = random_interlace(num_frames=6)
    x = torch.randn(2 * 6, 8, 3, 5)
    with torch.no_grad():
        want = torch.cat([by_definition(module, clip) for clip in x.split(6)])
        found = module(x.contiguous(memory_format=layout))
    torch.testing.assert_close(found, want)


def test_causal_shifting_moves_an_eighth_of_the_channels_a_frame_later():
    x = torch.randn(2 * T, 16, 2, 3)
    y = CausalShift(16, T, shift_div=8)(x).unflatten(0, (2, T))
    clips = x.unflatten(0, (2, T))
    torch.testing.assert_close(y[:, :, 2:], clips[:, :, 2:])
    torch.testing.assert_close(y[:, 1:, :2], clips[:, :-1, :2])
    assert not y[:, 0, :2].any()


def test_gradients_of_causal_interlacing():
    module = random_interlace(num_frames=3).double()
    x = torch.randn(3, 8, 1, 2, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*module.named_parameters(), strict=True)

    def call(x, *values):
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *parameters))


def test_training_starts_half_a_frame_late_with_gains_of_one():
    module = CausalInterlace(8, T, shift_div=2)
    for layer in (module.offset_fc, module.gain_conv):
        torch.nn.init.zeros_(layer.weight)
    x = torch.randn(T, 8, 2, 2)
    y = module(x)
    earlier = functional.pad(x, (0, 0, 0, 0, 0, 0, 1, 0))[:-1]
    torch.testing.assert_close(y[:, :4], (x[:, :4] + earlier[:, :4]) / 2)


@pytest.fixture(params=["shift", "interlace"])
def network(request) -> TIN:
    torch.manual_seed(0)
    model = TIN(5, "resnet18", request.param, T, 4, causal=True).eval()
    torch.nn.init.normal_(model.fc.weight)
    for name, parameter in model.named_parameters():
        if ".temporal." in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.mark.parametrize("num_frames", [1, T, 5 * T])
def test_a_stream_equals_the_whole_clip_at_every_frame(network, num_frames):
    clips = torch.randn(2, num_frames, 3, 32, 32)
    want = logits_over_time(network, clips)
    assert want.shape == (2, num_frames, 5)
    stream = Stream(network)
    for t in range(num_frames):
        torch.testing.assert_close(stream.step(clips[:, t]), want[:, t], rtol=1e-5, atol=1e-5)


def test_the_logits_of_a_whole_clip_are_those_of_the_last_frame(network):
    clips = torch.randn(2, T, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(clips), logits_over_time(network, clips)[:, -1])


def test_a_future_frame_changes_nothing_before_it(network):
    clips = torch.randn(1, 2 * T, 3, 32, 32)
    before = logits_over_time(network, clips)
    clips[:, 5] += 1
    after = logits_over_time(network, clips)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


def test_the_state_of_a_stream_does_not_grow(network):
    def size() -> int:
        tensors = []
        for module in network.modules():
            if isinstance(module, CausalShift):
                tensors.append(module.last)
            elif isinstance(module, CausalInterlace):
                tensors += [*module.state.frames, *module.state.pooled, module.state.sum]
        return sum(tensor.numel() for tensor in tensors)

    stream = Stream(network)
    sizes = []
    for _ in range(3 * T):
        stream.step(torch.randn(1, 3, 32, 32))
        sizes.append(size())
    assert set(sizes) == {sizes[0]}


def test_no_parameter_depends_on_the_number_of_frames():
    shapes = [
        {name: p.shape for name, p in CausalInterlace(64, frames).named_parameters()}
        for frames in (4, 16)
    ]
    assert shapes[0] == shapes[1]


def test_modules_without_a_causal_form_are_rejected():
    with pytest.raises(ConfigError, match="conv has no causal form"):
        causal_module("conv", 64, T, 4)
    with pytest.raises(ValueError, match="3 of 12 channels"):
        CausalInterlace(12, T, 4)
    with pytest.raises(ConfigError, match="no causal module"):
        Stream(TIN(5, "resnet18", "shift", T, 8))


def test_blocks_that_look_at_later_frames_are_rejected():
    for setting in ("model.non_local=embedded_gaussian", "model.temporal_pool=true"):
        config = load(None, ["model.causal=true", setting])
        with pytest.raises(ConfigError, match="cannot be combined"):
            build_model(config, 3)


@pytest.mark.parametrize("temporal", ["shift", "interlace"])
def test_a_stream_of_mobilenet_equals_the_whole_clip(temporal):
    torch.manual_seed(0)
    model = TIN(5, "mobilenetv2", temporal, T, 4, causal=True).eval()
    torch.nn.init.normal_(model.fc.weight)
    clips = torch.randn(1, 2 * T, 3, 32, 32)
    want = logits_over_time(model, clips)
    stream = Stream(model)
    for t in range(2 * T):
        torch.testing.assert_close(stream.step(clips[:, t]), want[:, t], rtol=1e-5, atol=1e-5)


def test_the_setting_builds_a_causal_network():
    model = build_model(load(None, ["model.causal=true", "model.arch=resnet18"]), 3)
    kinds = [type(module) for module in model.modules() if ".temporal" not in str(module)]
    assert CausalInterlace in kinds
