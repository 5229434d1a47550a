"""Commands and processes, for slurm_box.py."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

LONGEST_S = 900.0
"""No command takes longer, not even the installation of packages on a busy machine."""


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not (pid 1 of a container may leave zombies)."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stop(pid: int) -> None:
    """End a process with SIGTERM and, if it does not exit, with SIGKILL."""
    for number, seconds in ((signal.SIGTERM, 5), (signal.SIGKILL, 1)):
        end = time.monotonic() + seconds
        while is_alive(pid) and time.monotonic() < end:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return
            time.sleep(0.1)


def run_command(*command: object, check: bool = True, env: dict[str, str] | None = None) -> str:
    """Run a command and return what it prints.

    Raises:
        RuntimeError: the command failed, and `check` is set, or it took longer than `LONGEST_S`;
            holds what the command printed.
    """
    words = [str(word) for word in command]
    null = subprocess.DEVNULL
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, env=env, stdin=null, timeout=LONGEST_S
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{' '.join(words)}: {error}") from None
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def spawn(*command: str) -> None:
    """Start a process that outlives this one."""
    null = subprocess.DEVNULL
    subprocess.Popen(command, stdin=null, stdout=null, stderr=null, start_new_session=True)


def which(name: str) -> str | None:
    """Return the path of a program, which may lie in /usr/sbin or /sbin."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def wait(what: str, ready: Callable[[], object], box: Path, seconds: float = 120) -> None:
    """Wait until `ready()` is true and raises no RuntimeError.

    Raises:
        RuntimeError: this took too long; holds the last error of `ready()`.
    """
    end = time.monotonic() + seconds
    problem: object = "no error"
    while time.monotonic() < end:
        try:
            if ready():
                return
        except RuntimeError as error:
            problem = error
        time.sleep(0.1)
    raise RuntimeError(f"{what}: not ready after {seconds:g} s ({problem}); see {box}/log")
