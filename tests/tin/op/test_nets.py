"""The kernels of the offset net and the weight net equal the modules that define them."""

import ctypes
import shutil
from functools import partial

import emulated_kernels
import pytest
import torch
from emulated_kernels import Kernels, Nets
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tin.models import temporal
from tin.models.temporal import OffsetNet, WeightNet
from tin.op import interlace as interlace_operator
from tin.op.build import build
from tin.op.nets import interlace_nets

SHAPES = [(B, T, F) for B, T in [(1, 8), (2, 1), (3, 3), (9, 8), (2, 16)] for F in (4, 16, 64)]
SHAPES += [(2, 8, 512), (1, 49, 36), (17, 8, 16), (3, 24, 33), (1, 25, 4)]
ERRORS = {torch.float64: 1e-12, torch.float32: 1e-5}  # relative to the largest value
LAYERS = ("conv", "fc1", "fc2")


def nets(T, F, dtype=torch.float64, device="cpu"):
    """Return an offset net and a weight net with random parameters."""
    torch.manual_seed(100 * T + F)
    found = OffsetNet(F, T), WeightNet(F)
    for net in found:
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=max(parameter[0].numel(), 1) ** -0.5)
        net.to(device, dtype)
    return found


def parameters(offset_net, weight_net):
    """Return the parameters in the order of the operator."""
    layers = [getattr(offset_net, name) for name in LAYERS] + [weight_net.conv]
    return [parameter for layer in layers for parameter in (layer.weight, layer.bias)]


def by_modules(offset_net, weight_net, pooled, T):
    """Return offset and weight of the four groups."""
    clips = pooled.unflatten(0, (-1, T)).transpose(1, 2)
    offset = offset_net(clips)
    weight = weight_net(clips)
    return torch.cat([offset, -offset], dim=1), torch.cat([weight, weight], dim=2)


def with_gradients(outputs, inputs, grads):
    """Return the outputs and the gradients of the inputs."""
    return [*(y.detach() for y in outputs), *torch.autograd.grad(outputs, inputs, grads)]


def case(B, T, F, dtype=torch.float64, device="cpu"):
    """Return the nets, the input, and gradients of the outputs."""
    both = nets(T, F, dtype, device)
    pooled = torch.randn(B * T, F, dtype=dtype, device=device, requires_grad=True)
    grads = [torch.randn(B, *rest, dtype=dtype, device=device) for rest in ((4,), (T, 4))]
    return both, pooled, grads


def exact(both, pooled, grads):
    """Return offset, weight and all gradients of the modules, computed in float64."""
    for net in both:
        net.double()
    pooled = pooled.detach().double().requires_grad_()
    outputs = by_modules(*both, pooled, both[0].fc1.in_features)
    leaves = [pooled, *parameters(*both)]
    return with_gradients(outputs, leaves, [grad.double() for grad in grads])


def assert_near(found, expected, error=1e-5):
    """Compare tensors with an error relative to the largest value of each."""
    for result, want in zip(found, expected, strict=True):
        assert result.shape == want.shape
        torch.testing.assert_close(result, want, rtol=error, atol=error * want.abs().max().item())


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    if not shutil.which("g++"):
        pytest.skip("no g++")
    return Kernels(emulated_kernels.compile_nets(tmp_path_factory.mktemp("nets") / "emulated.so"))


def pointers(tensors):
    return (ctypes.c_void_p * 8)(*(tensor.data_ptr() for tensor in tensors))


def emulated_forward(kernels: Kernels, pooled: Tensor, *weights: Tensor):
    """Return offset, weight and state, as the operator does."""
    T = len(weights[2])
    B = len(pooled) // T
    results = [pooled.new_full(size, -7) for size in ((B, 4), (B, T, 4), (B, 4 * T + 2))]
    names = ("offset", "weight", "state")
    addresses = {name: tensor.data_ptr() for name, tensor in zip(names, results, strict=True)}
    values = Nets(B=B, T=T, F=pooled.shape[1], pooled=pooled.data_ptr(), **addresses)
    values.parameters = pointers(weights)
    kernels.call_nets("tin_nets_forward_cuda", values, str(pooled.dtype).removeprefix("torch."))
    return tuple(results)


def emulated_backward(
    kernels: Kernels, grad_offset, grad_weight, pooled, offset_conv, fc1, fc2, weight_conv, state
):
    """Return the gradients of pooled and of the parameters, as the operator does."""
    T = len(fc1)
    layers = (offset_conv, fc1, fc2, weight_conv)
    found = [torch.full_like(pooled, -7)]
    for layer in layers:
        found += [torch.full_like(layer, -7), layer.new_full((len(layer),), -7)]
    values = Nets(
        B=len(pooled) // T,
        T=T,
        F=pooled.shape[1],
        pooled=pooled.data_ptr(),
        grad_offset=grad_offset.data_ptr(),
        grad_weight=grad_weight.data_ptr(),
        state=state.data_ptr(),
        d_pooled=found[0].data_ptr(),
        gradients=pointers(found[1:]),
    )
    # The biases are not read, so that any address does.
    values.parameters = pointers([layer for layer in layers for _ in range(2)])
    kernels.call_nets("tin_nets_backward_cuda", values, str(pooled.dtype).removeprefix("torch."))
    return tuple(found)


def emulated(kernels: Kernels, pooled: Tensor, weights: list[Tensor], grads: list[Tensor]):
    """Return offset, weight, and the gradients of pooled and the parameters, by the kernels."""
    offset, weight, state = emulated_forward(kernels, pooled, *weights)
    layers = weights[::2]
    return [offset, weight, *emulated_backward(kernels, *grads, pooled, *layers, state)]


@pytest.fixture
def on_the_cpu(kernels, monkeypatch):
    """Let the emulated kernels implement the operators for the CPU."""
    kernels.reverse(False)
    monkeypatch.setattr(temporal, "_has_kernel", lambda pooled: True)
    with torch.library._scoped_library("tin", "FRAGMENT") as library:
        library.impl("interlace_nets", partial(emulated_forward, kernels), "CPU")
        library.impl("interlace_nets_backward", partial(emulated_backward, kernels), "CPU")
        yield


@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_kernels_equal_the_modules_in_both_orders_of_threads(kernels, shape, dtype):
    both, pooled, grads = case(*shape, dtype)
    weights = parameters(*both)
    kernels.reverse(False)
    found = emulated(kernels, pooled.detach(), [w.detach() for w in weights], grads)
    kernels.reverse(True)
    again = emulated(kernels, pooled.detach(), [w.detach() for w in weights], grads)
    for result, repeated in zip(found, again, strict=True):
        assert torch.equal(result, repeated)
    assert_near([result.double() for result in found], exact(both, pooled, grads), ERRORS[dtype])


def test_the_kernels_keep_a_nan_in_its_clip(kernels):
    both, pooled, grads = case(3, 8, 16)
    weights = [w.detach() for w in parameters(*both)]
    pooled = pooled.detach()
    usual = emulated(kernels, pooled, weights, grads)
    pooled[8, 0] = float("nan")
    found = emulated(kernels, pooled, weights, grads)
    assert found[0][1].isnan().all()
    for clip in (0, 2):
        assert torch.equal(found[0][clip], usual[0][clip])
        assert torch.equal(found[1][clip], usual[1][clip])
        assert torch.equal(found[2].view(3, 8, 16)[clip], usual[2].view(3, 8, 16)[clip])


def step(module: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the output, the recorded shifts and the gradients of x and all parameters."""
    y = module(x)
    leaves = [x, *module.parameters()]
    grads = torch.autograd.grad(y.float().square().sum(), leaves)
    return [y.detach(), module.offset, module.weight, *grads]


def interlace_module(device="cpu"):
    """Return a module with random nets that records its shifts, and its input."""
    module = temporal.TemporalInterlace(64, num_segments=8)
    module.offset_net, module.weight_net = nets(8, 16, torch.float32)
    module.record = True
    return module.to(device), torch.randn(3 * 8, 64, 5, 6, device=device, requires_grad=True)


def test_the_module_uses_the_operator_and_keeps_its_numbers(on_the_cpu, monkeypatch):
    module, x = interlace_module()
    found = step(module, x)
    compiled = step(torch.compile(module, backend="aot_eager", fullgraph=True), x)
    with torch.no_grad():
        without_gradients = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = step(module, x)
    monkeypatch.undo()
    assert_near(found, step(module, x))
    for result, want in zip(compiled, found, strict=True):
        assert torch.equal(result, want)
    assert torch.equal(without_gradients, found[0])
    for result, want in zip(autocast, found, strict=True):
        assert torch.equal(result, want)


def test_the_operator_passes_the_checks_of_torch(on_the_cpu):
    both, pooled, _ = case(2, 8, 16)
    arguments = (pooled, *parameters(*both))
    torch.library.opcheck(torch.ops.tin.interlace_nets.default, arguments)
    assert torch.autograd.gradcheck(
        lambda *inputs: interlace_nets(inputs[0], inputs[1:]), arguments, fast_mode=True
    )


def test_an_output_without_a_gradient_counts_as_zeros(on_the_cpu):
    both, pooled, _ = case(2, 8, 16)
    leaves = [pooled, *parameters(*both)]
    for i in range(2):
        found = torch.autograd.grad(interlace_nets(pooled, leaves[1:])[i].square().sum(), leaves)
        expected = torch.autograd.grad(
            by_modules(*both, pooled, 8)[i].square().sum(), leaves, materialize_grads=True
        )
        assert_near(found, expected, 1e-12)


def test_a_second_derivative_is_rejected(on_the_cpu):
    both, pooled, _ = case(2, 8, 16)
    offset, _ = interlace_nets(pooled, parameters(*both))
    with pytest.raises(RuntimeError, match="not differentiable"):
        torch.autograd.grad(offset.sum(), pooled, create_graph=True)


def test_an_exported_module_has_the_plain_nets(monkeypatch):
    monkeypatch.setattr(interlace_operator, "_load", lambda device_type: True)
    module, x = interlace_module()
    module.record = False
    program = torch.export.export(module.eval(), (x.detach(),))
    names = [str(node.target) for node in program.run_decompositions().graph.nodes]
    assert not any("interlace" in name for name in names)
    assert names.count("aten.convolution.default") == 2


class Operators(TorchDispatchMode):
    """Lists the operators that are dispatched and are no views."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view and not func.name().startswith("prim::"):  # prim asks for the device
            self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def operators_of_a_module() -> tuple[list[str], list[str]]:
    """Return what a module dispatches forward and backward.

    The tensors are fake and on the CPU, because the autograd of a torch for CPUs rejects others.
    """
    with FakeTensorMode():
        module = temporal.TemporalInterlace(256, num_segments=8)
        x = torch.empty(6 * 8, 256, 56, 56, requires_grad=True)
        with Operators() as forward:
            y = module(x)
        grad = torch.empty_like(y)
        with Operators() as backward:
            y.backward(grad)
    return forward.names, backward.names


def test_a_module_dispatches_few_operators_on_cuda(monkeypatch):
    monkeypatch.setattr(interlace_operator, "is_compiled", lambda device_type: True)
    forward, backward = operators_of_a_module()  # with the plain nets
    assert len(forward) == 15
    assert len(backward) >= 20
    monkeypatch.setattr(temporal, "_has_kernel", lambda pooled: True)
    assert operators_of_a_module() == (
        ["aten::mean.dim", "tin::interlace_nets", "tin::interlace"],
        [
            "tin::interlace_backward",
            "tin::interlace_nets_backward",
            "aten::div.Tensor",
            "aten::add_.Tensor",
        ],
    )


@pytest.fixture
def gpu_kernels():
    """Build the operator with the kernels of this GPU."""
    build()
    interlace_operator._load.cache_clear()
    assert interlace_operator.is_compiled("cuda"), "no kernels for this GPU: no CUDA toolkit?"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize("shape", [*SHAPES, (32, 8, 512), (6, 8, 128)], ids=str)
def test_cuda_equals_the_modules(gpu_kernels, shape, dtype):
    both, pooled, grads = case(*shape, dtype, "cuda")
    leaves = [pooled, *parameters(*both)]
    found = with_gradients(interlace_nets(pooled, leaves[1:]), leaves, grads)
    assert_near([result.double() for result in found], exact(both, pooled, grads), ERRORS[dtype])


@pytest.mark.gpu
def test_a_module_on_cuda_keeps_its_numbers(gpu_kernels, monkeypatch):
    module, x = interlace_module("cuda")
    found = step(module, x)
    with torch.autocast("cuda", torch.bfloat16):
        autocast = step(module, x)
    compiled = step(torch.compile(module, backend="aot_eager", fullgraph=True), x)
    for results in (autocast, compiled):
        for result, want in zip(results, found, strict=True):
            assert torch.equal(result, want)
    monkeypatch.setattr(temporal, "_has_kernel", lambda pooled: False)
    with torch.backends.cudnn.flags(enabled=False):  # cuDNN would round to TF32
        assert_near(found, step(module, x))


@pytest.mark.gpu
def test_cuda_gives_the_same_bits_in_every_run(gpu_kernels):
    both, pooled, grads = case(32, 8, 512, torch.float32, "cuda")
    leaves = [pooled, *parameters(*both)]
    first = with_gradients(interlace_nets(pooled, leaves[1:]), leaves, grads)
    for _ in range(10):
        again = with_gradients(interlace_nets(pooled, leaves[1:]), leaves, grads)
        for one, two in zip(first, again, strict=True):
            assert torch.equal(one, two)


@pytest.mark.gpu
def test_a_cuda_graph_replays_both_nets(gpu_kernels):
    module, x = interlace_module("cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(module, x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step(module, x)
    with torch.no_grad():
        x.copy_(torch.randn_like(x))
    graph.replay()
    found = [tensor.clone() for tensor in found]
    for result, want in zip(found, step(module, x), strict=True):
        assert torch.equal(result, want)
