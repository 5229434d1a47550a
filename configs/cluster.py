"""The settings of a cluster file: where and how jobs run. Results never depend on them."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from configs.load import ConfigError, parse, read_yaml, with_settings
from configs.settings import Settings

log = logging.getLogger(__name__)

CLUSTERS = Path(__file__).parent / "clusters"
Stage = Literal["shard", "train", "test", "predict", "report"]
GPUS = r"^[A-Za-z][\w.-]*:[1-9]\d*$"
"""Pattern of GPUs of one type: its name in Slurm, and their number."""
SMALL_STAGES = ("shard", "report")
"""Stages that run as one process on one node: they use neither ranks nor GPUs."""


class Staging(Settings):
    """A copy of the shards on the local disk of each node."""

    dir: str
    """Folder on the node's local disk; variables of the job's environment are expanded."""
    keep_free: str = Field("10%", pattern=r"^\d+(\.\d+)?%$")
    """Share of that disk that stays free; a shard that does not fit is read from its source."""


class Cluster(Settings):
    """A cluster file. Slurm's own default applies to each setting that is left empty."""

    executor: Literal["slurm", "local", "debug"] = "slurm"
    """Where jobs run: on Slurm, as processes of this machine, or inside this process."""
    partition: str = ""
    """Partition, or several partitions joined by commas."""
    account: str = ""
    """Account that is charged for the hours."""
    qos: str = ""
    """Quality of service."""
    constraint: str = ""
    """Features that nodes must have, for example `a100&ib`."""
    reservation: str = ""
    """Reservation."""
    exclude: str = ""
    """Nodes that must not be used, for example `node[3-5]`."""
    nodes: PositiveInt = 1
    """Nodes of a job."""
    gpus_per_node: NonNegativeInt | Annotated[str, Field(pattern=GPUS)] = 0
    """GPUs of a node: a number, or a type and a number, for example `a100:4` or the MIG slices
    `a100_1g.10gb:7`."""
    tasks_per_node: NonNegativeInt = 0
    """Ranks of a node; 0 means one rank for each GPU, or one rank on a node without GPUs."""
    cpus_per_task: PositiveInt = 4
    """CPUs of a rank."""
    mem_gb: PositiveFloat = 16.0
    """Memory of a rank, in GiB."""
    time_min: PositiveInt = 60
    """Time limit of a job, in minutes; a run may take several jobs."""
    signal_s: PositiveInt = 120
    """Seconds before the time limit at which a job is told to save a checkpoint and exit."""
    nice: int = 0
    """Slurm's nice value: a higher value lowers the priority of the job."""
    parallel: PositiveInt = 256
    """Largest number of tasks of an array that run at the same time."""
    setup: tuple[str, ...] = ()
    """Shell lines before the job: modules, NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME."""
    python: str = ""
    """Command that starts Python, for example `apptainer exec --nv tin.sif python`; empty means
    the Python that runs `tin submit`."""
    srun: tuple[str, ...] = ()
    """Additional options of srun, for example `--container-image=tin.sqsh` for pyxis."""
    options: dict[str, str | int | bool] = {}
    """Additional options of sbatch, by their long names."""
    restart: str = Field("requeue", pattern=r"^(requeue|chain:[1-9]\d*)$")
    """`requeue`; or `chain:N`, which submits N jobs in advance, for clusters that forbid
    requeueing."""
    staging: Staging | None = None
    """Copy shards to the local disk of each node first."""
    stages: dict[Stage, dict[str, Any]] = {}
    """Settings that differ for one stage, for example `shard: {partition: cpu}`."""

    @field_validator("*")
    @classmethod
    def _check_lines(cls, value: Any) -> Any:
        """Reject a line break, which would add a line to the batch script."""
        texts = [value] if isinstance(value, str) else []
        if isinstance(value, tuple):
            texts += value
        elif isinstance(value, dict):
            texts += [text for item in value.items() for text in item if isinstance(text, str)]
        for text in texts:
            if not text.replace("\t", " ").isprintable():
                raise ValueError(f"found {text!a}, expected one line of printable characters")
        return value

    @property
    def num_gpus(self) -> int:
        """Number of GPUs of a node, also where `options` asks for them by the name `gres`."""
        asked = self.gpus_per_node or str(self.options.get("gres", ""))
        if isinstance(asked, int):
            return asked
        found = [part.split(":") for part in asked.split(",")]
        counts = [part[-1] for part in found if self.gpus_per_node or part[0] == "gpu"]
        return sum(int(count) if count.isdecimal() else 1 for count in counts)

    @property
    def ranks_per_node(self) -> int:
        """Number of ranks of a node."""
        return self.tasks_per_node or self.num_gpus or 1

    @property
    def chain(self) -> int:
        """Number of jobs that are submitted in advance; 0 where jobs are requeued."""
        return int(self.restart.removeprefix("chain:")) if self.restart != "requeue" else 0


def load_cluster(name: str, settings: Sequence[str] = ()) -> Cluster:
    """Return a cluster file (a path, or a name in configs/clusters), `settings` applied last.

    Args:
        name: for example `local`, `debug` or `mine.yaml`.
        settings: `key=value` words, without the prefix `cluster.` of the command line.

    Raises:
        ConfigError: file, key, what was found and what was expected.
    """
    path = _cluster_path(name)
    values = _with_new_names(with_settings(read_yaml(path), settings), path.name, warn=True)
    cluster = parse(Cluster, values, path.name)
    for stage in cluster.stages:
        for_stage(cluster, stage, path.name)
    return cluster


def load_submitted_cluster(path: Path) -> Cluster:
    """Return the cluster settings that `tin submit` wrote to a run's job/cluster.yaml.

    An earlier version may have written the file, with the old names of settings. Users do not edit
    it, so it is read without a warning.
    """
    values = _with_new_names(read_yaml(path), str(path), warn=False)
    return parse(Cluster, values, str(path))


def for_stage(cluster: Cluster, stage: str, where: str = "cluster") -> Cluster:
    """Return the settings of one stage: `stages.<stage>` overrides the others.

    The stages in `SMALL_STAGES` run as a single process unless `stages` says otherwise.
    """
    values = cluster.model_dump(mode="json")
    own = values.pop("stages").get(stage, {})
    small = {"nodes": 1, "tasks_per_node": 1, "gpus_per_node": 0} if stage in SMALL_STAGES else {}
    return parse(Cluster, {**values, **small, **own}, f"{where}, stages.{stage}")


def _with_new_names(values: Mapping[str, Any], where: str, *, warn: bool) -> dict[str, Any]:
    """Return the values of a cluster file with `stage` renamed to `staging`, also in `stages`."""
    result = _rename(values, where, warn=warn)
    stages = result.get("stages")
    if isinstance(stages, dict):
        result["stages"] = {
            stage: _rename(own, f"{where}, stages.{stage}", warn=warn)
            if isinstance(own, dict)
            else own
            for stage, own in stages.items()
        }
    return result


def _rename(values: Mapping[str, Any], where: str, *, warn: bool) -> dict[str, Any]:
    if "stage" not in values:
        return dict(values)
    if "staging" in values:
        raise ConfigError(f"{where}: found both `staging` and its old name `stage`; remove `stage`")
    if warn:
        log.warning(
            "%s: the setting `stage` is now called `staging`; rename it, because the next version"
            " does not read the old name",
            where,
        )
    return {"staging" if key == "stage" else key: value for key, value in values.items()}


def _cluster_path(name: str) -> Path:
    path = Path(name).expanduser()
    if path.suffix == ".yaml" and path.exists():
        return path
    named = CLUSTERS / f"{name}.yaml"
    if path.name == name and named.exists():
        return named
    names = ", ".join(sorted(file.stem for file in CLUSTERS.glob("*.yaml")))
    raise ConfigError(f"no cluster file {name}; give the path of one, or one of {names}")
