"""What is checked before jobs are submitted, as far as files on this machine allow."""

from collections.abc import Sequence
from pathlib import Path

from configs.cluster import Cluster
from configs.load import ConfigError, dataset_path, differences
from configs.schema import Config
from launch.submission.steps import Submission
from pipeline.plan import bn_groups
from tin.models.imagenet import initial_weights
from tin.runs.fit import check_training
from tin.runs.folder import Run


def check(submission: Submission, names: Sequence[str]) -> None:
    """Reject what cannot work: settings, datasets and runs that do not fit, too many nodes."""
    first = next(iter(submission.configs.values()))
    if "shard" in names and any(
        (config.shard, config.data.dataset) != (first.shard, first.data.dataset)
        for config in submission.configs.values()
    ):
        raise ConfigError("a sweep over shard or data.dataset cannot begin with stage shard")
    for run_dir, config in submission.configs.items():
        _check_run(run_dir, config, names)
    for step in submission.steps:
        if step.cluster.executor != "slurm" and step.cluster.nodes > 1:
            raise ConfigError(
                f"cluster.nodes {step.cluster.nodes}: executor {step.cluster.executor} has only"
                " one node, this machine"
            )
        _check_cluster(step.cluster)
        if step.stage == "train":
            _check_ranks(step.cluster, first)


def _check_run(run_dir: Path, config: Config, names: Sequence[str]) -> None:
    """Reject a missing dataset, a test before training, and settings that differ from the run's."""
    run = Run(run_dir)
    if "shard" not in names and "train" in names:
        check_training(config, is_new=not run.exists())
    elif "shard" not in names and _reads_dataset(config, names):
        dataset_path(config.data.dataset)
    elif "train" in names and not run.exists():
        initial_weights(config)
    for name in ("test", "predict"):
        if name in names and "train" not in names and not run.exists():
            raise ConfigError(f"{run_dir} is not a run yet: submit train,{name}")
    if not run.exists():
        return
    different = differences(run.config(), config)
    if "train" not in names:
        different = [line for line in different if not line.startswith(("test.", "predict."))]
    if different:
        raise ConfigError(
            f"{run_dir} was started with other settings: {'; '.join(different)}; submit it with its"
            " own settings, or choose another folder"
        )


def _reads_dataset(config: Config, names: Sequence[str]) -> bool:
    """Return whether a stage other than training reads the dataset of the recipe."""
    return "test" in names or ("predict" in names and not config.predict.source)


def _check_cluster(cluster: Cluster) -> None:
    """Reject settings of a stage that cannot be combined."""
    if cluster.executor == "slurm" and cluster.signal_s >= 60 * cluster.time_min:
        raise ConfigError(
            f"cluster.signal_s {cluster.signal_s} is not shorter than the time limit of"
            f" {60 * cluster.time_min} s: a job would be stopped as soon as it starts. Lower"
            " signal_s, or raise time_min"
        )
    if cluster.gpus_per_node and "gpu" in str(cluster.options.get("gres", "")):
        raise ConfigError(
            f"cluster.gpus_per_node {cluster.gpus_per_node} and options.gres"
            f" {cluster.options['gres']} both ask for GPUs: remove one of them"
        )


def _check_ranks(cluster: Cluster, config: Config) -> None:
    clips = config.train.batch
    ranks = cluster.nodes * cluster.ranks_per_node
    if clips % (ranks * config.train.accumulate):
        raise ConfigError(
            f"train.batch {clips} is not a multiple of {ranks} ranks x train.accumulate"
            f" {config.train.accumulate}: change it, or the number of nodes in the cluster file"
        )
    if config.train.bn_clips:
        bn_groups(config, ranks)
