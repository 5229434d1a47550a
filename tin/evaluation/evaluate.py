"""Measures a model on a split, every video exactly once whatever the number of ranks."""

import functools
import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from configs.load import ConfigError, dataset_path, differences, parse, with_settings
from configs.schema import Config
from pipeline.batches import check_bad_frames
from pipeline.loader import ClipLoader
from preprocess.shards import DatasetInfo
from tin.evaluation.scores import Scores, load_result, save, summarize
from tin.models.size import count
from tin.ranks.distributed import World, cpus
from tin.runs import checkpoint
from tin.runs.folder import Run, describe_environment
from tin.runs.restore import find_checkpoint, precision_of, restore

__all__ = ["evaluate", "summarize", "test"]
log = logging.getLogger(__name__)
SECTIONS = ("test", "run", "data")  # what `tin test` may change
LOG_SECONDS = 30.0


def evaluate(
    model: nn.Module,
    loader: ClipLoader,
    world: World,
    precision: str,
    loss: str,
    beat: Callable[[], None] = lambda: None,
) -> Scores | None:
    """Return the scores of a split on rank 0, its videos in their order; None on other ranks.

    A video without a good frame is left out. The model is left in evaluation mode.

    Args:
        model: ``(B, T, L*3, H, W)`` clips to ``(B, K)`` logits, with the same weights on all ranks.
        loader: of the split, not in training.
        world: the ranks; all of them must call.
        precision: float32 or bfloat16.
        loss: nll for softmax scores, bce for sigmoid.
        beat: called after each step, for a watchdog.
    """
    activation = torch.sigmoid if loss == "bce" else functools.partial(torch.softmax, dim=1)
    model.eval()
    rows, labels, scores, logged = [], [], [], time.monotonic()
    with torch.no_grad():
        for step, batch in enumerate(loader.epoch(0), start=1):
            with torch.autocast(world.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                logits = model(batch.x.flatten(0, 1))
            rows.append(batch.clips)
            labels.append(batch.labels)
            scores.append(activation(logits.float()).unflatten(0, batch.x.shape[:2]))
            beat()
            if time.monotonic() - logged > LOG_SECONDS:
                logged = time.monotonic()
                log.info("%s: step %d of %d", loader.split.name, step, loader.num_steps)
    seen = tuple(torch.cat(part).cpu().numpy() for part in (rows, labels, scores))
    gathered = world.gather(tuple(part[seen[0] >= 0] for part in seen))
    return None if gathered is None else _joined(gathered, loader)


def test(run: Path, settings: Sequence[str], world: World) -> Path:
    """Measure a trained run; return its folder ``tests/<split>-<clips>x<crops>-<crop>``.

    Args:
        run: folder of the run.
        settings: ``section.key=value`` of the sections test, run and data.
        world: the ranks; all of them must call.

    Raises:
        ConfigError: other settings, or a dataset of other classes.
        CheckpointError: the run has no checkpoint, or it cannot be used.
        BadDataError: more damaged frames than `data.bad_frames` allows.
    """
    folder = Run(run)
    config = _config(folder, settings)
    torch.set_num_threads(config.run.threads or cpus())
    path, state = _chosen(folder, config, world)
    loader = _open(config, world)
    try:
        _check_classes(state["classes"], loader.info)
        model = restore(state, config).to(world.device, memory_format=torch.channels_last)
        began, precision = time.monotonic(), precision_of(config, world.device)
        scores = evaluate(model, loader, world, precision, config.train.loss)
        seconds = time.monotonic() - began
        bad_frames = _check_frames(loader, world)
    finally:
        loader.close()
    views = f"{config.test.clips}x{config.test.crops}"
    out = folder.tests / f"{config.data.test_split}-{views}-{config.test_crop}"
    if scores is not None:
        params, gflops = count(model, config)
        result = {
            "split": config.data.test_split,
            "views": views,
            "crop": config.test_crop,
            "dataset": loader.info.name,
            "dataset_digest": loader.info.digest,
            "num_videos": loader.num_videos,
            "missing": sorted(set(loader.split.keys()) - set(scores.keys)),
            "bad_frames": bad_frames,
            "checkpoint": path.name,
            "epoch": state["epoch"],
            "step": state["global_step"],
            "ema": state["ema"] is not None,
            "params": params,
            "gflops": gflops,
            "precision": precision,
            "seconds": round(seconds, 3),
            "clips_per_s": round(scores.scores[..., 0].size / seconds, 3),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "environment": describe_environment(str(world.device), world.world_size),
        }
        save(out, scores, result)
        _tell(load_result(out))
    world.barrier()
    return out


def _joined(gathered: list[tuple[np.ndarray, ...]], loader: ClipLoader) -> Scores:
    rows, labels, scores = (np.concatenate(parts) for parts in zip(*gathered, strict=True))
    order = np.argsort(rows)
    rows = rows[order]
    assert (np.diff(rows) > 0).all(), "the loader gave a video twice"
    if labels.ndim == 2:
        labels = labels.astype(np.uint8)
    keys = loader.split.keys()
    return Scores([keys[row] for row in rows], labels[order], scores[order], loader.info.classes)


def _config(folder: Run, settings: Sequence[str]) -> Config:
    before = folder.config()
    after = parse(Config, with_settings(before.model_dump(mode="json"), settings), "settings")
    refused = [
        difference
        for difference in differences(before, after)
        if difference.partition(".")[0] not in SECTIONS
    ]
    if refused:
        raise ConfigError(
            f"{folder.path} was trained with other settings: {'; '.join(refused)}; a test may"
            f" change the sections {', '.join(SECTIONS)}"
        )
    return after


def _chosen(folder: Run, config: Config, world: World) -> tuple[Path, dict[str, Any]]:
    """Return the checkpoint to test, the same on all ranks though the run may still train."""
    path = world.broadcast(find_checkpoint(folder, config.test.checkpoint))
    state = checkpoint.load(path)
    if world.broadcast(state["global_step"]) != state["global_step"]:
        raise checkpoint.CheckpointError(f"{path} was replaced while it was read; test again")
    return path, state


def _open(config: Config, world: World) -> ClipLoader:
    return ClipLoader(
        dataset_path(config.data.dataset),
        config.data.test_split,
        config,
        training=False,
        rank=world.rank,
        world_size=world.world_size,
        device=str(world.device),
    )


def _check_classes(trained: list[str], info: DatasetInfo) -> None:
    if trained != list(info.classes):
        pairs = enumerate(zip(trained, info.classes, strict=False))
        first = next((f"class {i} was {a!r}, is {b!r}" for i, (a, b) in pairs if a != b), "")
        raise ConfigError(
            f"{info.name} has other classes than the run was trained on ({len(trained)}, now"
            f" {len(info.classes)}){f'; {first}' if first else ''}"
        )


def _check_frames(loader: ClipLoader, world: World) -> int:
    """Return how many damaged frames all ranks met."""
    bad = [
        frame for part in world.broadcast(world.gather(loader.take_bad_frames())) for frame in part
    ]
    check_bad_frames(bad, loader.max_bad_frames, loader.split)
    if bad and world.is_main:
        log.warning("%d damaged frames were replaced by good ones of their videos", len(bad))
    return len(bad)


def _tell(result: dict[str, Any]) -> None:
    known = [(name, value) for name, value in result["metrics"].items() if value is not None]
    words = [
        f"{name} {value:.4f}" if name == "loss" else f"{name} {100 * value:.2f} %"
        for name, value in known
    ]
    if result["missing"]:
        words.append(f"{len(result['missing'])} left out for want of a good frame")
    log.info(
        "%s: %s (%d videos in %.0f s, %.1f clips/s)",
        result["split"], ", ".join(words), result["num_videos"], result["seconds"],
        result["clips_per_s"],
    )  # fmt: skip
