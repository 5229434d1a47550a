"""Jobs on this machine: the ranks, ordering and queueing that submitit's local executor lacks."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from configs.errors import TinError
from launch.record import Note, SubmittedJob, ends, jobs

REQUEUE = 144
"""Exit code that makes submitit's local executor start the job again."""
TIME_LIMIT_SIGNAL = signal.SIGUSR2.name
"""The signal that submitit's local executor sends shortly before the time limit."""
FIRST_PORT = 20000
NUM_PORTS = 12000
"""Ports of rank 0. They end below 32768, where Linux begins to hand out ports to clients."""
RECORD_TIMEOUT_S = 60.0


class JobOrderError(TinError):
    """A local job cannot start, because of its record or of a job that it depends on."""


def name_ranks() -> None:
    """Set the environment variables of this rank that torchrun would set.

    submitit's `TorchDistributedEnvironment` is not used: its address is the host name, which a
    laptop may not resolve, and its port may be one that Linux has given to a client.
    """
    from submitit import JobEnvironment  # not needed by `tin status`

    job = JobEnvironment()
    rank = str(job.global_rank)
    num_ranks = str(job.num_tasks)
    port = FIRST_PORT + int(job.job_id) % NUM_PORTS
    os.environ.update(
        RANK=rank,
        LOCAL_RANK=rank,
        WORLD_SIZE=num_ranks,
        LOCAL_WORLD_SIZE=num_ranks,
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )


def wait_turn(run_dir: Path, job_id: str) -> None:
    """Wait until the jobs that a local job depends on have ended.

    Raises:
        JobOrderError: a job that had to succeed did not, or this job was never recorded.
    """
    job = _recorded(run_dir, job_id)
    while jobs_ahead(job):
        time.sleep(0.5)
    for condition, other in _dependencies(job.after):
        # The other job belongs to this run, or to the sweep that this run is a part of.
        submission_dir = Path(job.logs).parent.parent
        known = [*ends(run_dir), *ends(submission_dir)]
        succeeded = any(end.id == other and end.kind == "done" for end in known)
        if condition == "afterok" and not succeeded:
            raise JobOrderError(f"job {other} did not succeed, so stage {job.stage} is skipped")


def jobs_ahead(job: SubmittedJob) -> list[str]:
    """Return the numbers of the jobs that a local job still waits for."""
    return [other for _, other in _dependencies(job.after) if is_alive(other)]


def is_out_of_time(note: Note) -> bool:
    """Return whether a local job was stopped by its time limit and must start again."""
    return os.environ["SUBMITIT_EXECUTOR"] == "local" and note.signal == TIME_LIMIT_SIGNAL


def is_alive(job_id: str) -> bool:
    """Return whether the process of a local job is running."""
    try:
        command = psutil.Process(int(job_id)).cmdline()
    except (psutil.Error, ValueError):
        return False
    return any("submitit" in argument for argument in command)


def stop(job_id: str) -> None:
    """Send SIGTERM to a local job; training saves a checkpoint and exits. An ended job is ignored.

    Raises:
        JobOrderError: the job belongs to another user.
    """
    try:
        job = psutil.Process(int(job_id))
        # With lines of `setup`, the process is a shell, which does not forward signals to its
        # child, the controller of submitit.
        is_shell = job.cmdline()[1:2] == ["-c"]
        for process in job.children() if is_shell else [job]:
            process.send_signal(signal.SIGTERM)
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied:
        raise JobOrderError(f"cannot stop job {job_id}: it belongs to another user") from None


def _recorded(run_dir: Path, job_id: str) -> SubmittedJob:
    """Return the record of a job, which `tin submit` writes just after it has started the job."""
    deadline = time.monotonic() + RECORD_TIMEOUT_S
    while time.monotonic() < deadline:
        for job in jobs(run_dir):
            if job.id == job_id:
                return job
        time.sleep(0.1)
    raise JobOrderError(
        f"{run_dir}: `tin submit` did not record job {job_id} within {RECORD_TIMEOUT_S:.0f} s;"
        " submit the stage again"
    )


def _dependencies(after: str) -> Iterator[tuple[str, str]]:
    """Yield the condition and the job of each dependency of `afterok:12:13,afterany:14`."""
    for dependency in filter(None, after.split(",")):
        condition, *others = dependency.split(":")
        for other in others:
            yield condition, other
