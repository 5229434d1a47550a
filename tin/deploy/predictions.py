"""Predictions at scale: each video once, in parts that survive an interruption."""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from configs.digests import file_digest
from configs.files import remove_leftovers, write_text
from configs.load import ConfigError, changes
from configs.progress import show_progress
from configs.small_files import DamagedFileError, read_json
from pipeline.batches import BadDataError
from tin.deploy.part_files import BAD, check_format, join_parts
from tin.deploy.parts import Part, part_path, save_part
from tin.deploy.scorer import Scorer
from tin.deploy.sources import ShardVideos, VideoBatch, Videos, open_videos
from tin.evaluation.averages import average
from tin.evaluation.metrics import average_precision
from tin.ranks.distributed import World, cpus

log = logging.getLogger(__name__)
FORMAT = 2
"""Version of the parts. Parts of version 1 have no average precisions."""
PLAN = "plan.json"
RESULT = "result.json"


def predict_all(
    model: Path, sources: Sequence[Path], out: Path, settings: Sequence[str], world: World
) -> dict[str, Any]:
    """Predict all videos and write them to ``out``; return the content of result.json.

    The videos are cut into parts, which the ranks compute independently. After a kill, the same
    command computes the parts that are missing, and the files are the same byte for byte on
    the same kind of device with the same number of threads.

    Args:
        model: folder of a run, or one of its checkpoints.
        sources: videos, folders of videos, lists of videos (.txt, .csv), or one dataset.
        out: folder that receives predictions.csv or predictions.parquet, keys.csv, bad.csv,
            result.json, and, if asked for, scores.npy and features.npy.
        settings: ``section.key=value`` of the sections that `tin.deploy.scorer` lists.
        world: the ranks; all of them must call.

    Raises:
        ConfigError: a source cannot be used, or ``out`` has predictions of something else.
        BadDataError: no video can be used.
        PartError: a finished part is damaged.
        DamagedFileError: result.json of finished predictions is damaged.
    """
    scorer = Scorer(model, settings, world.device)
    config = scorer.config
    torch.set_num_threads(config.run.threads or cpus())
    check_format(config.predict.format)
    videos = open_videos(sources, config, world.device)
    try:
        plan = _plan(scorer, videos)
        if world.broadcast(plan) != plan:
            raise ConfigError(
                f"{scorer.path} or the list of videos was changed while the ranks read it; run the"
                " same command again"
            )
        if world.is_main:
            _start(out, plan)
        world.barrier()
        if not world.broadcast((out / RESULT).exists()):
            _compute_parts(scorer, videos, out, plan, world)
            world.barrier()
            if world.is_main:
                _finish(out, plan, scorer, videos)
        world.barrier()
        if world.is_main:  # a killed attempt may have left parts after it had finished
            shutil.rmtree(out / "parts", ignore_errors=True)
    finally:
        videos.close()
    result = read_json(out / RESULT)
    if not result["num_predicted"]:
        raise BadDataError(
            f"{out / BAD}: none of {result['num_bad']} videos can be used; this file gives the"
            " reasons"
        )
    return result


def _plan(scorer: Scorer, videos: Videos) -> dict[str, Any]:
    """Return what the predictions depend on; plan.json fixes it at the first start."""
    config = scorer.config
    size = -(-config.predict.part // config.test.batch) * config.test.batch
    settings = config.model_dump(mode="json", exclude={"run"})
    return {
        "format": FORMAT,
        "checkpoint": scorer.path.name,
        "checkpoint_digest": file_digest(scorer.path),
        "videos": hashlib.sha256(videos.identity.encode()).hexdigest(),
        "num_videos": len(videos.keys),
        "part": size,
        "num_parts": -(-len(videos.keys) // size),
        "device": scorer.device.type,
        "settings": {name: settings[name] for name in ("shard", "clip", "test", "predict")},
    }


def _start(out: Path, plan: dict[str, Any]) -> None:
    """Write plan.json, or check that an earlier start had the same plan."""
    (out / "parts").mkdir(parents=True, exist_ok=True)
    remove_leftovers(out)
    remove_leftovers(out / "parts")
    path = out / PLAN
    if not path.exists():
        write_text(path, json.dumps(plan, indent=1) + "\n")
        return
    try:
        before = read_json(path)
    except DamagedFileError as error:
        raise ConfigError(f"{error}. Choose another folder, or remove this one.") from None
    different = changes(before, json.loads(json.dumps(plan)))
    if different:
        raise ConfigError(
            f"{path}: the predictions in this folder were started with something else:"
            f" {'; '.join(different)}. Choose another folder, or remove this one."
        )


def _compute_parts(
    scorer: Scorer, videos: Videos, out: Path, plan: dict[str, Any], world: World
) -> None:
    """Compute this rank's share of the parts that are missing."""
    numbers = range(plan["num_parts"])
    missing = [number for number in numbers if not part_path(out, number).exists()]
    missing = world.broadcast(missing)  # a fast rank may have finished a part meanwhile
    if world.is_main and len(missing) < len(numbers):
        log.info("%s: %d of %d parts are finished", out, len(numbers) - len(missing), len(numbers))
    truth = _truth(videos, scorer.classes)
    for number in missing[world.rank :: world.world_size]:
        began = time.monotonic()
        first = number * plan["part"]
        end = min(first + plan["part"], plan["num_videos"])
        part = _compute(scorer, videos, first, end, truth, f"part {number + 1} of {len(numbers)}")
        save_part(part_path(out, number), part)
        seconds = time.monotonic() - began
        log.info("part %d of %d: %.1f videos/s", number + 1, len(numbers), (end - first) / seconds)


def _truth(videos: Videos, classes: Sequence[str]) -> dict[str, int]:
    """Return the index of each class by name; empty if the labels are of other classes.

    Raises:
        ConfigError: a label of a list is not a class of the model.
    """
    index = {name: number for number, name in enumerate(classes)}
    if isinstance(videos, ShardVideos):
        if list(videos.classes) == list(classes):
            return index
        log.warning("the dataset has other classes than the model, so its labels are not compared")
        return {}
    for row, key in enumerate(videos.keys):
        unknown = [label for label in videos.labels(row) if label not in index]
        if unknown:
            raise ConfigError(
                f"{key} has the label {unknown[0]}, which is not a class of the model; correct the"
                " label, or leave out the column `labels`"
            )
    return index


def _compute(
    scorer: Scorer, videos: Videos, first: int, end: int, truth: dict[str, int], name: str
) -> Part:
    """Return the predictions of the videos from `first` to `end`; `name` is shown as progress."""
    config = scorer.config
    wanted = config.predict
    multi_label = config.train.loss == "bce"
    best: list[np.ndarray] = []
    seen: list[list[np.ndarray]] = []
    num_batches = -(-(end - first) // config.test.batch)
    batches = videos.batches(first, end)
    for batch in show_progress(batches, num_batches, f"{name}, batches"):
        scores, features = scorer.score(batch.x)
        seen.append(_kept(batch, scores, features, wanted.scores, wanted.features))
        best.append(average(scores[batch.rows >= 0], config.test.average, multi_label))
    K = len(scorer.classes)
    mean = np.concatenate([np.zeros((0, K)), *best])
    order = np.argsort(-mean, axis=1, kind="stable")
    rows, scores, features = _joined(seen)
    predicted = rows.tolist()
    problems = videos.take_problems(predicted)
    labels = [[truth[name] for name in videos.labels(row)] if truth else [] for row in predicted]
    ranks = [_label_rank(order[place], known) for place, known in enumerate(labels)]
    top = order[:, : wanted.top]
    return Part(
        rows=rows,
        best=top,
        best_scores=np.take_along_axis(mean, top, axis=1),
        label_ranks=np.array(ranks, np.int64),
        precisions=_precisions(mean, labels),
        scores=scores,
        features=features,
        bad_rows=np.array([problem.row for problem in problems], np.int64),
        bad_predicted=np.array([problem.is_predicted for problem in problems], bool),
        bad_reasons=np.array([problem.reason for problem in problems], np.str_),
    )


def _kept(
    batch: VideoBatch, scores: np.ndarray, features: np.ndarray, all_scores: bool, pooled: bool
) -> list[np.ndarray]:
    """Return rows, scores and features of a batch without its padding, empty where not wanted."""
    is_video = batch.rows >= 0
    return [
        batch.rows[is_video],
        scores[is_video] if all_scores else scores[is_video, :0, :0],
        features[is_video] if pooled else features[is_video, :0],
    ]


def _joined(seen: list[list[np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows, scores and features of all batches of a part."""
    if not seen:  # no video of the part can be used
        return np.zeros(0, np.int64), np.zeros((0, 0, 0), np.float32), np.zeros((0, 0), np.float16)
    rows, scores, features = (np.concatenate([kept[i] for kept in seen]) for i in range(3))
    return rows, scores, features


def _label_rank(order: np.ndarray, labels: Sequence[int]) -> int:
    """Return the rank of the best of a video's labels from 0; -1 without a label."""
    return int(np.isin(order, labels).argmax()) if labels else -1


def _precisions(mean: np.ndarray, labels: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the average precision of ranking each video's labels; NaN without a label."""
    targets = np.zeros(mean.shape, bool)
    for target, known in zip(targets, labels, strict=True):
        target[list(known)] = True
    precisions = np.full(len(mean), np.nan)
    labeled = targets.any(axis=1)
    if labeled.any():
        precisions[labeled] = average_precision(mean[labeled], targets[labeled])
    return precisions


def _finish(out: Path, plan: dict[str, Any], scorer: Scorer, videos: Videos) -> None:
    """Join the parts, and write result.json last, which marks the predictions as finished."""
    counts = join_parts(
        out, plan["num_parts"], videos.keys, videos.labels, scorer.classes,
        scorer.config.predict.format, scorer.config.train.loss == "bce",
    )  # fmt: skip
    result = {**counts, **plan, "classes": scorer.classes}
    write_text(out / RESULT, json.dumps(result, indent=1) + "\n")
