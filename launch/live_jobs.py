"""The queued and running jobs of a run: list them, cancel them, print their logs."""

import getpass
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from configs.errors import TinError
from launch import local
from launch.record import (
    End,
    SubmittedJob,
    add_end,
    all_jobs,
    ends,
    progress,
    unnumbered_jobs,
)
from launch.slurm_query import Queued, SlurmError, ask, queued

log = logging.getLogger(__name__)


def active(run_dirs: Sequence[Path]) -> dict[Path, dict[str, str]]:
    """Return the queued and running jobs of those runs that have any, each with its state.

    Raises:
        SlurmError: the runs have Slurm jobs, and Slurm does not answer.
    """
    return {
        run_dir: {job.id: state for job, state in found}
        for run_dir, found in _live_jobs(run_dirs).items()
        if found
    }


def cancel(run_dirs: Sequence[Path]) -> dict[Path, list[str]]:
    """Cancel the jobs of runs and return them by run; training saves a checkpoint first.

    Raises:
        SlurmError: Slurm does not answer, or does not cancel a job.
    """
    cancelled: dict[Path, list[str]] = {}
    for run_dir, live in _live_jobs(run_dirs).items():
        cancelled[run_dir] = []
        for job, state in live:
            if job.executor == "local":
                local.stop(job.id)  # its ranks record how they end
            else:
                _scancel(job.id, state)
                _record(run_dir, job)
            cancelled[run_dir].append(f"{job.id} ({job.stage})")
    return cancelled


def _record(run_dir: Path, job: SubmittedJob) -> None:
    """Record that a job was cancelled; warn if the run's records cannot be read or written."""
    try:
        restart = sum(end.id == job.id for end in ends(run_dir))
        add_end(run_dir, End(job.id, restart, job.stage, "cancelled", progress(run_dir)))
    except (TinError, OSError, ValueError) as error:
        log.warning("job %s is cancelled, but that could not be recorded: %s", job.id, error)


def cancel_jobs(jobs: Sequence[SubmittedJob]) -> None:
    """Cancel jobs that no run knows.

    Raises:
        SlurmError: Slurm does not cancel them.
    """
    for job in jobs:
        if job.executor == "local":
            local.stop(job.id)
        elif job.executor == "slurm":
            _scancel(job.id, "just submitted")


def _scancel(job_id: str, state: str) -> None:
    try:
        ask("scancel", job_id)
    except SlurmError as error:
        raise SlurmError(f"job {job_id} ({state}) is not cancelled: {error}") from None


def _live_jobs(run_dirs: Sequence[Path]) -> dict[Path, list[tuple[SubmittedJob, str]]]:
    """Return the queued and running jobs of each run, each with its state, by one squeue."""
    jobs_of_run = {run_dir: _known_jobs(run_dir) for run_dir in run_dirs}
    of_slurm = [job for known in jobs_of_run.values() for job in known if job.executor == "slurm"]
    in_slurm = queued(of_slurm)
    return {run_dir: _live_of(known, in_slurm) for run_dir, known in jobs_of_run.items()}


def _known_jobs(run_dir: Path) -> list[SubmittedJob]:
    """Return the recorded jobs of a run; none, with a warning, if its records are damaged.

    A damaged run must not keep the jobs of the others from being listed and cancelled.
    """
    try:
        return [*all_jobs(run_dir), *unnumbered_jobs(run_dir)]
    except (TinError, OSError) as error:
        log.warning("%s: its jobs are not known: %s", run_dir, error)
        return []


def _live_of(
    known: Sequence[SubmittedJob], in_slurm: Mapping[str, Queued]
) -> list[tuple[SubmittedJob, str]]:
    """Return those jobs of a run that are queued or running, each with a text about its state."""
    numbers = {job.id for job in known}
    found = []
    for job in known:
        if job.executor == "local" and local.is_alive(job.id):
            found.append((job, "waiting here" if local.jobs_ahead(job) else "running here"))
        elif job.id in in_slurm:
            found.append((job, _state(in_slurm[job.id])))
        elif not job.id:
            found += [
                (replace(job, id=job_id), _state(row))
                for job_id, row in in_slurm.items()
                if row.name == job.name and job_id not in numbers
            ]
            numbers |= {job.id for job, _ in found}
    return found


def _state(row: Queued) -> str:
    where = f" on {row.nodes}" if row.nodes else ""
    whose = f", of user {row.user}" if row.user not in ("", getpass.getuser()) else ""
    return f"{row.state.lower()}{where}{whose}"
