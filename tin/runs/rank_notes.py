"""The file slow_ranks.csv of a run: which ranks became slow, on which node, and which recovered."""

import csv
import time
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from configs.small_files import DamagedFileError, read_bytes
from tin.runs.folder import Run

FILE = "slow_ranks.csv"
COLUMNS = "attempt epoch step time rank node ratio change".split()
Change = Literal["slow", "recovered"]
MAX_NAMED = 4
"""Slow ranks that a sentence names; it counts the others."""


class RankNote(NamedTuple):
    """A rank that has become slow, or has recovered."""

    attempt: int
    step: int
    rank: int
    node: str
    ratio: float
    """Time of its own steps over the median of all ranks."""
    change: Change


def add_note(run: Run, note: RankNote, epoch: int) -> None:
    """Append a note; rank 0 only."""
    run.append(FILE, COLUMNS, {**note._asdict(), "epoch": epoch, "time": f"{time.time():.1f}"})


def read_notes(run_dir: Path) -> list[RankNote]:
    """Return the notes of a run in their order, without damaged rows."""
    try:
        text = read_bytes(run_dir / FILE).decode("utf-8", "replace")
    except (FileNotFoundError, DamagedFileError):
        return []
    found = []
    for line in text.splitlines()[1:]:
        note = _parsed(line)
        if note:
            found.append(note)
    return found


def slow_now(run_dir: Path) -> str:
    """Return which ranks of the newest attempt are slow, for the status of a run that trains."""
    newest = max(Run(run_dir).attempts(), default=0)
    last = {note.rank: note for note in read_notes(run_dir) if note.attempt == newest}
    return _named([note for note in last.values() if note.change == "slow"])


def slow_ever(run_dir: Path) -> str:
    """Return which ranks have been slow in any attempt, for the report; empty if none."""
    first: dict[tuple[int, str], RankNote] = {}
    for note in read_notes(run_dir):
        if note.change == "slow":
            first.setdefault((note.rank, note.node), note)
    return _named(list(first.values()))


def _named(notes: list[RankNote]) -> str:
    """Return one sentence about ranks that are or were slow; empty without notes."""
    if not notes:
        return ""
    texts = [
        f"rank {note.rank} on {note.node} (step {note.step}: {note.ratio:.1f} times the median)"
        for note in notes[:MAX_NAMED]
    ]
    if len(notes) > MAX_NAMED:
        texts.append(f"{len(notes) - MAX_NAMED} more, see {FILE}")
    return f"slow: {', '.join(texts)}"


def _parsed(line: str) -> RankNote | None:
    """Return the note in a line of the file; None if the line is damaged."""
    try:
        row = dict(zip(COLUMNS, next(csv.reader([line])), strict=True))
        change = next(known for known in get_args(Change) if known == row["change"])
        return RankNote(
            attempt=int(row["attempt"]),
            step=int(row["step"]),
            rank=int(row["rank"]),
            node=row["node"],
            ratio=float(row["ratio"]),
            change=change,
        )
    except (ValueError, StopIteration, csv.Error):
        return None
