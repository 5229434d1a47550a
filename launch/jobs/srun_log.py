"""Reads from a job's log what srun, slurmstepd and slurmd wrote about ranks and nodes.

tests/helpers/slurm_messages.py has recorded samples of Slurm 22.05 and 24.11.
"""

import re
from dataclasses import dataclass
from pathlib import Path

START = "=== job "
"""Begins the line that a batch script prints at each start; see launch.submission.executor."""
RANK = re.compile(r"^srun: error: (\S+): tasks? ([\d,-]+): (.+)$", re.MULTILINE)
NODE_OF_STEP = re.compile(r"^srun: error: Node failure on (\S+)$", re.MULTILINE)
CANCELLED = re.compile(
    r"^slurmstepd(?:-\S+)?: error: \*\*\* (?:JOB|STEP) \S+ ON (\S+) CANCELLED AT \S+"
    r" DUE TO ([A-Z ]+)",
    re.MULTILINE,
)
OUT_OF_MEMORY = re.compile(
    # a control group, as slurmstepd sees it and as srun reports it
    r"^slurmstepd\S*: error: Detected \d+ oom.kill event"
    r"|^srun: error: \S+: tasks? [\d,-]+: Out Of Memory$"
    # JobAcctGatherParams=OverMemoryKill
    r"|^slurmstepd\S*: error: .*[Ee]xceeded (?:job |step )?memory limit .*(?:being killed)"
    r"|^slurmstepd\S*: error: Exceeded job memory limit",
    re.MULTILINE,
)
STOPPED_RANK = re.compile(r"^(?:User defined signal 2|Terminated|Exited with exit code 75)\b")
"""How a rank ends that a signal stops before it can leave a note; 75 is configs.errors.STOPPED."""
EXIT_CODE = re.compile(r"^Exited with exit code (\d+)")


@dataclass(frozen=True)
class Message:
    """How some ranks of one node ended, according to srun."""

    node: str
    ranks: frozenset[int]
    reason: str
    """For example `Killed` or `Exited with exit code 1`."""

    @property
    def is_stop(self) -> bool:
        """Whether a stop signal ended these ranks, which is not a failure."""
        return bool(STOPPED_RANK.match(self.reason))

    @property
    def is_exit(self) -> bool:
        """Whether these ranks exited by themselves, so that their node is not to blame."""
        return bool(EXIT_CODE.match(self.reason))


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
    """Return the nodes that srun saw fail; it does not name them always, see `used_nodes`."""
    return sorted(set(NODE_OF_STEP.findall(text)))


def used_nodes(text: str) -> str:
    """Return the nodes of a start, as in `node[1-2]`; `text` is what follows `START`."""
    words = text.partition("\n")[0].split(", ", 2)
    return words[2].strip() if len(words) == 3 else ""


def cancel_reason(text: str) -> str:
    """Return why Slurm ended a job, such as `PREEMPTION` or `TIME LIMIT`; empty if it did not."""
    found = CANCELLED.findall(text)
    return found[-1][1].strip() if found else ""


def is_out_of_memory(text: str) -> bool:
    """Return whether Slurm killed a process because of its memory."""
    return bool(OUT_OF_MEMORY.search(text))


def _read(log: Path) -> str:
    return log.read_text(errors="replace") if log.exists() else ""


def _numbers(text: str) -> frozenset[int]:
    """Return the numbers that `0-2,5` lists: 0, 1, 2 and 5."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return frozenset(found)
