"""`tin status`, `logs` and `cancel`: from run folders and from Slurm, as far as it answers."""

import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from configs.load import ConfigError, run_path
from launch import local, record
from launch.slurm_query import Ended, Queued, SlurmError, executions, queued
from tin.runs.folder import Run

STALE_S = 180.0  # a run without a job that has written nothing for longer does not run
WHY = {  # what Slurm's words mean for a user
    "NODE_FAIL": "a node was lost",
    "OUT_OF_MEMORY": "out of memory: raise mem_gb",
    "TIMEOUT": "ended by its time limit before it could save: raise signal_s, then submit again",
    "BeginTime": "back in the queue, starts soon",
    "Dependency": "waits for the job before it",
    "Priority": "waits for its turn",
    "Resources": "waits for free nodes",
    "BadConstraints": "no node fits: cancel it, change the cluster file, submit again",
    "DependencyNeverSatisfied": "the stage before it failed",
    "JobArrayTaskLimit": "waits for other tasks of its array",
}
CODES = {
    "0:53": "its log folder cannot be written on the node: do all nodes share it?",
    "9:0": "killed: mostly for more memory than mem_gb",
}


@dataclass(frozen=True)
class RunStatus:
    """Where a run stands."""

    run: Path
    stage: str = ""
    state: str = "waiting"
    nodes: str = ""
    step: str = ""
    epoch: str = ""
    clips_per_s: str = ""
    data_wait: str = ""
    saved: str = ""
    """Age of the newest checkpoint."""
    restarts: int = 0
    why: str = ""


def find_runs(paths: Iterable[str | Path]) -> list[Path]:
    """Return the runs among `paths` and the folders directly in them.

    Raises:
        ConfigError: a path holds no run.
    """
    found = []
    for path in map(run_path, paths):
        inside = sorted(folder for folder in path.glob("*") if _is_run(folder))
        if not inside and not _is_run(path):
            raise ConfigError(f"{path} holds no run")
        found += inside or [path]
    return found


def statuses(runs: Sequence[Path]) -> tuple[list[RunStatus], str]:
    """Return where runs stand, and what Slurm says if it does not answer (else empty)."""
    jobs = {run: record.jobs(run) for run in runs}
    ids = [job.id for known in jobs.values() for job in known if job.executor == "slurm"]
    problem, waiting, ended = "", {}, {}
    try:
        waiting = queued(ids)
        ended = {one.id: one for one in executions(set(ids) - set(waiting))}
    except SlurmError as error:
        problem = str(error)
    found = []
    for run in runs:
        state = _from_files(run)
        if jobs[run]:
            state = _from_jobs(state, jobs[run], waiting, ended, bool(problem))
        found.append(state)
    return found, problem


def active(run: Path) -> dict[str, str]:
    """Return the jobs of a run that wait or work, each with its state.

    Raises:
        SlurmError: the run has Slurm jobs, and Slurm does not answer.
    """
    known = record.jobs(run)
    waiting = queued(job.id for job in known if job.executor == "slurm")
    found = {
        job_id: f"{job.state.lower()}{f' on {job.nodes}' * bool(job.nodes)}"
        for job_id, job in waiting.items()
    }
    here = [job.id for job in known if job.executor == "local" and local.is_alive(job.id)]
    return found | dict.fromkeys(here, "running here")


def cancel(run: Path) -> list[str]:
    """Cancel the jobs of a run and return them; training saves a checkpoint first.

    Raises:
        SlurmError: Slurm does not answer, or refuses.
    """
    jobs, before = active(run), record.ends(run)
    stages = {job.id: job.stage for job in record.jobs(run)}
    for job_id, state in jobs.items():
        if state == "running here":
            local.stop(job_id)
            continue
        done = subprocess.run(["scancel", job_id], capture_output=True, text=True)
        if done.returncode:
            raise SlurmError(done.stderr.strip())
        restart = sum(end.id == job_id for end in before)
        step = record.progress(run)
        record.add_end(run, record.End(job_id, restart, stages[job_id], "cancelled", step))
    return [f"{job_id} ({stages[job_id]})" for job_id in jobs]


def log_files(run: Path) -> list[tuple[str, Path]]:
    """Return a title and the log of rank 0 of each job, in the order of their submission."""
    return [(f"{job.stage}, job {job.id}", job.log_files()) for job in record.jobs(run)]


def print_log(run: Path, follow: bool) -> None:
    """Write the logs of a run to stdout; with `follow` go on until its jobs have ended.

    Raises:
        ConfigError: the run has no jobs.
    """
    if not record.jobs(run):
        raise ConfigError(f"{run} has no jobs: `tin submit` makes them")
    shown: dict[Path, int] = {}
    while True:
        alive = follow and _is_active(run)
        for title, file in log_files(run):
            if not file.exists() or file.stat().st_size <= shown.get(file, 0):
                continue
            with file.open(errors="replace") as stream:
                stream.seek(shown.get(file, 0))
                text = stream.read()
                shown_before, shown[file] = file in shown, stream.tell()
            sys.stdout.write(text if shown_before else f"---- {title}: {file}\n{text}")
            sys.stdout.flush()
        if not alive:
            return
        time.sleep(1.0)


def _is_active(run: Path) -> bool:
    try:
        return bool(active(run))
    except SlurmError:
        return True  # nobody knows: Ctrl-C ends it


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").exists() or (folder / "job" / "jobs.jsonl").exists()


def _from_files(run: Path) -> RunStatus:
    """Return what the files of a run tell by themselves."""
    folder = Run(run)
    row = record.last_row(run / "steps.csv")
    saved = max((file.stat().st_mtime for file in folder.checkpoints.glob("*.pt")), default=0.0)
    written = float(row.get("time") or 0)
    attempts = folder.attempts()
    state = "waiting" if not attempts else "stopped"
    if attempts and time.time() - max(written, saved) < STALE_S:
        state = "running"
    done = folder.done()
    ends = record.ends(run)
    return RunStatus(
        run,
        stage=max(done, key=done.get) if done else "train",
        state="done" if done else state,
        step=row.get("step", ""),
        epoch=str(int(row["epoch"]) + 1) if row.get("epoch") else "",
        clips_per_s=f"{float(row['clips_per_s']):.1f}" if row.get("clips_per_s") else "",
        data_wait=f"{100 * float(row['data_wait']):.1f} %" if row.get("data_wait") else "",
        saved=_age(time.time() - saved) if saved else "",
        restarts=max(len(attempts) - 1, 0),
        why=ends[-1].text if ends and ends[-1].kind not in ("done", "stopped") else "",
    )


def _from_jobs(
    state: RunStatus,
    jobs: Sequence[record.SubmittedJob],
    waiting: dict[str, Queued],
    ended: dict[str, Ended],
    unknown: bool,
) -> RunStatus:
    """Return the state with what is known of the jobs: of the running one, else of the next."""
    running = [job for job in jobs if job.id in waiting and waiting[job.id].state == "RUNNING"]
    pending = [job for job in jobs if job.id in waiting]
    alive = [job for job in jobs if job.executor == "local" and local.is_alive(job.id)]
    if running or pending:
        job = (running or pending)[0]
        found = waiting[job.id]
        why = "" if running else WHY.get(found.reason, found.reason)
        why = f"{why}; before: {state.why}" if why and state.why and not running else why
        return replace(
            state,
            stage=job.stage,
            state=found.state.lower(),
            nodes=found.nodes,
            why=why or state.why,
        )
    if alive:
        return replace(state, stage=alive[0].stage, state="running", nodes="this machine")
    latest = {job.stage: job for job in jobs}  # a stage may have been submitted again
    ends = [end for end in record.ends(state.run) if end.id == latest[end.stage].id]
    bad = [job for job in latest.values() if _failed(ended.get(job.id))]
    if (ends and ends[-1].kind in ("gave up", "cancelled")) or not bad:
        kind = ends[-1].kind if ends else "unknown" if unknown else state.state
        stage = ends[-1].stage if ends else jobs[-1].stage
        return replace(state, stage=stage, state=kind, why="" if kind == "done" else state.why)
    found = ended[bad[0].id]
    why = CODES.get(found.exit_code) or WHY.get(found.state.split()[0], state.why)
    return replace(state, stage=bad[0].stage, state=found.state.lower(), nodes=found.nodes, why=why)


def _failed(ended: Ended | None) -> bool:
    return ended is not None and ended.state.split()[0] not in ("COMPLETED", "RUNNING", "PENDING")


def _age(seconds: float) -> str:
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"
