"""Measures the speed of the operator and of the model on this machine."""

import contextlib
import functools
import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from configs.load import load
from tin.bench.timing import Call, Report, Value, in_turns, measuring_device, replayed
from tin.bench.two_shifts import gathered, interlaced, two_shifts
from tin.models.network import TIN, train_mode
from tin.models.size import count
from tin.models.temporal import temporal_module
from tin.op.interlace import interlace, interlace_reference

STAGES = ((64, 56), (256, 56), (512, 28), (1024, 14), (2048, 7))  # C, H = W of ResNet-50's blocks
BLOCKS = (1, 3, 4, 6, 2)  # number of blocks with each of these inputs
SHIFT_DIV = {"none": 4, "shift": 8, "interlace": 4}  # values of the papers
PLAIN = "tin.bench.two_shifts:PlainInterlace"
WAYS = (*SHIFT_DIV, "conv", PLAIN)  # temporal modules that `bench_model` measures
COMPILED_CLIPS = 4  # the only batch that is compiled, since torch.compile takes seconds a shape
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
ARCH = "resnet50"
T = 8  # frames of a clip
SET_BYTES = 400e6  # of the tensors of a replay, several times the cache of a GPU
MIN_SETS = 3
MAX_SETS = 24
CLASSES = 174
CROP = 224

Interlace = Callable[[Tensor, Tensor, Tensor, int], Tensor]
Forward = Callable[[Tensor], Tensor]
Work = Literal["latency", "throughput", "training step"]


def bench_op(
    seconds: float, clips: Sequence[int], compiled: bool = True, path: Path | None = None
) -> Report:
    """Time interlacing against a copy of x, for each stage of a ResNet-50 with 8 frames.

    The pass forward+backward is compared with copies of x and of the gradient. The ways are the
    operator; its definition, eager and compiled; and `two_shifts`, with its shifts in plain PyTorch
    and by the operator, because the original has a kernel for them.

    Args:
        seconds: time for each row of the table, which has at least five rounds.
        clips: batch sizes.
        compiled: whether to measure torch.compile, too, which takes a minute.
        path: file that holds the rows measured so far.
    """
    device = measuring_device()
    dtypes = [torch.float32, torch.bfloat16]
    if device.type != "cpu":
        dtypes.append(torch.float16)
    report = Report("op", device, path=path)
    for batch, dtype, layout in itertools.product(clips, dtypes, LAYOUTS):
        for channels, side in STAGES:
            with _skip_if_out_of_memory(report, f"{batch} clips of {channels} x {side} x {side}"):
                for name, calls in _op_calls(
                    batch, channels, side, dtype, layout, device, compiled
                ):
                    facts: dict[str, Value] = {
                        "clips": batch,
                        "dtype": str(dtype).removeprefix("torch."),
                        "layout": layout,
                        "shape": f"{channels}x{side}x{side}",
                        "pass": name,
                    }
                    report.add(facts, in_turns(calls, device, seconds))
    report.notes += _geometric_means(report)
    return report


def _op_calls(
    batch: int,
    C: int,
    side: int,
    dtype: torch.dtype,
    layout: str,
    device: torch.device,
    compiled: bool,
) -> Iterator[tuple[str, dict[str, Call]]]:
    """Yield each pass with the calls that are compared in it."""
    x = torch.randn(batch * T, C, side, side, device=device).to(dtype)
    x = x.contiguous(memory_format=LAYOUTS[layout])
    offset = 4 * torch.rand(batch, 2, device=device) - 2
    weight = 2 * torch.rand(batch, T, 2, device=device)
    offsets = torch.cat([offset, -offset], 1)
    weights = torch.cat([weight, weight], 2)
    grad = torch.randn_like(x)
    ways: dict[str, Interlace] = {
        "interlace": interlace,
        "definition": interlace_reference,
        "two shifts": functools.partial(two_shifts, shift=gathered),
        "two shifts by our kernel": functools.partial(two_shifts, shift=interlaced),
    }
    if compiled and batch == COMPILED_CLIPS:
        torch.compiler.reset()
        ways["definition, compiled"] = torch.compile(interlace_reference, fullgraph=True)
    leaves = [tensor.detach().requires_grad_() for tensor in (x, offsets, weights)]

    def forward(op: Interlace) -> Call:
        return lambda: op(x, offsets, weights, C // 4)

    def forward_and_backward(op: Interlace) -> Call:
        x_leaf, offset_leaf, weight_leaf = leaves
        return lambda: torch.autograd.grad(
            op(x_leaf, offset_leaf, weight_leaf, C // 4), leaves, grad
        )

    calls: dict[str, Call] = {"copy": x.clone}
    yield "forward", calls | {name: forward(op) for name, op in ways.items()}
    calls = {"copy": lambda: (x.clone(), grad.clone())}
    yield "forward+backward", calls | {name: forward_and_backward(op) for name, op in ways.items()}
    if device.type == "cuda":
        yield from _graph_calls(x, grad, offsets, weights)


def _graph_calls(
    x: Tensor, grad: Tensor, offsets: Tensor, weights: Tensor
) -> Iterator[tuple[str, dict[str, Call]]]:
    """Yield forward and backward of the operator as replays of CUDA graphs, beside a copy of x.

    A replay makes the call on several sets of tensors, one after the other. It therefore takes long
    enough for the clock of the GPU, and no set is in a cache when its turn comes.
    """
    channels = x.shape[1] // 4
    count = min(MAX_SETS, max(MIN_SETS, int(SET_BYTES / (x.numel() * x.element_size()))))
    sets = [(torch.randn_like(x), torch.randn_like(grad)) for _ in range(count)]
    backward = torch.ops.tin.interlace_backward

    def repeated(call: Callable[[Tensor, Tensor], object]) -> Call:
        return replayed(lambda: [call(own, own_grad) for own, own_grad in sets])

    copies = repeated(lambda own, _: own.clone())
    forwards = repeated(lambda own, _: interlace(own, offsets, weights, channels))
    yield f"forward, graph of {count}", {"copy": copies, "interlace": forwards}
    backwards = repeated(
        lambda own, own_grad: backward(own_grad, own, offsets, weights, channels, True, True)
    )
    yield f"backward, graph of {count}", {"copy": copies, "interlace": backwards}


def _geometric_means(report: Report) -> Iterator[str]:
    """Yield the mean ratio of the operator to the copy over the stages, for each condition."""
    ratios: dict[str, list[float]] = {}
    for row in report.rows:
        names = ("clips", "dtype", "layout", "pass")
        key = ", ".join(str(row.facts[name]).partition(" of ")[0] for name in names)
        ratios.setdefault(key, []).append(row.ways["interlace"].ratio)
    for key, found in ratios.items():
        yield f"interlace / copy, {key}: {statistics.geometric_mean(found):.3f} (geometric mean)"


def bench_model(seconds: float, compiled: bool, path: Path | None = None) -> Report:
    """Count and time a ResNet-50 with 8 frames of 224 pixels for each temporal module.

    TIN's module is measured with the operator and in plain PyTorch in the original's order of work.
    Measured are the latency of one clip, the throughput and a training step; eager, compiled, and
    on a GPU from a CUDA graph. The last rows show the share of the latency that the temporal
    modules take, against the temporal convolution. A GPU computes in bfloat16 by autocast and in
    channels_last, a CPU in float32.

    Args:
        seconds: time for each row of the table, which has at least five rounds.
        compiled: whether to measure torch.compile, too.
        path: file that holds the rows measured so far.
    """
    device = measuring_device()
    report = Report("model", device, path=path)
    batches: dict[Work, int] = {"latency": 1, "throughput": 16, "training step": 16}
    if device.type == "cpu":
        batches = {"latency": 1, "throughput": 2, "training step": 1}
    config = load(None, [f"clip.crop={CROP}", f"clip.num_segments={T}"])
    for name in WAYS:
        params, gflops = count(_model(name, "channels_last", device), config)
        report.add({"temporal": name, "parameters": params, "GFLOPs": gflops})
    layouts = list(LAYOUTS) if device.type == "cpu" else ["channels_last"]
    for layout in layouts:
        models = {name: _model(name, layout, device) for name in WAYS}
        forms = ("eager", "compiled") if compiled else ("eager",)
        for form, (work, batch) in itertools.product(forms, batches.items()):
            forwards = models if form == "eager" else _compiled(models)
            facts: dict[str, Value] = {"what": work, "clips": batch, "form": form, "layout": layout}
            with _skip_if_out_of_memory(report, f"{work}, {form}"):
                calls = _model_calls(forwards, models, work, batch, device)
                report.add(facts, in_turns(calls, device, seconds))
                if device.type == "cuda" and form == "eager" and work != "training step":
                    graphs = {name: replayed(call) for name, call in calls.items()}
                    report.add(facts | {"form": "graph"}, in_turns(graphs, device, seconds))
    for layout in layouts:
        calls = {name: _modules_call(name, layout, device) for name in ("conv", "interlace", PLAIN)}
        facts = {"what": "temporal modules alone", "layout": layout}
        report.add(facts, in_turns(calls, device, seconds))
    report.notes.append(f"TF32 in float32 convolutions: {torch.backends.cudnn.allow_tf32}")
    return report


def _model(temporal: str, layout: str, device: torch.device) -> TIN:
    model = TIN(CLASSES, ARCH, temporal, T, SHIFT_DIV.get(temporal, 4), dropout=0.5)
    # torch's stubs do not know memory_format
    model.to(device, memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
    return model


def _compiled(models: Mapping[str, TIN]) -> dict[str, Forward]:
    # Dynamo compiles the forward of a class at most eight times, and then runs it eagerly.
    torch.compiler.reset()
    return {
        name: torch.compile(model, fullgraph=True, dynamic=False) for name, model in models.items()
    }


def _model_calls(
    forwards: Mapping[str, Forward],
    models: Mapping[str, TIN],
    work: Work,
    batch: int,
    device: torch.device,
) -> dict[str, Call]:
    """Return a call of each model that predicts a batch, or trains on it for one step.

    Args:
        forwards: the models as they are called, eager or compiled.
        models: the models themselves.
        work: what a call does.
        batch: number of clips.
        device: of the models.
    """
    x = torch.randn(batch, T, 3, CROP, CROP, device=device)
    labels = torch.zeros(batch, dtype=torch.int64, device=device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")

    def prediction(forward: Forward) -> Call:
        def call() -> Tensor:
            with torch.no_grad(), autocast:
                return forward(x)

        return call

    def training_step(forward: Forward, model: TIN) -> Call:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

        def call() -> None:
            optimizer.zero_grad(set_to_none=True)
            with autocast:
                logits = forward(x)
            nn.functional.cross_entropy(logits, labels).backward()
            optimizer.step()

        return call

    calls = {}
    for name, model in models.items():
        if work == "training step":
            train_mode(model, "partial")
            calls[name] = training_step(forwards[name], model)
        else:
            model.eval()
            calls[name] = prediction(forwards[name])
    return calls


def _modules_call(name: str, layout: str, device: torch.device) -> Call:
    """Return a call that runs the temporal modules of a ResNet-50 in turn on one clip."""
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    steps: list[tuple[nn.Module, Tensor]] = []
    for (C, side), num_blocks in zip(STAGES, BLOCKS, strict=True):
        x = torch.randn(T, C, side, side, device=device).contiguous(memory_format=LAYOUTS[layout])
        x = x.bfloat16() if device.type == "cuda" else x
        modules = [temporal_module(name, C, T, 4).to(device) for _ in range(num_blocks)]
        steps += [(module, x) for module in modules]

    def call() -> None:
        with torch.no_grad(), autocast:
            for module, x in steps:
                module(x)

    return call


@contextlib.contextmanager
def _skip_if_out_of_memory(report: Report, what: str) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        report.notes.append(f"skipped, because the GPU ran out of memory: {what}")
