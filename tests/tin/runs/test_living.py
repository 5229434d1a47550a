"""Whether a process trains a run: on this host by its number, elsewhere by its heartbeat."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs.load import dump, load
from tin.runs.folder import Run
from tin.runs.living import AliveError, check_not_alive, living_attempt


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a run whose newest attempt is that of this process."""
    run = Run(tmp_path / "run")
    run.start_attempt()
    run.write("config.yaml", dump(load("demo", ["run.hang_minutes=2"])))
    return run


def change(run: Run, **facts: object) -> Path:
    """Change what the newest attempt recorded; return its file."""
    path = run.job / "attempt-01"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))
    return path


def test_a_process_of_this_host_is_alive_while_it_exists(run: Run):
    found = living_attempt(run)
    assert found and (found.number, found.host, found.pid) == (1, socket.gethostname(), os.getpid())
    path = change(run)
    os.utime(path, (1, 1))  # its heartbeat does not matter
    assert living_attempt(run)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    change(run, pid=ended.pid)
    assert living_attempt(run) is None


def test_another_process_with_the_same_number_is_not_the_attempt(run: Run):
    change(run, started=time.time() - 1e6)
    assert living_attempt(run) is None


def test_an_attempt_that_recorded_its_end_is_not_alive(run: Run):
    run.write_environment({"ended": time.time()})
    assert living_attempt(run) is None


def test_a_process_on_another_host_is_alive_while_its_heartbeat_is_young(run: Run):
    path = change(run, host="elsewhere", pid=1)
    os.utime(path, (time.time() - 100, time.time() - 100))
    assert living_attempt(run)
    os.utime(path, (time.time() - 130, time.time() - 130))
    assert living_attempt(run) is None


def test_the_error_names_the_process_and_what_to_do(run: Run, tmp_path: Path):
    with pytest.raises(AliveError) as caught:
        check_not_alive(run)
    text = str(caught.value)
    assert f"process {os.getpid()} on host {socket.gethostname()} (attempt 1, last heart" in text
    assert "add --take-over to end it and resume from its newest checkpoint" in text
    check_not_alive(Run(tmp_path / "none"))
