"""What Slurm knows about jobs: squeue lists queued and running ones, sacct those that ended."""

import getpass
import json
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from configs.errors import TinError
from configs.files import write_text
from launch.record import jobs
from tin.runs.folder import Run

COLUMNS = "JobID,State,ExitCode,NodeList,ElapsedRaw,AllocTRES"
JOBS_PER_QUERY = 500
TIMEOUT_S = 30


class SlurmError(TinError):
    """A command of Slurm is missing, failed, or did not answer in time."""


@dataclass(frozen=True)
class Queued:
    """A job that is queued or running."""

    state: str
    """State as squeue prints it: PENDING, RUNNING and so on."""
    reason: str
    """Why the job is still queued, as squeue prints it."""
    nodes: str


@dataclass(frozen=True)
class Ended:
    """One execution of a job, which may still be running."""

    id: str
    state: str
    """State as sacct prints it: COMPLETED, NODE_FAIL, `CANCELLED by 1000` and so on."""
    exit_code: str
    """Exit code and signal, `1:0` or `0:9`."""
    nodes: str
    elapsed_s: int
    gpus: int


def queued(ids: Iterable[str]) -> dict[str, Queued]:
    """Return those of the jobs that are queued or running.

    Raises:
        SlurmError: squeue is missing or fails.
    """
    wanted = set(ids)
    if not wanted:
        return {}
    text = ask("squeue", "-h", "-r", "-u", getpass.getuser(), "-o", "%i|%T|%r|%N")
    rows = (line.split("|") for line in text.splitlines())
    return {row[0]: Queued(*row[1:]) for row in rows if row[0] in wanted}


def executions(ids: Iterable[str]) -> list[Ended]:
    """Return all executions of jobs in their order, including those that were requeued.

    Raises:
        SlurmError: sacct is missing or fails, or the cluster keeps no accounts.
    """
    wanted = sorted(set(ids))
    found = []
    for first in range(0, len(wanted), JOBS_PER_QUERY):
        listed = ",".join(wanted[first : first + JOBS_PER_QUERY])
        options = ["-D", "-X", "-n", "-P", "-S", "2000-01-01", "-j", listed, "-o", COLUMNS]
        for line in ask("sacct", *options).splitlines():
            job_id, state, code, nodes, elapsed, resources = line.split("|")
            found.append(Ended(job_id, state, code, nodes, int(elapsed or 0), _gpus(resources)))
    return found


def account(paths: Iterable[Path]) -> None:
    """Write `job/executions.json` of the runs at or below paths: the resources that jobs used.

    `tin.reports.results` computes GPU-hours from it; lost and requeued executions count too. If
    Slurm does not answer, the file keeps its earlier content.
    """
    run_dirs = [file.parent.parent for path in paths for file in path.glob("**/job/jobs.jsonl")]
    run_of_job = {
        job.id: run_dir for run_dir in run_dirs for job in jobs(run_dir) if job.executor == "slurm"
    }
    rows: defaultdict[Path, list[dict[str, str | int]]] = defaultdict(list)
    try:
        for execution in executions(run_of_job):
            rows[run_of_job[execution.id]].append(asdict(execution))
    except SlurmError:
        return
    for run_dir, found in rows.items():
        write_text(
            Run(run_dir).job / "executions.json", json.dumps({"executions": found}, indent=1)
        )


def ask(*command: str) -> str:
    """Return what a command of Slurm prints.

    Raises:
        SlurmError: the command is missing, fails, or takes longer than 30 s.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(f"{command[0]}: {error}") from None
    if done.returncode:
        raise SlurmError(f"{command[0]}: {done.stderr.strip()}")
    return done.stdout


def _gpus(resources: str) -> int:
    """Return the number of GPUs in sacct's list of resources, `cpu=8,gres/gpu=2,mem=16G`."""
    counts = [part.partition("=")[2] for part in resources.split(",") if "gres/gpu=" in part]
    return int(counts[0]) if counts else 0
