"""Every setting of a cluster file: where and with what jobs run. Results never depend on it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from configs.load import ConfigError, parse, read_yaml, with_settings
from configs.settings import Settings

CLUSTERS = Path(__file__).parent / "clusters"
Stage = Literal["shard", "train", "test", "report"]
SMALL_STAGES = ("shard", "report")  # one process on one node: they use no ranks and no GPU


class Staging(Settings):
    """A copy of the shards on the disk of each node."""

    dir: str
    """Folder on the node's own disk; $NAMES of the job's environment are filled in."""
    keep_free: str = Field("10%", pattern=r"^\d+(\.\d+)?%$")
    """Share of that disk that stays free; what does not fit is read from where it is."""


class Cluster(Settings):
    """A cluster file. What is empty is left to the cluster's own default."""

    executor: Literal["slurm", "local", "debug"] = "slurm"
    """Slurm jobs, processes of this machine, or this process."""
    partition: str = ""
    """Partition, or several joined by commas."""
    account: str = ""
    """Account that the hours are charged to."""
    qos: str = ""
    """Quality of service."""
    constraint: str = ""
    """Features that nodes must have, `a100&ib` say."""
    reservation: str = ""
    """Reservation."""
    exclude: str = ""
    """Nodes that must not be used, `node[3-5]` say."""
    nodes: PositiveInt = 1
    """Nodes of a job."""
    gpus_per_node: NonNegativeInt = 0
    """GPUs of a node."""
    tasks_per_node: NonNegativeInt = 0
    """Ranks of a node; 0 is one for each GPU, or one where there is none."""
    cpus_per_task: PositiveInt = 4
    """CPUs of a rank."""
    mem_gb: PositiveFloat = 16.0
    """Memory of a rank, in GiB."""
    time_min: PositiveInt = 60
    """Time limit of a job, in minutes; a run may take many jobs."""
    signal_s: PositiveInt = 120
    """Seconds before the time limit at which a job is told to save and to leave."""
    nice: int = 0
    """Higher numbers wait longer."""
    parallel: PositiveInt = 256
    """Tasks of an array that run at a time."""
    setup: tuple[str, ...] = ()
    """Shell lines before the job: modules, NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME."""
    python: str = ""
    """Command that starts Python, `apptainer exec --nv tin.sif python` say; empty: this one."""
    srun: tuple[str, ...] = ()
    """More options of srun, `--container-image=tin.sqsh` of pyxis say."""
    options: dict[str, str | int | bool] = {}
    """More options of sbatch, by their long names."""
    restart: str = Field("requeue", pattern=r"^(requeue|chain:[1-9]\d*)$")
    """requeue; or chain:N, N jobs submitted ahead, where a cluster forbids requeueing."""
    stage: Staging | None = None
    """Copy shards to the nodes' own disks first."""
    stages: dict[Stage, dict[str, Any]] = {}
    """Settings of one stage that differ, `shard: {partition: cpu}` say."""

    @property
    def ranks_per_node(self) -> int:
        """Ranks of a node."""
        return self.tasks_per_node or self.gpus_per_node or 1

    @property
    def chain(self) -> int:
        """Jobs submitted ahead; 0 where jobs are requeued."""
        return int(self.restart.removeprefix("chain:")) if self.restart != "requeue" else 0


def load_cluster(name: str, settings: Sequence[str] = ()) -> Cluster:
    """Return a cluster file (a path, or a name in configs/clusters), `settings` applied last.

    Args:
        name: `local`, `debug`, `mine.yaml`.
        settings: `key=value` words, without the prefix `cluster.` of the command line.

    Raises:
        ConfigError: file, key, what was found and what was expected.
    """
    path = _cluster_path(name)
    values = with_settings(read_yaml(path), settings)
    cluster = parse(Cluster, values, path.name)
    for stage in cluster.stages:
        for_stage(cluster, stage, path.name)
    return cluster


def for_stage(cluster: Cluster, stage: str, where: str = "cluster") -> Cluster:
    """Return the settings that `stage` runs with: its own, and one small task where that does."""
    values = cluster.model_dump(mode="json")
    own = values.pop("stages").get(stage, {})
    small = {"nodes": 1, "tasks_per_node": 1, "gpus_per_node": 0} if stage in SMALL_STAGES else {}
    return parse(Cluster, {**values, **small, **own}, f"{where}, stages.{stage}")


def _cluster_path(name: str) -> Path:
    path = Path(name).expanduser()
    if path.suffix == ".yaml" and path.exists():
        return path
    named = CLUSTERS / f"{name}.yaml"
    if path.name == name and named.exists():
        return named
    names = ", ".join(sorted(file.stem for file in CLUSTERS.glob("*.yaml")))
    raise ConfigError(f"no cluster file {name}; give the path of one, or one of {names}")
