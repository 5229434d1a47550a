"""A job that runs one stage: what a rank does from its start to its exit code.

This is the same for all executors. `tin submit` writes a `StageJob` to a file, which
`launch.jobs.rank` reads on Slurm and submitit elsewhere.
"""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import submitit
from pydantic import TypeAdapter

from configs.errors import STOPPED, TinError
from configs.node import node_name
from configs.small_files import read_record
from launch.errors import exit_code, explain, set_up_libraries, set_up_logging
from launch.jobs.give_up import limited
from launch.jobs.srun_log import START, cancel_reason, lost_nodes, start_before, used_nodes
from launch.jobs.stages import run_stage, submitted_config
from launch.local import REQUEUE, is_out_of_time, name_ranks, wait_turn
from launch.record import (
    End,
    Note,
    NoteKind,
    SubmittedJob,
    add_end,
    add_job,
    ends,
    jobs,
    place,
    progress,
    write_note,
)
from launch.slurm_query import SlurmError, ask

log = logging.getLogger(__name__)
SIGNALS = (signal.SIGUSR2, signal.SIGTERM)
LOGS = "TIN_LOGS"
"""Environment variable with the folder of the job's log files; the batch script sets it."""
NOT_LOST = {
    "PREEMPTION": "preempted",
    "JOB REQUEUE": "requeued by hand",
    "TIME LIMIT": "stopped by the time limit",
}
"""Why Slurm ends a job that it starts again later, by its own words in the log."""


class GaveUpError(TinError):
    """The stage has failed too often."""

    is_final = True


@dataclass(frozen=True)
class StageJob:
    """What is stored for a job: the name of a stage and the folder of a run."""

    stage: str
    """Name of the stage; `shard:3` is part 3 of the shards."""
    run_dir: str

    def __call__(self) -> None:
        """Run the stage, and exit with the code that says how it ended.

        Before and after training, a signal ends the process at once, because no work is lost.
        During training, `tin.training.trainer` handles signals at the end of a step.
        """
        set_up_libraries()
        run_dir = Path(self.run_dir)
        if place()[0] == "debug":
            run_stage(run_dir, self.stage)
            return
        code = _run_rank(run_dir, self.stage)
        logging.shutdown()
        os._exit(code)  # a crash in the cleanup of a library must not turn success into failure


STAGE_JOB = TypeAdapter(StageJob)


def task_file(tasks: str, task: str) -> Path:
    """Return the file of a job (task `0`), or of a task of an array."""
    return Path(f"{tasks}-{task}.json")


def load_task(tasks: str) -> StageJob:
    """Return what this job, or this task of an array, executes.

    Args:
        tasks: path of the files of the submission, without the part that differs between tasks.
    """
    file = task_file(tasks, os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
    return read_record(file, STAGE_JOB)


def _run_rank(run_dir: Path, stage: str) -> int:
    """Run the stage on this rank; return the exit code, after the end or a note is recorded."""
    job_id, restart, rank = place()
    try:
        set_up_logging(rank)
        for number in SIGNALS:
            signal.signal(number, _exit_handler(run_dir))
        if submitit.JobEnvironment().cluster == "local":
            name_ranks()
            wait_turn(run_dir, job_id)
        elif rank == 0:
            _ensure_recorded(run_dir, stage, job_id)
        else:  # the batch script has written this line to the log of rank 0
            sys.stderr.write(f"{START}{job_id}, start {restart}, {node_name()}\n")
        final = _final_end(run_dir, stage, job_id)
        if final:
            log.info("%s: already %s%s", stage, final.kind, f", {final.text}" if final.text else "")
            return 0 if final.kind == "done" else 1
        if rank == 0:
            _record_lost_start(run_dir, stage)
        run_stage(run_dir, stage)
    except Exception as error:
        return _exit_code_after(error, run_dir)
    if rank == 0:
        try:
            add_end(run_dir, End(job_id, restart, stage, "done", progress(run_dir)))
        except OSError as error:
            # Slurm knows that the job is complete, and `tin status` asks Slurm.
            log.error("the stage is complete, but its end could not be recorded: %s", error)
    return 0


def _exit_code_after(error: Exception, run_dir: Path) -> int:
    """Write a note about the error that ended this rank, log it, and return the exit code."""
    job_id, restart, rank = place()
    code = exit_code(error)
    received = error.signal if isinstance(error, TinError) else ""
    note = Note(_kind(error), explain(error), rank, signal=received)
    # Without a note, the exit code and the log tell the batch script what happened.
    with contextlib.suppress(OSError):
        write_note(run_dir, job_id, restart, note)
    if note.kind == "stopped":
        log.info("%s", note.text)
    else:
        log.error("%s: %s", note.kind, note.text, exc_info=error)
    return REQUEUE if code == STOPPED and is_out_of_time(note) else code


def _final_end(run_dir: Path, stage: str, job_id: str) -> End | None:
    """Return how an earlier job of the same submission completed the stage or gave it up."""
    submitted = [job.submitted for job in jobs(run_dir) if job.id == job_id]
    if not submitted:
        return None
    final = [
        end
        for end in ends(run_dir)
        if end.stage == stage and end.kind in ("done", "gave up") and end.time > submitted[0]
    ]
    return final[-1] if final else None


def _exit_handler(run_dir: Path) -> Callable[[int, FrameType | None], None]:
    """Return a signal handler that writes a note and ends the process."""
    job_id, restart, rank = place()

    def leave(number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        text = f"stopped by {name} outside of training"
        with contextlib.suppress(OSError):
            write_note(run_dir, job_id, restart, Note("stopped", text, rank, signal=name))
        os._exit(STOPPED)

    return leave


def _record_lost_start(run_dir: Path, stage: str) -> None:
    """Record how the previous start of this job ended, if Slurm requeued it without a record.

    Raises:
        GaveUpError: the stage has now failed too often.
    """
    job_id, restart, _ = place()
    before = ends(run_dir)
    if not restart or any((end.id, end.restart) == (job_id, restart - 1) for end in before):
        return
    log_files = [job.log_file() for job in jobs(run_dir) if job.id == job_id]
    said = start_before(log_files[0]) if log_files else ""
    reason = cancel_reason(said)
    nodes = lost_nodes(said)
    if not nodes and reason == "NODE FAILURE":
        nodes = _nodes_that_are_down(used_nodes(said))
    step = progress(run_dir)
    if reason in NOT_LOST and not nodes:
        text = NOT_LOST[reason]
        add_end(run_dir, End(job_id, restart - 1, stage, "stopped", step, text))
        return
    text = (
        f"{', '.join(nodes)} was lost" if nodes else "preempted without a warning, or a lost node"
    )
    end = End(job_id, restart - 1, stage, "lost", step, text, nodes)
    verdict = limited(end, before, submitted_config(run_dir).run.max_restarts)
    add_end(run_dir, end)
    if verdict.kind == "gave up":
        raise GaveUpError(verdict.text)


def _nodes_that_are_down(nodes: str) -> list[str]:
    """Return those of some nodes, as in `node[1-2]`, that Slurm cannot use at the moment."""
    try:
        listed = ask("sinfo", "-h", "-N", "-n", nodes, "-t", "down,fail,no_respond", "-o", "%N")
    except SlurmError:  # a container may have no sinfo
        return []
    return sorted(set(listed.split()))


def _ensure_recorded(run_dir: Path, stage: str, job_id: str) -> None:
    """Record this job if `tin submit` was killed before it could do so."""
    if not any(job.id == job_id for job in jobs(run_dir)):
        logs = os.environ.get(LOGS, "")
        name = os.environ.get("SLURM_JOB_NAME", "")
        user = os.environ.get("SLURM_JOB_USER", "")
        add_job(run_dir, SubmittedJob(job_id, stage, "slurm", logs, name=name, user=user))


def _kind(error: Exception) -> NoteKind:
    """Return the kind of note for an error; it decides whether and where the job is requeued."""
    if exit_code(error) == STOPPED:
        return "stopped"
    if isinstance(error, TinError):
        if error.blames_node:
            return "node"
        return "refused" if error.is_final else "failed"
    # These two come from wrong settings or data, so the same job would fail again.
    return "refused" if isinstance(error, (ValueError, FloatingPointError)) else "failed"
