"""The CUDA kernels, run on the CPU, equal the definition."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import emulated_kernels
import pytest
import torch
from emulated_kernels import Kernels, Shape
from hypothesis import given, settings
from hypothesis import strategies as st

from tin.op.interlace import interlace_reference

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="no g++")

CANARY = 512  # elements before and after each result
# Largest error of one rounding to the type; for float32 and float64, of a few roundings.
ROUNDING = {"float64": 1e-13, "float32": 1e-6, "float16": 2**-11, "bfloat16": 2**-8}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
SHAPES = [  # B, T, C, H, W, channels, G
    (2, 8, 64, 7, 9, 16, 4),
    (1, 8, 16, 5, 3, 4, 4),  # a group has one channel
    (1, 1, 8, 2, 2, 8, 2),
    (1, 16, 64, 7, 7, 16, 4),
    (1, 11, 32, 4, 4, 32, 4),  # nothing is copied
    (1, 5, 13, 3, 5, 9, 3),  # vectors of one element
    (1, 8, 64, 28, 28, 16, 4),  # several blocks share a group
    (1, 2, 2100, 2, 2, 2100, 1),  # a pixel has more channels than a block has threads
    (1, 9, 1200, 2, 1, 1200, 6),  # some, but not all, of the groups of a pixel fit into a block
    (1, 3, 130, 2, 2, 129, 1),  # a pixel takes half a block, so that some threads do not work
]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    library = tmp_path_factory.mktemp("kernels") / "emulated.so"
    warnings = ("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
    return Kernels(emulated_kernels.compile_cuda(library, *warnings))


@pytest.fixture(scope="module")
def cpu(tmp_path_factory):
    return Kernels(emulated_kernels.compile_cpu(tmp_path_factory.mktemp("cpu") / "cpu.so"))


def between_canaries(like, shift=0):
    """Return a tensor like another, and a function that checks the memory around it.

    The tensor starts `shift` elements after an aligned address.
    """
    size = like.numel()
    memory = torch.full((CANARY + size + CANARY,), -7.0, dtype=like.dtype)
    inner = memory[CANARY + shift :][:size]

    def untouched():
        outside = torch.cat([memory[: CANARY + shift], memory[CANARY + shift + size :]])
        return bool((outside == -7).all())

    return inner.as_strided(like.shape, like.stride()), untouched


def inputs(B, T, C, H, W, channels, G, dtype, layout, shift=0):
    """Return random inputs and the shape of a call."""
    small = torch.float64 if dtype == "float64" else torch.float32

    def made():
        values = torch.randn(B * T, C, H, W).contiguous(memory_format=LAYOUTS[layout])
        placed, _ = between_canaries(values.to(getattr(torch, dtype)), shift)
        return placed.copy_(values)

    return SimpleNamespace(
        x=made(),
        grad=made(),
        offset=(torch.rand(B, G) * 5 - 2.5).to(small),
        weight=torch.rand(B, T, G).to(small) * 2,
        shape=Shape(B, T, C, H * W, channels, G, layout == "channels_last"),
        dtype=dtype,
        shift=shift,
    )


def forward(kernels, v, name="tin_forward_cuda"):
    """Return y."""
    y, untouched = between_canaries(v.x, v.shift)
    tensors = {"x": v.x, "offset": v.offset, "weight": v.weight, "y": y}
    kernels.call(name, v.shape, v.dtype, **addresses(tensors))
    assert untouched()
    return y


def backward(kernels, v, without=()):
    """Return dx, d_offset and d_weight; those in `without` are not computed and stay -7."""
    partial = v.offset.new_full((kernels.num_partials(v.shape, v.dtype),), -7)
    made = {
        "dx": between_canaries(v.x, v.shift),
        "partial": between_canaries(partial),
        "d_offset": between_canaries(v.offset),
        "d_weight": between_canaries(v.weight),
    }
    results = {name: tensor for name, (tensor, _) in made.items()}
    given = {"x": v.x, "grad": v.grad, "offset": v.offset, "weight": v.weight} | results
    given = {name: tensor for name, tensor in given.items() if name not in without}
    kernels.call("tin_backward_cuda", v.shape, v.dtype, **addresses(given))
    for name, (_, untouched) in made.items():
        assert untouched(), name
    return results["dx"], results["d_offset"], results["d_weight"]


def addresses(tensors):
    return {name: tensor.data_ptr() for name, tensor in tensors.items()}


def check_against_definition(kernels, v):
    """Compare results and gradients with those of the definition in float64; return them."""
    exact = [tensor.double().contiguous().requires_grad_() for tensor in (v.x, v.offset, v.weight)]
    want_y = interlace_reference(*exact, v.shape.channels)
    wanted = torch.autograd.grad(want_y, exact, v.grad.double())
    rounding = {"rtol": 1.01 * ROUNDING[v.dtype], "atol": min(1e-6, ROUNDING[v.dtype])}
    y = forward(kernels, v)
    dx, d_offset, d_weight = backward(kernels, v)
    torch.testing.assert_close(y.double(), want_y, **rounding)
    torch.testing.assert_close(dx.double(), wanted[0], **rounding)
    assert torch.equal(y[:, v.shape.channels :], v.x[:, v.shape.channels :])
    assert torch.equal(dx[:, v.shape.channels :], v.grad[:, v.shape.channels :])
    # The error of sums in float32 or float64 grows with the number of terms.
    terms = v.x[0].numel() / v.shape.C * v.shape.channels / v.shape.G * v.shape.T
    sums = {"rtol": 1e-5, "atol": (1e-14 if v.dtype == "float64" else 1e-7) * (10 + terms)}
    torch.testing.assert_close(d_offset.double(), wanted[1], **sums)
    torch.testing.assert_close(d_weight.double(), wanted[2], **sums)
    return y, dx, d_offset, d_weight


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", emulated_kernels.TYPES)
def test_kernels_equal_the_definition_in_both_orders_of_threads(kernels, dtype, shape, layout):
    v = inputs(*shape, dtype, layout)
    kernels.reverse(False)
    first = check_against_definition(kernels, v)
    kernels.reverse(True)
    for result, again in zip(first, check_against_definition(kernels, v), strict=True):
        assert torch.equal(result, again)


def test_kernels_equal_the_definition_if_a_block_takes_a_whole_group(kernels):
    check_against_definition(kernels, inputs(4, 1, 131, 17, 17, 130, 130, "float32", "contiguous"))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(data=st.data())
def test_kernels_equal_the_definition_for_any_shape(kernels, data):
    def number(most):
        return data.draw(st.integers(1, most))

    B = number(3)
    T = number(17)
    G = number(4)
    copied = number(9) - 1
    channels = G * number(8)
    dtype = data.draw(st.sampled_from(emulated_kernels.TYPES))
    layout = data.draw(st.sampled_from(list(LAYOUTS)))
    v = inputs(B, T, channels + copied, number(5), number(5), channels, G, dtype, layout)
    check_against_definition(kernels, v)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", emulated_kernels.TYPES)
def test_kernels_equal_the_definition_for_unaligned_tensors(kernels, dtype, layout):
    check_against_definition(kernels, inputs(2, 8, 32, 4, 4, 8, 2, dtype, layout, shift=1))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("offset", [0, 1, -1, 3, 4, -4, 5, 3.5, -3.5, 4.5, -4.5, 100, -1e6])
def test_offsets_at_integers_at_the_borders_and_far_outside_of_the_clip(kernels, offset, layout):
    v = inputs(1, 4, 16, 3, 4, 8, 2, "float32", layout)
    v.offset[0, 0] = offset
    check_against_definition(kernels, v)


@pytest.mark.parametrize("offset, value", [("inf", 0), ("-inf", 0), ("1e30", 0), ("nan", "nan")])
def test_an_infinite_offset_gives_zeros_and_a_nan_stays_in_its_group(kernels, offset, value):
    v = inputs(2, 4, 16, 3, 4, 8, 2, "float32", "contiguous")
    usual = forward(kernels, v)
    v.offset[0, 0] = float(offset)
    y = forward(kernels, v)
    dx, _, _ = backward(kernels, v)
    wanted = torch.full_like(y[:4, :4], float(value))
    for result in (y, dx):
        torch.testing.assert_close(result[:4, :4], wanted, equal_nan=True, rtol=0, atol=0)
    assert torch.equal(y[4:], usual[4:])
    assert torch.equal(y[:4, 4:], usual[:4, 4:])
    assert dx[4:].isfinite().all()
    assert dx[:4, 4:].isfinite().all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", emulated_kernels.TYPES)
def test_cuda_and_cpu_agree_if_x_has_nan_and_infinity(kernels, cpu, dtype, layout):
    v = inputs(1, 8, 32, 4, 4, 16, 4, dtype, layout)
    v.x.flatten()[torch.randperm(v.x.numel())[:300]] = (
        torch.tensor([float("nan"), float("inf"), float("-inf")]).repeat(100).to(v.x.dtype)
    )
    v.offset[0] = torch.tensor([0.4, -1.0, 9.0, float("nan")])
    close = {"rtol": 4 * ROUNDING[dtype], "atol": ROUNDING[dtype], "equal_nan": True}
    torch.testing.assert_close(forward(kernels, v), forward(cpu, v, "forward_cpu"), **close)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_can_be_computed_separately(kernels, layout):
    v = inputs(2, 8, 64, 7, 9, 16, 4, "float32", layout)
    dx, d_offset, d_weight = backward(kernels, v)
    only_dx = backward(kernels, v, without=("partial", "d_offset", "d_weight"))
    assert torch.equal(only_dx[0], dx)
    rest = backward(kernels, v, without=("dx",))
    assert torch.equal(rest[1], d_offset)
    assert torch.equal(rest[2], d_weight)


def test_kernels_pass_the_address_and_undefined_behavior_sanitizers(tmp_path):
    found = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True)
    asan = found.stdout.strip()
    if not Path(asan).is_absolute():
        pytest.skip("g++ has no AddressSanitizer")
    sanitize = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    library = emulated_kernels.compile_cuda(tmp_path / "sanitized.so", *sanitize)
    done = subprocess.run(
        [sys.executable, emulated_kernels.__file__, library],
        env=os.environ | {"LD_PRELOAD": asan, "ASAN_OPTIONS": "detect_leaks=0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
