"""`tin logs`: the log files of a run's jobs, of one rank or all, followed or of one attempt."""

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from configs.load import ConfigError
from launch.live_jobs import active
from launch.record import SubmittedJob, jobs
from launch.slurm_query import SlurmError
from tin.runs.folder import Run

ASK_EVERY_S = 5.0
"""Slurm is asked about the jobs at most this often."""
START = re.compile(r"^(?==== job )", re.MULTILINE)
"""Matches before the line that each start of a job begins with."""


def print_logs(run_dir: Path, follow: bool, rank: int | None = 0) -> None:
    """Write the logs of a run's jobs to stdout; with `follow`, continue until the jobs end.

    Args:
        run_dir: folder of the run.
        follow: whether to wait for more.
        rank: the rank whose logs are printed; None for all ranks.

    Raises:
        ConfigError: the run has neither jobs nor a log of `tin train`.
    """
    if not jobs(run_dir) and not Run(run_dir).typed_log.exists():
        raise ConfigError(
            f"{run_dir} has no jobs and no log of `tin train`; `tin submit` and `tin train` start"
            " a run"
        )
    positions: dict[Path, int] = {}
    asked_at = time.monotonic() - ASK_EVERY_S
    is_last = not follow
    while True:
        # Ask before reading: what a job writes before it ends is then read in the last round.
        if follow and time.monotonic() - asked_at >= ASK_EVERY_S:
            asked_at = time.monotonic()
            is_last = not _may_be_active(run_dir)
        _print_typed(run_dir, positions)
        for job in jobs(run_dir):
            for title, log in _logs(job, rank):
                _print_news(title, log, positions)
        sys.stdout.flush()
        if is_last:
            return
        time.sleep(1.0)


def print_attempt(run_dir: Path, attempt: int, rank: int | None = 0) -> None:
    """Write what one start of a run's jobs logged to stdout.

    Args:
        run_dir: folder of the run.
        attempt: number of the start, counted over all jobs, from 1 on.
        rank: the rank whose logs are printed; None for all ranks.

    Raises:
        ConfigError: the run has no jobs, or fewer starts.
    """
    _require_jobs(run_dir)
    number = 0
    for job in jobs(run_dir):
        starts = _starts(job.log_file())
        index = attempt - number - 1
        number += len(starts)
        if not 0 <= index < len(starts):
            continue
        for title, log in _logs(job, rank):
            found = _starts(log)
            if index < len(found):
                sys.stdout.write(f"---- {title}: {log}\n{found[index]}")
        return
    raise ConfigError(f"{run_dir}: found {number} starts of jobs, so there is no attempt {attempt}")


def _require_jobs(run_dir: Path) -> None:
    if not jobs(run_dir):
        raise ConfigError(f"{run_dir} has no jobs; `tin submit` starts some")


def _print_typed(run_dir: Path, positions: dict[Path, int]) -> None:
    """Print what `tin train` logged without a job."""
    _print_news("tin train", Run(run_dir).typed_log, positions)


def _logs(job: SubmittedJob, rank: int | None) -> Iterator[tuple[str, Path]]:
    """Yield the title and the path of each log file of a job that is asked for."""
    title = f"{job.stage}, job {job.id}"
    if rank == 0:
        yield title, job.log_file()
        return
    pattern = f"{job.id}_{'*' if rank is None else rank}_log.err"
    files = {int(file.name.split("_")[-2]): file for file in Path(job.logs).glob(pattern)}
    for number, file in sorted(files.items()):
        yield f"{title}, rank {number}", file


def _starts(log: Path) -> list[str]:
    """Return what each start of a job wrote to a log."""
    if not log.exists():
        return []
    return [part for part in START.split(log.read_text(errors="replace")) if part.strip()]


def _may_be_active(run_dir: Path) -> bool:
    """Return whether a job of a run may still write to its log; True if Slurm does not answer."""
    try:
        return bool(active([run_dir]))
    except SlurmError:
        return True


def _print_news(title: str, log: Path, positions: dict[Path, int]) -> None:
    """Print what a log has gained since its position, under a title the first time."""
    start = positions.get(log, 0)
    if not log.exists() or log.stat().st_size <= start:
        return
    with log.open(errors="replace") as stream:
        stream.seek(start)
        text = stream.read()
        positions[log] = stream.tell()
    sys.stdout.write(text if start else f"---- {title}: {log}\n{text}")
