"""Jobs of this machine: submitit's local executor has neither ranks, an order nor a queue."""

import os
import signal
import time
from pathlib import Path

from launch.record import Note, ends, jobs

REQUEUE = 144  # the local executor starts a job again that leaves with this


def name_ranks() -> None:
    """Give this rank the names that torchrun would give it."""
    env = os.environ
    rank, ranks = env["SUBMITIT_LOCAL_GLOBALID"], env["SUBMITIT_LOCAL_NTASKS"]
    port = 20000 + int(env["SUBMITIT_LOCAL_JOB_ID"]) % 12000
    env.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=ranks, LOCAL_WORLD_SIZE=ranks)
    env.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


def wait_turn(run: Path, job_id: str) -> None:
    """Wait until the jobs before this one have ended.

    Raises:
        RuntimeError: one of them that had to end well did not.
    """
    end = time.monotonic() + 60
    while not (mine := [job for job in jobs(run) if job.id == job_id]):
        if time.monotonic() > end:
            raise RuntimeError(f"{run}: job {job_id} was not recorded; submit it again")
        time.sleep(0.1)
    for word in filter(None, mine[0].after.split(",")):
        kind, *others = word.split(":")
        for other in others:
            while is_alive(other):
                time.sleep(0.5)
            found = [*ends(run), *ends(Path(mine[0].logs).parent.parent)]
            if kind == "afterok" and not any(e.id == other and e.kind == "done" for e in found):
                raise RuntimeError(f"job {other} did not end well, so {mine[0].stage} is left out")


def is_out_of_time(note: Note) -> bool:
    """Return whether a local job was stopped by its time limit and must start again."""
    return os.environ["SUBMITIT_EXECUTOR"] == "local" and note.signal == signal.SIGUSR2.name


def is_alive(job_id: str) -> bool:
    """Return whether the process of a local job still runs."""
    try:
        command = Path(f"/proc/{int(job_id)}/cmdline").read_bytes()
    except (OSError, ValueError):
        return False
    return b"submitit" in command


def stop(job_id: str) -> None:
    """Tell a local job to save and to leave."""
    words = Path(f"/proc/{job_id}/cmdline").read_bytes().split(b"\0")
    children = Path(f"/proc/{job_id}/task/{job_id}/children").read_text().split()
    for process in children if words[1] == b"-c" else [job_id]:  # a shell hands nothing on
        os.kill(int(process), signal.SIGTERM)
