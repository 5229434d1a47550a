"""The table of faults: each kind is injected a number of times, and each outcome is judged."""

import contextlib
import random
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from configs.errors import TinError

HANG_S = 20
"""An injection that takes longer counts as a hang."""
SHOWN = 3
"""How many ways in which a fault was noticed, and how many problems, the table lists."""


class Outcome(NamedTuple):
    """What one injected fault led to."""

    noticed: str
    """How it was noticed, for example the type of the error; `harmless` if it changed nothing."""
    problem: str = ""
    """What was lost or silently wrong; empty if the result survived."""


@dataclass(frozen=True)
class Kind:
    """A kind of fault and the function that injects it."""

    name: str
    inject: Callable[[Path, random.Random, int], Iterator[Outcome]]
    """Takes an empty folder, random numbers, and how often to inject the fault into each writer or
    file; yields the outcome of each injection."""
    quick: int
    """How often in the tests; 0 leaves the kind out."""
    full: int
    """How often in `make faults`."""


@dataclass
class Row:
    """A row of the table."""

    name: str
    noticed: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def injections(self) -> int:
        """How often the fault was injected."""
        return self.noticed.total()


class HangError(Exception):
    """An injection did not end in time."""


def run_kinds(kinds: Sequence[Kind], *, full: bool, seed: int = 0) -> Iterator[Row]:
    """Inject all kinds, and yield the row of each. The same seed injects the same faults."""
    for kind in kinds:
        count = kind.full if full else kind.quick
        if not count:
            continue
        row = Row(kind.name)
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            for outcome in kind.inject(Path(folder), random.Random(f"{seed} {kind.name}"), count):
                row.noticed[outcome.noticed] += 1
                if outcome.problem:
                    row.problems.append(outcome.problem)
        yield row


def judge(value: Callable[[], str], allowed: Sequence[str], *names: str) -> Outcome:
    """Read a result after a fault and judge it.

    Args:
        value: returns what a reader finds.
        allowed: the values that are right, the intact one first. A third one is an earlier result
            that takes its place. If a reader may reject the file, `""` must be allowed.
        names: texts of which an error message must contain one.
    """
    try:
        with time_limit():
            found = value()
    except TinError as error:
        text = str(error)
        if names and not any(name in text for name in names):
            return Outcome(type(error).__name__, f"no file is named: {text}")
        problem = "" if "" in allowed else f"the result is lost: {text}"
        return Outcome(type(error).__name__, problem)
    except HangError:
        return Outcome("hang", "the reader hangs")
    except Exception as error:
        return Outcome("raw error", f"{type(error).__name__}: {error}")
    if found not in allowed:
        return Outcome("not noticed", f"silently wrong: {found!r} instead of {list(allowed)}")
    is_earlier = found in allowed[2:] and found != allowed[0]
    return Outcome("the one before is used" if is_earlier else "harmless")


@contextlib.contextmanager
def time_limit(seconds: int = HANG_S) -> Iterator[None]:
    """Raise HangError in the block if it takes too long."""

    def ring(_: int, __: FrameType | None) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


HEAD = (
    "| kind of fault | injections | how it was noticed | survived | lost or silently wrong |\n"
    "|---|---|---|---|---|"
)


def line(row: Row) -> str:
    """Return a row of the table in Markdown."""
    noticed = ", ".join(f"{name} {n}" for name, n in row.noticed.most_common(SHOWN))
    bad = len(row.problems)
    return f"| {row.name} | {row.injections} | {noticed} | {row.injections - bad} | {bad} |"


def totals(rows: Sequence[Row]) -> str:
    """Return the last line of the table."""
    total = sum(row.injections for row in rows)
    bad = sum(len(row.problems) for row in rows)
    return f"| {len(rows)} kinds | {total} | | {total - bad} | {bad} |"


def problems(rows: Sequence[Row]) -> list[str]:
    """Return the first problems of each kind."""
    return [f"{row.name}: {text}" for row in rows for text in row.problems[:SHOWN]]
