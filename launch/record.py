"""The records of a run's jobs in its `job/` folder: what was submitted, and how it ended.

`jobs.jsonl` has one line for each submitted job. `ends/<job>-<restart>.json` says how one execution
of a job ended, and `notes/<job>-<restart>-<rank>.json` why a rank exited early. `recipe.yaml` and
`cluster.yaml` hold the submitted settings, `code-<number>/` the code that the jobs run, and `logs/`
their output.
"""

import csv
import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import StringConstraints, TypeAdapter, ValidationError

from configs.errors import TinError
from configs.files import WriteError, sync_file, sync_folder, write_text
from configs.node import node_name
from configs.small_files import (
    DamagedFileError,
    first_problem,
    open_regular,
    read_bytes,
    read_json,
    read_record,
)
from tin.runs.csv_rows import STEP
from tin.runs.folder import Run

Outcome = Literal["done", "stopped", "failed", "lost", "gave up", "cancelled"]
"""How one execution of a job ended.

`done`: the stage is complete. `stopped`: by a signal, after saving. `failed`: with an error.
`lost`: without a note of any rank. `gave up`: with an error that a restart cannot fix, or after too
many failures. `cancelled`: by `tin cancel`.
"""
NoteKind = Literal["stopped", "refused", "node", "failed"]
"""Why a rank exited early.

`stopped`: by a signal. `refused`: an error that would come again on every restart. `node`: the node
failed its check. `failed`: any other error.
"""


TAIL_BYTES = 64 * 1024
"""How much of the end of a CSV file is read to find its last rows."""
ROW_BYTES = 4096
"""How much is read to find the last row alone."""


class RecordError(TinError):
    """A record of a job that cannot be read."""


class Place(NamedTuple):
    """Where this process runs: an execution of a job, and its rank."""

    job_id: str
    """Number of the job, as in `SubmittedJob.id`; `debug` outside of a job."""
    restart: int
    """How often Slurm has requeued the job."""
    rank: int


JobId = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z_.,%+\[\]-]*$", max_length=200)]
"""Number that Slurm or a local executor gave to a job; it becomes a part of file names."""


@dataclass(frozen=True)
class SubmittedJob:
    """A submitted job. A task of an array counts as a job."""

    id: JobId
    """Slurm's number (`123_4` for task 4 of array 123), or the process number of a local job;
    empty in the record that `tin submit` writes before Slurm answers with a number."""
    stage: str
    """`train`, `shard:3` (part 3 of the shards), `merge`, `test` or `report`."""
    executor: str
    logs: str
    """Folder of the job's log files."""
    after: str = ""
    """Jobs that must end before this one starts, as for sbatch: `afterok:12,afterany:13`."""
    submitted: float = field(default_factory=time.time)
    name: str = ""
    """Name of the job, which only jobs of the same runs have; empty for a local job."""
    user: str = ""
    """Who submitted the job; empty in records of earlier versions."""

    def log_file(self) -> Path:
        """Return the log of rank 0."""
        return Path(self.logs) / f"{self.id}_0_log.err"


@dataclass(frozen=True)
class Note:
    """Why a rank exited before its stage was complete."""

    kind: NoteKind
    text: str
    rank: int
    node: str = field(default_factory=node_name)
    signal: str = ""
    """Name of the signal that stopped the rank, such as SIGUSR2; empty without one."""
    time: float = field(default_factory=time.time)


@dataclass(frozen=True)
class End:
    """How one execution of a job ended."""

    id: str
    restart: int
    stage: str
    kind: Outcome
    step: int = 0
    """Steps of the run that were complete at that time."""
    text: str = ""
    nodes: list[str] = field(default_factory=list)
    """Nodes that the next execution should avoid."""
    time: float = field(default_factory=time.time)
    at_limit: bool = False
    """Whether the time limit of the job stopped it."""


JOB = TypeAdapter(SubmittedJob)
NOTE = TypeAdapter(Note)
END = TypeAdapter(End)


def add_job(run_dir: Path, job: SubmittedJob) -> None:
    """Record a submitted job."""
    _append_line(_jobs_file(run_dir), json.dumps(asdict(job)))


def jobs(run_dir: Path) -> list[SubmittedJob]:
    """Return the jobs of a run in the order of their submission.

    Raises:
        RecordError: a line of the file is damaged.
    """
    found = {job.id: job for job in _recorded(run_dir) if job.id}
    return list(found.values())


def unnumbered_jobs(run_dir: Path) -> list[SubmittedJob]:
    """Return the records of submissions that were killed before Slurm's number was recorded."""
    recorded = _recorded(run_dir)
    numbered = {(job.name, job.stage) for job in recorded if job.id}
    return [job for job in recorded if not job.id and (job.name, job.stage) not in numbered]


def all_jobs(run_dir: Path) -> list[SubmittedJob]:
    """Return the jobs of a run by the time of their start, those of a user's own scripts too."""
    return sorted([*jobs(run_dir), *_own_jobs(run_dir)], key=lambda job: job.submitted)


def _own_jobs(run_dir: Path) -> list[SubmittedJob]:
    """Return the Slurm jobs that a user's own scripts started on a run: its attempts know them."""
    known = {job.id for job in jobs(run_dir)}
    found = {}
    for file in sorted(Run(run_dir).job.glob("attempt-*")):
        try:
            facts = read_json(file)
        except (OSError, DamagedFileError):
            continue  # the attempt is starting right now
        job_id = str(facts.get("job_id", ""))
        if job_id and job_id not in known:
            started = facts.get("started", 0.0)
            started = float(started) if isinstance(started, (int, float)) else 0.0
            user = str(facts.get("user", ""))
            found[job_id] = SubmittedJob(job_id, "train", "slurm", "", submitted=started, user=user)
    return list(found.values())


def _recorded(run_dir: Path) -> list[SubmittedJob]:
    path = _jobs_file(run_dir)
    if not path.exists():
        return []
    found = []
    text = read_bytes(path, follow=False).decode("utf-8", "replace")
    for number, line in enumerate(text.splitlines(), 1):
        try:
            found.append(JOB.validate_json(line, strict=True))
        except ValidationError as error:
            problem = first_problem(error)
            raise RecordError(
                f"{path}, line {number}: expected a submitted job as JSON ({problem}). Remove the"
                " line, and cancel its job with scancel if it is still queued or running."
            ) from None
    return found


def add_end(run_dir: Path, end: End) -> None:
    """Record how an execution of a job ended."""
    _write(Run(run_dir).job / "ends" / f"{end.id}-{end.restart}.json", asdict(end))


def ends(run_dir: Path) -> list[End]:
    """Return how the executions of a run's jobs ended, oldest first."""
    files = (Run(run_dir).job / "ends").glob("*.json")
    return sorted((read_record(file, END) for file in files), key=lambda end: end.time)


def write_note(run_dir: Path, job_id: str, restart: int, note: Note) -> None:
    """Record why a rank exits early."""
    _write(Run(run_dir).job / "notes" / f"{job_id}-{restart}-{note.rank}.json", asdict(note))


def read_notes(run_dir: Path, job_id: str, restart: int) -> list[Note]:
    """Return why ranks exited early from one execution of a job, in the order of the ranks."""
    files = (Run(run_dir).job / "notes").glob(f"{job_id}-{restart}-*.json")
    return sorted((read_record(file, NOTE) for file in files), key=lambda note: note.rank)


def place() -> Place:
    """Return the job, restart and rank of this process."""
    executor = os.environ.get("SUBMITIT_EXECUTOR", "")
    if executor not in ("local", "slurm"):
        return Place("debug", 0, 0)
    from submitit import JobEnvironment  # not needed by `tin status` and `tin report`

    job = JobEnvironment()
    # A local job may run inside a Slurm job, whose restarts do not count here.
    restart = int(os.environ.get("SLURM_RESTART_COUNT", 0)) if executor == "slurm" else 0
    return Place(job.job_id, restart, job.global_rank)


def progress(run_dir: Path) -> int:
    """Return how many steps of a run are complete, according to its checkpoints and steps.csv."""
    names = [file.name for file in Run(run_dir).checkpoints.glob("step-*.pt")]
    numbers = [name.removeprefix("step-").partition("-")[0] for name in names]
    # A damaged row must not prevent a requeue.
    numbers.append(last_row(run_dir / "steps.csv").get("step", ""))
    return max((int(number) for number in numbers if STEP.fullmatch(number)), default=0)


def last_row(path: Path) -> dict[str, str]:
    """Return the last complete row of a CSV file; empty if there is none."""
    rows = last_rows(path, ROW_BYTES)
    return rows[-1] if rows else {}


def last_rows(path: Path, num_bytes: int = TAIL_BYTES) -> list[dict[str, str]]:
    """Return the last complete rows of a CSV file, in their order.

    Only the head and the tail of the file are read, because a long run has many rows.
    """
    try:
        with open_regular(path) as file:
            head = file.readline(ROW_BYTES)
            size = file.seek(0, os.SEEK_END)
            start = file.seek(max(size - num_bytes, len(head)))
            tail = file.read()
    except (OSError, DamagedFileError):
        return []
    lines = tail.decode(errors="replace").splitlines()
    if start > len(head):
        lines = lines[1:]  # the first line may be incomplete
    columns = head.decode(errors="replace").strip().split(",")
    rows = [row for row in csv.reader(lines) if len(row) == len(columns)]
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _jobs_file(run_dir: Path) -> Path:
    return Run(run_dir).job / "jobs.jsonl"


def _append_line(path: Path, line: str) -> None:
    """Append a line in one write, so that lines of two processes never mix, and flush it."""
    is_new = not path.exists()
    data = f"{line}\n".encode()
    with path.open("ab", buffering=0) as file:
        written = file.write(data)
        if written != len(data):
            raise WriteError(
                f"cannot append to {path}: {written} of {len(data)} bytes were written. Free some"
                " disk space, remove the incomplete last line, then run the same command again."
            )
    sync_file(path)
    if is_new:
        sync_folder(path.parent)


def _write(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(values))
