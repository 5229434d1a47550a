"""Measures a model on a split; each video counts exactly once at any number of ranks."""

import functools
import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from configs.load import ConfigError, dataset_path, differences, parse, with_settings
from configs.progress import log_progress, show_progress
from configs.schema import Config
from pipeline.batches import BadDataError, check_bad_frames
from pipeline.loader import ClipLoader
from preprocess.shards import DatasetInfo
from tin.evaluation.averages import Average
from tin.evaluation.description import describe_data, describe_model, folder_name
from tin.evaluation.precise_bn import recompute_statistics
from tin.evaluation.scores import Scores, load_result, save
from tin.evaluation.summary_line import log_result
from tin.models.clip_input import normalized
from tin.models.network import TIN
from tin.ranks.dataset_check import DatasetCheck
from tin.ranks.distributed import World, cpus
from tin.ranks.watchdog import Watchdog
from tin.runs import checkpoint
from tin.runs.averaging import load_average
from tin.runs.folder import Run, describe_environment
from tin.runs.restore import find_checkpoint, precision_of, restore

log = logging.getLogger(__name__)
SECTIONS = ("test", "run", "data")  # sections of the settings that `tin test` may change


def evaluate(
    model: nn.Module,
    loader: ClipLoader,
    world: World,
    precision: str,
    loss: str,
    beat: Callable[[], None] = lambda: None,
    average: Average = "scores",
    live: bool = False,
) -> Scores | None:
    """Return the scores of a split in the order of its videos on rank 0, and None on other ranks.

    A video without a readable frame is left out. The model stays in evaluation mode.

    Args:
        model: ``(B, T, L*3, H, W)`` clips to ``(B, K)`` logits, with the same weights on all ranks.
        loader: a loader of the split, not in training.
        world: the ranks; all of them must call.
        precision: float32 or bfloat16.
        loss: nll for softmax scores, bce for sigmoid scores.
        beat: called after each step, for a watchdog.
        average: how the views of a video are averaged.
        live: show a live bar on a terminal; inside of training there is one already.

    Raises:
        BadDataError: no video of the split has a readable frame.
        ScoresError: a score is NaN or infinite.
    """
    activation = torch.sigmoid if loss == "bce" else functools.partial(torch.softmax, dim=1)
    model.eval()
    rows: list[Tensor] = []
    labels: list[Tensor] = []
    scores: list[Tensor] = []
    show = show_progress if live and world.is_main else log_progress
    steps = show(loader.epoch(0), loader.num_steps, f"{loader.split.name}, step")
    with torch.no_grad():
        for batch in steps:
            with torch.autocast(world.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                logits = model(normalized(batch.x).flatten(0, 1))
            rows.append(batch.clips)
            labels.append(batch.labels)
            scores.append(activation(logits.float()).unflatten(0, batch.x.shape[:2]))
            beat()
    # Send the rows, labels and scores of the videos to rank 0, without the -1 of filled rows.
    seen = [torch.cat(part).cpu().numpy() for part in (rows, labels, scores)]
    is_video = seen[0] >= 0
    if not world.sum([int(is_video.sum())])[0]:
        raise BadDataError(
            f"{loader.split.folder}: no video of split {loader.split.name} has a readable frame, so"
            f" nothing can be measured; run `tin data verify {loader.split.folder}`"
        )
    gathered = world.gather([part[is_video] for part in seen])
    return None if gathered is None else _joined(gathered, loader, average)


def test(run_dir: Path, settings: Sequence[str], world: World) -> Path:
    """Measure a trained run; return the folder ``tests/<split>-<clips>x<crops>-<crop>`` of it.

    Other options of section `test` than the run's own are part of the name, such as
    ``val-1x1-224+average=logits``, so that a test never replaces one with other options.

    Args:
        run_dir: folder of the run.
        settings: ``section.key=value`` of the sections test, run and data.
        world: the ranks; all of them must call.

    Raises:
        ConfigError: settings of other sections differ, or the dataset has other classes.
        CheckpointError: the run has no checkpoint, or it cannot be used.
        BadDataError: more frames are damaged than `data.bad_frames` allows.
    """
    run = Run(run_dir)
    config = _config(run, settings)
    torch.set_num_threads(config.run.threads or cpus())
    folder = dataset_path(config.data.dataset)
    dataset_check = DatasetCheck(world, config.data.dataset, folder, [config.data.test_split])
    paths, state = _load_checkpoint(run, config, world)
    loader = _open(config, world)
    try:
        _check_classes(state["classes"], loader.info)
        model = restore(state, config)
        dataset_check.finish()
        # torch's stubs do not know memory_format
        model.to(world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        precision = precision_of(config, world.device)
        if config.test.precise_bn:
            _recompute_statistics(model, config, world, precision)
        began = time.monotonic()
        average = config.test.average
        with _watchdog(run, world, config) as watchdog:
            scores = evaluate(
                model,
                loader,
                world,
                precision,
                config.train.loss,
                watchdog.beat,
                average=average,
                live=True,
            )
        seconds = time.monotonic() - began
        num_bad_frames = _check_frames(loader, world)
    finally:
        loader.close()
    out = run.tests / folder_name(config, run.config())
    if scores is not None:
        result = {
            **describe_data(config, loader, scores),
            "bad_frames": num_bad_frames,
            **describe_model(config, paths, state, model),
            "precision": precision,
            "seconds": round(seconds, 3),
            "clips_per_s": round(scores.scores[..., 0].size / seconds, 3),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "environment": describe_environment(str(world.device), world.world_size),
        }
        save(out, scores, result)
        log_result(load_result(out))
    world.barrier()
    return out


def _watchdog(run: Run, world: World, config: Config) -> Watchdog:
    """Return a watchdog that ends this rank if the evaluation hangs."""
    run.job.mkdir(parents=True, exist_ok=True)
    newest = max(run.attempts(), default=0)
    return Watchdog(run.job, newest, world.rank, config.run.hang_minutes)


def _joined(gathered: list[list[np.ndarray]], loader: ClipLoader, average: Average) -> Scores:
    """Return the rows, labels and scores of all ranks in the order of the split."""
    rows = np.concatenate([part[0] for part in gathered])
    labels = np.concatenate([part[1] for part in gathered])
    scores = np.concatenate([part[2] for part in gathered])
    order = np.argsort(rows)
    rows = rows[order]
    assert (np.diff(rows) > 0).all(), "the loader returned a video twice"
    if labels.ndim == 2:
        labels = labels.astype(np.uint8)
    keys = loader.split.keys()
    names = [keys[row] for row in rows]
    stored = loader.split.groups
    groups = None if stored is None else stored[rows]
    return Scores(names, labels[order], scores[order], loader.info.classes, average, groups)


def _config(run: Run, settings: Sequence[str]) -> Config:
    """Return the run's settings with ``settings`` applied, which may change `SECTIONS` only."""
    before = run.config()
    after = parse(Config, with_settings(before.model_dump(mode="json"), settings), "settings")
    rejected = [
        difference
        for difference in differences(before, after)
        if difference.partition(".")[0] not in SECTIONS
    ]
    if rejected:
        raise ConfigError(
            f"{run.path} was trained with other settings: {'; '.join(rejected)}. A test may change"
            f" only the sections {', '.join(SECTIONS)}; leave the other settings out."
        )
    return after


def _load_checkpoint(run: Run, config: Config, world: World) -> tuple[list[Path], dict[str, Any]]:
    """Return the checkpoints to test, the same on all ranks even while the run is training."""
    if config.test.last_checkpoints > 1:
        paths, state = load_average(run, config.test.last_checkpoints)
        path = paths[0]
    else:
        found = find_checkpoint(run, config.test.checkpoint) if world.is_main else None
        path = world.broadcast(found)
        paths, state = [path], checkpoint.load(path)
    if world.broadcast(state["global_step"]) != state["global_step"]:
        raise checkpoint.CheckpointError(
            f"{path} was replaced while the ranks read it, because the run is still training;"
            " run the test again"
        )
    return paths, state


def _recompute_statistics(model: TIN, config: Config, world: World, precision: str) -> None:
    """Compute the statistics of BatchNorm from clips of the training split."""
    loader = _open(config, world, training=True)
    try:
        recompute_statistics(model, loader, config.test.precise_bn, world, precision)
    finally:
        loader.close()


def _open(config: Config, world: World, training: bool = False) -> ClipLoader:
    data = config.data
    return ClipLoader(
        dataset_path(data.dataset),
        data.train_split if training else data.test_split,
        config,
        training=training,
        rank=world.rank,
        world_size=world.world_size,
        device=str(world.device),
    )


def _check_classes(trained: list[str], info: DatasetInfo) -> None:
    """Raise ConfigError unless the dataset has the classes of the run, in their order."""
    if trained == list(info.classes):
        return
    pairs = enumerate(zip(trained, info.classes, strict=False))
    first = next((f"; class {i} was {a!r} and is now {b!r}" for i, (a, b) in pairs if a != b), "")
    raise ConfigError(
        f"{info.name} has other classes than the run was trained on: the run has {len(trained)}"
        f" and the dataset {len(info.classes)}{first}"
    )


def _check_frames(loader: ClipLoader, world: World) -> int:
    """Return the number of damaged frames on all ranks; raise BadDataError if it is too high."""
    bad = [
        frame for part in world.broadcast(world.gather(loader.take_bad_frames())) for frame in part
    ]
    check_bad_frames(bad, loader.max_bad_frames, loader.split)
    if bad and world.is_main:
        log.warning("%d damaged frames were replaced by intact frames of their videos", len(bad))
    return len(bad)
