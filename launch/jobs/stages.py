"""What each stage of a run does, with the settings that were submitted with it."""

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from configs.cluster import Cluster, for_stage, load_submitted_cluster
from configs.errors import BAD_DATA, TinError
from configs.load import STAGED, ConfigError, dataset_path, load_site, parse, read_yaml
from configs.schema import Config
from tin.runs.folder import Run

if TYPE_CHECKING:
    from preprocess.convert import ShardResult

log = logging.getLogger(__name__)


class QuarantineError(TinError):
    """More videos are in quarantine than a dataset may lose; the dataset is otherwise complete."""

    exit_code = BAD_DATA
    is_final = True


def run_stage(run_dir: Path, stage: str) -> None:
    """Run a stage on this rank.

    Args:
        run_dir: folder of the run.
        stage: name of the stage; `shard:3` is part 3 of the shards.
    """
    name, _, part = stage.partition(":")
    if name == "shard":
        _shard(run_dir, int(part) if part else None)
    else:
        STAGES[name](run_dir)


def submitted_config(run_dir: Path) -> Config:
    """Return the settings that a run was submitted with."""
    path = Run(run_dir).recipe
    return parse(Config, read_yaml(path), str(path))


def submitted_cluster(run_dir: Path, stage: str) -> Cluster:
    """Return the cluster settings that a stage of a run was submitted with."""
    cluster = load_submitted_cluster(Run(run_dir).job / "cluster.yaml")
    name = stage.partition(":")[0]
    # The merge of shards has no settings of its own.
    return for_stage(cluster, "shard" if name == "merge" else name)


def dataset_folder(config: Config) -> Path:
    """Return the folder of the recipe's dataset, which may not exist yet."""
    name = config.data.dataset
    if not name:
        raise ConfigError("data.dataset is empty: set it to a folder or to a name of site.yaml")
    return Path(load_site().datasets.get(name, name)).expanduser()


def _shard(run_dir: Path, part: int | None) -> None:
    from preprocess.convert import shard

    config = submitted_config(run_dir)
    folder = dataset_folder(config)
    result = shard(config, folder, part)
    if part is None:  # otherwise the merge checks the parts together
        _check_quarantine(folder, result)


def _merge(run_dir: Path) -> None:
    from preprocess.convert import merge

    folder = dataset_folder(submitted_config(run_dir))
    _check_quarantine(folder, merge(folder))


def _check_quarantine(folder: Path, result: "ShardResult") -> None:
    """Log what a finished dataset holds.

    Raises:
        QuarantineError: too many videos could not be used, or all of them.
    """
    if not result.num_videos:
        raise QuarantineError(
            f"{folder}: not one of {result.num_quarantined + result.num_missing} videos could be"
            f" used, so there is nothing to train on; {folder / 'quarantine.csv'} gives the reasons"
        )
    from preprocess.summary import summarize

    for line in summarize(folder).lines():
        log.info("%s", line)
    if result.too_many_bad:
        raise QuarantineError(
            f"{result.num_quarantined} videos could not be used, {result.num_videos} could;"
            f" {folder / 'quarantine.csv'} gives the reasons. The dataset is otherwise complete: to"
            " train without these videos, run `tin submit train`."
        )


def _train(run_dir: Path) -> None:
    from tin.training.trainer import train

    config = submitted_config(run_dir)
    _stage_shards(run_dir, "train", config, (config.data.train_split, config.data.test_split))
    train(config, run_dir)


def _test(run_dir: Path) -> None:
    from tin.evaluation.evaluate import test
    from tin.ranks.distributed import start
    from tin.reports.intervals import store_intervals

    config = submitted_config(run_dir)
    _stage_shards(run_dir, "test", config, (config.data.test_split,))
    settings = _settings(config, {"test": None, "data": {"test_split"}})
    with start(config.run.device) as world:
        folder = test(run_dir, settings, world)
        if world.is_main:
            store_intervals(folder)


def _predict(run_dir: Path) -> None:
    from tin.deploy.predictions import predict_all
    from tin.ranks.distributed import start

    config = submitted_config(run_dir)
    source = config.predict.source
    if not source:
        _stage_shards(run_dir, "predict", config, (config.data.test_split,))
    path = Path(source) if source else dataset_path(config.data.dataset)
    settings = _settings(config, {"test": None, "predict": None, "data": {"test_split"}})
    with start(config.run.device) as world:
        predict_all(run_dir, [path], run_dir / "predictions", settings, world)


def _settings(config: Config, wanted: Mapping[str, set[str] | None]) -> list[str]:
    """Return `section.key=value` of the wanted sections, or of some of their keys."""
    return [
        f"{section}.{key}={json.dumps(value)}"
        for section, keys in wanted.items()
        for key, value in getattr(config, section).model_dump(include=keys).items()
    ]


def _stage_shards(run_dir: Path, stage: str, config: Config, splits: Sequence[str]) -> None:
    """Copy the shards to this node if the cluster file asks for it; `dataset_path` finds them."""
    staging = submitted_cluster(run_dir, stage).staging
    if staging:
        from launch.jobs.staging import copy_shards, wait_for_nodes

        copy = copy_shards(dataset_path(config.data.dataset), splits, staging)
        os.environ[STAGED] = str(copy)
        wait_for_nodes(run_dir)


def _report(run_dir: Path) -> None:
    from launch.slurm_query import account
    from tin.reports.results import load_runs, write_report

    account([run_dir])
    log.info("%s", write_report(load_runs([run_dir]), run_dir / "report"))


STAGES: dict[str, Callable[[Path], None]] = {
    "merge": _merge,
    "train": _train,
    "test": _test,
    "predict": _predict,
    "report": _report,
}
