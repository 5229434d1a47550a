"""The queued and running jobs of a run: list them, cancel them, print their logs."""

import subprocess
import sys
import time
from pathlib import Path

from configs.load import ConfigError
from launch import local
from launch.record import End, SubmittedJob, add_end, ends, jobs, progress
from launch.slurm_query import SlurmError, queued


def active(run_dir: Path) -> dict[str, str]:
    """Return the queued and running jobs of a run, each with a text about its state.

    Raises:
        SlurmError: the run has Slurm jobs, and Slurm does not answer.
    """
    return {job.id: state for job, state in _live_jobs(run_dir)}


def cancel(run_dir: Path) -> list[str]:
    """Cancel the jobs of a run and return them; training saves a checkpoint first.

    Raises:
        SlurmError: Slurm does not answer, or does not cancel a job.
    """
    earlier_ends = ends(run_dir)
    cancelled = []
    for job, _ in _live_jobs(run_dir):
        cancelled.append(f"{job.id} ({job.stage})")
        if job.executor == "local":
            local.stop(job.id)  # its ranks record how they end
            continue
        done = subprocess.run(["scancel", job.id], capture_output=True, text=True)
        if done.returncode:
            raise SlurmError(f"scancel {job.id}: {done.stderr.strip()}")
        restart = sum(end.id == job.id for end in earlier_ends)
        end = End(job.id, restart, job.stage, "cancelled", progress(run_dir))
        add_end(run_dir, end)
    return cancelled


def print_logs(run_dir: Path, follow: bool) -> None:
    """Write the logs of a run's jobs to stdout; with `follow`, continue until the jobs end.

    Raises:
        ConfigError: the run has no jobs.
    """
    if not jobs(run_dir):
        raise ConfigError(f"{run_dir} has no jobs; `tin submit` starts some")
    positions: dict[Path, int] = {}
    while True:
        # Ask before reading: what a job writes before it ends is then read in the last round.
        is_last = not (follow and _may_be_active(run_dir))
        for job in jobs(run_dir):
            _print_news(f"{job.stage}, job {job.id}", job.log_file(), positions)
        sys.stdout.flush()
        if is_last:
            return
        time.sleep(1.0)


def _live_jobs(run_dir: Path) -> list[tuple[SubmittedJob, str]]:
    """Return the queued and running jobs in the order of submission, each with its state."""
    submitted = jobs(run_dir)
    in_slurm = queued(job.id for job in submitted if job.executor == "slurm")
    found = []
    for job in submitted:
        if job.executor == "local" and local.is_alive(job.id):
            found.append((job, "running here"))
        elif job.id in in_slurm:
            known = in_slurm[job.id]
            where = f" on {known.nodes}" if known.nodes else ""
            found.append((job, f"{known.state.lower()}{where}"))
    return found


def _may_be_active(run_dir: Path) -> bool:
    """Return whether a job of a run may still write to its log; True if Slurm does not answer."""
    try:
        return bool(_live_jobs(run_dir))
    except SlurmError:
        return True


def _print_news(title: str, log: Path, positions: dict[Path, int]) -> None:
    """Print what a log has gained since its position, under a title the first time."""
    start = positions.get(log, 0)
    if not log.exists() or log.stat().st_size <= start:
        return
    with log.open(errors="replace") as stream:
        stream.seek(start)
        text = stream.read()
        positions[log] = stream.tell()
    sys.stdout.write(text if start else f"---- {title}: {log}\n{text}")
