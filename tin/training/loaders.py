"""The data loaders of a training run, and checks that its settings fit its dataset."""

import logging
import math

import numpy as np
import torch
from torch import Tensor

from configs.load import dataset_path
from configs.schema import Config
from pipeline.balance import first_labels
from pipeline.loader import ClipLoader
from tin.ranks.distributed import World
from tin.runs.fit import check_folds, check_labels

log = logging.getLogger(__name__)
SMALL_SPLIT = 400
"""A test split with fewer videos than this cannot show a difference of 5 points."""


def open_train_split(config: Config, world: World) -> ClipLoader:
    """Return a loader of random clips of `data.train_split`."""
    return _open(config, world, config.data.train_split, training=True)


def open_test_split(config: Config, world: World) -> ClipLoader:
    """Return a loader of `data.test_split` for a quick evaluation: the center view of each video.

    `tin test` measures with the views of section `test`.
    """
    one_view = config.test.model_copy(update={"clips": 1, "crops": 1, "crop": 0})
    quick = config.model_copy(update={"test": one_view})
    return _open(quick, world, config.data.test_split, training=False)


def check_settings(config: Config, loader: ClipLoader) -> None:
    """Check that the loss fits the labels, and warn if the learning rate does not fit the batch.

    Raises:
        ConfigError: `train.loss` does not fit the labels, or there is only one class.
    """
    check_labels(config, loader.info, loader.split.folder)
    check_folds(config)
    if config.warmup_epochs < config.optim.warmup_epochs:
        log.warning(
            "optim.warmup_epochs=%g would take all of train.epochs=%d; the warm-up is shortened to"
            " %g epochs",
            config.optim.warmup_epochs,
            config.train.epochs,
            config.warmup_epochs,
        )
    if config.train.batch != config.optim.lr_batch and not config.optim.scale_lr:
        log.warning(
            "optim.lr=%g is meant for batches of optim.lr_batch=%d clips, but train.batch=%d:"
            " set optim.scale_lr=true, or change optim.lr and optim.lr_batch together",
            config.optim.lr,
            config.optim.lr_batch,
            config.train.batch,
        )


def class_weights(config: Config, loader: ClipLoader, device: torch.device) -> Tensor | None:
    """Return the factor on the loss of each class, ``(K,)`` float32, or None if there are none.

    With n videos in a class, the factor is proportional to 1 / n or to 1 / sqrt(n), and its mean
    over the training videos is 1. A class without a training video has the factor 0.
    """
    if config.train.class_weights == "none":
        return None
    labels = first_labels(loader.split)
    counts = np.bincount(labels[labels >= 0], minlength=len(loader.info.classes))
    power = {"inverse": -1.0, "sqrt": -0.5}[config.train.class_weights]
    factors = np.where(counts > 0, np.maximum(counts, 1.0) ** power, 0.0)
    factors *= counts.sum() / (counts * factors).sum()
    return torch.from_numpy(factors.astype(np.float32)).to(device)


def warn_of_small_split(loader: ClipLoader) -> None:
    """Say how small a difference between epochs a small test split can show.

    The standard error of a share p of N videos is sqrt(p (1 - p) / N), at most sqrt(1 / 4N). Two
    epochs differ visibly if their shares differ by more than about two of these.
    """
    num_videos = loader.num_videos
    if 0 < num_videos < SMALL_SPLIT and not loader.info.multi_label:
        log.warning(
            "split %s has %d videos: one video is %.1f points of top-1, and a difference of less"
            " than about %.0f points between two epochs or runs may be chance",
            loader.split.name,
            num_videos,
            100 / num_videos,
            math.ceil(100 * 2 * math.sqrt(0.25 / num_videos)),
        )


def _open(config: Config, world: World, split: str, *, training: bool) -> ClipLoader:
    """Open this rank's part of a split, decoded by as many threads as torch computes with."""
    threads = config.run.model_copy(update={"threads": torch.get_num_threads()})
    return ClipLoader(
        dataset_path(config.data.dataset),
        split,
        config.model_copy(update={"run": threads}),
        training=training,
        rank=world.rank,
        world_size=world.world_size,
        device=str(world.device),
    )
