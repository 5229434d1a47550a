"""Worker processes, which run tasks, end with their parent, and report crashes to it."""

import math
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from configs.errors import TinError

Task = TypeVar("Task")
Result = TypeVar("Result")
Note = Callable[[str], None]
Message = tuple[Literal["result", "note", "error"], Any]
"""What a worker sends: the result of its task, a note, or the exception that the task raised."""

CRASHES = frozenset((signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL))
"""Signals that a process gets for a fault of its own code."""
MEMORY_BYTES = 8 << 30
"""How much memory a worker may take in addition to that of its parent. What needs more fails with a
MemoryError, before the whole machine runs out of memory."""
GRACE_S = 2.0
"""How long a terminated worker may take to clean up before it is killed."""


class WorkerError(TinError, RuntimeError):
    """A worker process was killed from outside, for example because memory ran out."""


class CrashError(TinError, RuntimeError, Generic[Task]):
    """A worker process crashed, for example in the video decoder, or took too long."""

    def __init__(self, task: Task, note: str, reason: str) -> None:
        super().__init__(reason)
        self.task = task
        self.note = note
        """The last note of the task; empty if it was working on no item."""
        self.reason = reason


def num_cpus() -> int:
    """Return how many CPUs this process may use: as many as Slurm gave it, if it runs in a job."""
    return int(os.environ.get("SLURM_CPUS_PER_TASK") or len(os.sched_getaffinity(0)))


def run_tasks(
    function: Callable[[Task, Note], Result],
    tasks: Iterable[Task],
    processes: int,
    crashed: Callable[[CrashError[Task]], Task] | None = None,
    max_seconds: float = math.inf,
) -> Iterator[Result]:
    """Yield `function(task, note)` of each task, in the order in which the tasks end.

    Args:
        function: what a worker does. It calls `note(text)` to record which item it works on, and
            `note("")` after the last one.
        tasks: one argument of `function` each; None is not a task.
        processes: the number of workers; fewer are started if there are fewer tasks.
        crashed: called when the worker of a task crashes; returns the task to run instead.
        max_seconds: how long a task may work on an item. A worker that takes longer is killed,
            which counts as a crash.

    Raises:
        CrashError: a worker crashed and `crashed` is None.
        WorkerError: a worker was killed from outside.
        Exception: what a task raised.
    """
    queue = deque(tasks)
    workers = [_Worker(function) for _ in range(min(processes, len(queue)))]
    try:
        for worker in workers:
            worker.start(queue.popleft())
        while busy := [worker for worker in workers if worker.task is not None]:
            for worker in _ready(busy, max_seconds):
                try:
                    kind, value = worker.receive()
                except CrashError as error:
                    if crashed is None:
                        raise
                    queue.appendleft(crashed(error))
                    worker.restart()
                else:
                    if kind == "note":
                        continue
                    yield value
                worker.task = None
                if queue:
                    worker.start(queue.popleft())
    finally:
        # Terminate all workers before waiting for the first, so that they clean up in parallel.
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.stop()


class _Worker(Generic[Task, Result]):
    """A worker process and the task that it runs."""

    def __init__(self, function: Callable[[Task, Note], Result]) -> None:
        self.function = function
        self.task: Task | None = None
        self.note = ""
        self.noted = 0.0
        self.is_late = False
        """Whether the process was killed because it took too long."""
        self.restart()

    def restart(self) -> None:
        """Start a process, instead of the previous one if that has crashed."""
        # A fork starts at once, and the function and its bound arguments need not be pickled.
        context = multiprocessing.get_context("fork")
        self.pipe, worker_end = context.Pipe()
        self.process = context.Process(target=_work, args=(self.function, worker_end), daemon=True)
        self.process.start()
        worker_end.close()

    def start(self, task: Task) -> None:
        """Send a task to the process."""
        self.task = task
        self.note = ""
        self.pipe.send(task)

    def seconds_left(self, max_seconds: float) -> float:
        """Return how much longer the process may work on its item."""
        return self.noted + max_seconds - time.monotonic() if self.note else math.inf

    def kill(self) -> None:
        """Kill the process, because it takes too long."""
        self.is_late = True
        self.process.kill()
        self.process.join()

    def receive(self) -> Message:
        """Return the result of the task, or a note, which is also kept for a later crash.

        Raises:
            CrashError: the process crashed.
            WorkerError: the process was killed.
            Exception: what the task raised.
        """
        try:
            message: Message | None = self.pipe.recv() if self.pipe.poll() else None
        except (EOFError, OSError):
            message = None
        if message is None:
            raise self._death()
        kind, value = message
        if kind == "error":
            raise value
        if kind == "note":
            self.note = value
            self.noted = time.monotonic()
        return message

    def stop(self) -> None:
        """Wait for the terminated process, and kill it if it does not end in time."""
        self.process.join(GRACE_S)
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def _death(self) -> CrashError | WorkerError:
        """Return the exception for a process that has ended without a result."""
        self.process.join()
        assert self.process.exitcode is not None
        if self.is_late:
            self.is_late = False
            return CrashError(self.task, self.note, "it took longer than shard.max_seconds allows")
        number = -self.process.exitcode
        name = signal.Signals(number).name if number > 0 else f"exit code {-number}"
        if number in CRASHES:
            return CrashError(self.task, self.note, f"the decoder crashed ({name})")
        return WorkerError(
            f"a worker process ended with {name}, perhaps because memory ran out. Finished files"
            " are kept; run the same command again."
        )


def _ready(workers: list[_Worker], max_seconds: float) -> list[_Worker]:
    """Return the workers that have sent a message or have ended; wait until there is one.

    Kill those that take too long.
    """
    # The pipe of a dead worker stays open, because workers forked later inherit its other end.
    # The sentinel of the process shows that it has ended.
    left = max(0.0, min(worker.seconds_left(max_seconds) for worker in workers))
    sources = [source for w in workers for source in (w.pipe, w.process.sentinel)]
    ready = set(wait(sources, None if left == math.inf else left))
    for worker in workers:
        if worker.pipe not in ready and worker.seconds_left(max_seconds) <= 0:
            worker.kill()
            ready.add(worker.process.sentinel)
    return [w for w in workers if w.pipe in ready or w.process.sentinel in ready]


def _work(function: Callable[[Task, Note], Result], pipe: Connection) -> None:
    """Run the tasks that the parent sends, until it terminates this process or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # removes unfinished files on the way
    _limit_memory()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    message: Message
    while True:
        task = pipe.recv()
        try:
            message = ("result", function(task, lambda text: pipe.send(("note", text))))
        except Exception as error:
            message = ("error", error)
        pipe.send(message)


def _limit_memory() -> None:
    """Let this process take `MEMORY_BYTES` more than it has, unless it may take less already."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    allowed = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([used + MEMORY_BYTES, *allowed]), hard))


def _end_with_parent() -> None:
    """Wait until the parent process ends, then end this one at once."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
