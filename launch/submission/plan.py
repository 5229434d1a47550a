"""`tin submit`: stages of one run, or of a sweep, as jobs that follow one another."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.cluster import Cluster, for_stage, load_cluster
from configs.load import ConfigError, dataset_path, differences, dump, load, run_path
from configs.schema import Config
from launch import record
from launch.jobs.job import StageJob
from launch.live_jobs import active, cancel
from launch.slurm_query import SlurmError
from launch.submission.executor import make_executor, script, submit_jobs, test_only
from launch.submission.snapshot import snapshot
from launch.submission.sweep import expand
from tin.runs.folder import Run

ORDER = ("shard", "train", "test", "report")


@dataclass(frozen=True)
class Step:
    """Jobs of one stage; several are one array."""

    stage: str
    cluster: Cluster
    jobs: tuple[StageJob, ...]
    after: str = "afterok"
    """How it follows the step before: `afterok`, `aftercorr` task by task, or `afterany`."""


@dataclass(frozen=True)
class Submission:
    """All that a submission would do."""

    folder: Path
    """The run, or the folder that a sweep's runs lie in."""
    configs: dict[Path, Config]
    """Settings of each run."""
    cluster: Cluster
    steps: tuple[Step, ...]


def make_submission(
    stages: str, recipe: str, run: str | Path, cluster: str, settings: Sequence[str]
) -> Submission:
    """Return what `tin submit` is asked for, checked as far as files here tell.

    Args:
        stages: names joined by commas, in their order.
        recipe: of all runs.
        run: folder of the run, or of the sweep's runs.
        cluster: file of the cluster, or its name.
        settings: of the recipe, and `cluster.key=value` of the cluster file.

    Raises:
        ConfigError: what cannot work, and why.
    """
    names = stages.split(",")
    if [name for name in ORDER if name in names] != names:
        raise ConfigError(f"stages {stages}: expected some of {','.join(ORDER)} in this order")
    own = [word.removeprefix("cluster.") for word in settings if word.startswith("cluster.")]
    place = load_cluster(cluster, own)
    folder = run_path(run).absolute()
    words = [word for word in settings if not word.startswith("cluster.")]
    configs = {
        folder / name if name else folder: load(recipe, chosen)
        for name, chosen in expand(words).items()
    }
    steps = tuple(
        step for name in names for step in _steps(name, folder, configs, for_stage(place, name))
    )
    plan = Submission(folder, configs, place, steps)
    _check(plan, names)
    return plan


def submit(plan: Submission) -> list[tuple[Path, record.SubmittedJob]]:
    """Submit the jobs of a plan and return them, each with its run; the runs remember them.

    Raises:
        ConfigError: a job of a run still waits or runs, or the cluster refuses a job.
    """
    for run in plan.configs:
        refuse_active(run)
    code = _prepare(plan)
    submitted: list[tuple[Path, record.SubmittedJob]] = []
    before: list[str] = []
    try:
        for step in plan.steps:
            for _ in range(max(step.cluster.chain, 1)):
                jobs = _submit_step(step, plan.folder, code, before)
                submitted += jobs
            before = [job.id for _, job in jobs]
    except ConfigError:
        for run in dict(submitted):  # a part of a chain is worth nothing
            cancel(run)
        raise
    return submitted


def dry_run(plan: Submission) -> list[tuple[Step, str, str]]:
    """Return each step with its batch script and what `sbatch --test-only` says to it."""
    found = []
    for step in plan.steps:
        if step.cluster.executor != "slurm":
            found.append((step, "", f"{len(step.jobs)} x {step.cluster.ranks_per_node} processes"))
            continue
        logs, name = Run(plan.folder).job / "logs", _job_name(plan.folder, step)
        executor = make_executor(step.cluster, name, logs, _code(plan.folder))
        text = script(executor, len(step.jobs))
        found.append((step, text, test_only(text)))
    return found


def refuse_active(run: Path) -> None:
    """Refuse a run on which jobs wait or work.

    Raises:
        ConfigError: names them.
    """
    try:
        jobs = active(run)
    except SlurmError as error:
        raise ConfigError(f"{run} has Slurm jobs, and nobody knows if they run: {error}") from None
    if jobs:
        listed = ", ".join(f"{job_id} ({state})" for job_id, state in jobs.items())
        raise ConfigError(f"{run}: jobs work on it: {listed}; wait, or `tin cancel {run}` first")


def _submit_step(
    step: Step, folder: Path, code: Path, before: Sequence[str]
) -> list[tuple[Path, record.SubmittedJob]]:
    follows = f"{step.after}:{before[0].partition('_')[0]}," if before else ""  # a whole array
    dependency, logs = f"{follows}singleton", Run(folder).job / "logs"
    name = _job_name(folder, step)
    ids = submit_jobs(step.jobs, step.cluster, name, logs, code, dependency)
    found = []
    for index, (job_id, job) in enumerate(zip(ids, step.jobs, strict=True)):
        if step.cluster.executor == "local":
            dependency = _local_order(step, before, ids, index)
        entry = record.SubmittedJob(job_id, job.stage, step.cluster.executor, str(logs), dependency)
        record.add_job(Path(job.run), entry)
        found.append((Path(job.run), entry))
    return found


def _local_order(step: Step, before: Sequence[str], ids: Sequence[str], index: int) -> str:
    """Return what a local job waits for: the step before, and a place among the parallel ones."""
    kind = "afterok" if step.after == "aftercorr" else step.after
    earlier = [before[index]] if step.after == "aftercorr" else list(before)
    words = [":".join([kind, *earlier])] if earlier else []
    if index >= step.cluster.parallel:
        words.append(f"afterany:{ids[index - step.cluster.parallel]}")
    return ",".join(words)


def _steps(
    name: str, folder: Path, configs: dict[Path, Config], cluster: Cluster
) -> tuple[Step, ...]:
    if name == "shard":
        parts = next(iter(configs.values())).shard.parts
        if parts == 1:
            return (Step(name, cluster, (StageJob("shard", str(folder)),)),)
        tasks = tuple(StageJob(f"shard:{part}", str(folder)) for part in range(parts))
        return Step(name, cluster, tasks), Step("merge", cluster, (StageJob("merge", str(folder)),))
    if name == "report":
        after = "afterok" if len(configs) == 1 else "afterany"
        return (Step(name, cluster, (StageJob(name, str(folder)),), after),)
    after = "aftercorr" if name == "test" and len(configs) > 1 else "afterok"
    return (Step(name, cluster, tuple(StageJob(name, str(run)) for run in configs), after),)


def _check(plan: Submission, names: Sequence[str]) -> None:
    first = next(iter(plan.configs.values()))
    if "shard" in names and any(
        (config.shard, config.data.dataset) != (first.shard, first.data.dataset)
        for config in plan.configs.values()
    ):
        raise ConfigError("a sweep over shard or data.dataset cannot begin with stage shard")
    for run, config in plan.configs.items():
        if "shard" not in names and {"train", "test"} & set(names):
            dataset_path(config.data.dataset)
        if "test" in names and "train" not in names and not Run(run).exists():
            raise ConfigError(f"{run} is no run yet: submit train,test")
        if Run(run).exists():
            different = differences(Run(run).config(), config)
            if "train" not in names:
                different = [line for line in different if not line.startswith("test.")]
            if different:
                raise ConfigError(
                    f"{run} was started with other settings: {'; '.join(different)}; submit it"
                    " with its own, or name another folder"
                )
    for step in plan.steps:
        if step.cluster.executor != "slurm" and step.cluster.nodes > 1:
            raise ConfigError(f"cluster.nodes {step.cluster.nodes}: this machine is one node")
        if step.stage == "train":
            _check_ranks(step.cluster, first)


def _check_ranks(cluster: Cluster, config: Config) -> None:
    ranks, clips = cluster.nodes * cluster.ranks_per_node, config.train.batch
    if clips % (ranks * config.train.accumulate):
        raise ConfigError(
            f"train.batch {clips} is no multiple of {ranks} ranks x train.accumulate"
            f" {config.train.accumulate}: change it, or the cluster's nodes"
        )


def _prepare(plan: Submission) -> Path:
    """Write what the jobs will read; return the folder of the code that they run."""
    cluster = dump(plan.cluster)
    configs = {plan.folder: next(iter(plan.configs.values())), **plan.configs}
    try:
        for run, config in configs.items():
            job = Run(run).job
            job.mkdir(parents=True, exist_ok=True)
            Run(run).recipe.write_text(dump(config))
            (job / "cluster.yaml").write_text(cluster)
        code = _code(plan.folder)
        snapshot(code)
    except OSError as error:
        raise ConfigError(
            f"{plan.folder} cannot be written ({error.strerror}); name a folder that all nodes"
            " share and that you may write"
        ) from None
    return code


def _code(folder: Path) -> Path:
    """Return a new folder for code: jobs that wait or run keep theirs."""
    numbers = [int(path.name[5:]) for path in Run(folder).job.glob("code-*")]
    return Run(folder).job / f"code-{max(numbers, default=0) + 1:02d}"


def _job_name(folder: Path, step: Step) -> str:
    """Return a name that jobs of other runs do not have: `singleton` keeps a run to one job."""
    runs = "\n".join(job.run for job in step.jobs)
    return f"{folder.name}-{step.stage}-{hashlib.sha256(runs.encode()).hexdigest()[:6]}"
