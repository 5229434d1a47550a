"""What srun and Slurm wrote into a job's log about ranks and nodes."""

import re
from dataclasses import dataclass
from pathlib import Path

START = "=== job "
"""A batch script begins each start with a line like this (launch.submission.executor writes it)."""
RANK = re.compile(r"^srun: error: (\S+): tasks? ([\d,-]+): (.+)$", re.MULTILINE)
NODE = re.compile(r"^srun: error: Node failure on (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Message:
    """How ranks of one node ended, as srun saw it; the first one of a log came first."""

    node: str
    ranks: frozenset[int]
    words: str
    """`Killed`, `Exited with exit code 1`, say."""


def last_start(log: Path) -> str:
    """Return what the last start of a job wrote; empty if there is no log."""
    return _text(log).rpartition(START)[2]


def start_before(log: Path) -> str:
    """Return what the start before the last one wrote."""
    return _text(log).rpartition(START)[0].rpartition(START)[2]


def messages(text: str) -> list[Message]:
    """Return what srun said about ranks, in its order."""
    return [Message(node, _ranks(ranks), words) for node, ranks, words in RANK.findall(text)]


def lost_nodes(text: str) -> list[str]:
    """Return the nodes that Slurm lost."""
    return sorted(set(NODE.findall(text)))


def _text(log: Path) -> str:
    return log.read_text(errors="replace") if log.exists() else ""


def _ranks(text: str) -> frozenset[int]:
    """Return the numbers of `0-2,5`."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return frozenset(found)
