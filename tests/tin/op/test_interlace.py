"""The operator equals its definition; the definition equals the formula and the reference."""

import logging
import math
import os
import shutil

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.parallel import DistributedDataParallel

from tin.op import interlace as module
from tin.op.build import build
from tin.op.interlace import interlace, interlace_reference

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
ROUNDING = {torch.float64: 1e-13, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """Build the operator in the user's cache, which other tests and `make demo` use too."""
    if not (os.environ.get("CXX") or any(map(shutil.which, ("c++", "g++", "clang++")))):
        pytest.skip("no C++ compiler")
    build()
    module._load.cache_clear()
    assert module.is_compiled("cpu")
    if torch.cuda.is_available():  # without kernels the definition would be compared with itself
        assert module.is_compiled("cuda"), "no kernels for this GPU: is there a CUDA toolkit?"


def inputs(B, T, C, H, W, G, dtype=torch.float32, layout="contiguous", device="cpu"):
    """Return random x, offset and weight."""
    small = torch.float64 if dtype == torch.float64 else torch.float32
    x = torch.randn(B * T, C, H, W).to(device, dtype).contiguous(memory_format=LAYOUTS[layout])
    offset = (torch.rand(B, G) * 6 - 3).to(device, small)
    return x, offset, torch.rand(B, T, G).to(device, small) * 2


def results(op, x, offset, weight, channels, grad):
    """Return the output and the three gradients."""
    leaves = [tensor.detach().requires_grad_() for tensor in (x, offset, weight)]
    y = op(*leaves, channels)
    return y.detach(), *torch.autograd.grad(y, leaves, grad)


def check_against_definition(x, offset, weight, channels):
    """Compare results and gradients with those of the definition in float64."""
    grad = torch.randn_like(x)
    found = results(interlace, x, offset, weight, channels, grad)
    exact = [tensor.double().contiguous() for tensor in (x, offset, weight)]
    wanted = results(interlace_reference, *exact, channels, grad.double())
    rounding = {"rtol": ROUNDING[x.dtype], "atol": ROUNDING[x.dtype]}
    # The gradients of offset and weight are sums of products, whose error grows with their number.
    B, _, G = weight.shape
    terms = x.numel() / x.shape[1] * channels / G / B
    sums = {"rtol": 1e-5, "atol": (1e-14 if x.dtype == torch.float64 else 1e-7) * (10 + terms)}
    for result, want, allowed in zip(found, wanted, (rounding, rounding, sums, sums), strict=True):
        torch.testing.assert_close(result.double(), want, **allowed)
    assert torch.equal(found[0][:, channels:], x[:, channels:])
    assert found[0].stride() == found[1].stride() == x.stride()
    assert [r.dtype for r in found[1:]] == [x.dtype, offset.dtype, weight.dtype]


def test_the_definition_equals_the_formula():
    x, offset, weight = inputs(2, 5, 7, 2, 1, 3, torch.float64)
    offset[0] = torch.tensor([2.0, -1.0, -7.3])
    y = interlace_reference(x, offset, weight, channels=6)
    clips = x.view(2, 5, 7, 2)
    for b, t, c in np.ndindex(2, 5, 7):
        want = clips[b, t, c]
        if c < 6:
            shift = float(offset[b, c // 2])
            zero = torch.zeros(2, dtype=torch.float64)
            k = math.floor(shift)
            near = clips[b, t - k, c] if 0 <= t - k < 5 else zero
            far = clips[b, t - k - 1, c] if 0 <= t - k - 1 < 5 else zero
            want = weight[b, t, c // 2] * ((1 - (shift - k)) * near + (shift - k) * far)
        torch.testing.assert_close(y.view(2, 5, 7, 2)[b, t, c], want)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_interlace_equals_its_definition_for_any_shape(device, data):
    def number(most):
        return data.draw(st.integers(1, most))

    B = number(3)
    T = number(17)
    G = number(4)
    copied = number(20) - 1
    channels = G * number(20)
    dtype = data.draw(st.sampled_from(DTYPES))
    layout = data.draw(st.sampled_from(list(LAYOUTS)))
    tensors = inputs(B, T, channels + copied, number(6), number(6), G, dtype, layout, device)
    check_against_definition(*tensors, channels)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(64, 14), (256, 20)])  # clips of several pieces
def test_interlace_equals_its_definition_for_large_frames(size, layout, device):
    C, side = size
    check_against_definition(
        *inputs(1, 8, C, side, side, 4, layout=layout, device=device), channels=C // 4
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("offset", [0, 1, -1, 3, 4, -4, 5, 3.5, -3.5, 4.5, -4.5, 100, -1e6])
def test_offsets_at_integers_at_the_borders_and_far_outside_of_the_clip(offset, layout, device):
    x, offsets, weight = inputs(1, 4, 6, 3, 2, 2, layout=layout, device=device)
    offsets[0, 0] = offset
    check_against_definition(x, offsets, weight, channels=4)


@pytest.mark.parametrize("op", [interlace, interlace_reference])
@pytest.mark.parametrize("offset, value", [("inf", 0), ("-inf", 0), ("1e30", 0), ("nan", "nan")])
@pytest.mark.parametrize("device", DEVICES)
def test_an_infinite_offset_gives_zeros_and_a_nan_stays_in_its_group(device, offset, value, op):
    x, offsets, weight = inputs(2, 4, 8, 3, 2, 2, device=device)
    usual = op(x, offsets, weight, 4)
    offsets[0, 0] = float(offset)
    y = op(x, offsets, weight, 4)
    wanted = torch.full_like(y[:4, :2], float(value))
    torch.testing.assert_close(y[:4, :2], wanted, equal_nan=True, rtol=0, atol=0)
    assert torch.equal(y[4:], usual[4:])
    assert torch.equal(y[:4, 2:], usual[:4, 2:])


@pytest.mark.parametrize("op", [interlace, interlace_reference])
def test_a_nan_in_x_appears_only_where_its_frame_is_used(op):
    x, offset, weight = inputs(1, 4, 1, 1, 1, 1)
    x[3] = math.nan
    offset[0, 0] = -0.5  # output t mixes the frames t and t + 1
    assert op(x, offset, weight, 1).isnan().flatten().tolist() == [False, False, True, True]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_interlace_gradients(layout, device):
    x, _, weight = inputs(2, 3, 6, 2, 1, 2, torch.float64, layout, device)
    offset = torch.tensor([[0.3, -1.6], [2.4, -0.2]], dtype=torch.float64, device=device)
    leaves = [tensor.requires_grad_() for tensor in (x, offset, weight)]
    assert torch.autograd.gradcheck(lambda *a: interlace(*a, 4), leaves, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("op", [interlace, interlace_reference])
def test_interlace_equals_the_reference(op, device, shared):
    paths = sorted((shared / "reference" / "op_interlace").glob("*.npz"))
    assert paths
    for path in paths:
        with np.load(path) as numbers:
            x, b, w, grad, *wanted = (
                torch.from_numpy(numbers[name]).to(device)
                for name in "x offset weight grad_out out grad_x grad_offset grad_weight".split()
            )
        channels = x.shape[1] // int(path.stem.partition("div")[2].partition("_")[0])
        # The reference has 2 offsets and weights for 4 groups: the last two groups use the negative
        # offsets and the same weights, so the gradients of the groups add up.
        offset = torch.cat([b, -b], 1)
        weight = torch.cat([w, w], 2)
        y, dx, db, dw = results(op, x, offset, weight, channels, grad)
        found = (y, dx, db[:, :2] - db[:, 2:], dw[..., :2] + dw[..., 2:])
        for result, want in zip(found, wanted, strict=True):
            scale = max(float(want.abs().max()), 1.0)
            torch.testing.assert_close(result, want, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("op", [interlace, interlace_reference])
def test_interlace_without_weights_equals_the_sampler_of_the_reference(op, shared):
    paths = sorted((shared / "reference" / "op_sampler").glob("*.npz"))
    assert paths
    for path in paths:
        with np.load(path) as numbers:
            numbers = {name: torch.from_numpy(numbers[name]) for name in numbers.files}
        B, T, C, _, _ = numbers["x"].shape
        weight = torch.ones(B, T, numbers["offset"].shape[1])
        x = numbers["x"].flatten(0, 1)
        grad = numbers["grad_out"].flatten(0, 1)
        y, dx, d_offset, _ = results(op, x, numbers["offset"], weight, C, grad)
        torch.testing.assert_close(y, numbers["out"].flatten(0, 1), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(dx, numbers["grad_x"].flatten(0, 1), rtol=1e-5, atol=1e-6)
        allowed = 1e-5 * max(float(numbers["grad_offset"].abs().max()), 1.0)
        torch.testing.assert_close(d_offset, numbers["grad_offset"], rtol=1e-5, atol=allowed)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_operators_pass_the_registration_checks_of_torch(dtype, layout, device):
    x, offset, weight = inputs(2, 3, 6, 3, 2, 2, dtype, layout, device)
    leaves = [tensor.detach().requires_grad_() for tensor in (x, offset, weight)]
    torch.library.opcheck(torch.ops.tin.interlace.default, (*leaves, 4))
    for need_x, need_small in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(
            torch.ops.tin.interlace_backward.default,
            (torch.randn_like(x), x, offset, weight, 4, need_x, need_small),
        )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("built, backend", [(True, "inductor"), (False, "aot_eager")])
def test_a_compiled_model_has_no_graph_break_and_the_same_gradients(
    built, backend, device, monkeypatch
):
    monkeypatch.setattr(
        module, "is_compiled", torch.compiler.assume_constant_result(lambda _: built)
    )
    torch.compiler.reset()

    def loss(x, offset, weight):
        return interlace(x.relu(), offset.tanh() * 2, weight.sigmoid(), 8).square().sum()

    x, offset, weight = inputs(2, 4, 12, 4, 3, 4, layout="channels_last", device=device)
    leaves = [tensor.requires_grad_() for tensor in (x, offset, weight)]
    wanted = torch.autograd.grad(loss(*leaves), leaves)
    found = torch.autograd.grad(
        torch.compile(loss, backend=backend, fullgraph=True)(*leaves), leaves
    )
    for result, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(result, want, rtol=1e-4, atol=1e-4)


class _Interlacing(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.offset = torch.nn.Parameter(torch.tensor([[0.4, -1.3]]))
        self.weight = torch.nn.Parameter(torch.rand(1, 4, 2))

    def forward(self, x):
        B = x.shape[0] // 4
        return interlace(x, self.offset.expand(B, -1), self.weight.expand(B, -1, -1), 4)


def test_interlace_trains_under_ddp():
    model = _Interlacing()
    x = torch.randn(8, 6, 3, 3)
    model(x).square().sum().backward()
    wanted = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        DistributedDataParallel(model)(x).square().sum().backward()
    finally:
        dist.destroy_process_group()
    for parameter, want in zip(model.parameters(), wanted, strict=True):
        assert torch.equal(parameter.grad, want)


@pytest.mark.parametrize("device", DEVICES)
def test_under_autocast_x_keeps_its_type_and_offsets_stay_exact(device):
    x, offset, weight = inputs(1, 4, 8, 3, 3, 2, torch.bfloat16, device=device)
    half = (offset.bfloat16(), weight.bfloat16())  # as a net returns them under autocast
    with torch.autocast(device, torch.bfloat16):
        y = interlace(x, *half, 4)
        compiled = torch.compile(interlace, backend="aot_eager", fullgraph=True)(x, *half, 4)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, interlace(x, half[0].float(), half[1].float(), 4))
    assert torch.equal(y, compiled)


def test_torch_compile_is_not_taken_for_torch_export(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert module.is_exporting()
    # Before torch 2.13, is_exporting is also True in code that torch.compile traces.
    monkeypatch.setattr(torch.compiler, "is_dynamo_compiling", lambda: True)
    assert not module.is_exporting()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("change", ["transposed", "sliced", "every other frame", "strange strides"])
def test_x_that_is_not_dense_gives_the_same_as_its_dense_copy(change, device):
    x, offset, weight = inputs(2, 4, 8, 6, 6, 2, device=device)
    x = {
        "transposed": lambda: x.transpose(2, 3),
        "sliced": lambda: torch.cat([x, x], 1)[:, 3:11],
        "every other frame": lambda: x.repeat_interleave(2, 0)[::2],
        "strange strides": lambda: x.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2),
    }[change]()
    assert not x.is_contiguous()
    check = results(interlace, x.contiguous(), offset, weight, 4, torch.ones_like(x))
    for found, want in zip(
        results(interlace, x, offset, weight, 4, torch.ones_like(x)), check, strict=True
    ):
        assert torch.equal(found, want)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_of_any_strides_are_accepted(layout, device):
    x, offset, weight = inputs(1, 4, 8, 3, 2, 2, layout=layout, device=device)
    x.requires_grad_()
    wanted = torch.autograd.grad(interlace(x, offset, weight, 4), x, torch.ones_like(x))
    one = torch.autograd.grad(interlace(x, offset, weight, 4).sum(), x)  # strides of 0
    turned = torch.ones(4, 8, 2, 3, device=device).transpose(2, 3)
    other = torch.autograd.grad(interlace(x, offset, weight, 4), x, turned)
    assert torch.equal(one[0], wanted[0])
    assert torch.equal(other[0], wanted[0])
    assert one[0].stride() == x.stride()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [(0, 8, 8, 3, 3), (2, 4, 8, 0, 3)])
def test_empty_batches_and_frames_work(size, device):
    x, offset, weight = inputs(*size, 2, device=device)
    y, dx, d_offset, d_weight = results(interlace, x, offset, weight, 4, torch.randn_like(x))
    assert y.shape == dx.shape == x.shape
    assert d_offset.shape == offset.shape
    assert d_weight.shape == weight.shape
    assert not d_offset.any()
    assert not d_weight.any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("needed", [0, 1, 2])
def test_a_single_gradient_equals_the_same_gradient_among_all(needed, device):
    x, offset, weight = inputs(2, 4, 8, 5, 3, 2, device=device)
    grad = torch.randn_like(x)
    wanted = results(interlace, x, offset, weight, 4, grad)[1 + needed]
    leaves = [x, offset, weight]
    leaves[needed].requires_grad_()
    assert torch.equal(torch.autograd.grad(interlace(*leaves, 4), leaves[needed], grad)[0], wanted)


@pytest.mark.parametrize("device", DEVICES)
def test_a_second_derivative_raises(device):
    x, offset, weight = inputs(1, 4, 8, 3, 3, 2, device=device)
    y = interlace(x.requires_grad_(), offset, weight, 4)
    with pytest.raises(RuntimeError, match="interlace: its gradient is not differentiable"):
        torch.autograd.grad(y.square().sum(), x, create_graph=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_number_of_threads_gives_the_same_bits(dtype, layout):
    x, offset, weight = inputs(2, 8, 64, 30, 30, 4, dtype, layout)
    grad = torch.randn_like(x)
    before = torch.get_num_threads()
    bits = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            bits.append(results(interlace, x, offset, weight, 16, grad))
    finally:
        torch.set_num_threads(before)
    for other in bits[1:]:
        for one, two in zip(bits[0], other, strict=True):
            assert torch.equal(one, two)


WRONG = {
    "x is torch.int64": (TypeError, lambda x, o, w: (x.long(), o, w, 4)),
    "torch.sparse_coo": (TypeError, lambda x, o, w: (x.to_sparse(), o, w, 4)),
    r"expected \(B\*T, C, H, W\)": (ValueError, lambda x, o, w: (x[0], o, w, 4)),
    "weight means 2 clips of 4 frames": (ValueError, lambda x, o, w: (x[:7], o, w, 4)),
    r"offset must be \(2, 2\)": (ValueError, lambda x, o, w: (x, o[:1], w, 4)),
    "2 groups must divide 5 channels": (ValueError, lambda x, o, w: (x, o, w, 5)),
    "must divide 10 channels, at most the 8 of x": (ValueError, lambda x, o, w: (x, o, w, 10)),
    "must divide 0 channels": (ValueError, lambda x, o, w: (x, o, w, 0)),
    "0 groups": (ValueError, lambda x, o, w: (x, o[:, :0], w[..., :0], 4)),
    "offset is torch.float64, expected torch.float32": (
        TypeError,
        lambda x, o, w: (x, o.double(), w, 4),
    ),
    "weight is torch.bfloat16": (TypeError, lambda x, o, w: (x, o, w.bfloat16(), 4)),
    "offset is on meta, expected the device of x, cpu": (
        ValueError,
        lambda x, o, w: (x, o.to("meta"), w, 4),
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments_raise_an_error_that_names_them(message):
    error, change = WRONG[message]
    with pytest.raises(error, match=message):
        interlace(*change(*inputs(2, 4, 8, 3, 3, 2)))


def test_kernels_called_directly_reject_arguments_that_would_access_foreign_memory():
    x, offset, weight = inputs(2, 4, 8, 3, 3, 2)
    forward = torch.ops.tin.interlace
    backward = torch.ops.tin.interlace_backward
    for wrong in (
        (x[:7], offset, weight, 4),
        (x, offset, weight, 3),
        (x, offset, weight, 12),
        (x[:, :, 1:], offset, weight, 4),
        (x, offset.double(), weight, 4),
        (x, offset, weight.transpose(0, 1).contiguous().transpose(0, 1), 4),
        (x.long(), offset, weight, 4),
    ):
        with pytest.raises(RuntimeError, match="interlace"):
            forward(*wrong)
    channels_last = x.contiguous(memory_format=torch.channels_last)
    for grad in (x[:, :4].contiguous(), x.double(), channels_last):
        with pytest.raises(RuntimeError, match="interlace"):
            backward(grad, x, offset, weight, 4, True, True)


def test_without_a_library_the_operator_warns_once_and_runs_the_definition(
    tmp_path, monkeypatch, caplog
):
    site = tmp_path / "site.yaml"
    site.write_text(f"cache: {tmp_path / 'cache'}\n")
    monkeypatch.setenv("TIN_SITE", str(site))
    module._load.cache_clear()
    x, offset, weight = inputs(1, 4, 8, 3, 3, 2, layout="channels_last")
    try:
        with caplog.at_level(logging.WARNING):
            found = [interlace(x, offset, weight, 4) for _ in range(3)]
    finally:
        module._load.cache_clear()
    assert torch.equal(found[0], interlace_reference(x, offset, weight, 4))
    assert found[0].stride() == x.stride()
    assert ["tin op build" in record.message for record in caplog.records] == [True]
    assert not (tmp_path / "cache").exists()  # a rank never compiles


@pytest.mark.gpu
def test_calls_on_several_streams_are_independent():
    calls = [inputs(2, 8, 64, 28, 28, 4, device="cuda") for _ in range(4)]
    wanted = [interlace(*call, 16) for call in calls]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in calls]
    found = []
    for _ in range(20):
        found = []
        for stream, call in zip(streams, calls, strict=True):
            with torch.cuda.stream(stream):
                found.append(interlace(*call, 16))
    torch.cuda.synchronize()
    for result, want in zip(found, wanted, strict=True):
        assert torch.equal(result, want)


@pytest.mark.gpu
def test_a_cuda_graph_replays_forward_and_backward():
    x, offset, weight = inputs(2, 8, 64, 14, 14, 4, device="cuda")
    leaves = [tensor.requires_grad_() for tensor in (x, offset, weight)]
    grad = torch.randn_like(x)

    def step():
        return torch.autograd.grad(interlace(*leaves, 16), leaves, grad)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    with torch.no_grad():
        x.copy_(torch.randn_like(x))
    graph.replay()
    for result, want in zip(found, step(), strict=True):
        assert torch.equal(result, want)


@pytest.mark.gpu
def test_cuda_gives_the_same_bits_in_every_run():
    x, offset, weight = inputs(4, 8, 256, 28, 28, 4, torch.bfloat16, "channels_last", "cuda")
    grad = torch.randn_like(x)
    first = results(interlace, x, offset, weight, 64, grad)
    for _ in range(10):
        for one, two in zip(first, results(interlace, x, offset, weight, 64, grad), strict=True):
            assert torch.equal(one, two)


@pytest.mark.gpu
@pytest.mark.parametrize("layout", LAYOUTS)
def test_tensors_may_have_more_than_2_to_the_31_elements(layout):
    # 84 clips of 8 frames of 256 channels of 112 x 112 pixels have 2.16e9 elements.
    B = 84
    T = 8
    frame = torch.randn(1, 256, 112, 112, device="cuda", dtype=torch.bfloat16)
    x = frame.expand(B * T, -1, -1, -1).contiguous(memory_format=LAYOUTS[layout])
    offset = torch.zeros(B, 4, device="cuda")
    offset[-1] = torch.tensor([1.0, -1.0, 0.0, 9.0])
    y = interlace(x, offset, torch.ones(B, T, 4, device="cuda"), 64)
    assert x.numel() > 2**31
    last = y[-T:]
    assert not last[0, :16].any()
    assert torch.equal(last[1, :16], frame[0, :16])
    assert not last[-1, 16:32].any()
    assert torch.equal(last[0, 16:32], frame[0, 16:32])
    assert torch.equal(last[3, 32:48], frame[0, 32:48])
    assert not last[:, 48:64].any()
    assert torch.equal(last[5, 64:], frame[0, 64:])


@pytest.mark.parametrize("device", DEVICES)
def test_a_single_frame_may_have_any_stride_between_frames(device):
    layout = torch.randn(1, 4, 3, 5, device=device).contiguous(memory_format=torch.channels_last)
    x = torch.as_strided(layout, layout.shape, (7, *layout.stride()[1:]))
    offset = torch.full((1, 2), 0.25, device=device)
    weight = torch.full((1, 1, 2), 2.0, device=device)
    expected = x.clone()
    expected[:, :2] *= 2 * (1 - 0.25)  # the frame before it is zero
    torch.testing.assert_close(interlace(x, offset, weight, channels=2), expected)
