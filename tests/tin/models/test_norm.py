"""A frozen BatchNorm on a GPU has torch's results, with a backward pass of its own."""

import pytest
import torch
from torch import Tensor, nn

from tin.models import norm as module
from tin.models.network import TIN, train_mode
from tin.models.norm import BatchNorm


def frozen(channels: int, dtype: torch.dtype) -> BatchNorm:
    """Return a frozen norm with random statistics, scale and shift."""
    norm = BatchNorm(channels, dtype=dtype).eval().requires_grad_(False)
    for values in (norm.weight, norm.bias, norm.running_mean):
        values.normal_()
    norm.running_var.uniform_(0.1, 3)
    return norm


def result(norm: nn.BatchNorm2d, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return the output after a ReLU in place, and the gradient of the input."""
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = nn.functional.relu(norm(leaf), inplace=True)
    y.backward(grad)
    assert norm.weight.grad is None
    assert leaf.grad is not None
    return y.detach(), leaf.grad


def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x, grad = torch.randn(2, 6, 7, 5, 3, dtype=dtype).unbind()
    last = torch.channels_last
    return x.contiguous(memory_format=last), grad.contiguous(memory_format=last)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_gradient_is_that_of_torch(dtype, monkeypatch):
    norm = frozen(7, dtype)
    x, grad = inputs(dtype)
    want = result(norm, x, grad)
    monkeypatch.setattr(module, "_has_fast_backward", lambda norm, x: True)
    found = result(norm, x, grad)
    assert torch.equal(found[0], want[0])
    rounding = 1e-12 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(found[1], want[1], rtol=rounding, atol=rounding)
    assert found[1].is_contiguous(memory_format=torch.channels_last)


def test_only_a_frozen_norm_on_a_gpu_is_different():
    class OnGpu:
        is_cuda = True
        requires_grad = True

    norm = frozen(7, torch.float32)
    assert module._has_fast_backward(norm, OnGpu())
    assert not module._has_fast_backward(norm, torch.zeros(1, requires_grad=True))
    assert not module._has_fast_backward(norm.train(), OnGpu())
    assert not module._has_fast_backward(norm.eval().requires_grad_(True), OnGpu())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_gradients_of_a_network_are_those_of_torch(dtype, monkeypatch):
    torch.manual_seed(0)
    model = TIN(6, "resnet18", num_segments=4).cuda().to(memory_format=torch.channels_last)
    train_mode(model, "partial")
    model.dropout.p = 0.0
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    x = torch.randn(2, 4, 3, 32, 32, device="cuda")

    def gradients() -> list[Tensor]:
        model.zero_grad()
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            logits = model(x)
        logits.float().logsumexp(1).sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    found = gradients()
    monkeypatch.setattr(module, "_has_fast_backward", lambda norm, x: False)
    for ours, theirs in zip(found, gradients(), strict=True):
        scale = theirs.abs().max()
        rounding = 1e-4 if dtype == torch.float32 else 3e-2
        assert (ours - theirs).abs().max() <= rounding * scale
