"""Tells whether a process is training a run right now, so that a second one does not end it."""

import json
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from configs.errors import USAGE, TinError
from configs.small_files import read_bytes
from tin.runs.folder import Run

DEFAULT_MINUTES = 10.0
"""Age at which a heartbeat is too old if `run.hang_minutes` is 0."""


class AliveError(TinError):
    """Another process trains the run."""

    exit_code = USAGE


@dataclass(frozen=True)
class LivingAttempt:
    """The attempt of a process that is still training a run."""

    number: int
    host: str
    pid: int
    heartbeat_s: float
    """Seconds since the last heartbeat."""


def living_attempt(run: Run) -> LivingAttempt | None:
    """Return the newest attempt if its process is alive; None if it has ended.

    A process on this host is alive if it exists. A process on another host is alive while its
    heartbeat, the time of its attempt file, is younger than `run.hang_minutes`.
    """
    numbers = run.attempts()
    if not numbers or not run.exists():
        return None
    path = run.job / f"attempt-{numbers[-1]:02d}"
    facts = _read(path)
    host = facts.get("host")
    pid = facts.get("pid")
    environment = _read(run.path / f"environment-{numbers[-1]:02d}.json")
    if "ended" in environment or not isinstance(host, str) or not isinstance(pid, int):
        return None
    age_s = time.time() - path.stat().st_mtime
    if host == socket.gethostname():
        is_alive = _exists(pid, float(facts.get("started", 0)))
    else:
        is_alive = age_s < 60 * (run.config().run.hang_minutes or DEFAULT_MINUTES)
    return LivingAttempt(numbers[-1], host, pid, max(age_s, 0.0)) if is_alive else None


def check_not_alive(run: Run) -> None:
    """Check that no other process trains a run.

    Raises:
        AliveError: names the process, and says how to stop it or to take over.
    """
    found = living_attempt(run)
    if found is None:
        return
    raise AliveError(
        f"{run.path} is being trained by process {found.pid} on host {found.host} (attempt"
        f" {found.number}, last heartbeat {found.heartbeat_s:.0f} s ago). Wait until it ends, stop"
        f" it with `tin cancel {run.path}` or, on {found.host}, `kill {found.pid}`, or add"
        " --take-over to end it and resume from its newest checkpoint."
    )


def _exists(pid: int, started: float) -> bool:
    """Return whether a process of this host runs that is not younger than its attempt."""
    try:
        process = psutil.Process(pid)
        is_younger = process.create_time() > started + 2.0  # another process got the number
        return not is_younger and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; nothing if it is missing or cut short."""
    try:
        content = json.loads(read_bytes(path).decode("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
