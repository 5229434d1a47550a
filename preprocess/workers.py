"""Work in processes that end with their parent, and whose crash is told to it."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

Note = Callable[[Any], None]
CRASHES = frozenset((signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL))

GRACE_S = 2.0  # for a process that is told to end


class CrashError(RuntimeError):
    """A process died at a job by a fault of its own; `job` and `note` say where it was."""

    def __init__(self, job: Any, note: Any, reason: str):
        super().__init__(reason)
        self.job, self.note, self.reason = job, note, reason


def num_cpus() -> int:
    """Return how many CPUs this task has: of Slurm, else of the process."""
    return int(os.environ.get("SLURM_CPUS_PER_TASK") or len(os.sched_getaffinity(0)))


def run_tasks(
    function: Callable[[Any, Note], Any],
    jobs: Iterable[Any],
    processes: int,
    crashed: Callable[[CrashError], Any] | None = None,
) -> Iterator[Any]:
    """Yield `function(job, note)` of each job, in the order in which they end.

    A job calls `note(x)` to say where it is. When its process crashes, `crashed` gets the last
    note and returns a job to do instead.

    Raises:
        CrashError: a process crashed and `crashed` is None.
        RuntimeError: a process was killed from outside.
        Exception: what a job raised.
    """
    waiting = deque(jobs)
    workers = [_Worker(function) for _ in range(min(processes, len(waiting)))]
    try:
        for worker in workers:
            worker.start(waiting.popleft())
        while busy := [worker for worker in workers if worker.job is not None]:
            for worker in _ready(busy):
                try:
                    result = worker.receive()
                except CrashError as error:
                    if crashed is None:
                        raise
                    waiting.appendleft(crashed(error))
                    worker.restart()
                else:
                    if result is None:  # a note
                        continue
                    yield result[0]
                worker.job = None
                if waiting:
                    worker.start(waiting.popleft())
    finally:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.stop()


class _Worker:
    """A process and what it is doing."""

    def __init__(self, function: Callable[[Any, Note], Any]):
        self.function = function
        self.job = self.note = None
        self.restart()

    def restart(self) -> None:
        # fork: a worker starts at once, and what is bound to the function need not be pickled
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(self.function, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def start(self, job: Any) -> None:
        self.job, self.note = job, None
        self.pipe.send(job)

    def receive(self) -> tuple[Any] | None:
        """Return the result in a tuple, or None for a note."""
        try:
            kind, value = self.pipe.recv() if self.pipe.poll() else (None, None)
        except (EOFError, OSError):
            kind = None
        if kind is None:
            raise self._death()
        if kind == "error":
            raise value
        if kind == "note":
            self.note = value
            return None
        return (value,)

    def stop(self) -> None:
        self.process.join(GRACE_S)
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def _death(self) -> Exception:
        self.process.join()
        code = -self.process.exitcode
        name = signal.Signals(code).name if code > 0 else f"exit code {-code}"
        if code in CRASHES:
            return CrashError(self.job, self.note, f"the decoder crashed ({name})")
        return RuntimeError(
            f"a worker process ended with {name} (out of memory?); finished shards are kept:"
            " run the same command again"
        )


def _ready(workers: list[_Worker]) -> list[_Worker]:
    """Return the workers that have sent something or are dead."""
    # a pipe alone does not tell of a death: processes forked later hold its other end too
    ready = set(wait([thing for w in workers for thing in (w.pipe, w.process.sentinel)]))
    return [w for w in workers if w.pipe in ready or w.process.sentinel in ready]


def _work(function: Callable[[Any, Note], Any], pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # an unfinished file is removed
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        job = pipe.recv()
        try:
            result = ("result", function(job, lambda note: pipe.send(("note", note))))
        except Exception as error:
            result = ("error", error)
        pipe.send(result)


def _end_with_parent() -> None:
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
