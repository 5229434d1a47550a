"""The data loaders of a training run, and checks that its settings fit its dataset."""

import logging

import torch

from configs.load import ConfigError, dataset_path
from configs.schema import Config
from pipeline.loader import ClipLoader
from tin.ranks.distributed import World

log = logging.getLogger(__name__)


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
        ConfigError: `train.loss` is for one label a video and the dataset has several, or the
            other way round.
    """
    several = loader.info.multi_label
    fitting = "bce" if several else "nll"
    if config.train.loss != fitting:
        raise ConfigError(
            f"train.loss={config.train.loss} does not fit {loader.split.folder}, which has"
            f" {'several labels' if several else 'one label'} per video;"
            f" set train.loss={fitting}"
        )
    if config.train.batch != config.optim.lr_batch and not config.optim.scale_lr:
        log.warning(
            "optim.lr=%g is meant for batches of optim.lr_batch=%d clips, but train.batch=%d:"
            " set optim.scale_lr=true, or change optim.lr and optim.lr_batch together",
            config.optim.lr,
            config.optim.lr_batch,
            config.train.batch,
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
