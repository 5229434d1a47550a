"""Progress: a bar on a terminal, lines in a log, nothing if quiet."""

import io
import os
import pty
import select
import sys

import pytest

from configs import progress
from configs.progress import duration, log_progress, progress_text, show_progress


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h")],
)
def test_durations_are_short(seconds, text):
    assert duration(seconds) == text


def test_the_time_left_is_that_of_the_items_so_far():
    assert progress_text(0, 4, 10) == "0 of 4"
    assert progress_text(1, 4, 10) == "1 of 4, 30 s left"
    assert progress_text(4, 4, 40) == "4 of 4"


def test_lines_come_now_and_then(monkeypatch, caplog):
    caplog.set_level("INFO")
    times = iter([0.0, 10.0, 40.0, 50.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    assert list(log_progress("abc", 3, "work")) == ["a", "b", "c"]
    assert caplog.messages == ["work: 2 of 3, 20 s left"]


def test_quiet_shows_nothing(monkeypatch, caplog, capsys):
    monkeypatch.setenv(progress.QUIET, "1")
    assert list(show_progress("abc", 3, "work")) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_a_bar_fits_a_terminal_of_50_columns(monkeypatch):
    leader, follower = pty.openpty()
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert list(show_progress(range(3), 3, "a name that is far too long for the line")) == [
            0,
            1,
            2,
        ]
        terminal.flush()
        shown = ""
        while select.select([leader], [], [], 0.2)[0]:
            shown += os.read(leader, 100_000).decode()
    os.close(leader)
    assert "of 3" in shown
    lines = io.StringIO(shown.replace("\x1b[2K", "\n").replace("\r", "\n")).read().splitlines()
    assert max(len(plain(line)) for line in lines) <= 50


def plain(line: str) -> str:
    """Return a line without control sequences."""
    import re

    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line)
