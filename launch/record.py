"""The records of a run's jobs in its `job/` folder: what was submitted, and how it ended.

`jobs.jsonl` has one line for each submitted job. `ends/<job>-<restart>.json` says how one execution
of a job ended, and `notes/<job>-<restart>-<rank>.json` why a rank exited early. `recipe.yaml` and
`cluster.yaml` hold the submitted settings, `code-<number>/` the code that the jobs run, and `logs/`
their output.
"""

import csv
import json
import os
import socket
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import TypeAdapter

from configs.errors import TinError
from configs.files import WriteError, sync_folder, write_text
from configs.small_files import read_bytes, read_record
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


class RecordError(TinError):
    """A record of a job that cannot be read."""


class Place(NamedTuple):
    """Where this process runs: an execution of a job, and its rank."""

    job_id: str
    """Number of the job, as in `SubmittedJob.id`; `debug` outside of a job."""
    restart: int
    """How often Slurm has requeued the job."""
    rank: int


@dataclass(frozen=True)
class SubmittedJob:
    """A submitted job. A task of an array counts as a job."""

    id: str
    """Slurm's number (`123_4` for task 4 of array 123), or the process number of a local job."""
    stage: str
    """`train`, `shard:3` (part 3 of the shards), `merge`, `test` or `report`."""
    executor: str
    logs: str
    """Folder of the job's log files."""
    after: str = ""
    """Jobs that must end before this one starts, as for sbatch: `afterok:12,afterany:13`."""
    submitted: float = field(default_factory=time.time)

    def log_file(self) -> Path:
        """Return the log of rank 0."""
        return Path(self.logs) / f"{self.id}_0_log.err"


@dataclass(frozen=True)
class Note:
    """Why a rank exited before its stage was complete."""

    kind: NoteKind
    text: str
    rank: int
    node: str = field(default_factory=socket.gethostname)
    signal: str = ""
    """Name of the signal that stopped the rank, such as SIGUSR2; empty without one."""


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
    path = _jobs_file(run_dir)
    if not path.exists():
        return []
    found = []
    text = read_bytes(path, follow=False).decode("utf-8", "replace")
    for number, line in enumerate(text.splitlines(), 1):
        try:
            found.append(JOB.validate_json(line, strict=True))
        except ValueError as error:
            raise RecordError(
                f"{path}, line {number}: expected a submitted job as JSON ({error}). Remove the"
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
    steps = [int(number) for number in numbers if number.isdigit()]
    row = last_row(run_dir / "steps.csv")
    return max([*steps, int(row.get("step") or 0)])


def last_row(path: Path) -> dict[str, str]:
    """Return the last complete row of a CSV file; empty if there is none."""
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            rows = [
                row
                for row in csv.DictReader(file)
                if None not in row.values() and None not in row  # as many cells as columns
            ]
    except (OSError, csv.Error):
        return {}
    return rows[-1] if rows else {}


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
        os.fsync(file.fileno())
    if is_new:
        sync_folder(path.parent)


def _write(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(values))
