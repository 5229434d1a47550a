"""After a job that failed or was stopped: find the reason, and requeue the job if that can help.

The batch script runs `python -m launch.jobs.requeue LOGS EXIT_CODE` when srun fails, and exits with
the exit code of this process. The reason comes from the notes of the ranks, the stacks that ranks
write in a hang, and srun's messages in the log.
"""

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from submitit.core.utils import DelayedSubmission, JobPaths

from configs.errors import STOPPED
from launch.errors import ASK
from launch.jobs.give_up import limited
from launch.jobs.job import StageJob
from launch.jobs.srun_log import Message, last_start, rank_messages
from launch.jobs.stages import submitted_cluster, submitted_config
from launch.record import End, Note, Outcome, add_end, ends, jobs, place, progress, read_notes
from launch.slurm_query import SlurmError, ask, queued
from tin.runs.folder import Run

PAUSES_S = (2.0, 10.0, 30.0)
BUSY = re.compile("contact|timed out|connect", re.IGNORECASE)
"""Matches what Slurm's commands print when its controller is busy; no exit code tells it apart."""
HANG_WINDOW_S = 4.0
"""Ranks that wait for a rank that hangs notice it within this time of each other."""


class Verdict(NamedTuple):
    """How a job ended, and why."""

    kind: Outcome
    text: str
    nodes: list[str]
    """Nodes that are to blame."""


def main(logs: str, exit_code: str) -> int:
    """Record how the job ended, requeue it if that can help, and return its exit code.

    Args:
        logs: folder of the job's pickles and log files.
        exit_code: exit code of srun.
    """
    # A requeue sends SIGTERM to this process too, before it has finished.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    job_id, restart, _ = place()
    paths = JobPaths(logs, job_id=job_id)
    job = DelayedSubmission.load(paths.submitted_pickle).function
    assert isinstance(job, StageJob)
    run_dir = Path(job.run_dir)
    if any((end.id, end.restart, end.kind) == (job_id, restart, "done") for end in ends(run_dir)):
        return 0  # the stage was complete, and a rank failed only while it exited
    end = _record_end(run_dir, job.stage, last_start(paths.stderr))
    cluster = submitted_cluster(run_dir, job.stage)
    reason = f"{job.stage}: {end.text}"
    if end.kind == "gave up":
        _print(f"{reason}; the job is not requeued")
        return int(exit_code)
    if cluster.chain:
        _print(f"{reason}; {_rest_of_chain(run_dir, end)}")
        return int(exit_code)
    if not shutil.which("scontrol"):  # in a container: the batch script requeues
        _print(f"{reason}; requeued")
        return ASK
    avoid = _nodes_to_exclude(cluster.exclude, ends(run_dir), paths.submission_file)
    return _requeue(end, avoid) or int(exit_code)


def judge(notes: Sequence[Note], messages: Sequence[Message], stacks: Sequence[Path]) -> Verdict:
    """Return how a job ended (`gave up`, `failed` or `stopped`), why, and the nodes to blame.

    Args:
        notes: notes of the ranks.
        messages: srun's messages about ranks, in the order in which the ranks ended.
        stacks: stack files of the ranks that noticed a hang, in the order of their writing.
    """
    # An error that would come again on every restart outweighs everything else.
    for note in notes:
        if note.kind == "refused":
            return Verdict("gave up", note.text, [])
    # A node that fails its check ends the job on all nodes.
    node_notes = [note for note in notes if note.kind == "node"]
    if node_notes:
        return Verdict("failed", node_notes[0].text, sorted({note.node for note in node_notes}))
    if stacks:
        hung = _hung_nodes(messages, stacks)
        who = f", {', '.join(hung)} did not answer" if hung else ""
        text = f"no step for too long{who}: see {stacks[0].parent}/stacks-*"
        return Verdict("failed", text, hung)
    # The ranks that ended first know the reason; the others ended because of them.
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
        return Verdict("failed", text, [node])
    return Verdict("failed", "srun failed, and no rank left a note", [])


def _record_end(run_dir: Path, stage: str, log: str) -> End:
    """Record and return how this execution of the job ended."""
    job_id, restart, _ = place()
    notes = read_notes(run_dir, job_id, restart)
    verdict = judge(notes, rank_messages(log), _stacks(run_dir))
    end = End(
        job_id,
        restart,
        stage,
        verdict.kind,
        progress(run_dir),
        verdict.text,
        verdict.nodes,
    )
    end = limited(end, ends(run_dir), submitted_config(run_dir).run.max_restarts)
    add_end(run_dir, end)
    return end


def _rest_of_chain(run_dir: Path, end: End) -> str:
    others = [job.id for job in jobs(run_dir) if job.stage == end.stage and job.id != end.id]
    try:
        has_next = bool(queued(others))
    except SlurmError:
        has_next = True
    if has_next:
        return "the next job of the chain resumes"
    return "this was the last job of the chain: submit again"


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
        if _ask_patiently("squeue", "-h", "-j", end.id, "-o", "%T").strip() != "RUNNING":
            return STOPPED  # the job was cancelled, or Slurm has requeued it already
        _ask_patiently("scontrol", "requeue", end.id)
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
    """Ask Slurm again while it is only busy, because a job that is not requeued is lost."""
    for pause_s in PAUSES_S:
        try:
            return ask(*command)
        except SlurmError as error:
            if not BUSY.search(str(error)):
                raise
            time.sleep(pause_s)
    return ask(*command)


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
    sys.stderr.write(f"tin: {text}\n")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
