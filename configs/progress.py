"""Progress of long commands: a live bar on a terminal, a line now and then in a log."""

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

log = logging.getLogger(__name__)
Item = TypeVar("Item")

INTERVAL_S = 30.0
"""Seconds between two lines where there is no terminal."""
QUIET = "TIN_QUIET"
"""Environment variable that `tin --quiet` sets."""


def show_progress(items: Iterable[Item], total: int, name: str) -> Iterator[Item]:
    """Yield the items, and show how many are done and the time left.

    Args:
        items: what is worked on; the work happens between two of them.
        total: how many there will be.
        name: what is done, for example `verify train`.
    """
    if os.environ.get(QUIET):
        yield from items
    elif sys.stderr.isatty():
        yield from _with_bar(items, total, name)
    else:
        yield from log_progress(items, total, name)


def log_progress(items: Iterable[Item], total: int, name: str) -> Iterator[Item]:
    """Yield the items, and log a line now and then; for work inside another command's bar."""
    start = time.monotonic()
    said = start
    for done, item in enumerate(items, 1):
        now = time.monotonic()
        if now - said > INTERVAL_S:
            said = now
            log.info("%s: %s", name, progress_text(done, total, now - start))
        yield item


def progress_text(done: int, total: int, seconds: float) -> str:
    """Return `3 of 10, 2 min left`; the time is that of the items so far."""
    left_s = seconds / done * (total - done) if done else 0.0
    left = f", {duration(left_s)} left" if done and done < total else ""
    return f"{done} of {total}{left}"


def duration(seconds: float) -> str:
    """Return a duration for people, such as `45 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _with_bar(items: Iterable[Item], total: int, name: str) -> Iterator[Item]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    # The name is cut where the terminal is narrow; the numbers stay.
    label = TextColumn("{task.description}", table_column=Column(no_wrap=True, ratio=1))
    numbers = TextColumn("{task.completed} of {task.total}", table_column=Column(no_wrap=True))
    columns = (label, BarColumn(10), numbers, TimeRemainingColumn(compact=True))
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, expand=False) as bar:
        task = bar.add_task(name, total=total)
        for item in items:
            bar.advance(task)
            yield item
