"""The status of runs, from their folders and from Slurm if it answers."""

import getpass
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from configs.errors import TinError
from launch.local import is_alive
from launch.reasons import NO_LOG, NO_REASON, why_ended, why_queued
from launch.record import SubmittedJob, all_jobs, ends, last_row, last_rows, read_notes
from launch.slurm_query import Ended, NoAccountsError, Queued, SlurmError, executions, queued
from launch.table_values import age, number_in
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
RESUMABLE = ("stopped", "failed", "lost")
"""Ends after which a job is requeued or a next one follows, unless something goes wrong."""
FULL_BYTES = 100_000
"""A disk with less free space is full: no record of a job fits."""
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
    job: str = ""
    """Number of the job that runs, is queued, or ended last."""
    elapsed: str = ""
    """Time since the job started."""
    left: str = ""
    """Time until the job's time limit."""
    metric: str = ""
    """Metric of the newest evaluation: top-1 accuracy, or mean average precision."""
    best: str = ""
    """Highest metric of all evaluations."""
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


def statuses(run_dirs: Sequence[Path]) -> tuple[list[RunStatus], str]:
    """Return the status of each run, and why Slurm did not answer (empty if it did)."""
    damaged: dict[Path, str] = {}
    jobs_of_run: dict[Path, list[SubmittedJob]] = {}
    for run_dir in run_dirs:
        try:
            jobs_of_run[run_dir] = all_jobs(run_dir)
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


def _metrics(path: Path) -> tuple[str, str]:
    """Return the newest and the highest metric of a metrics.csv, as text for a table."""
    rows = last_rows(path)
    # The rows of an epoch begin with the training split.
    tests = [row for row in rows if row.get("split") != rows[0].get("split")]
    found = [number_in(row, "top1") or number_in(row, "map_class") for row in tests]
    if not found:
        return "", ""
    return f"{100 * found[-1]:.1f} %", f"{100 * max(found):.1f} %"


def _ask_slurm(known: Sequence[SubmittedJob]) -> _Slurm:
    """Ask squeue about all Slurm jobs at once, and sacct about those that squeue does not list."""
    of_slurm = [job for job in known if job.executor == "slurm"]
    ids = {job.id for job in of_slurm}
    in_queue: dict[str, Queued] = {}
    try:
        in_queue = queued(of_slurm)
        ended = {execution.id: execution for execution in executions(ids - set(in_queue))}
    except NoAccountsError:
        problem = "this Slurm keeps no accounts: the run folders tell how earlier jobs ended"
        return _Slurm(queued=in_queue, problem=problem)
    except SlurmError as error:
        problem = f"Slurm does not answer ({error}); the table shows what the run folders tell"
        return _Slurm(queued=in_queue, problem=problem)
    return _Slurm(queued=in_queue, ended=ended)


def _from_folder(run_dir: Path) -> RunStatus:
    """Return the status of a run as its files alone tell it."""
    run = Run(run_dir)
    row = last_row(run_dir / "steps.csv")
    now = time.time()

    # A run that has written a row or a checkpoint recently is running.
    attempts = run.attempts()
    saved = max((file.stat().st_mtime for file in run.checkpoints.glob("*.pt")), default=0.0)
    written = max(saved, number_in(row, "time"))
    state: RunState = "waiting"
    if attempts:
        state = "running" if now - written < STALE_S else "stopped"

    # The last complete stage and the last failure, if any.
    done = run.done()
    stage = "train"
    if done:
        stage = max(done, key=lambda name: done[name])
        state = "done"
    metric, best = _metrics(run_dir / "metrics.csv")
    known = ends(run_dir)
    has_failed = bool(known) and known[-1].kind not in ("done", "stopped")
    return RunStatus(
        run_dir,
        stage=stage,
        state=state,
        step=row.get("step", ""),
        epoch=f"{number_in(row, 'epoch') + 1:.0f}" if row.get("epoch") else "",
        clips_per_s=f"{number_in(row, 'clips_per_s'):.1f}" if row.get("clips_per_s") else "",
        data_wait=f"{100 * number_in(row, 'data_wait'):.1f} %" if row.get("data_wait") else "",
        saved=age(now - saved) if saved else "",
        restarts=max(len(attempts) - 1, 0),
        metric=metric,
        best=best,
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
            return replace(
                status, stage=job.stage, state="running", nodes="this machine", job=job.id
            )
    return _with_ended_jobs(status, known, slurm)


def _with_queued_job(status: RunStatus, job: SubmittedJob, found: Queued) -> RunStatus:
    """Add a job that is queued or running, and why it is still queued."""
    state = _run_state(found.state)
    why = status.why
    if state != "running":
        why = "; before: ".join(filter(None, [why_queued(found.reason), status.why]))
    if found.user not in ("", getpass.getuser()):
        why = "; ".join(filter(None, [f"job of user {found.user}", why]))
    return replace(
        status,
        stage=job.stage,
        state=state,
        nodes=found.nodes,
        job=job.id,
        elapsed=found.elapsed if state == "running" else "",
        left=found.left if state == "running" else "",
        why=why,
    )


def _with_ended_jobs(status: RunStatus, known: Sequence[SubmittedJob], slurm: _Slurm) -> RunStatus:
    """Add how the jobs of a run ended, from its records or, if a job left none, from Slurm."""
    latest = {job.stage: job for job in known}  # a stage may have been submitted again
    ids = [job.id for job in latest.values()]
    recorded = [end for end in ends(status.run_dir) if end.id in ids]
    unrecorded = [job for job in latest.values() if job.id not in {end.id for end in recorded}]
    for job in unrecorded:
        if job.executor == "local":
            return _with_failed_local_job(status, job)
    failed = [job for job in latest.values() if _has_failed(slurm.ended.get(job.id))]
    is_final = bool(recorded) and recorded[-1].kind in ("gave up", "cancelled")
    if failed and not is_final:
        return _with_failed_job(status, failed[0], slurm.ended[failed[0].id])
    if recorded:
        end = recorded[-1]
        why = "" if end.kind == "done" else status.why or end.text
        if end.kind in RESUMABLE and not slurm.problem:
            again = f"`tin submit {end.stage.partition(':')[0]} --run {status.run_dir}`"
            why = "; ".join(filter(None, [why, f"no job is queued any more: {again} resumes it"]))
        return replace(status, stage=end.stage, state=end.kind, job=end.id, why=why)
    last = known[-1]
    state = "unknown" if slurm.problem else status.state
    if last.id in slurm.ended and slurm.ended[last.id].state == "COMPLETED":
        state = "done"  # the disk may have been too full to record it
    why = "" if state == "done" else status.why
    return replace(status, stage=last.stage, state=state, job=last.id, why=why)


def _with_failed_local_job(status: RunStatus, job: SubmittedJob) -> RunStatus:
    """Add a local job that ended without success, as the notes of its ranks tell."""
    notes = read_notes(status.run_dir, job.id, 0)
    state: RunState = "failed" if notes else "lost"
    if notes and all(note.kind == "stopped" for note in notes):
        state = "stopped"
    why = notes[0].text if notes else "its process ended without a note; see `tin logs`"
    return replace(status, stage=job.stage, state=state, why=why)


def _with_failed_job(status: RunStatus, job: SubmittedJob, found: Ended) -> RunStatus:
    """Add a job that failed, as sacct reports it."""
    state = _run_state(found.state)
    name, *details = found.state.split()
    why = why_ended(name, found.exit_code) or status.why or _full_disk(status.run_dir)
    if details or state == "unknown":  # `CANCELLED by 1000` names the user
        why = "; ".join(filter(None, [found.state.lower(), why]))
    elif not why and state == "failed":
        # Slurm 22.05 does not start a job without its log folder, 24.11 lets its script fail.
        why = NO_REASON if job.log_file().exists() else NO_LOG
    return replace(status, stage=job.stage, state=state, nodes=found.nodes, job=job.id, why=why)


def _full_disk(run_dir: Path) -> str:
    """Return a reason for a job that could not record its own; empty if the disk has space."""
    if shutil.disk_usage(run_dir).free > FULL_BYTES:
        return ""
    return f"cannot write {run_dir}: its disk is full. Free some space, then submit again"


def _has_failed(execution: Ended | None) -> bool:
    return execution is not None and execution.state.split()[0] not in NOT_FAILED


def _run_state(slurm_state: str) -> RunState:
    """Return a state of Slurm, such as `CANCELLED by 1000`, as a state of a run."""
    name = slurm_state.split()[0].lower()
    return next((state for state in STATES if state == name), "unknown")
