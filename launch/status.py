"""The status of runs, from their folders and from Slurm if it answers."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from configs.errors import TinError
from configs.load import ConfigError, run_path
from launch.local import is_alive
from launch.record import SubmittedJob, ends, jobs, last_row
from launch.slurm_query import Ended, Queued, SlurmError, executions, queued
from tin.runs.folder import Run

RunState = Literal[
    # from the run's folder: never started, writing, or one of `launch.record.Outcome`
    "waiting",
    "running",
    "done",
    "stopped",
    "failed",
    "lost",
    "gave up",
    "cancelled",
    # the run has jobs, but neither its folder nor Slurm knows how they ended
    "unknown",
    # from Slurm, apart from running, stopped, failed and cancelled
    "boot_fail",
    "completed",
    "completing",
    "configuring",
    "deadline",
    "launch_failed",
    "node_fail",
    "out_of_memory",
    "pending",
    "preempted",
    "reconfig_fail",
    "requeue_fed",
    "requeue_hold",
    "requeued",
    "resizing",
    "revoked",
    "signaling",
    "special_exit",
    "stage_out",
    "suspended",
    "timeout",
]
STATES: tuple[RunState, ...] = get_args(RunState)
STALE_S = 180.0
"""A run without a known job is taken for stopped if it has written nothing for this long."""
WHY = {
    "NODE_FAIL": "a node failed",
    "OUT_OF_MEMORY": "out of memory: raise mem_gb",
    "TIMEOUT": "the time limit came before a checkpoint: raise signal_s, then submit again",
    "None": "",
    "BeginTime": "requeued, starts soon",
    "Dependency": "queued until the job before it ends",
    "Priority": "queued behind jobs of higher priority",
    "Resources": "queued until nodes are free",
    "BadConstraints": "no node fits: cancel the job, change the cluster file, submit again",
    "DependencyNeverSatisfied": "the stage before it failed",
    "JobArrayTaskLimit": "queued until other tasks of its array end",
}
"""What states of sacct and reasons of squeue mean for a user."""
WHY_EXIT = {
    "0:53": "its log folder cannot be written on the node: check that all nodes share the folder",
    "9:0": "killed, most often because it used more memory than mem_gb",
}
"""What exit codes of sacct mean for a user."""
NOT_FAILED = ("COMPLETED", "RUNNING", "PENDING")


@dataclass(frozen=True)
class RunStatus:
    """The status of a run, with numbers as text for a table; empty text where unknown."""

    run_dir: Path
    stage: str = ""
    state: RunState = "waiting"
    nodes: str = ""
    step: str = ""
    epoch: str = ""
    clips_per_s: str = ""
    data_wait: str = ""
    saved: str = ""
    """Age of the newest checkpoint."""
    restarts: int = 0
    why: str = ""
    """Why the run is queued or has failed."""


@dataclass(frozen=True)
class _Slurm:
    """What Slurm answered about jobs, by their numbers."""

    queued: dict[str, Queued] = field(default_factory=dict)
    """Queued and running jobs."""
    ended: dict[str, Ended] = field(default_factory=dict)
    """The last execution of each other job."""
    problem: str = ""
    """Why Slurm did not answer; empty if it did."""


def find_runs(paths: Iterable[str | Path]) -> list[Path]:
    """Return the runs among `paths` and the folders directly in them.

    Raises:
        ConfigError: a path holds no run.
    """
    found = []
    for path in map(run_path, paths):
        inside = sorted(folder for folder in path.glob("*") if _is_run(folder))
        if not inside and not _is_run(path):
            raise ConfigError(f"{path}: no run found here; expected a run or a folder of runs")
        found += inside or [path]
    return found


def statuses(run_dirs: Sequence[Path]) -> tuple[list[RunStatus], str]:
    """Return the status of each run, and why Slurm did not answer (empty if it did)."""
    damaged: dict[Path, str] = {}
    jobs_of_run: dict[Path, list[SubmittedJob]] = {}
    for run_dir in run_dirs:
        try:
            jobs_of_run[run_dir] = jobs(run_dir)
        except (TinError, OSError) as error:
            damaged[run_dir] = str(error)
            jobs_of_run[run_dir] = []
    slurm = _ask_slurm([job for known in jobs_of_run.values() for job in known])
    found = []
    for run_dir in run_dirs:
        # A damaged run must not hide the others.
        try:
            status = _from_folder(run_dir)
            if jobs_of_run[run_dir]:
                status = _with_jobs(status, jobs_of_run[run_dir], slurm)
        except (TinError, OSError, ValueError) as error:
            damaged.setdefault(run_dir, str(error))
            status = RunStatus(run_dir, state="unknown")
        if run_dir in damaged:
            status = replace(status, why=damaged[run_dir])
        found.append(status)
    return found, slurm.problem


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").exists() or (folder / "job" / "jobs.jsonl").exists()


def _ask_slurm(known: Sequence[SubmittedJob]) -> _Slurm:
    """Ask squeue about all Slurm jobs at once, and sacct about those that squeue does not list."""
    ids = {job.id for job in known if job.executor == "slurm"}
    in_queue: dict[str, Queued] = {}
    try:
        in_queue = queued(ids)
        ended = {execution.id: execution for execution in executions(ids - set(in_queue))}
    except SlurmError as error:
        return _Slurm(queued=in_queue, problem=str(error))
    return _Slurm(queued=in_queue, ended=ended)


def _from_folder(run_dir: Path) -> RunStatus:
    """Return the status of a run as its files alone tell it."""
    run = Run(run_dir)
    row = last_row(run_dir / "steps.csv")
    now = time.time()

    # A run that has written a row or a checkpoint recently is running.
    attempts = run.attempts()
    saved = max((file.stat().st_mtime for file in run.checkpoints.glob("*.pt")), default=0.0)
    written = max(saved, _number(row, "time"))
    state: RunState = "waiting"
    if attempts:
        state = "running" if now - written < STALE_S else "stopped"

    # The last complete stage and the last failure, if any.
    done = run.done()
    stage = "train"
    if done:
        stage = max(done, key=lambda name: done[name])
        state = "done"
    known = ends(run_dir)
    has_failed = bool(known) and known[-1].kind not in ("done", "stopped")
    return RunStatus(
        run_dir,
        stage=stage,
        state=state,
        step=row.get("step", ""),
        epoch=f"{_number(row, 'epoch') + 1:.0f}" if row.get("epoch") else "",
        clips_per_s=f"{_number(row, 'clips_per_s'):.1f}" if row.get("clips_per_s") else "",
        data_wait=f"{100 * _number(row, 'data_wait'):.1f} %" if row.get("data_wait") else "",
        saved=_age(now - saved) if saved else "",
        restarts=max(len(attempts) - 1, 0),
        why=known[-1].text if has_failed else "",
    )


def _with_jobs(status: RunStatus, known: Sequence[SubmittedJob], slurm: _Slurm) -> RunStatus:
    """Add what is known about a run's jobs: the running one, else the next, else the last."""
    in_queue = [job for job in known if job.id in slurm.queued]
    if in_queue:
        running = [job for job in in_queue if slurm.queued[job.id].state == "RUNNING"]
        job = (running or in_queue)[0]
        return _with_queued_job(status, job, slurm.queued[job.id])
    for job in known:
        if job.executor == "local" and is_alive(job.id):
            return replace(status, stage=job.stage, state="running", nodes="this machine")
    return _with_ended_jobs(status, known, slurm)


def _with_queued_job(status: RunStatus, job: SubmittedJob, found: Queued) -> RunStatus:
    """Add a job that is queued or running, and why it is still queued."""
    state = _run_state(found.state)
    why = status.why
    if state != "running":
        reason = WHY.get(found.reason, found.reason)
        why = "; before: ".join(filter(None, [reason, status.why]))
    return replace(status, stage=job.stage, state=state, nodes=found.nodes, why=why)


def _with_ended_jobs(status: RunStatus, known: Sequence[SubmittedJob], slurm: _Slurm) -> RunStatus:
    """Add how the jobs of a run ended, from its records or, if a job left none, from Slurm."""
    latest = {job.stage: job for job in known}  # a stage may have been submitted again
    ids = [job.id for job in latest.values()]
    recorded = [end for end in ends(status.run_dir) if end.id in ids]
    failed = [job for job in latest.values() if _has_failed(slurm.ended.get(job.id))]
    is_final = bool(recorded) and recorded[-1].kind in ("gave up", "cancelled")
    if failed and not is_final:
        return _with_failed_job(status, failed[0], slurm.ended[failed[0].id])
    if recorded:
        end = recorded[-1]
        why = "" if end.kind == "done" else status.why
        return replace(status, stage=end.stage, state=end.kind, why=why)
    state = "unknown" if slurm.problem else status.state
    why = "" if state == "done" else status.why
    return replace(status, stage=known[-1].stage, state=state, why=why)


def _with_failed_job(status: RunStatus, job: SubmittedJob, found: Ended) -> RunStatus:
    """Add a job that failed, as sacct reports it."""
    state = _run_state(found.state)
    name, *details = found.state.split()
    why = WHY_EXIT.get(found.exit_code) or WHY.get(name, status.why)
    if details or state == "unknown":  # `CANCELLED by 1000` names the user
        why = "; ".join(filter(None, [found.state.lower(), why]))
    return replace(status, stage=job.stage, state=state, nodes=found.nodes, why=why)


def _has_failed(execution: Ended | None) -> bool:
    return execution is not None and execution.state.split()[0] not in NOT_FAILED


def _run_state(slurm_state: str) -> RunState:
    """Return a state of Slurm, such as `CANCELLED by 1000`, as a state of a run."""
    name = slurm_state.split()[0].lower()
    return next((state for state in STATES if state == name), "unknown")


def _number(row: Mapping[str, str], name: str) -> float:
    """Return a number of steps.csv; 0 if the file is damaged there."""
    try:
        return float(row.get(name) or 0)
    except ValueError:
        return 0.0


def _age(seconds: float) -> str:
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"
