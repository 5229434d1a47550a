"""A user who is not root copies docs/cluster.md into an empty folder, line by line."""

import re
import time
from pathlib import Path

import pytest
from cluster_actions import ask, call_prod, wait
from page_steps import PageCommand, PageFile, page_steps
from slurm_users import User

pytestmark = pytest.mark.cluster
PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "cluster.md"
END = "## 5. "
"""The sections after this heading describe clusters that this one is not."""
HOME = "/home/alice"
"""The folder of the user as the page shows it."""
PATIENCE_S = 300.0
ENDLESS = re.compile(r" (?:--watch|-f) ")


def test_the_page_works_line_by_line(installed: Path):
    user = User(installed, "alice", installed / "home/alice")
    assert not list(user.folder.iterdir())
    commands = []
    for step in page_steps(PAGE, END):
        if isinstance(step, PageFile):
            user.told(f"cat > {step.name} <<'EOF'\n{step.text}EOF")
            continue
        commands.append(step.command)
        _repeat(user, step)
        if step.command == "tin status runs/first":
            number = commands.count(step.command)
            if number == 1:
                _preempt(user)
            elif number == 2:
                ask("scontrol", "update", f"JobId={_job(user, 'PD')}", "StartTime=now")
    assert len(commands) >= 15
    user.told("scancel -u alice")


def _preempt(user: User) -> None:
    """Let a job of higher priority preempt the job that runs, and delay its next start.

    Without the delay, a reader on a busy machine would miss that it is queued again.
    """
    job = _job(user, "R")
    call_prod(ask("squeue", "-h", "-j", job, "-o", "%N").strip())
    wait("the requeue", lambda: ask("squeue", "-h", "-j", job, "-o", "%T").strip() == "PENDING")
    ask("scontrol", "update", f"JobId={job}", "StartTime=now+300")


def _job(user: User, state: str) -> str:
    """Return the first job of the user in a state."""
    return user.told(f"squeue -h -u {user.name} -t {state} -S i -o %A").split()[0]


def _repeat(user: User, step: PageCommand) -> None:
    """Run a command until it succeeds and prints what the page shows, as a reader would."""
    command = step.command
    if ENDLESS.search(command):
        command = f"timeout -s INT 15 {command}\n[ $? = 124 ]"
    end = time.monotonic() + PATIENCE_S
    while True:
        code, printed = user.run(command)
        missing = step.missing(printed.replace(str(user.folder), HOME))
        if code == 0 and not missing:
            return
        assert time.monotonic() < end, f"{command}: {code}\n{printed}\nmissing: {missing}"
        time.sleep(0.3)
