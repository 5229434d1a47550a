"""Measures the parts of a training run, alone and together, on all of its ranks."""

import contextlib
import logging
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from configs.load import dataset_path
from configs.schema import Config
from pipeline.batches import Batch
from pipeline.folds import open_part, stored_split
from tin.bench.advice import advise
from tin.bench.alone import (
    all_reduce_s,
    checkpoint_s,
    efficiency,
    evaluation_s,
    gradient_bytes,
)
from tin.bench.diagnosis import Conditions, Diagnosis, Times, diagnose
from tin.bench.input_parts import measure_input, transfer_s
from tin.bench.timed_step import clip_s, step_parts, together
from tin.ranks.dataset_check import DatasetCheck
from tin.ranks.distributed import World, cpus
from tin.runs.folder import Run
from tin.training.loaders import open_test_split, open_train_split
from tin.training.pass_graph import PassGraph
from tin.training.state import TrainingState

log = logging.getLogger(__name__)
SECONDS = 75.0
"""Time that is divided among the measurements; starting and warming up come in addition."""
LONGEST_STEP = 0.05
"""A measured step may take this fraction of the time; of longer steps, fewer clips are measured."""
MAX_EXPOSED = 2.0
"""A step gets longer by this many times the all-reduce alone at most; what it gets longer beyond
that is waiting for a slower rank."""
LEARNING_RATE = 1e-6
"""So small that the weights stay finite, whatever the settings are."""


def examine(
    config: Config, parent: Path, world: World, seconds: float = SECONDS
) -> Diagnosis | None:
    """Measure a run without changing it; return what bounds it on rank 0, None on other ranks.

    A step that takes long, as on a CPU, is measured with fewer clips, and its times are scaled to
    all of its clips. The model has random weights, because its speed does not depend on them.

    Args:
        config: the settings of the run.
        parent: a folder on the disk of the run; checkpoints are written to a temporary folder in
            it, which is removed at the end.
        world: the ranks; all of them must call.
        seconds: about how long the measurements take together.

    Raises:
        ConfigError: the settings, the dataset and the ranks do not fit together.
        ShardError: the dataset is damaged.
        WriteError: no checkpoint can be written.
    """
    began = time.perf_counter()
    torch.set_num_threads(config.run.threads or cpus())
    data = config.data
    train = config.train
    folder = dataset_path(data.dataset)
    splits = (data.train_split, stored_split(data.test_split, data))
    check = DatasetCheck(world, data.dataset, folder, splits)
    # A loader of the run itself knows its steps, and rejects what training would reject.
    with contextlib.closing(open_train_split(config, world)) as loader:
        num_steps = loader.num_steps // train.accumulate
        info = loader.info
    clips = train.batch // train.accumulate // world.world_size
    with _temporary_run(parent, world) as run:
        state = TrainingState(_with_clips(config, 1, world), run, world, info, num_steps)
        state.graph = None  # the parts of a pass that is replayed cannot be told apart
        check.finish()
        measured = max(1, min(clips, int(LONGEST_STEP * seconds / clip_s(state))))
        log.info("measuring passes of %d of %d clips on each rank", measured, clips)
        quick = _with_clips(config, measured, world)
        times, facts = _measure(state, quick, seconds)
    times = _scaled(_slowest(times, world), clips / measured, train.accumulate)
    videos = open_part(folder, data.test_split, data, training=False).num_videos
    times = replace(times, evaluation=times.evaluation * videos / world.world_size)
    facts |= {"clips": clips * train.accumulate, "measured_clips": measured, "steps": num_steps}
    facts["seconds"] = time.perf_counter() - began
    return advise(diagnose(times, _conditions(config, state, facts))) if world.is_main else None


def _conditions(config: Config, state: TrainingState, facts: dict[str, Any]) -> Conditions:
    """Return the conditions of a measurement: the settings of the run, and measured facts."""
    world = state.world
    return Conditions(
        device=str(world.device),
        hardware=_hardware(world.device),
        ranks=world.world_size,
        passes=config.train.accumulate,
        threads=torch.get_num_threads(),
        cpus=cpus(),
        readers=config.run.readers,
        precision=state.precision,
        compile=config.train.compile,
        evaluate_every=config.train.evaluate_every,
        checkpoint_minutes=config.run.checkpoint_minutes,
        checkpoint_steps=config.run.checkpoint_steps,
        clip_reads=config.clip.num_segments * config.clip.frames_per_segment,
        gradient_mb=gradient_bytes(state.model) / 1e6,
        **facts,
    )


def _with_clips(config: Config, clips: int, world: World) -> Config:
    """Return settings with `clips` clips a pass on each rank, and one pass a step."""
    train = {"batch": clips * world.world_size, "accumulate": 1}
    return config.model_copy(
        update={
            "train": config.train.model_copy(update=train),
            "test": config.test.model_copy(update={"batch": clips, "crop": 0}),
            "optim": config.optim.model_copy(update={"lr": LEARNING_RATE}),
            "model": config.model.model_copy(update={"init": "none"}),
        }
    )


def _measure(state: TrainingState, config: Config, seconds: float) -> tuple[Times, dict[str, Any]]:
    """Return the times of this rank for a step of one pass, and facts of `Conditions`.

    The time of an evaluation is that of one video on this rank.
    """
    world = state.world
    found = measure_input(config, world, 0.2 * seconds)
    with contextlib.closing(open_train_split(config, world)) as loader:
        batch = next(iter(loader.epoch(0)))
        parts = step_parts(state, batch, 0.2 * seconds)
        half_gain = _half_gain(state, batch, parts, 0.05 * seconds)
        reduced = all_reduce_s(world, gradient_bytes(state.model), 0.05 * seconds)
        if config.train.compile == "graphs":
            state.graph = PassGraph(state.model, len(batch.x))
            parts["all-reduce"] = reduced  # it begins when the pass has ended
        step, wait = together(state, loader, 0.25 * seconds)
        decode = loader.decode
    saved, checkpoint_mb = checkpoint_s(state, 0.1 * seconds)
    world.barrier()
    with contextlib.closing(open_test_split(config, world)) as test_loader:
        evaluated = evaluation_s(state, test_loader, 0.1 * seconds) / config.test.batch
    world.barrier()
    # Pixels are copied to the device, or compressed frames, which it decodes.
    uploaded = batch.x.nbytes if decode == "cpu" else int(1e6 * found.clip_mb * len(batch.x))
    times = Times(
        read=found.read,
        decode=found.decode,
        transfer=transfer_s(uploaded, world.device),
        augmentation=parts["augmentation"],
        forward=parts["forward"],
        backward=parts["backward"],
        all_reduce=reduced,
        optimizer=parts["optimizer"],
        checkpoint=saved,
        evaluation=evaluated,
        step=step,
        wait=wait,
        exposed=min(parts["all-reduce"], MAX_EXPOSED * reduced),
    )
    facts = {
        "decode": decode,
        "clip_mb": found.clip_mb,
        "checkpoint_mb": checkpoint_mb,
        "half_gain": half_gain,
        "efficiency": efficiency(state, config, _pass_s(times)),
    }
    return times, facts


def _pass_s(times: Times) -> float:
    """Return the seconds of a forward and backward pass, which a graph makes shorter than alone."""
    others_s = times.wait + times.exposed + times.optimizer + times.augmentation
    alone_s = times.forward + times.backward
    return min(alone_s, max(times.step - others_s, 0.1 * alone_s))


def _half_gain(
    state: TrainingState, batch: Batch, parts: dict[str, float], seconds: float
) -> float:
    """Return how many times faster a pass is in bfloat16; 1 if the run computes in it already."""
    if state.precision == "bfloat16":
        return 1.0
    config = state.config
    half = config.train.model_copy(update={"precision": "bfloat16"})
    state.config = config.model_copy(update={"train": half})
    faster = step_parts(state, batch, seconds)
    state.config = config
    return (parts["forward"] + parts["backward"]) / (faster["forward"] + faster["backward"])


def _slowest(times: Times, world: World) -> Times:
    """Return the time of the slowest rank for each part."""
    all_times = world.broadcast(world.gather(asdict(times)))
    return Times(**{name: max(rank[name] for rank in all_times) for name in asdict(times)})


def _scaled(times: Times, factor: float, passes: int) -> Times:
    """Return the times of an optimizer step with all of its clips.

    Args:
        times: times of a step of one pass.
        factor: clips of a pass of the run over clips of the measured pass.
        passes: passes of an optimizer step of the run.
    """
    factor *= passes
    names = ("read", "decode", "transfer", "augmentation", "forward", "backward", "wait")
    scaled = {name: factor * getattr(times, name) for name in names}
    # Only one pass of a step has an update and an all-reduce.
    once = times.optimizer + times.exposed
    step = factor * max(times.step - once, 0.0) + once
    return replace(times, **scaled, step=step)


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpus()} CPUs, {platform.machine()}"


@contextlib.contextmanager
def _temporary_run(parent: Path, world: World) -> Iterator[Run]:
    """Yield a run in a temporary folder, which rank 0 makes and removes."""
    made = tempfile.mkdtemp(prefix=".doctor-", dir=parent) if world.is_main else ""
    run = Run(Path(world.broadcast(made)))
    try:
        if world.is_main:
            run.start_attempt()
        yield run
        world.barrier()  # no rank reads the run any more
    finally:
        if made:
            shutil.rmtree(made, ignore_errors=True)
