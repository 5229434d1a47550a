"""Measures training steps on batches that are already on the device, in each form of the pass."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from configs.load import load
from configs.schema import Config
from pipeline.batches import Batch
from preprocess.shards import FORMATS, DatasetInfo
from tin.bench.cases import CLASSES, SHIFT_DIV
from tin.bench.input_parts import synchronize
from tin.bench.timing import Report, Value, measuring_device
from tin.ranks.distributed import World
from tin.runs.folder import Run
from tin.training.state import TrainingState
from tin.training.step import train_step

WARM_UP_STEPS = 5
PROFILED_STEPS = 3


def bench_steps(
    clips: Sequence[int],
    forms: Sequence[str],
    seconds: float,
    settings: Sequence[str] = (),
    path: Path | None = None,
) -> Report:
    """Time the steps of a ResNet-50 for each temporal module and value of `train.compile`.

    A row has the time of a step when steps follow each other (`wall_ms`), and on a GPU the time in
    which the host starts a step while the GPU is idle (`host_ms`), and the sum of the times of its
    kernels (`gpu_ms`). The longer of the last two bounds the first. The host also waits if more
    than about a thousand kernels are queued, so with large batches `host_ms` is too long.

    Args:
        clips: batch sizes.
        forms: values of `train.compile`.
        seconds: time for each row.
        settings: settings of the runs that differ from the default.
        path: file that holds the rows measured so far.
    """
    device = measuring_device()
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    report = Report("steps", device, path=path)
    for batch in clips:
        for form in forms:
            for temporal, shift_div in SHIFT_DIV.items():
                config = load(
                    None,
                    [
                        "model.init=none",
                        "optim.scale_lr=true",
                        *settings,
                        f"train.batch={batch}",
                        f"train.compile={form}",
                        f"model.temporal={temporal}",
                        f"model.shift_div={shift_div}",
                    ],
                )
                facts: dict[str, Value] = {"clips": batch, "compile": form, "temporal": temporal}
                with tempfile.TemporaryDirectory() as folder:
                    facts |= _measure(config, Run(Path(folder)), device, seconds)
                report.add(facts)
    return report


def _measure(config: Config, run: Run, device: torch.device, seconds: float) -> dict[str, Value]:
    """Return the times of a step, and the most memory of the GPU that it takes."""
    torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    state = TrainingState(config, run, World(0, 0, 1, device), _dataset(), num_steps=10**6)
    clip = config.clip
    colors = 2 if clip.modality == "flow" else 3
    frames = (clip.num_segments, clip.frames_per_segment)
    shape = (config.train.batch, *frames, clip.crop, clip.crop, colors)
    numbers = torch.arange(config.train.batch, device=device)
    batch = Batch(torch.randint(256, shape, device=device).byte(), numbers % CLASSES, numbers)

    def step() -> None:
        train_step(state, [batch])
        state.step += 1

    for _ in range(WARM_UP_STEPS):
        step()
    facts: dict[str, Value] = {}
    count = 0
    synchronize(device)
    began = time.perf_counter()
    while count < WARM_UP_STEPS or time.perf_counter() < began + seconds:
        step()
        count += 1
        # Do not run ahead of the device by more than a few steps, as a run does not either.
        if count % WARM_UP_STEPS == 0:
            synchronize(device)
    synchronize(device)
    wall_s = (time.perf_counter() - began) / count
    facts["wall_ms"] = 1e3 * wall_s
    facts["clips_per_s"] = config.train.batch / wall_s
    facts |= _host_and_gpu(step, device)
    return facts


def _host_and_gpu(step: Callable[[], None], device: torch.device) -> dict[str, Value]:
    """Return the time in which the host starts a step, and the time of its kernels on a GPU."""
    if device.type != "cuda":
        return {}
    host = []
    for _ in range(WARM_UP_STEPS):
        synchronize(device)
        began = time.perf_counter()
        step()
        host.append(time.perf_counter() - began)
    synchronize(device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(PROFILED_STEPS):
            step()
        synchronize(device)
    kernels = sum(event.self_device_time_total for event in profile.key_averages())
    return {
        "host_ms": 1e3 * statistics.median(host),
        "gpu_ms": kernels / 1e3 / PROFILED_STEPS,
        "memory_gb": torch.cuda.max_memory_allocated() / 1e9,
    }


def _dataset() -> DatasetInfo:
    """Return the description of a dataset without videos."""
    return DatasetInfo(
        format=FORMATS["rgb"],
        classes=tuple(f"class {number}" for number in range(CLASSES)),
        splits={},
        multi_label=False,
        left_right=tuple(range(CLASSES)),
        short_side=0,
        quality=0,
        fps=0,
        frame_cap=0,
        videos_per_shard=1,
        seed=0,
        annotations="",
        tool={},
        tables={},
        digest="",
    )
