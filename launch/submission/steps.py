"""The stages of a submission as steps: jobs, arrays of jobs, and what they wait for."""

from dataclasses import dataclass
from pathlib import Path

from configs.cluster import Cluster
from configs.schema import Config
from launch.jobs.job import StageJob


@dataclass(frozen=True)
class Step:
    """The jobs of one stage; several jobs are one array."""

    stage: str
    cluster: Cluster
    jobs: tuple[StageJob, ...]
    after: str = "afterok"
    """Dependency on the previous step: `afterok`, `afterany`, or `aftercorr` (task by task)."""


@dataclass(frozen=True)
class Submission:
    """All that `tin submit` is asked to do."""

    folder: Path
    """Folder of the run, or of the runs of a sweep."""
    configs: dict[Path, Config]
    """Settings of each run, by the run's folder."""
    cluster: Cluster
    steps: tuple[Step, ...]


def steps_of(
    name: str, folder: Path, configs: dict[Path, Config], cluster: Cluster
) -> tuple[Step, ...]:
    """Return the steps of a stage: two for shards in parts, which are merged; else one."""
    if name == "shard":
        parts = next(iter(configs.values())).shard.parts
        if parts == 1:
            return (Step(name, cluster, (StageJob("shard", str(folder)),)),)
        tasks = tuple(StageJob(f"shard:{part}", str(folder)) for part in range(parts))
        merge = StageJob("merge", str(folder))
        return Step(name, cluster, tasks), Step("merge", cluster, (merge,))
    if name == "report":
        # The report of a sweep also lists the runs that failed.
        after = "afterok" if len(configs) == 1 else "afterany"
        return (Step(name, cluster, (StageJob(name, str(folder)),), after),)
    # A test or prediction of a sweep depends on the step before it of the same run only.
    after = "aftercorr" if name in ("test", "predict") and len(configs) > 1 else "afterok"
    return (Step(name, cluster, tuple(StageJob(name, str(path)) for path in configs), after),)
