"""What Slurm knows about jobs: squeue lists queued and running ones, sacct those that ended."""

import getpass
import json
import pwd
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from configs.errors import TinError
from configs.files import write_text
from launch.record import SubmittedJob, jobs
from tin.runs.folder import Run

QUEUE_COLUMNS = "%i|%T|%r|%N|%u|%M|%L|%A|%j"
"""What squeue is asked for; the name comes last, because it may hold any character."""
COLUMNS = "JobID,State,ExitCode,NodeList,ElapsedRaw,AllocTRES"
JOBS_PER_QUERY = 500
TIMEOUT_S = 30


BUSY = re.compile("contact|timed out|connect|try again", re.IGNORECASE)
"""Matches what Slurm's commands print when its controller does not answer; no exit code does."""
NO_ACCOUNTS = "accounting storage is disabled"
PREEMPTED = re.compile(r"\bPreemptTime=(?!None\b|Unknown\b)\S+")
"""Matches what `scontrol show job` prints about a job that makes room for another one."""
ARRAY = re.compile(r"^(\d+)_\[([\d,:-]+)(?:%\d+)?\]$")
"""Matches how sacct names the queued tasks of an array, `123_[0-2,5%2]`."""


class SlurmError(TinError):
    """A command of Slurm is missing, failed, or did not answer in time."""


class NoAccountsError(SlurmError):
    """This Slurm keeps no accounts, so that only the run folders know how earlier jobs ended."""


class BusyError(SlurmError):
    """The controller of Slurm did not answer, so that the same command may work later."""


@dataclass(frozen=True)
class Queued:
    """A job that is queued or running."""

    state: str
    """State as squeue prints it: PENDING, RUNNING and so on."""
    reason: str
    """Why the job is still queued, as squeue prints it."""
    nodes: str
    name: str = ""
    user: str = ""
    elapsed: str = ""
    """Time since the start, as squeue prints it: `1-02:03:04`."""
    left: str = ""
    """Time until the time limit."""


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


def queued(known: Iterable[SubmittedJob]) -> dict[str, Queued]:
    """Return those of the jobs that are queued or running, of all users who submitted them.

    A job without a number is found by its name.

    Raises:
        SlurmError: squeue is missing or fails.
    """
    known = list(known)
    if not known:
        return {}
    users = {getpass.getuser(), *(job.user for job in known if _exists(job.user))}
    ids = {job.id for job in known if job.id}
    names = {job.name for job in known if job.name and not job.id}
    text = ask("squeue", "-h", "-r", "-u", ",".join(sorted(users)), "-o", QUEUE_COLUMNS)
    found = {}
    for line in text.splitlines():
        job_id, state, reason, nodes, user, elapsed, left, raw_id, name = line.split("|", 8)
        row = Queued(state, reason, nodes, name, user, elapsed, left)
        if job_id in ids or name in names:
            found[job_id] = row
        elif raw_id in ids:  # a user's own script knows a task of an array by this number
            found[raw_id] = row
    return found


def _exists(user: str) -> bool:
    """Return whether this machine knows a user; squeue fails if it does not."""
    try:
        pwd.getpwnam(user)
    except (KeyError, ValueError):
        return False
    return True


def is_preempted(job_id: str) -> bool:
    """Return whether Slurm is taking the nodes of a running job for another job.

    Raises:
        SlurmError: scontrol is missing or fails.
    """
    return bool(PREEMPTED.search(ask("scontrol", "show", "job", job_id)))


def tasks_of(job_id: str) -> list[str]:
    """Return the jobs that a number of sacct means: one, or the queued tasks of an array."""
    found = ARRAY.match(job_id)
    if not found:
        return [job_id]
    array_id, listed = found.groups()
    tasks: list[str] = []
    for part in listed.split(","):
        numbers, _, step = part.partition(":")
        first, _, last = numbers.partition("-")
        tasks += [
            f"{array_id}_{n}" for n in range(int(first), int(last or first) + 1, int(step or 1))
        ]
    return tasks


def executions(ids: Iterable[str]) -> list[Ended]:
    """Return all executions of jobs in their order, including those that were requeued.

    Raises:
        SlurmError: sacct is missing or fails, or the cluster keeps no accounts.
    """
    wanted = set(ids)
    # Slurm knows the queued tasks of an array only together, under the number of the array.
    asked = sorted({job_id.partition("_")[0] for job_id in wanted})
    found = []
    for first in range(0, len(asked), JOBS_PER_QUERY):
        listed = ",".join(asked[first : first + JOBS_PER_QUERY])
        options = ["-D", "-X", "-n", "-P", "-S", "2000-01-01", "-j", listed, "-o", COLUMNS]
        for line in ask("sacct", *options).splitlines():
            job_id, state, code, nodes, elapsed, resources = line.split("|")
            seconds = int(elapsed or 0)
            gpus = _gpus(resources)
            nodes = "" if nodes == "None assigned" else nodes
            found += [
                Ended(task, state, code, nodes, seconds, gpus)
                for task in tasks_of(job_id)
                if task in wanted
            ]
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
        BusyError: the controller of Slurm does not answer within 30 s, or not at all.
        SlurmError: the command is missing or fails.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise BusyError(f"{command[0]}: {error}") from None
    except OSError as error:
        raise SlurmError(f"{command[0]}: {error}") from None
    if done.returncode:
        kind = SlurmError
        if NO_ACCOUNTS in done.stderr:
            kind = NoAccountsError
        elif BUSY.search(done.stderr):
            kind = BusyError
        raise kind(f"{command[0]}: {done.stderr.strip()}")
    return done.stdout


def _gpus(resources: str) -> int:
    """Return the number of GPUs in sacct's list of resources, `cpu=8,gres/gpu=2,mem=16G`."""
    counts = [part.partition("=")[2] for part in resources.split(",") if "gres/gpu=" in part]
    return int(counts[0]) if counts else 0
