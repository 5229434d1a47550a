"""After a job that did not end well: what went wrong, and whether it goes back to the queue.

The batch script runs `python -m launch.after LOGS EXIT_CODE` when srun has failed; the exit code of
this process is the job's. It knows from the ranks' notes, the stacks of a hang and srun's messages
what happened.
"""

import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from submitit.core.utils import DelayedSubmission, JobPaths

from configs.cluster import Cluster, for_stage
from launch.errors import STOPPED
from launch.queue import SlurmError, ask
from launch.record import End, Note, add_end, ends, notes, place, progress
from launch.stages import submitted_cluster, submitted_config
from tin.run import Run

NO_PROGRESS = 3  # failures with no step between that end a run
SRUN = re.compile(r"^srun: error: (\S+): tasks? ([\d,-]+): (.+)$", re.MULTILINE)
STACKS = "stacks-{attempt:02d}-rank*.txt"  # tin.health writes them


def main(logs: str, exit_code: str) -> int:
    """Decide, do it, and return the exit code of the job."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a requeue ends this process too, but not yet
    job_id, restart, _ = place()
    job = DelayedSubmission.load(JobPaths(logs, job_id=job_id).submitted_pickle).function
    run = Path(job.run)
    if any((end.id, end.restart, end.kind) == (job_id, restart, "done") for end in ends(run)):
        return 0  # the stage was complete, and a rank failed while it left
    messages = _messages(JobPaths(logs, job_id=job_id).stderr)
    cluster = for_stage(
        submitted_cluster(run), job.stage.partition(":")[0].replace("merge", "shard")
    )
    kind, text, nodes = judge(notes(run, job_id, restart), messages, _stacks(run))
    end = End(job_id, restart, job.stage, kind, progress(run), text, nodes)
    end = _limited(end, ends(run), submitted_config(run).run.max_restarts)
    add_end(run, end)
    if end.kind == "gave up":
        _say(f"{job.stage}: {end.text}; it does not go back to the queue")
        return int(exit_code)
    if cluster.chain:
        _say(f"{job.stage}: {end.text}; the next job of the chain goes on")
        return int(exit_code)
    return _requeue(end, _avoid(cluster, ends(run))) or int(exit_code)


def judge(
    said: Sequence[Note], messages: Sequence[tuple[str, str, str]], stacks: Sequence[Path]
) -> tuple[str, str, list[str]]:
    """Return how a job ended: `gave up`, `failed` or `stopped`, why, and the nodes to blame.

    Args:
        said: notes of the ranks.
        messages: node, ranks and words of srun's messages, in their order.
        stacks: files of ranks that saw a hang.
    """
    for note in said:
        if note.kind == "refused":
            return "gave up", note.text, []
    unfit = [note for note in said if note.kind == "node"]
    if unfit:
        return "failed", unfit[0].text, sorted({note.node for note in unfit})
    if stacks:
        quiet = _quiet(messages, stacks)
        who = f", nothing came from {', '.join(quiet)}" if quiet else ""
        return "failed", f"no step for too long{who}: {stacks[0].parent}/stacks-*", quiet
    spoke = {note.rank for note in said}
    if messages and not spoke & _ranks(messages[0][1]):
        node, ranks, words = messages[0]
        return "failed", f"rank {ranks} on {node}: {words}", [node]
    failed = [note for note in said if note.kind == "failed"]
    stopped = [note for note in said if note.kind == "stopped"]
    if stopped:
        return "stopped", stopped[0].text, []
    if failed:
        return "failed", f"rank {failed[0].rank} on {failed[0].node}: {failed[0].text}", []
    return "failed", "srun failed without a word of any rank", []


def _limited(end: End, before: Sequence[End], max_restarts: int) -> End:
    """Return `end`, turned into `gave up` where failures are too many."""
    if end.kind != "failed":
        return end
    same = [other for other in before if other.stage == end.stage]
    last_done = max(
        (i for i, other in enumerate(same) if other.kind in ("done", "gave up")), default=-1
    )
    same = [*same[last_done + 1 :], end]
    recent = same[-NO_PROGRESS:]
    stuck = len(recent) == NO_PROGRESS and all(
        other.kind in ("failed", "lost") and other.step == end.step for other in recent
    )
    failures = sum(other.kind in ("failed", "lost") for other in same)
    if stuck:
        reason = f"{NO_PROGRESS} failures with no step between"
    elif failures > max_restarts:
        reason = f"{failures} failures, and run.max_restarts is {max_restarts}"
    else:
        return end
    return End(end.id, end.restart, end.stage, "gave up", end.step, f"{reason}: {end.text}")


def _avoid(cluster: Cluster, all_ends: Sequence[End]) -> list[str]:
    """Return nodes that failed, latest first, as many as the cluster can spare."""
    failed = list(dict.fromkeys(node for end in reversed(all_ends) for node in end.nodes))
    command = ["sinfo", "-h", "-N", "-o", "%N"]
    if cluster.partition:
        command += ["-p", cluster.partition]
    spare = len(set(ask(*command).split())) - cluster.nodes
    excluded = [name for name in cluster.exclude.split(",") if name]
    return [*excluded, *failed[: max(spare - len(excluded), 0)]]


def _requeue(end: End, avoid: Sequence[str]) -> int:
    """Put the job back into the queue; return STOPPED, or 0 if Slurm refuses."""
    if ask("squeue", "-h", "-j", end.id, "-o", "%T").strip() != "RUNNING":
        return STOPPED  # it was cancelled, or Slurm has requeued it already
    try:
        ask("scontrol", "requeue", end.id)
    except SlurmError as error:
        _say(f"{end.stage}: {end.text}; {error}; set `restart: chain:4` in the cluster file")
        return 0
    where = f", away from {','.join(avoid)}" if avoid else ""
    _say(f"{end.stage}: {end.text}; back to the queue{where}")
    if avoid:  # only a job that waits takes this, and this one does now
        words = ["scontrol", "update", f"JobId={end.id}", f"ExcNodeList={','.join(avoid)}"]
        subprocess.run(words, capture_output=True)
    return STOPPED


def _messages(log: Path) -> list[tuple[str, str, str]]:
    """Return node, ranks and words of srun's messages since the last start."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return SRUN.findall(text.rpartition("\n=== job ")[2])


def _stacks(run: Path) -> list[Path]:
    attempts = Run(run).attempts()
    return sorted(Run(run).job.glob(STACKS.format(attempt=attempts[-1]))) if attempts else []


def _quiet(messages: Sequence[tuple[str, str, str]], stacks: Sequence[Path]) -> list[str]:
    """Return nodes with a rank that saw no hang: it was the one that hung."""
    saw = {int(re.findall(r"rank(\d+)", file.name)[0]) for file in stacks}
    return sorted({node for node, ranks, _ in messages if _ranks(ranks) - saw})


def _ranks(text: str) -> set[int]:
    found = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def _say(text: str) -> None:
    sys.stderr.write(f"tin: {text}\n")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
