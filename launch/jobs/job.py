"""A job that runs one stage: what a rank does from its start to its exit code.

This is the same for all executors. `tin submit` pickles a `StageJob`, and submitit calls it.
"""

import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import submitit

from configs.errors import STOPPED, TinError
from launch.errors import exit_code, explain, set_up_libraries, set_up_logging
from launch.jobs.give_up import limited
from launch.jobs.srun_log import lost_nodes, start_before
from launch.jobs.stages import run_stage, submitted_config
from launch.local import REQUEUE, is_out_of_time, name_ranks, wait_turn
from launch.record import End, Note, NoteKind, add_end, ends, jobs, place, progress, write_note

log = logging.getLogger(__name__)
SIGNALS = (signal.SIGUSR2, signal.SIGTERM)


class GaveUpError(TinError):
    """The stage has failed too often."""

    is_final = True


@dataclass(frozen=True)
class StageJob:
    """What is pickled for a job: the name of a stage and the folder of a run."""

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
        add_end(run_dir, End(job_id, restart, stage, "done", progress(run_dir)))
    return 0


def _exit_code_after(error: Exception, run_dir: Path) -> int:
    """Write a note about the error that ended this rank, log it, and return the exit code."""
    job_id, restart, rank = place()
    code = exit_code(error)
    received = error.signal if isinstance(error, TinError) else ""
    note = Note(_kind(error), explain(error), rank, signal=received)
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
    nodes = lost_nodes(start_before(log_files[0])) if log_files else []
    text = (
        f"{', '.join(nodes)} was lost" if nodes else "preempted without a warning, or a lost node"
    )
    end = End(job_id, restart - 1, stage, "lost", progress(run_dir), text, nodes)
    verdict = limited(end, before, submitted_config(run_dir).run.max_restarts)
    add_end(run_dir, end)
    if verdict.kind == "gave up":
        raise GaveUpError(verdict.text)


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
