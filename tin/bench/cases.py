"""Measures speed: the operator, the model, the loader and training, on this machine."""

import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from configs.load import load
from tin.bench.timing import Call, Report, in_turns, keep_freed_memory, replayed
from tin.bench.two_shifts import gathered, interlaced, two_shifts
from tin.models.network import TIN, train_mode
from tin.models.size import count
from tin.models.temporal import temporal_module
from tin.op.interlace import interlace, interlace_reference

STAGES = ((64, 56), (256, 56), (512, 28), (1024, 14), (2048, 7))  # C, H = W of ResNet-50's blocks
BLOCKS = 1, 3, 4, 6, 2  # how many of them
SHIFT_DIV = {"none": 4, "shift": 8, "interlace": 4}  # those of the papers
PLAIN = "tin.bench.two_shifts:PlainInterlace"
WAYS = (*SHIFT_DIV, "conv", PLAIN)  # of `bench_model`
COMPILED_CLIPS = 4  # torch.compile takes seconds for each shape: it is asked for one only
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
ARCH, T, CLASSES, CROP = "resnet50", 8, 174, 224


def bench_op(seconds: float, clips: Sequence[int]) -> Report:
    """Time interlacing against a copy of x, for each stage of a ResNet-50 over 8 frames.

    forward+backward is compared with copies of x and of the gradient. The ways: the operator; its
    definition, also compiled; and `two_shifts`, also with its shifts done by the operator, as the
    original has a kernel for them.

    Args:
        seconds: for each row of the table's ways, at least five rounds.
        clips: batch sizes.
    """
    device = _device()
    half = [torch.bfloat16] if device.type == "cpu" else [torch.bfloat16, torch.float16]
    report = Report("op", device)
    for batch, dtype, layout in itertools.product(clips, [torch.float32, *half], LAYOUTS):
        for channels, side in STAGES:
            with _memory_left(report, f"{batch} clips of {channels} x {side} x {side}"):
                for step, calls in _op_calls(batch, channels, side, dtype, layout, device):
                    key = {"clips": batch, "dtype": str(dtype)[6:], "layout": layout}
                    key |= {"shape": f"{channels}x{side}x{side}", "pass": step}
                    report.add(key, in_turns(calls, device, seconds))
    report.notes += _geometric_means(report)
    return report


def _op_calls(
    batch: int, C: int, side: int, dtype: torch.dtype, layout: str, device: torch.device
) -> Iterator[tuple[str, dict[str, Call]]]:
    x = torch.randn(batch * T, C, side, side, device=device).to(dtype)
    x = x.contiguous(memory_format=LAYOUTS[layout])
    offset = 4 * torch.rand(batch, 2, device=device) - 2
    weight = 2 * torch.rand(batch, T, 2, device=device)
    tensors = x, torch.cat([offset, -offset], 1), torch.cat([weight, weight], 2)
    grad = torch.randn_like(x)
    ways = {
        "interlace": interlace,
        "definition": interlace_reference,
        "two shifts": lambda *given: two_shifts(*given, gathered),
        "two shifts by our kernel": lambda *given: two_shifts(*given, interlaced),
    }
    if batch == COMPILED_CLIPS:
        torch.compiler.reset()
        ways["definition, compiled"] = torch.compile(interlace_reference, fullgraph=True)
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]

    def forward(op: Callable) -> Call:
        return lambda: op(*tensors, C // 4)

    def both(op: Callable) -> Call:
        return lambda: torch.autograd.grad(op(*leaves, C // 4), leaves, grad)

    yield "forward", {"copy": x.clone} | {name: forward(op) for name, op in ways.items()}
    copies = {"copy": lambda: (x.clone(), grad.clone())}
    yield "forward+backward", copies | {name: both(op) for name, op in ways.items()}
    if device.type == "cuda":
        graphs = {"copy": x.clone, "interlace": forward(interlace)}
        yield "forward, graph", {name: replayed(call) for name, call in graphs.items()}


def _geometric_means(report: Report) -> Iterator[str]:
    ratios = {}
    for row in report.rows:
        key = ", ".join(str(row[name]) for name in ("clips", "dtype", "layout", "pass"))
        ratios.setdefault(key, []).append(row["ways"]["interlace"]["ratio"])
    for key, found in ratios.items():
        yield f"interlace / copy, {key}: {statistics.geometric_mean(found):.3f} (geometric mean)"


def bench_model(seconds: float, compiled: bool) -> Report:
    """Count and time a ResNet-50 over 8 frames of 224 pixels with each temporal module.

    TIN's comes with the operator and in plain PyTorch, in the original's order of work. Latency of
    one clip, throughput and a training step; eager, compiled, and on a GPU from a CUDA graph; then
    what the temporal modules alone take of the latency, against the temporal convolution. On a GPU
    in bfloat16 by autocast, channels last; else in float32.
    """
    device = _device()
    report = Report("model", device)
    batches = {"latency": 1, "throughput": 16, "training step": 16}
    if device.type == "cpu":
        batches = {"latency": 1, "throughput": 2, "training step": 1}
    config = load(None, [f"clip.crop={CROP}", f"clip.num_segments={T}"])
    for name in WAYS:
        params, gflops = count(_model(name, "channels_last", device), config)
        report.rows.append({"temporal": name, "parameters": params, "GFLOPs": gflops})
    layouts = LAYOUTS if device.type == "cpu" else ["channels_last"]
    for layout in layouts:
        models = {name: _model(name, layout, device) for name in WAYS}
        forms = ("eager", "compiled") if compiled else ("eager",)
        for form, (what, batch) in itertools.product(forms, batches.items()):
            made = models if form == "eager" else _compiled(models)
            with _memory_left(report, f"{what}, {form}"):
                calls = _model_calls(made, models, what, batch, device)
                key = {"what": what, "clips": batch, "form": form, "layout": layout}
                report.add(key, in_turns(calls, device, seconds))
                if device.type == "cuda" and form == "eager" and what != "training step":
                    graphs = {name: replayed(call) for name, call in calls.items()}
                    report.add(key | {"form": "graph"}, in_turns(graphs, device, seconds))
    for layout in layouts:
        calls = {name: _modules_call(name, layout, device) for name in ("conv", "interlace", PLAIN)}
        key = {"what": "temporal modules alone", "layout": layout}
        report.add(key, in_turns(calls, device, seconds))
    report.notes.append(f"TF32 in float32 convolutions: {torch.backends.cudnn.allow_tf32}")
    return report


def _model(temporal: str, layout: str, device: torch.device) -> TIN:
    model = TIN(CLASSES, ARCH, temporal, T, SHIFT_DIV.get(temporal, 4), dropout=0.5)
    return model.to(device, memory_format=LAYOUTS[layout])


def _compiled(models: dict[str, TIN]) -> dict[str, nn.Module]:
    torch.compiler.reset()  # it compiles a class's forward eight times, then leaves it as it is
    return {
        name: torch.compile(model, fullgraph=True, dynamic=False) for name, model in models.items()
    }


def _model_calls(
    made: dict[str, nn.Module], models: dict[str, TIN], what: str, batch: int, device: torch.device
) -> dict[str, Call]:
    x = torch.randn(batch, T, 3, CROP, CROP, device=device)
    labels = torch.zeros(batch, dtype=torch.int64, device=device)
    half = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")

    def test(model: nn.Module) -> Call:
        def call() -> Tensor:
            with torch.no_grad(), half:
                return model(x)

        return call

    def step(model: nn.Module) -> Call:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

        def call() -> None:
            optimizer.zero_grad(set_to_none=True)
            with half:
                logits = model(x)
            nn.functional.cross_entropy(logits, labels).backward()
            optimizer.step()

        return call

    for model in models.values():
        if what == "training step":
            train_mode(model, "partial")
        else:
            model.eval()
    return {name: (step if what == "training step" else test)(m) for name, m in made.items()}


def _modules_call(name: str, layout: str, device: torch.device) -> Call:
    """Return what runs the temporal modules of a ResNet-50 one after the other, for one clip."""
    half = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    steps = []
    for (C, side), num_blocks in zip(STAGES, BLOCKS, strict=True):
        x = torch.randn(T, C, side, side, device=device).contiguous(memory_format=LAYOUTS[layout])
        x = x.bfloat16() if device.type == "cuda" else x
        modules = [temporal_module(name, C, T, 4).to(device) for _ in range(num_blocks)]
        steps += [(module, x) for module in modules]

    def call() -> None:
        with torch.no_grad(), half:
            for module, x in steps:
                module(x)

    return call


def bench_data(dataset: Path, seconds: float = 20.0, settings: Sequence[str] = ()) -> Report:
    """Time the loader alone: batches of training clips as fast as they come."""
    from pipeline.loader import ClipLoader

    device = _device()
    report = Report("data", device)
    config = load(None, ["train.batch=8", *settings])
    loader = ClipLoader(dataset, config.data.train_split, config, training=True, device=str(device))
    times, end = [], time.perf_counter() + seconds
    start = cpu_start = None
    epoch = 0
    while time.perf_counter() < end or len(times) < 20:
        for _ in loader.epoch(epoch):
            now = time.perf_counter()
            if start is not None:
                times.append(now - start)
            else:
                cpu_start = time.process_time()  # the first batch starts threads
            start = now
        epoch += 1
    cpu = time.process_time() - cpu_start
    loader.close()
    p10, *_, p90 = statistics.quantiles(times, n=10, method="inclusive")
    batch = config.train.batch // config.train.accumulate
    report.rows.append(
        {
            "batch": batch,
            "crop": config.clip.crop,
            "clips_per_s": batch * len(times) / sum(times),
            "cpu_ms_a_clip": 1e3 * cpu / (batch * len(times)),
            "median_ms": 1e3 * statistics.median(times),
            "p10_ms": 1e3 * p10,
            "p90_ms": 1e3 * p90,
            "batches": len(times),
        }
    )
    return report


def bench_train(dataset: Path, settings: Sequence[str] = ()) -> Report:
    """Time training itself, loader included: the second of two epochs, for each temporal module."""
    from tin.training.trainer import train

    report = Report("train", _device())
    for temporal, shift_div in SHIFT_DIV.items():
        with tempfile.TemporaryDirectory() as folder:
            given = ["train.batch=8", "train.epochs=2", "optim.scale_lr=true", "model.init=none"]
            given += ["run.log_steps=1000000"]  # a row an epoch
            given += ["optim.warmup_epochs=0", f"data.dataset={dataset}", *settings]
            given += [f"model.temporal={temporal}", f"model.shift_div={shift_div}"]
            config = load(None, given)
            train(config, Path(folder, "run"))
            row = pd.read_csv(Path(folder, "run", "steps.csv")).iloc[-1].dropna()
        names = "clips_per_s", "data_wait", "memory_gb", "gpu_use"
        found = {name: float(row[name]) for name in names if name in row}
        report.rows.append({"temporal": temporal, "batch": config.train.batch, **found})
    return report


def _device() -> torch.device:
    keep_freed_memory()
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextlib.contextmanager
def _memory_left(report: Report, what: str) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        report.notes.append(f"left out for want of memory: {what}")
