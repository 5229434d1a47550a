"""What each stage of a run does, from the settings that were submitted with it."""

import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from configs.cluster import Cluster, for_stage
from configs.errors import BAD_DATA, TinError
from configs.load import STAGED, ConfigError, dataset_path, load_site, parse, read_yaml
from configs.schema import Config
from tin.runs.folder import Run

if TYPE_CHECKING:
    from preprocess.convert import ShardResult

log = logging.getLogger(__name__)


class QuarantineError(TinError):
    """More videos could not be used than a dataset may lose; it stands all the same."""

    exit_code = BAD_DATA
    is_final = True


def submitted_config(run: Path) -> Config:
    """Return the settings that a run was submitted with."""
    path = Run(run).recipe
    return parse(Config, read_yaml(path), str(path))


def submitted_cluster(run: Path) -> Cluster:
    """Return the cluster file that a run was submitted with."""
    path = Run(run).job / "cluster.yaml"
    return parse(Cluster, read_yaml(path), str(path))


def dataset_folder(config: Config) -> Path:
    """Return the folder of the recipe's dataset, which may not exist yet."""
    name = config.data.dataset
    if not name:
        raise ConfigError("data.dataset is empty: name a folder, or a name of site.yaml")
    return Path(load_site().datasets.get(name, name)).expanduser()


def _shard(run: Path, stage: str) -> None:
    from preprocess.convert import shard

    config, part = submitted_config(run), stage.partition(":")[2]
    folder = dataset_folder(config)
    if part:
        shard(config, folder, int(part))
    else:
        _check_quarantine(folder, shard(config, folder))


def _merge(run: Path, stage: str) -> None:
    from preprocess.convert import merge

    folder = dataset_folder(submitted_config(run))
    _check_quarantine(folder, merge(folder))


def _check_quarantine(folder: Path, result: "ShardResult") -> None:
    if result.too_many_bad:
        raise QuarantineError(
            f"{result.num_quarantined} videos could not be used, {result.num_videos} could:"
            f" {folder / 'quarantine.csv'} says why; the dataset is complete but for them, train"
            " on it with `tin submit train` if that is all right"
        )


def _train(run: Path, stage: str) -> None:
    from tin.training.trainer import train

    config = submitted_config(run)
    _bring_shards(run, stage, config, (config.data.train_split, config.data.test_split))
    train(config, run)


def _test(run: Path, stage: str) -> None:
    from tin.evaluation.evaluate import test
    from tin.ranks.distributed import start

    config = submitted_config(run)
    _bring_shards(run, stage, config, (config.data.test_split,))
    values = {"test": config.test.model_dump(), "data": {"test_split": config.data.test_split}}
    settings = [
        f"{section}.{key}={json.dumps(value)}"
        for section, group in values.items()
        for key, value in group.items()
    ]
    with start(config.run.device) as world:
        test(run, settings, world)


def _bring_shards(run: Path, stage: str, config: Config, splits: Sequence[str]) -> None:
    """Copy the shards to this node where the cluster file says so; `dataset_path` finds them."""
    staging = for_stage(submitted_cluster(run), stage).stage
    if staging:
        from launch.jobs.staging import meet
        from launch.jobs.staging import stage as copy_shards

        copy = copy_shards(dataset_path(config.data.dataset), splits, staging)
        os.environ[STAGED] = str(copy)
        meet(run)


def _report(run: Path, stage: str) -> None:
    from launch.slurm_query import account
    from tin.reports.results import load_runs, write_report

    account([run])
    log.info("%s", write_report(load_runs([run]), run / "report"))


RUN_STAGE: dict[str, Callable[[Path, str], None]] = {
    "shard": _shard,
    "merge": _merge,
    "train": _train,
    "test": _test,
    "report": _report,
}
