"""`tin submit`: the stages of a run, or of a sweep, as jobs that follow one another."""

import getpass
import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from configs.cluster import for_stage, load_cluster
from configs.load import ConfigError, load, run_path
from configs.schema import Config
from launch.live_jobs import active, cancel, cancel_jobs
from launch.record import SubmittedJob, add_job
from launch.slurm_query import SlurmError
from launch.submission import again
from launch.submission.checks import check
from launch.submission.executor import batch_script, rejection, submit_jobs
from launch.submission.run_files import new_code_folder, run_files
from launch.submission.sbatch import SbatchError, defaults_used, test_only
from launch.submission.steps import Step, Submission, steps_of
from launch.submission.sweep import expand
from tin.runs.folder import Run
from tin.runs.settings import with_absolute_dataset

ORDER = ("shard", "train", "test", "predict", "report")
CLUSTER_PREFIX = "cluster."
"""Marks the settings on the command line that belong to the cluster file."""


def make_submission(
    stages: str,
    recipe: str | None,
    run_dir: str | Path,
    cluster: str | None,
    settings: Sequence[str],
    *,
    failed: bool = False,
) -> Submission:
    """Return what `tin submit` is asked for, checked as far as files on this machine allow.

    Args:
        stages: names joined by commas, in their order.
        recipe: recipe of all runs; None for the settings that the runs were submitted with.
        run_dir: folder of the run, or of the runs of a sweep.
        cluster: name or path of the cluster file; None for the settings that the run has.
        settings: settings of the recipe, and `cluster.key=value` for the cluster file.
        failed: of a sweep, submit only the runs that have failed or were stopped.

    Raises:
        ConfigError: something cannot work; gives the reason.
    """
    names = stages.split(",")
    if [name for name in ORDER if name in names] != names:
        raise ConfigError(f"stages {stages}: expected some of {','.join(ORDER)} in this order")
    of_cluster = [setting for setting in settings if setting.startswith(CLUSTER_PREFIX)]
    of_recipe = [setting for setting in settings if not setting.startswith(CLUSTER_PREFIX)]
    folder = run_path(run_dir).absolute()
    cluster_settings = [word.removeprefix(CLUSTER_PREFIX) for word in of_cluster]
    if cluster is None:
        loaded = again.cluster(folder, cluster_settings)
    else:
        loaded = load_cluster(cluster, cluster_settings)
    if recipe is None:
        configs = again.configs(folder, of_recipe, failed=failed)
    else:
        configs = {
            folder / name if name else folder: _settings(folder / name, recipe, chosen)
            for name, chosen in expand(of_recipe).items()
        }
    steps = tuple(
        step for name in names for step in steps_of(name, folder, configs, for_stage(loaded, name))
    )
    submission = Submission(folder, configs, loaded, steps)
    check(submission, names)
    return submission


def _settings(run_dir: Path, recipe: str, settings: Sequence[str]) -> Config:
    """Return the settings of a run, which find their dataset from any folder."""
    run = Run(run_dir)
    old = run.config() if run.exists() else None
    return with_absolute_dataset(load(recipe, settings), old)


def submit(submission: Submission) -> list[tuple[Path, SubmittedJob]]:
    """Submit the jobs, record them in their runs, and return them with the folders of their runs.

    A rejected submission leaves no files behind.

    Raises:
        ConfigError: a job of a run is still queued or running, or the cluster rejects a job.
    """
    run_dirs = list(dict.fromkeys([submission.folder, *submission.configs]))
    reject_active(run_dirs)
    for step in submission.steps:
        if step.cluster.executor == "slurm":
            _test(step, submission.folder)
    submitted: list[tuple[Path, SubmittedJob]] = []
    failure: ConfigError | None = None
    with run_files(
        submission.folder,
        submission.configs,
        submission.cluster,
        lambda: reject_active(run_dirs),
    ) as code:
        previous: list[str] = []
        try:
            for step in submission.steps:
                for _ in range(max(step.cluster.chain, 1)):
                    jobs = _submit_step(step, submission.folder, code, previous)
                    submitted += jobs
                previous = [job.id for _, job in jobs]
        except ConfigError as error:
            if not submitted:
                raise
            failure = error
    if failure:
        # The jobs that were accepted are of no use without the others.
        cancel(list(dict(submitted)))
        raise failure
    return submitted


def dry_run(submission: Submission) -> list[tuple[Step, str, str]]:
    """Return each step with its batch script and the answer of `sbatch --test-only` to it."""
    found = []
    for step in submission.steps:
        if step.cluster.executor == "slurm":
            found.append((step, *_test(step, submission.folder)))
        else:
            found.append((step, "", f"{len(step.jobs)} x {step.cluster.ranks_per_node} processes"))
    return found


def defaults(submission: Submission) -> list[str]:
    """Return the defaults of sbatch in the environment that a job of the submission uses."""
    found: dict[str, str] = {}
    for step in submission.steps:
        if step.cluster.executor == "slurm":
            found |= defaults_used(_script(step, submission.folder), os.environ)
    return [f"{name}={value}" for name, value in sorted(found.items())]


def reject_active(run_dirs: Sequence[Path]) -> None:
    """Raise an error if jobs of the runs are queued or running.

    Raises:
        ConfigError: names these jobs.
    """
    try:
        jobs_of_run = active(run_dirs)
    except SlurmError as error:
        raise ConfigError(
            f"{run_dirs[0]} has Slurm jobs, and Slurm does not tell whether they run: {error}"
        ) from None
    for run_dir, jobs in jobs_of_run.items():
        listed = ", ".join(f"{job_id} ({state})" for job_id, state in jobs.items())
        raise ConfigError(
            f"{run_dir} has queued or running jobs: {listed}; wait for them, or cancel them with"
            f" `tin cancel {run_dir}`"
        )


def _script(step: Step, folder: Path) -> str:
    """Return the batch script that a step would have if it was submitted now."""
    tasks = str(Run(folder).job / "logs" / "job-0")
    name = _job_name(folder, step)
    return batch_script(step.cluster, name, tasks, new_code_folder(folder), len(step.jobs))


def _test(step: Step, folder: Path) -> tuple[str, str]:
    """Return the batch script of a step, and what `sbatch --test-only` answers to it.

    Raises:
        ConfigError: the cluster would reject the job.
    """
    script = _script(step, folder)
    try:
        return script, test_only(script)
    except SbatchError as error:
        raise ConfigError(rejection(str(error))) from None


def _submit_step(
    step: Step, folder: Path, code: Path, previous: Sequence[str]
) -> list[tuple[Path, SubmittedJob]]:
    """Submit and record the jobs of a step; `previous` are the jobs of the step before it."""
    # The step waits for the whole array before it; `singleton` lets jobs of one name take turns.
    dependency = "singleton"
    if previous:
        array_id = previous[0].partition("_")[0]
        dependency = f"{step.after}:{array_id},singleton"
    logs = Run(folder).job / "logs"
    name = _job_name(folder, step)
    executor = step.cluster.executor
    user = getpass.getuser()
    entries = [
        SubmittedJob("", job.stage, executor, str(logs), dependency, name=name, user=user)
        for job in step.jobs
    ]
    if executor == "slurm":
        # If this process is killed after sbatch, the run knows its jobs by their name.
        _record(step, entries)
    ids = submit_jobs(step.jobs, step.cluster, name, logs, code, dependency)
    for index, job_id in enumerate(ids):
        after = dependency
        if executor == "local":
            after = _local_dependency(step, previous, ids, index)
        entries[index] = replace(entries[index], id=job_id, after=after)
    try:
        _record(step, entries)
    except ConfigError:
        cancel_jobs(entries)
        raise
    return [(Path(job.run_dir), entry) for job, entry in zip(step.jobs, entries, strict=True)]


def _record(step: Step, entries: Sequence[SubmittedJob]) -> None:
    """Record jobs in their runs."""
    for job, entry in zip(step.jobs, entries, strict=True):
        try:
            add_job(Path(job.run_dir), entry)
        except OSError as error:
            raise ConfigError(
                f"{job.run_dir}: the job cannot be recorded, so it is not submitted: {error}"
            ) from None


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


def _job_name(folder: Path, step: Step) -> str:
    """Return a name that only jobs of the same runs have; `singleton` then keeps them apart."""
    run_dirs = "\n".join(job.run_dir for job in step.jobs)
    return f"{folder.name}-{step.stage}-{hashlib.sha256(run_dirs.encode()).hexdigest()[:6]}"
