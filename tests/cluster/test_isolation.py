"""No process of the test cluster outlives the command that started it, however that ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import slurm_folder
from cluster_actions import wait

pytestmark = pytest.mark.cluster
DAEMON = "setsid sh -c 'sleep 1000; : %s' & echo started; wait"
"""A command with a child that leaves its session, as a daemon of Slurm does."""


@pytest.mark.parametrize("killed", ["the command", "its parent"])
def test_a_killed_command_leaves_no_process(killed: str, tmp_path: Path):
    if not os.environ.get("TIN_REQUIRE_SLURM"):
        pytest.skip("TIN_REQUIRE_SLURM=1: this needs root")
    mark = f"{tmp_path.name}-{os.getpid()}"
    words = ["sh", "-c", DAEMON % mark]
    script = f"import slurm_folder; slurm_folder.run_alone(['\"$@\"'], {words!r})"
    env = {**os.environ, "PYTHONPATH": str(Path(slurm_folder.__file__).parent)}
    started = [sys.executable, "-c", script]
    with subprocess.Popen(started, env=env, stdout=subprocess.PIPE, text=True) as outer:
        assert outer.stdout.readline() == "started\n"
        wait("the daemon", lambda: len(_marked(mark)) == 4)  # unshare, sh, command, daemon
        inner = max(_marked(mark)[:-1])
        os.kill(inner if killed == "the command" else outer.pid, signal.SIGKILL)
        outer.wait(timeout=60)
    wait("the end of all processes", lambda: not _marked(mark), seconds=60)


def _marked(mark: str) -> list[int]:
    """Return the processes with a word in their command line, in the order of their start."""
    processes = psutil.process_iter(["cmdline", "create_time"])
    found = [process for process in processes if mark in " ".join(process.info["cmdline"] or [])]
    return [process.pid for process in sorted(found, key=lambda one: one.info["create_time"])]
