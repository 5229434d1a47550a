"""`tin submit`: the stages of a run, or of a sweep, as jobs that follow one another."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.cluster import Cluster, for_stage, load_cluster
from configs.files import write_text
from configs.load import ConfigError, dataset_path, differences, dump, load, run_path
from configs.schema import Config
from launch.jobs.job import StageJob
from launch.live_jobs import active, cancel
from launch.record import SubmittedJob, add_job
from launch.slurm_query import SlurmError
from launch.submission.executor import batch_script, make_executor, submit_jobs, test_only
from launch.submission.snapshot import snapshot
from launch.submission.sweep import expand
from tin.runs.folder import Run

ORDER = ("shard", "train", "test", "predict", "report")
CLUSTER_PREFIX = "cluster."
"""Marks the settings on the command line that belong to the cluster file."""


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


def make_submission(
    stages: str, recipe: str, run_dir: str | Path, cluster: str, settings: Sequence[str]
) -> Submission:
    """Return what `tin submit` is asked for, checked as far as files on this machine allow.

    Args:
        stages: names joined by commas, in their order.
        recipe: recipe of all runs.
        run_dir: folder of the run, or of the runs of a sweep.
        cluster: name or path of the cluster file.
        settings: settings of the recipe, and `cluster.key=value` for the cluster file.

    Raises:
        ConfigError: something cannot work; gives the reason.
    """
    names = stages.split(",")
    if [name for name in ORDER if name in names] != names:
        raise ConfigError(f"stages {stages}: expected some of {','.join(ORDER)} in this order")
    of_cluster = [setting for setting in settings if setting.startswith(CLUSTER_PREFIX)]
    of_recipe = [setting for setting in settings if not setting.startswith(CLUSTER_PREFIX)]
    loaded = load_cluster(cluster, [word.removeprefix(CLUSTER_PREFIX) for word in of_cluster])
    folder = run_path(run_dir).absolute()
    configs = {
        folder / name if name else folder: load(recipe, chosen)
        for name, chosen in expand(of_recipe).items()
    }
    steps = tuple(
        step for name in names for step in _steps(name, folder, configs, for_stage(loaded, name))
    )
    submission = Submission(folder, configs, loaded, steps)
    _check(submission, names)
    return submission


def submit(submission: Submission) -> list[tuple[Path, SubmittedJob]]:
    """Submit the jobs, record them in their runs, and return them with the folders of their runs.

    Raises:
        ConfigError: a job of a run is still queued or running, or the cluster rejects a job.
    """
    for run_dir in submission.configs:
        reject_active(run_dir)
    code = _prepare(submission)
    submitted: list[tuple[Path, SubmittedJob]] = []
    previous: list[str] = []
    try:
        for step in submission.steps:
            for _ in range(max(step.cluster.chain, 1)):
                jobs = _submit_step(step, submission.folder, code, previous)
                submitted += jobs
            previous = [job.id for _, job in jobs]
    except ConfigError:
        # The jobs that were accepted are of no use without the others.
        for run_dir in dict(submitted):
            cancel(run_dir)
        raise
    return submitted


def dry_run(submission: Submission) -> list[tuple[Step, str, str]]:
    """Return each step with its batch script and the answer of `sbatch --test-only` to it."""
    found = []
    for step in submission.steps:
        if step.cluster.executor != "slurm":
            found.append((step, "", f"{len(step.jobs)} x {step.cluster.ranks_per_node} processes"))
            continue
        name = _job_name(submission.folder, step)
        logs = Run(submission.folder).job / "logs"
        executor = make_executor(step.cluster, name, logs, _new_code_folder(submission.folder))
        script = batch_script(executor, len(step.jobs))
        found.append((step, script, test_only(script)))
    return found


def reject_active(run_dir: Path) -> None:
    """Raise an error if jobs of the run are queued or running.

    Raises:
        ConfigError: names these jobs.
    """
    try:
        jobs = active(run_dir)
    except SlurmError as error:
        raise ConfigError(
            f"{run_dir} has Slurm jobs, and Slurm does not tell whether they run: {error}"
        ) from None
    if jobs:
        listed = ", ".join(f"{job_id} ({state})" for job_id, state in jobs.items())
        raise ConfigError(
            f"{run_dir} has queued or running jobs: {listed}; wait for them, or cancel them with"
            f" `tin cancel {run_dir}`"
        )


def _submit_step(
    step: Step, folder: Path, code: Path, previous: Sequence[str]
) -> list[tuple[Path, SubmittedJob]]:
    """Submit and record the jobs of a step; `previous` are the jobs of the step before it."""
    # Slurm: one dependency for the whole array, and one job of a name at a time.
    dependency = "singleton"
    if previous:
        array_id = previous[0].partition("_")[0]
        dependency = f"{step.after}:{array_id},singleton"
    logs = Run(folder).job / "logs"
    name = _job_name(folder, step)
    ids = submit_jobs(step.jobs, step.cluster, name, logs, code, dependency)

    submitted = []
    for index, (job_id, job) in enumerate(zip(ids, step.jobs, strict=True)):
        if step.cluster.executor == "local":
            dependency = _local_dependency(step, previous, ids, index)
        entry = SubmittedJob(job_id, job.stage, step.cluster.executor, str(logs), dependency)
        add_job(Path(job.run_dir), entry)
        submitted.append((Path(job.run_dir), entry))
    return submitted


def _local_dependency(step: Step, previous: Sequence[str], ids: Sequence[str], index: int) -> str:
    """Return the jobs that a local job waits for: the step before it, and a free slot.

    At most `cluster.parallel` jobs of a step run at the same time, so each job waits for the job
    that many places before it.
    """
    dependencies = []
    if previous and step.after == "aftercorr":
        dependencies.append(f"afterok:{previous[index]}")
    elif previous:
        dependencies.append(":".join([step.after, *previous]))
    if index >= step.cluster.parallel:
        dependencies.append(f"afterany:{ids[index - step.cluster.parallel]}")
    return ",".join(dependencies)


def _steps(
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


def _check(submission: Submission, names: Sequence[str]) -> None:
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
        if step.stage == "train":
            _check_ranks(step.cluster, first)


def _check_run(run_dir: Path, config: Config, names: Sequence[str]) -> None:
    run = Run(run_dir)
    if "shard" not in names and {"train", "test"} & set(names):
        dataset_path(config.data.dataset)
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


def _check_ranks(cluster: Cluster, config: Config) -> None:
    clips = config.train.batch
    ranks = cluster.nodes * cluster.ranks_per_node
    if clips % (ranks * config.train.accumulate):
        raise ConfigError(
            f"train.batch {clips} is not a multiple of {ranks} ranks x train.accumulate"
            f" {config.train.accumulate}: change it, or the number of nodes in the cluster file"
        )


def _prepare(submission: Submission) -> Path:
    """Write the files that the jobs read; return the folder of the code that they run."""
    cluster = dump(submission.cluster)
    first = next(iter(submission.configs.values()))
    try:
        # The folder of a sweep gets the settings of its first run, for the stages shard and report.
        for run_dir, config in {submission.folder: first, **submission.configs}.items():
            run = Run(run_dir)
            run.job.mkdir(parents=True, exist_ok=True)
            write_text(run.recipe, dump(config))
            write_text(run.job / "cluster.yaml", cluster)
        code = _new_code_folder(submission.folder)
        snapshot(code)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigError(
            f"{submission.folder} cannot be written: {reason}. Choose a folder that all nodes share"
            " and that you may write to."
        ) from None
    return code


def _new_code_folder(folder: Path) -> Path:
    """Return a new folder for the code, since queued and running jobs use the earlier ones."""
    names = [path.name for path in Run(folder).job.glob("code-*")]
    numbers = [int(name.removeprefix("code-")) for name in names]
    return Run(folder).job / f"code-{max(numbers, default=0) + 1:02d}"


def _job_name(folder: Path, step: Step) -> str:
    """Return a name that only jobs of the same runs have; `singleton` then keeps them apart."""
    run_dirs = "\n".join(job.run_dir for job in step.jobs)
    return f"{folder.name}-{step.stage}-{hashlib.sha256(run_dirs.encode()).hexdigest()[:6]}"
