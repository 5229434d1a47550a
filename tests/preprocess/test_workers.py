"""Workers run tasks, report crashes and end with their parent."""

import faulthandler
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from preprocess.workers import CrashError, Note, WorkerError, run_tasks


def crash_at_2(task: int, note: Note) -> int:
    note(f"video {task}")
    if task == 2:
        faulthandler.disable()  # pytest's handler would print a trace
        os.kill(os.getpid(), signal.SIGSEGV)
    return task


def test_a_crash_is_reported_with_the_last_note_and_its_task_is_replaced():
    reported = []

    def crashed(error: CrashError[int]) -> int:
        reported.append((error.task, error.note, error.reason))
        return 20

    assert sorted(run_tasks(crash_at_2, range(5), 2, crashed)) == [0, 1, 3, 4, 20]
    assert reported == [(2, "video 2", "the decoder crashed (SIGSEGV)")]


def test_a_crash_ends_the_command_if_nobody_handles_it():
    with pytest.raises(CrashError, match=r"the decoder crashed \(SIGSEGV\)"):
        list(run_tasks(crash_at_2, range(5), 2))


def test_a_killed_worker_ends_the_command():
    with pytest.raises(WorkerError, match=r"ended with SIGKILL.*; run the same command again"):
        list(run_tasks(lambda task, note: os.kill(os.getpid(), signal.SIGKILL), range(3), 2))


def test_an_exception_of_a_task_is_raised():
    with pytest.raises(ZeroDivisionError):
        list(run_tasks(lambda task, note: 1 // task, [1, 0], 1))


def test_workers_end_with_their_parent(tmp_path):
    code = (
        "import time, os, sys; from preprocess.workers import run_tasks\n"
        "def task(n, note): open(f'{sys.argv[1]}/{os.getpid()}', 'w').close(); time.sleep(60)\n"
        "list(run_tasks(task, range(3), 3))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    while len(list(tmp_path.iterdir())) < 3:
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    pids = [int(path.name) for path in tmp_path.iterdir()]
    deadline = time.monotonic() + 60
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
