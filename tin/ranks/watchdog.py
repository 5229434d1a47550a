"""A watchdog thread: it ends a rank that makes no progress, and keeps the heartbeat of the run."""

import contextlib
import faulthandler
import logging
import os
import threading
import time
from pathlib import Path
from types import TracebackType

from configs.node import node_name

log = logging.getLogger(__name__)
HUNG = 70  # exit code of a rank that hangs
FIRST_STEP_S = 600.0  # the first step may compile the model and fill caches
CHECK_S = 5.0  # between two looks at the time of the last step, or less for a short limit
HEARTBEAT_S = 20.0  # between two heartbeats
GRACE_S = 5.0  # time for the other ranks to write their stacks


class Watchdog:
    """Ends this rank if no step completes for a while, after writing the stacks of its threads.

    When one rank hangs, all others wait for it. Each rank therefore writes its own
    `job/stacks-<attempt>-rank<rank>.txt` and exits. The rank that caused the hang may be the one
    without a file, because it may be unable to run its watchdog.

    Time in which the whole process was stopped does not count, for example while Slurm suspends the
    job or after Ctrl-Z.

    While steps complete, rank 0 renews the time of `job/attempt-<attempt>`: the heartbeat that
    `tin.runs.living` reads.
    """

    def __init__(self, job: Path, attempt: int, rank: int, minutes: float):
        """Set the time limit of a step to `minutes`; 0 turns the watchdog off."""
        self._file = job / f"stacks-{attempt:02d}-rank{rank}.txt"
        self._attempt_file = job / f"attempt-{attempt:02d}" if rank == 0 else None
        self._last_heartbeat = time.monotonic()
        self._limit_s = 60 * minutes
        self._allowed_s = max(self._limit_s, FIRST_STEP_S)
        self._last_beat = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._last_beat = time.monotonic()
        self._last_heartbeat = self._last_beat
        self._thread.start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()

    def beat(self) -> None:
        """Report that a step is complete."""
        self._last_beat = time.monotonic()
        self._allowed_s = self._limit_s

    def _watch(self) -> None:
        interval_s = min(self._limit_s / 10, CHECK_S) if self._limit_s else CHECK_S
        looked = time.monotonic()
        beat = self._last_beat
        idle_s = 0.0
        while not self._stopped.wait(interval_s):
            now = time.monotonic()
            has_news = self._last_beat != beat
            beat = self._last_beat
            # In most of a wait that took much longer, this thread could not run.
            waited_s = min(now - looked, 2 * interval_s)
            idle_s = min(now - beat, waited_s) if has_news else idle_s + waited_s
            looked = now
            self._renew_heartbeat()
            if self._limit_s and idle_s > self._allowed_s:
                self._exit()

    def _renew_heartbeat(self) -> None:
        """Renew the time of the attempt file if steps have completed since the last time."""
        has_news = self._last_beat > self._last_heartbeat
        is_due = time.monotonic() - self._last_heartbeat > HEARTBEAT_S
        if self._attempt_file and has_news and is_due:
            self._last_heartbeat = time.monotonic()
            with contextlib.suppress(OSError):  # a heartbeat less is no reason to fail
                os.utime(self._attempt_file)

    def _exit(self) -> None:
        seconds = time.monotonic() - self._last_beat
        log.error("no step for %.0f s; writing the stacks of this rank to %s", seconds, self._file)
        with contextlib.suppress(OSError), self._file.open("w") as file:  # the disk may be full
            file.write(f"{node_name()}: no step for {seconds:.0f} s\n")
            file.flush()
            faulthandler.dump_traceback(file)
        time.sleep(GRACE_S)
        os._exit(HUNG)
