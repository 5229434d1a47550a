"""What Slurm knows of jobs: squeue for those that wait or run, sacct for those that have ended."""

import getpass
import json
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from configs.errors import TinError
from launch import record
from tin.runs.folder import Run

COLUMNS = "JobID,State,ExitCode,NodeList,ElapsedRaw,AllocTRES"
AT_ONCE = 500  # jobs that sacct is asked for


class SlurmError(TinError):
    """Slurm does not answer."""


@dataclass(frozen=True)
class Queued:
    """A job that waits or runs."""

    state: str
    reason: str
    nodes: str


@dataclass(frozen=True)
class Ended:
    """One execution of a job, running ones included."""

    id: str
    state: str
    exit_code: str
    nodes: str
    elapsed_s: int
    gpus: int


def queued(ids: Iterable[str]) -> dict[str, Queued]:
    """Return those of the jobs that wait or run.

    Raises:
        SlurmError: squeue fails or is absent.
    """
    wanted = set(ids)
    if not wanted:
        return {}
    text = ask("squeue", "-h", "-r", "-u", getpass.getuser(), "-o", "%i|%T|%r|%N")
    rows = (line.split("|") for line in text.splitlines())
    return {row[0]: Queued(*row[1:]) for row in rows if row[0] in wanted}


def executions(ids: Iterable[str]) -> list[Ended]:
    """Return all executions of jobs, requeued ones too, in their order.

    Raises:
        SlurmError: sacct fails or is absent, or the cluster keeps no accounts.
    """
    wanted, found = sorted(set(ids)), []
    for first in range(0, len(wanted), AT_ONCE):
        listed = ",".join(wanted[first : first + AT_ONCE])
        options = ["-D", "-X", "-n", "-P", "-S", "2000-01-01", "-j", listed, "-o", COLUMNS]
        for line in ask("sacct", *options).splitlines():
            job_id, state, code, nodes, elapsed, resources = line.split("|")
            found.append(Ended(job_id, state, code, nodes, int(elapsed or 0), _gpus(resources)))
    return found


def account(paths: Iterable[Path]) -> None:
    """Write `job/executions.json` of the runs at or below paths: what Slurm says each job took.

    `tin.reports.results` sums the GPU-hours from it, those of lost and requeued executions
    included.
    """
    runs = [file.parent.parent for path in paths for file in path.glob("**/job/jobs.jsonl")]
    ids = {job.id: run for run in runs for job in record.jobs(run) if job.executor == "slurm"}
    found: dict[Path, list[dict]] = {}
    try:
        for execution in executions(ids):
            found.setdefault(ids[execution.id], []).append(asdict(execution))
    except SlurmError:
        return  # what was counted before still stands
    for run, rows in found.items():
        (Run(run).job / "executions.json").write_text(json.dumps({"executions": rows}, indent=1))


def ask(*command: str) -> str:
    """Return what a command of Slurm prints.

    Raises:
        SlurmError: it fails, is absent, or takes longer than 30 s.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(f"{command[0]}: {error}") from None
    if done.returncode:
        raise SlurmError(f"{command[0]}: {done.stderr.strip()}")
    return done.stdout


def _gpus(resources: str) -> int:
    counts = [part.partition("=")[2] for part in resources.split(",") if "gres/gpu=" in part]
    return int(counts[0]) if counts else 0
