"""What `tin submit` writes to runs before it submits their jobs, one process at a time."""

import contextlib
import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

from configs.cluster import Cluster
from configs.files import write_bytes, write_text
from configs.load import ConfigError, dump
from configs.schema import Config
from launch.submission.snapshot import snapshot
from tin.runs.folder import Run

log = logging.getLogger(__name__)
LOCK = "submit.lock"
CHANGED = ("recipe.yaml", "cluster.yaml", "jobs.jsonl")
"""Files of `job/` that a submission changes, and that a rejected one must leave as they were."""
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""What a file system answers that has no locks."""


@contextlib.contextmanager
def run_files(
    folder: Path, configs: Mapping[Path, Config], cluster: Cluster, check: Callable[[], None]
) -> Iterator[Path]:
    """Write the files that jobs read, and yield the folder of the code that they run.

    Nobody else submits these runs at the same time. If the block raises an error, all files get
    their earlier content again, and runs that are new are removed.

    Args:
        folder: folder of the run, or of the runs of a sweep.
        configs: settings of each run.
        cluster: settings of the cluster file.
        check: raises an error if the runs must not be submitted now.

    Raises:
        ConfigError: a folder cannot be written.
    """
    # The folder of a sweep gets the settings of its first run, for the stages shard and report.
    all_configs = {folder: next(iter(configs.values())), **configs}
    before: dict[Path, dict[str, bytes]] = {}
    code = new_code_folder(folder)
    with contextlib.ExitStack() as locks:
        try:
            for run_dir in sorted(all_configs):
                with _explained(run_dir):
                    locks.enter_context(_locked(Run(run_dir).job / LOCK))
                    before[run_dir] = _content(Run(run_dir).job)
            check()
            code = new_code_folder(folder)  # whoever had the lock may have taken the number
            for run_dir, config in all_configs.items():
                with _explained(run_dir):
                    write_text(Run(run_dir).recipe, dump(config))
                    write_text(Run(run_dir).job / "cluster.yaml", dump(cluster))
            with _explained(folder):
                snapshot(code)
            yield code
        except BaseException:
            if folder in before:
                shutil.rmtree(code, ignore_errors=True)
            for run_dir, content in before.items():
                _restore(Run(run_dir), content)
            raise


def new_code_folder(folder: Path) -> Path:
    """Return a new folder for the code, since queued and running jobs use the earlier ones."""
    names = [path.name for path in Run(folder).job.glob("code-*")]
    numbers = [int(name.removeprefix("code-")) for name in names]
    return Run(folder).job / f"code-{max(numbers, default=0) + 1:02d}"


@contextlib.contextmanager
def _explained(run_dir: Path) -> Iterator[None]:
    """Turn an OSError into a ConfigError that names the run's folder."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigError(
            f"{run_dir} cannot be written: {reason}. Choose a folder that all nodes share"
            " and that you may write to."
        ) from None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock, which other processes wait for. The system frees it if this process dies."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            _lock(file)
            # A process that held the lock before may have removed the file with its run.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield
                return


def _lock(file: IO[str]) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        log.warning(
            "%s: the file system has no locks; do not submit a run from two places at once",
            file.name,
        )


def _content(job: Path) -> dict[str, bytes]:
    """Return the content of the files that a submission changes; empty for a new run."""
    return {name: (job / name).read_bytes() for name in CHANGED if (job / name).exists()}


def _restore(run: Run, content: Mapping[str, bytes]) -> None:
    """Undo a submission: give the files of a run their earlier content, or remove a new run."""
    with contextlib.suppress(OSError):
        for name in CHANGED:
            file = run.job / name
            if name not in content:
                file.unlink(missing_ok=True)
            elif file.read_bytes() != content[name]:
                write_bytes(file, content[name])
        if not content:
            shutil.rmtree(run.job / "logs", ignore_errors=True)
            # Attempts of a user's own scripts stay, and so does the folder that holds them.
            if {path.name for path in run.job.iterdir()} == {LOCK}:
                (run.job / LOCK).unlink()
                run.job.rmdir()
                run.path.rmdir()
