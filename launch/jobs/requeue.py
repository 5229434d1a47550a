"""After a job that failed or was stopped: find the reason, and requeue the job if that can help.

The batch script runs `python -m launch.jobs.requeue TASKS EXIT_CODE SECONDS` when srun fails, and
exits with the exit code of this process. The reason comes from the notes of the ranks, the stacks
that ranks write in a hang, and srun's messages in the log.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from configs.cluster import Cluster
from configs.errors import STOPPED
from launch.errors import ASK
from launch.jobs.give_up import limited
from launch.jobs.job import LOGS, load_task
from launch.jobs.srun_log import Message, is_out_of_memory, last_start, rank_messages
from launch.jobs.stages import submitted_cluster, submitted_config
from launch.record import End, Note, Outcome, add_end, ends, jobs, place, progress, read_notes
from launch.slurm_query import BusyError, SlurmError, ask, is_preempted, queued
from tin.runs.folder import Run

PATIENCE_S = 900.0
"""How long a job waits for a controller of Slurm that does not answer; then it is lost."""
PAUSE_S = 5.0
SIGNAL_EARLY_S = 60
"""Slurm may send the signal before the time limit this much earlier than it was told to."""
SUBMIT_AGAIN = "submit it again with `tin submit {} --run {}`"
OUT_OF_MEMORY = "a rank used more memory than mem_gb allows: raise mem_gb in the cluster file"
HANG_WINDOW_S = 4.0
"""Ranks that wait for a rank that hangs notice it within this time of each other."""


class Verdict(NamedTuple):
    """How a job ended, and why."""

    kind: Outcome
    text: str
    nodes: list[str]
    """Nodes that are to blame."""


def main(tasks: str, exit_code: str, seconds: str) -> int:
    """Record how the job ended, requeue it if that can help, and return its exit code.

    Args:
        tasks: path of the files of the submission, see `launch.jobs.job.load_task`.
        exit_code: exit code of srun.
        seconds: how long the job has run.
    """
    # A requeue sends SIGTERM to this process too, before it has finished.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    job_id, restart, _ = place()
    job = load_task(tasks)
    run_dir = Path(job.run_dir)
    if any((end.id, end.restart, end.kind) == (job_id, restart, "done") for end in ends(run_dir)):
        return 0  # the stage was complete, and a rank failed only while it exited
    cluster = submitted_cluster(run_dir, job.stage)
    log = last_start(Path(os.environ[LOGS], f"{job_id}_0_log.err"))
    end = _record_end(run_dir, job.stage, log, _is_limit_near(cluster, int(seconds), job_id))
    reason = f"{job.stage}: {end.text}"
    if end.kind == "gave up":
        _print(f"{reason}; the job is not requeued")
        return int(exit_code)
    if cluster.chain:
        _print(f"{reason}; {_rest_of_chain(run_dir, end)}")
        return int(exit_code)
    if not shutil.which("scontrol"):  # in a container: the batch script requeues
        _print(f"{reason}; the batch script requeues the job")
        return ASK
    avoid = _nodes_to_exclude(cluster.exclude, ends(run_dir), Path(f"{tasks}.sh"))
    return _requeue(end, avoid) or int(exit_code)


def judge(
    notes: Sequence[Note],
    messages: Sequence[Message],
    stacks: Sequence[Path],
    *,
    out_of_memory: bool = False,
) -> Verdict:
    """Return how a job ended (`gave up`, `failed` or `stopped`), why, and the nodes to blame.

    Args:
        notes: notes of the ranks.
        messages: srun's messages about ranks, in the order in which the ranks ended.
        stacks: stack files of the ranks that noticed a hang, in the order of their writing.
        out_of_memory: whether Slurm killed a process because of its memory.
    """
    # An error that would come again on every restart outweighs everything else.
    for note in notes:
        if note.kind == "refused":
            return Verdict("gave up", note.text, [])
    if out_of_memory:  # any node would have killed it
        return Verdict("failed", OUT_OF_MEMORY, [])
    # A node that fails its check ends the job on all nodes.
    node_notes = [note for note in notes if note.kind == "node"]
    if node_notes:
        return Verdict("failed", node_notes[0].text, sorted({note.node for note in node_notes}))
    if stacks:
        hung = _hung_nodes(messages, stacks)
        who = f", {', '.join(hung)} did not answer" if hung else ""
        text = f"no step for too long{who}: see {stacks[0].parent}/stacks-*"
        return Verdict("failed", text, hung)
    stop = _stop(notes, messages)
    return stop or _failure(notes, messages)


def _stop(notes: Sequence[Note], messages: Sequence[Message]) -> Verdict | None:
    """Return the verdict about a job that a signal stopped; None if something else ended it."""
    # Only Slurm and people send SIGUSR2. A rank that fails because another one has left for it,
    # in the middle of a rendezvous for example, does not change that.
    for note in notes:
        if note.signal == signal.SIGUSR2.name:
            return Verdict("stopped", note.text, [])
    if not messages:
        return None
    # srun sends SIGTERM to the other ranks after one has failed, so the first rank decides.
    first = messages[0]
    with_note = [note for note in notes if note.rank in first.ranks]
    if not with_note and first.is_stop:
        return Verdict("stopped", f"stopped by a signal before the stage began: {first.reason}", [])
    earliest = min(notes, key=lambda note: (note.time, note.kind == "stopped"), default=None)
    if with_note and earliest and earliest.kind == "stopped":
        return Verdict("stopped", earliest.text, [])
    return None


def _failure(notes: Sequence[Note], messages: Sequence[Message]) -> Verdict:
    """Return the verdict about a job that failed: what the ranks know that ended first."""
    first_ranks = messages[0].ranks if messages else {note.rank for note in notes}
    first_notes = [note for note in notes if note.rank in first_ranks]
    if first_notes:
        note = first_notes[0]
        is_clear = note.kind == "stopped" or note.node in note.text
        text = note.text if is_clear else f"{note.node}: {note.text}"
        return Verdict("stopped" if note.kind == "stopped" else "failed", text, [])
    if messages:  # a rank died without a note: killed, or a crash in native code
        node = messages[0].node
        text = f"rank {min(first_ranks)} on {node}: {messages[0].reason}"
        # A process that exits by itself, because its disk is full for example, is not killed by
        # a broken node.
        return Verdict("failed", text, [] if messages[0].is_exit else [node])
    return Verdict("failed", "srun failed, and no rank left a note", [])


def _record_end(run_dir: Path, stage: str, log: str, is_limit_near: bool) -> End:
    """Record and return how this execution of the job ended."""
    job_id, restart, _ = place()
    notes = read_notes(run_dir, job_id, restart)
    out_of_memory = is_out_of_memory(log)
    verdict = judge(notes, rank_messages(log), _stacks(run_dir), out_of_memory=out_of_memory)
    end = End(
        job_id,
        restart,
        stage,
        verdict.kind,
        progress(run_dir),
        verdict.text,
        verdict.nodes,
        at_limit=is_limit_near and verdict.kind == "stopped",
    )
    max_restarts = submitted_config(run_dir).run.max_restarts
    end = limited(end, ends(run_dir), max_restarts)
    try:
        add_end(run_dir, end)
    except OSError as error:
        # The job is requeued: its next start may find space. `limited` cannot count an end that is
        # not recorded, so the number of starts takes its place.
        _print(f"{stage}: the end could not be recorded: {error}")
        if restart >= max_restarts:
            return replace(end, kind="gave up", text=f"{restart} restarts, {error}", nodes=[])
    return end


def _is_limit_near(cluster: Cluster, seconds: int, job_id: str) -> bool:
    """Return whether a signal at this time of the job comes from its time limit."""
    warned = 60 * cluster.time_min - cluster.signal_s - SIGNAL_EARLY_S
    if seconds < warned:
        return False
    try:
        return not is_preempted(job_id)
    except SlurmError:  # a container may have no scontrol
        return True


def _rest_of_chain(run_dir: Path, end: End) -> str:
    others = [job for job in jobs(run_dir) if job.stage == end.stage and job.id != end.id]
    try:
        has_next = bool(queued(others))
    except SlurmError:
        has_next = True
    if has_next:
        return "the next job of the chain resumes"
    return f"this was the last job of the chain: {SUBMIT_AGAIN.format(end.stage, run_dir)}"


def _nodes_to_exclude(excluded: str, all_ends: Sequence[End], script: Path) -> str:
    """Return the nodes to exclude: those that failed, as far as the job can run without them.

    If it cannot run without all of them, only the last one is excluded; if that is impossible too,
    the result is empty.

    Args:
        excluded: nodes that the cluster file excludes.
        all_ends: how the jobs of the run ended, with the nodes to blame.
        script: batch script of the job; sbatch tells whether it could run.
    """
    failed = list(dict.fromkeys(node for end in reversed(all_ends) for node in end.nodes))
    for candidates in (failed, failed[:1]):
        if not candidates:
            continue
        nodes = ",".join([excluded, *candidates] if excluded else candidates)
        command = ["sbatch", "--test-only", f"--exclude={nodes}", str(script)]
        if subprocess.run(command, capture_output=True).returncode == 0:
            return nodes
    return ""


def _requeue(end: End, avoid: str) -> int:
    """Requeue the job, away from some nodes; return STOPPED, or 0 if Slurm does not allow it."""
    try:
        state = _ask_patiently("squeue", "-h", "-j", end.id, "-o", "%T").strip()
        if state != "RUNNING":
            return STOPPED  # the job was cancelled, or Slurm has requeued it already
        _ask_patiently("scontrol", "requeue", end.id)
    except BusyError as error:
        _print(f"{end.stage}: {end.text}; {error}; submit the stage again")
        return 0
    except SlurmError as error:
        _print(f"{end.stage}: {end.text}; {error}; set `restart: chain:4` in the cluster file")
        return 0
    where = f", away from {avoid}" if avoid else ""
    _print(f"{end.stage}: {end.text}; requeued{where}")
    if avoid:  # Slurm accepts this change only for a queued job, which this one is now
        command = ["scontrol", "update", f"JobId={end.id}", f"ExcNodeList={avoid}"]
        subprocess.run(command, capture_output=True)
    return STOPPED


def _ask_patiently(*command: str) -> str:
    """Ask Slurm again while it does not answer, because a job that is not requeued is lost."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask(*command)
        except BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(PAUSE_S)


def _stacks(run_dir: Path) -> list[Path]:
    """Return the stack files that ranks wrote since the last end, in the order of writing."""
    since = max((end.time for end in ends(run_dir)), default=0.0)
    times = {file: file.stat().st_mtime for file in Run(run_dir).job.glob("stacks-*-rank*.txt")}
    return sorted((file for file in times if times[file] > since), key=lambda file: times[file])


def _hung_nodes(messages: Sequence[Message], stacks: Sequence[Path]) -> list[str]:
    """Return the nodes with a rank that did not notice the hang in time, so it hung itself."""
    first = stacks[0].stat().st_mtime
    in_time = [file for file in stacks if file.stat().st_mtime < first + HANG_WINDOW_S]
    ranks = {int(re.findall(r"rank(\d+)", file.name)[0]) for file in in_time}
    return sorted({message.node for message in messages if message.ranks - ranks})


def _print(text: str) -> None:
    """Write to the job's log, whose disk may be full: that must not prevent a requeue."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"tin: {text}\n")
        sys.stderr.flush()


if __name__ == "__main__":
    # sys.exit would report a failure if it could not flush stderr to a full disk.
    os._exit(main(*sys.argv[1:]))
