"""What `job/` of a run remembers: the jobs that were submitted, how each ended, what ranks said.

`jobs.jsonl` has a line a submitted job; `ends/<job>-<restart>.json` says how it ended, each time
that it ran, and `notes/<job>-<restart>-<rank>.json` why a rank left early. `recipe.yaml` and
`cluster.yaml` are what was submitted, `code/` is the code that runs, `logs/` what it says.
"""

import csv
import json
import os
import socket
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tin.runs.folder import Run

Outcome = Literal["done", "stopped", "failed", "lost", "gave up", "cancelled"]
NoteKind = Literal["stopped", "refused", "node", "failed"]


@dataclass(frozen=True)
class SubmittedJob:
    """A job that was submitted; a task of an array is a job of its own."""

    id: str
    """Slurm's number (`123_4` for task 4 of an array), or the process of a local job."""
    stage: str
    """`train`, `shard:3` (part 3 of the shards), `merge`, `test`, `report`."""
    executor: str
    logs: str
    """Folder of its log files."""
    after: str = ""
    """Jobs that it waits for, in sbatch's words: `afterok:12,afterany:13`."""
    submitted: float = field(default_factory=time.time)

    def log_files(self, kind: str = "err", rank: int = 0) -> Path:
        """Return the log of a rank: what it logged (err), or what it printed (out)."""
        return Path(self.logs) / f"{self.id}_{rank}_log.{kind}"


@dataclass(frozen=True)
class Note:
    """Why a rank ended before its stage did."""

    kind: NoteKind
    """`stopped` by a signal, `refused` (it would fail again), `node` (unfit), or `failed`."""
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
    """`done`, `stopped` by a signal, `failed`, `lost` without a word, or `gave up`."""
    step: int = 0
    """Steps of the run that were done by then."""
    text: str = ""
    nodes: list[str] = field(default_factory=list)
    """Nodes to stay away from."""
    time: float = field(default_factory=time.time)


def add_job(run: Path, job: SubmittedJob) -> None:
    """Remember a job."""
    with (Run(run).job / "jobs.jsonl").open("a") as file:
        file.write(json.dumps(asdict(job)) + "\n")


def jobs(run: Path) -> list[SubmittedJob]:
    """Return the jobs of a run in the order of their submission."""
    path = Run(run).job / "jobs.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [SubmittedJob(**json.loads(line)) for line in lines]


def add_end(run: Path, end: End) -> None:
    """Remember how a job ended."""
    _write(Run(run).job / "ends" / f"{end.id}-{end.restart}.json", asdict(end))


def ends(run: Path) -> list[End]:
    """Return how the jobs of a run ended, in order."""
    files = (Run(run).job / "ends").glob("*.json")
    return sorted((End(**_read(file)) for file in files), key=lambda end: end.time)


def write_note(run: Path, job_id: str, restart: int, note: Note) -> None:
    """Write why a rank leaves."""
    _write(Run(run).job / "notes" / f"{job_id}-{restart}-{note.rank}.json", asdict(note))


def read_notes(run: Path, job_id: str, restart: int) -> list[Note]:
    """Return why ranks left one execution of a job, in the order of ranks."""
    files = (Run(run).job / "notes").glob(f"{job_id}-{restart}-*.json")
    return sorted((Note(**_read(file)) for file in files), key=lambda note: note.rank)


def place() -> tuple[str, int, int]:
    """Return job, restart and rank of this process; the job is `debug` outside of one."""
    env = os.environ
    if env.get("SUBMITIT_EXECUTOR") == "local":
        return env["SUBMITIT_LOCAL_JOB_ID"], 0, int(env["SUBMITIT_LOCAL_GLOBALID"])
    if env.get("SUBMITIT_EXECUTOR") != "slurm":
        return "debug", 0, 0
    array, task = env.get("SLURM_ARRAY_JOB_ID"), env.get("SLURM_ARRAY_TASK_ID")
    job_id = f"{array}_{task}" if array else env["SLURM_JOB_ID"]
    restart = int(env.get("SLURM_RESTART_COUNT", 0))
    return job_id, restart, int(env.get("SLURM_PROCID", 0))


def progress(run: Path) -> int:
    """Return the steps that a run has done, as far as its files tell."""
    saved = [file.name[5:13] for file in Run(run).checkpoints.glob("step-*.pt")]
    steps = [int(number) for number in saved if number.isdigit()]
    row = last_row(run / "steps.csv")
    return max([*steps, int(row.get("step") or 0)])


def last_row(path: Path) -> dict[str, str]:
    """Return the last whole row of a csv; empty if there is none."""
    try:
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if None not in row.values()]
    except OSError:
        return {}
    return rows[-1] if rows else {}


def _write(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(values))
    aside.replace(path)  # whoever reads sees all of it


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())
