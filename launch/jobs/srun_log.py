"""Reads from a job's log what srun and Slurm wrote about ranks and nodes."""

import re
from dataclasses import dataclass
from pathlib import Path

START = "=== job "
"""Begins the line that a batch script prints at each start; see launch.submission.executor."""
RANK = re.compile(r"^srun: error: (\S+): tasks? ([\d,-]+): (.+)$", re.MULTILINE)
NODE = re.compile(r"^srun: error: Node failure on (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Message:
    """How some ranks of one node ended, according to srun."""

    node: str
    ranks: frozenset[int]
    reason: str
    """For example `Killed` or `Exited with exit code 1`."""


def last_start(log: Path) -> str:
    """Return what the last start of a job wrote to its log; empty if there is no log."""
    return _read(log).rpartition(START)[2]


def start_before(log: Path) -> str:
    """Return what the start before the last one wrote; empty if there was only one."""
    return _read(log).rpartition(START)[0].rpartition(START)[2]


def rank_messages(text: str) -> list[Message]:
    """Return srun's messages about ranks; the ranks that ended first come first."""
    return [Message(node, _numbers(ranks), reason) for node, ranks, reason in RANK.findall(text)]


def lost_nodes(text: str) -> list[str]:
    """Return the nodes that Slurm lost."""
    return sorted(set(NODE.findall(text)))


def _read(log: Path) -> str:
    return log.read_text(errors="replace") if log.exists() else ""


def _numbers(text: str) -> frozenset[int]:
    """Return the numbers that `0-2,5` lists: 0, 1, 2 and 5."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return frozenset(found)
