"""A thread that ends a rank which makes no progress, after writing the stacks of its threads."""

import faulthandler
import logging
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType

log = logging.getLogger(__name__)
HUNG = 70  # exit code of a rank that hangs
FIRST_STEP_S = 600.0  # the first step may compile, and fill caches
GRACE_S = 5.0  # for the other ranks to write their stacks


class Watchdog:
    """Ends this rank when it makes no step for a while, after writing the stacks of its threads.

    All ranks wait for one that hangs, so each of them writes `job/stacks-<attempt>-rank<rank>.txt`
    and leaves; the rank that hangs may be the one that wrote nothing.
    """

    def __init__(self, job: Path, attempt: int, rank: int, minutes: float):
        """Watch with a limit of `minutes`; 0 never ends a rank."""
        self._file = job / f"stacks-{attempt:02d}-rank{rank}.txt"
        self._limit_s, self._allowed_s = 60 * minutes, max(60 * minutes, FIRST_STEP_S)
        self._last, self._over = time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._last = time.monotonic()
        if self._limit_s:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()

    def beat(self) -> None:
        """Say that a step has been done."""
        self._last, self._allowed_s = time.monotonic(), self._limit_s

    def _watch(self) -> None:
        while not self._over.wait(min(self._limit_s / 10, 5.0)):
            if time.monotonic() - self._last > self._allowed_s:
                self._leave()

    def _leave(self) -> None:
        seconds = time.monotonic() - self._last
        log.error("no step for %.0f s: the stacks of this rank stand in %s", seconds, self._file)
        with self._file.open("w") as file:
            file.write(f"{socket.gethostname()}: no step for {seconds:.0f} s\n")
            file.flush()
            faulthandler.dump_traceback(file)
        time.sleep(GRACE_S)
        os._exit(HUNG)
