"""A stage as a job: what a rank does from its start to its exit code, whatever executor runs it."""

import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from configs.errors import STOPPED, TinError
from launch.errors import exit_code, explain, set_up_libraries, set_up_logging
from launch.jobs.give_up import limited
from launch.jobs.srun_log import lost_nodes, start_before
from launch.jobs.stages import RUN_STAGE, submitted_config
from launch.local import REQUEUE, is_out_of_time, name_ranks, wait_turn
from launch.record import End, Note, NoteKind, add_end, ends, jobs, place, progress, write_note

log = logging.getLogger(__name__)
SIGNALS = (signal.SIGUSR2, signal.SIGTERM)


class GaveUpError(TinError):
    """The stage has failed too often."""

    is_final = True


@dataclass(frozen=True)
class StageJob:
    """All that is pickled for a job: the name of a stage and the folder of a run."""

    stage: str
    run: str

    def __call__(self) -> None:
        """Run the stage; leave with the exit code that says how it ended.

        Signals before and after training end the process at once: nothing is lost then. Inside,
        `tin.training.trainer` takes them to the end of a step.
        """
        set_up_libraries()
        run, stage = Path(self.run), self.stage
        if place()[0] == "debug":
            RUN_STAGE[stage.partition(":")[0]](run, stage)
            return
        code = _guarded(run, stage)
        logging.shutdown()
        os._exit(code)  # a clean-up of libraries must not turn a success into a failure


def _guarded(run: Path, stage: str) -> int:
    job_id, restart, rank = place()
    try:
        set_up_logging(rank)
        for number in SIGNALS:
            signal.signal(number, _leave(run, job_id, restart, rank))
        if os.environ["SUBMITIT_EXECUTOR"] == "local":
            name_ranks()
            wait_turn(run, job_id)
        ended = _ended(run, stage, job_id)
        if ended:
            log.info("%s: %s already%s", stage, ended.kind, f", {ended.text}" * bool(ended.text))
            return 0 if ended.kind == "done" else 1
        if rank == 0:
            _note_loss(run, stage, job_id, restart)
        RUN_STAGE[stage.partition(":")[0]](run, stage)
    except Exception as error:
        code = exit_code(error)
        name = error.signal if isinstance(error, TinError) else ""
        note = Note(_kind(error), explain(error), rank, signal=name)
        write_note(run, job_id, restart, note)
        if note.kind == "stopped":
            log.info("%s", note.text)
        else:
            log.error("%s: %s", note.kind, note.text, exc_info=True)
        return REQUEUE if code == STOPPED and is_out_of_time(note) else code
    if rank == 0:
        add_end(run, End(job_id, restart, stage, "done", progress(run)))
    return 0


def _ended(run: Path, stage: str, job_id: str) -> End | None:
    """Return how an earlier job of the same submission completed the stage, or gave it up."""
    submitted = [job.submitted for job in jobs(run) if job.id == job_id]
    final = [
        end
        for end in ends(run)
        if end.stage == stage
        and end.kind in ("done", "gave up")
        and submitted
        and end.time > submitted[0]
    ]
    return final[-1] if final else None


def _leave(
    run: Path, job_id: str, restart: int, rank: int
) -> Callable[[int, FrameType | None], None]:
    def leave(number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        text = f"{name}, with no step under way"
        write_note(run, job_id, restart, Note("stopped", text, rank, signal=name))
        os._exit(STOPPED)

    return leave


def _note_loss(run: Path, stage: str, job_id: str, restart: int) -> None:
    """Remember an execution that Slurm put back into the queue and that could say nothing."""
    if not restart or any((end.id, end.restart) == (job_id, restart - 1) for end in ends(run)):
        return
    log_files = [job.log_file() for job in jobs(run) if job.id == job_id]
    nodes = lost_nodes(start_before(log_files[0])) if log_files else []
    text = (
        f"{', '.join(nodes)} was lost" if nodes else "preempted without a warning, or a lost node"
    )
    end = End(job_id, restart - 1, stage, "lost", progress(run), text, nodes)
    verdict = limited(end, ends(run), submitted_config(run).run.max_restarts)
    add_end(run, end)
    if verdict.kind != end.kind:
        raise GaveUpError(verdict.text)


def _kind(error: Exception) -> NoteKind:
    if exit_code(error) == STOPPED:
        return "stopped"
    if isinstance(error, TinError):
        return "node" if error.blames_node else "refused" if error.is_final else "failed"
    return "refused" if isinstance(error, (ValueError, FloatingPointError)) else "failed"
