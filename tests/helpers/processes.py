"""Commands and processes, for slurm_box.py. Only the standard library is used."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path


def alive(pid: int) -> bool:
    """Return whether a process lives; a zombie does not (pid 1 of a container leaves them)."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def stop(pid: int) -> None:
    """End a process politely, then by force."""
    for number, seconds in ((signal.SIGTERM, 5), (signal.SIGKILL, 1)):
        end = time.monotonic() + seconds
        while alive(pid) and time.monotonic() < end:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return
            time.sleep(0.1)


def run(*command: object, check: bool = True, env: dict[str, str] | None = None) -> str:
    """Run a command and return what it printed; its errors become ours."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def spawn(*command: str) -> None:
    """Start a process that outlives this one."""
    null = subprocess.DEVNULL
    subprocess.Popen(command, stdin=null, stdout=null, stderr=null, start_new_session=True)


def which(name: str) -> str | None:
    """Return where a program is, /usr/sbin included."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def wait(what: str, ready: Callable[[], object], box: Path, seconds: float = 120) -> None:
    """Wait until `ready()` is true and raises nothing."""
    end = time.monotonic() + seconds
    problem: object = ""
    while time.monotonic() < end:
        try:
            if ready():
                return
        except RuntimeError as error:
            problem = error
        time.sleep(0.1)
    raise RuntimeError(f"{what}: not there after {seconds:g} s {problem}; see {box}/log")
