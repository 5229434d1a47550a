"""Non-local blocks and pooling over time against the original and against their definitions."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tin.models.network import TIN, train_mode
from tin.models.time_blocks import NonLocal, TemporalPool

NAMES = {"theta": "theta", "phi": "phi.0", "g": "g.0", "out": "W.0", "norm": "W.1"}


@pytest.fixture(scope="module")
def blocks(shared):
    with np.load(shared / "reference/more/modality_blocks.npz") as arrays:
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def frames(clip: Tensor) -> Tensor:
    """Return ``(B*T, C, H, W)`` of a clip ``(B, C, T, H, W)``."""
    return clip.transpose(1, 2).flatten(0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_non_local_block_equals_the_original(blocks, dtype):
    x = blocks["nl_x"]
    block = NonLocal(8, x.shape[2], "embedded_gaussian")
    state = {}
    for name in block.state_dict():
        layer, _, last = name.rpartition(".")
        value = blocks[f"nl_param/{NAMES[layer]}.{last}"]
        state[name] = value.flatten(3) if value.dim() == 5 else value
    block.load_state_dict(state)
    block.eval().to(dtype)
    x = frames(x).to(dtype).requires_grad_()
    y = block(x)
    torch.testing.assert_close(y.float(), frames(blocks["nl_out"]), rtol=1e-5, atol=1e-5)
    y.backward(frames(blocks["nl_grad_out"]).to(dtype))
    torch.testing.assert_close(x.grad.float(), frames(blocks["nl_grad_x"]), rtol=1e-4, atol=1e-5)
    for name, parameter in block.named_parameters():
        layer, _, last = name.rpartition(".")
        expected = blocks[f"nl_grad/{NAMES[layer]}.{last}"].view_as(parameter)
        # The gradient of the bias of phi is zero up to rounding: it moves all similarities alike.
        torch.testing.assert_close(parameter.grad.float(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["embedded_gaussian", "gaussian", "dot_product"])
def test_a_non_local_block_equals_its_definition(kind):
    B, T, C, H, W = 2, 3, 8, 5, 4
    block = NonLocal(C, T, kind).double().eval()
    torch.nn.init.normal_(block.norm.weight)
    x = torch.randn(B * T, C, H, W, dtype=torch.float64)
    y = block(x)
    found = block.norm.weight[:, None, None] * block.out(_means(block, x, B)) + x
    scale = (1 + block.norm.eps) ** 0.5
    torch.testing.assert_close((y - x) * scale, found - x)


def _means(block: NonLocal, x: Tensor, B: int) -> Tensor:
    """Return the weighted means of g for each place, one place after the other."""
    theta = x if block.kind == "gaussian" else block.theta(x)
    phi = F.max_pool2d(x if block.kind == "gaussian" else block.phi(x), 2)
    g = F.max_pool2d(block.g(x), 2)
    T = len(x) // B
    result = torch.zeros(*x.shape[:1], g.shape[1], *x.shape[2:], dtype=x.dtype)
    for clip in range(B):
        rows = slice(clip * T, (clip + 1) * T)
        keys = phi[rows].permute(0, 2, 3, 1).flatten(0, 2)
        values = g[rows].permute(0, 2, 3, 1).flatten(0, 2)
        for frame in range(clip * T, (clip + 1) * T):
            for i in range(x.shape[2]):
                for j in range(x.shape[3]):
                    similar = keys @ theta[frame, :, i, j]
                    if block.kind == "dot_product":
                        weights = similar / len(keys)
                    else:
                        weights = similar.softmax(0)
                    result[frame, :, i, j] = weights @ values
    return result


@pytest.mark.parametrize("kind", ["embedded_gaussian", "gaussian", "dot_product"])
def test_a_new_non_local_block_changes_nothing(kind):
    x = torch.randn(6, 8, 4, 4)
    assert torch.equal(NonLocal(8, 3, kind)(x), x)


def test_non_local_blocks_follow_the_blocks_of_the_original():
    with torch.device("meta"):
        for arch in ("resnet50", "resnet101", "resnet152"):
            model = TIN(3, arch, "none", non_local="embedded_gaussian")
            places = [name for name, block in model.named_modules() if isinstance(block, NonLocal)]
            assert places == [
                f"backbone.layer{place}.non_local" for place in ("2.0", "2.2", "3.0", "3.2", "3.4")
            ]


def test_the_norms_of_non_local_blocks_train_under_partial_batchnorm():
    model = TIN(3, "resnet18", "none", num_segments=2, non_local="gaussian")
    train_mode(model, "partial")
    trained = [name for name, norm in model.named_modules()
               if isinstance(norm, torch.nn.BatchNorm2d) and norm.training]  # fmt: skip
    assert trained == ["backbone.bn1", "backbone.layer2.0.non_local.norm",
                       "backbone.layer3.0.non_local.norm"]  # fmt: skip
    train_mode(model, "frozen")
    assert not any(norm.training for norm in model.modules()
                   if isinstance(norm, torch.nn.BatchNorm2d))  # fmt: skip


def test_a_temporal_pool_equals_the_original(blocks):
    assert torch.equal(TemporalPool(8)(blocks["pool_x"]), blocks["pool_out"])


def test_a_temporal_pool_takes_the_maximum_of_three_frames():
    x = torch.tensor([5.0, 1, 2, 7, 0, 3])[:, None, None, None]
    assert TemporalPool(6)(x).flatten().tolist() == [5, 7, 7]
    assert TemporalPool(2)(x).flatten().tolist() == [5, 7, 3]


def test_a_temporal_pool_of_an_odd_number_of_frames_is_rejected():
    with pytest.raises(ValueError, match="clip.num_segments is 5; choose an even number"):
        TIN(3, "resnet18", num_segments=5, temporal_pool=True)


def test_a_pooled_network_interlaces_half_of_the_frames_behind_layer_1():
    model = TIN(3, "resnet18", num_segments=4, temporal_pool=True, dropout=0.0)
    assert model.backbone.layer1[1].temporal.num_segments == 4
    assert model.backbone.layer2[0].temporal.num_segments == 2
    assert model(torch.randn(2, 4, 3, 32, 32)).shape == (2, 3)
