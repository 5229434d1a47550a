"""After a job that did not end well: what went wrong, and whether it goes back to the queue.

The batch script runs `python -m launch.jobs.requeue LOGS EXIT_CODE` when srun has failed; the exit
code of this process is the job's. It knows from the ranks' notes, the stacks of a hang and srun's
messages what happened.
"""

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from submitit.core.utils import DelayedSubmission, JobPaths

from configs.cluster import for_stage
from configs.errors import STOPPED
from launch.errors import ASK
from launch.jobs.give_up import limited
from launch.jobs.srun_log import Message, last_start, messages
from launch.jobs.stages import submitted_cluster, submitted_config
from launch.record import End, Note, add_end, ends, jobs, place, progress, read_notes
from launch.slurm_query import SlurmError, ask, queued
from tin.runs.folder import Run

PAUSES_S = (2.0, 10.0, 30.0)
BUSY = re.compile("contact|timed out|connect", re.IGNORECASE)
TOGETHER_S = 4.0  # within which ranks that wait for another one see that it hangs


def main(logs: str, exit_code: str) -> int:
    """Decide, do it, and return the exit code of the job."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a requeue ends this process too, but not yet
    job_id, restart, _ = place()
    paths = JobPaths(logs, job_id=job_id)
    job = DelayedSubmission.load(paths.submitted_pickle).function
    run = Path(job.run)
    if any((end.id, end.restart, end.kind) == (job_id, restart, "done") for end in ends(run)):
        return 0  # the stage was complete, and a rank failed while it left
    said = messages(last_start(paths.stderr))
    cluster = for_stage(
        submitted_cluster(run), job.stage.partition(":")[0].replace("merge", "shard")
    )
    kind, text, nodes = judge(read_notes(run, job_id, restart), said, _stacks(run))
    end = End(job_id, restart, job.stage, kind, progress(run), text, nodes)
    end = limited(end, ends(run), submitted_config(run).run.max_restarts)
    add_end(run, end)
    if end.kind == "gave up":
        _say(f"{job.stage}: {end.text}; it does not go back to the queue")
        return int(exit_code)
    if cluster.chain:
        _say(f"{job.stage}: {end.text}; {_rest_of_chain(run, end)}")
        return int(exit_code)
    if not shutil.which("scontrol"):  # in a container: the batch script does it
        _say(f"{job.stage}: {end.text}; back to the queue")
        return ASK
    avoid = _avoid(cluster.exclude, ends(run), paths.submission_file)
    return _requeue(end, avoid) or int(exit_code)


def judge(
    notes: Sequence[Note], said: Sequence[Message], stacks: Sequence[Path]
) -> tuple[str, str, list[str]]:
    """Return how a job ended: `gave up`, `failed` or `stopped`, why, and the nodes to blame.

    Args:
        notes: of the ranks.
        said: srun's messages.
        stacks: files of ranks that saw a hang, in the order of their writing.
    """
    for note in notes:
        if note.kind == "refused":
            return "gave up", note.text, []
    unfit = [note for note in notes if note.kind == "node"]
    if unfit:
        return "failed", unfit[0].text, sorted({note.node for note in unfit})
    if stacks:
        quiet = _quiet(said, stacks)
        who = f", {', '.join(quiet)} did not answer" if quiet else ""
        return "failed", f"no step for too long{who}: see {stacks[0].parent}/stacks-*", quiet
    first = said[0].ranks if said else {note.rank for note in notes}
    spoke = [note for note in notes if note.rank in first]
    if said and not spoke:
        rank, node = min(first), said[0].node
        return "failed", f"rank {rank} on {node}: {said[0].words}", [node]
    for note in spoke:  # the first rank to leave knows why; those after it only saw it go
        where = "" if note.kind == "stopped" or note.node in note.text else f"{note.node}: "
        return note.kind, where + note.text, []
    return "failed", "srun failed without a word of any rank", []


def _rest_of_chain(run: Path, end: End) -> str:
    others = [job.id for job in jobs(run) if job.stage == end.stage and job.id != end.id]
    try:
        follows = bool(queued(others))
    except SlurmError:
        follows = True
    return "the next job of the chain goes on" if follows else "the chain is used up: submit again"


def _avoid(excluded: str, all_ends: Sequence[End], script: Path) -> str:
    """Return the nodes to stay away from: those that failed, as far as the job can do without.

    Args:
        excluded: what the cluster file excludes.
        all_ends: how jobs of the run ended; they name the nodes.
        script: the job's batch script, with which sbatch is asked.
    """
    failed = list(dict.fromkeys(node for end in reversed(all_ends) for node in end.nodes))
    for some in (failed, failed[:1]):
        nodes = ",".join([*filter(None, [excluded]), *some])
        command = ["sbatch", "--test-only", f"--exclude={nodes}", str(script)]
        if some and subprocess.run(command, capture_output=True).returncode == 0:
            return nodes
    return ""


def _requeue(end: End, avoid: str) -> int:
    """Put the job back into the queue; return STOPPED, or 0 if Slurm refuses."""
    try:
        if _ask_patiently("squeue", "-h", "-j", end.id, "-o", "%T").strip() != "RUNNING":
            return STOPPED  # it was cancelled, or Slurm has requeued it already
        _ask_patiently("scontrol", "requeue", end.id)
    except SlurmError as error:
        _say(f"{end.stage}: {end.text}; {error}; set `restart: chain:4` in the cluster file")
        return 0
    where = f", away from {avoid}" if avoid else ""
    _say(f"{end.stage}: {end.text}; back to the queue{where}")
    if avoid:  # only a job that waits takes this, and this one does now
        words = ["scontrol", "update", f"JobId={end.id}", f"ExcNodeList={avoid}"]
        subprocess.run(words, capture_output=True)
    return STOPPED


def _ask_patiently(*command: str) -> str:
    """Ask again where Slurm is only busy: a job that is not requeued is lost."""
    for pause_s in PAUSES_S:
        try:
            return ask(*command)
        except SlurmError as error:
            if not BUSY.search(str(error)):
                raise
            time.sleep(pause_s)
    return ask(*command)


def _stacks(run: Path) -> list[Path]:
    """Return the stacks that ranks wrote in this start, the first to be written first."""
    since = max((end.time for end in ends(run)), default=0.0)
    found = {file: file.stat().st_mtime for file in Run(run).job.glob("stacks-*-rank*.txt")}
    return sorted((file for file in found if found[file] > since), key=found.get)


def _quiet(said: Sequence[Message], stacks: Sequence[Path]) -> list[str]:
    """Return nodes with a rank that did not see the hang in time: it was the one that hung."""
    first = stacks[0].stat().st_mtime
    saw = {
        int(re.findall(r"rank(\d+)", file.name)[0])
        for file in stacks
        if file.stat().st_mtime < first + TOGETHER_S
    }
    return sorted({message.node for message in said if message.ranks - saw})


def _say(text: str) -> None:
    sys.stderr.write(f"tin: {text}\n")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
