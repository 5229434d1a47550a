"""Whether settings fit a dataset and the files that they name, found out without torch."""

from pathlib import Path

from configs.explain import nearest
from configs.load import ConfigError, dataset_path
from configs.schema import Config
from pipeline.folds import FOLD, open_part, stored_split
from pipeline.plan import check_batch
from preprocess.shards import DatasetInfo, read_info
from tin.models.imagenet import initial_weights


def check_training(config: Config, is_new: bool) -> None:
    """Check that a run can be trained with its settings.

    Args:
        config: the settings.
        is_new: whether the run starts, and therefore reads its initial weights.

    Raises:
        ConfigError: dataset, splits, labels, batch or initial weights do not fit or do not exist.
        ShardError: dataset.yaml is damaged.
    """
    folder = dataset_path(config.data.dataset)
    info = read_info(folder)
    check_folds(config)
    for key in ("train_split", "test_split"):
        check_split(config, key, info, folder)
    check_labels(config, info, folder)
    split = config.data.train_split
    num_videos = info.splits[split]
    if config.data.folds:
        num_videos = open_part(folder, split, config.data, training=True).num_videos
    check_batch(num_videos, config, f"split {split} in {folder}")
    if is_new:
        initial_weights(config)


def check_split(config: Config, key: str, info: DatasetInfo, folder: Path) -> None:
    """Check that a dataset has the split that a setting of section `data` names.

    Raises:
        ConfigError: names a split of the dataset to use instead, or how to make one.
    """
    split = stored_split(getattr(config.data, key), config.data)
    if split in info.splits:
        return
    others = [name for name in info.splits if name != config.data.train_split]
    found = ", ".join(info.splits)
    if key == "train_split":
        others = list(info.splits)
    if not others:
        advice = (
            f"Make a dataset with a split to evaluate on: `tin shard` with shard.held_out=0.2, or"
            f" with a column split in the labels. To evaluate on the training videos, set"
            f" data.{key}={found}"
        )
    else:
        hint = nearest(split, others).removeprefix("; did you mean ").removesuffix("?")
        advice = f"Set data.{key}={hint or others[0]}"
    raise ConfigError(f"no split {split} in {folder}; it has {found}. {advice}")


def check_folds(config: Config) -> None:
    """Check that a run with folds is evaluated on the fold that it holds out.

    Raises:
        ConfigError: it would leave out a fold of the training videos and never use it.
    """
    if config.data.folds and config.data.test_split != FOLD:
        raise ConfigError(
            f"data.folds={config.data.folds} holds out a part of split {config.data.train_split},"
            f" but data.test_split={config.data.test_split} is evaluated; set"
            f" data.test_split={FOLD}, or data.folds=0"
        )


def check_labels(config: Config, info: DatasetInfo, folder: Path) -> None:
    """Check that the loss fits the labels of a dataset.

    Raises:
        ConfigError: `train.loss` is for one label a video and the dataset has several, or the
            other way round; or there is only one class.
    """
    several = info.multi_label
    fitting = "bce" if several else "nll"
    if config.train.loss != fitting:
        raise ConfigError(
            f"train.loss={config.train.loss} does not fit {folder}, which has"
            f" {'several labels' if several else 'one label'} per video;"
            f" set train.loss={fitting}"
        )
    if len(info.classes) < 2 and not several:
        raise ConfigError(
            f"{folder} has one class, {info.classes[0]!r}, so there is nothing to learn; make a"
            " dataset of at least two classes with `tin shard`"
        )
