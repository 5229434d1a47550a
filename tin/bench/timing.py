"""Times of several ways to do the same thing, measured in turns, and the tables that show them."""

import ctypes
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path

import torch

from configs.files import write_text
from tin.runs.folder import describe_environment

FLUSH_BYTES = 256 * 2**20  # written before each call on a GPU; larger than any cache
FLUSHES = 20  # about 2 ms of work on an H100, in which the host launches the measured call
MIN_ROUNDS = 5
MAX_ROUNDS = 500
M_TRIM_THRESHOLD = -1  # of mallopt(3)
M_MMAP_MAX = -4  # of mallopt(3)

Call = Callable[[], object]
Value = str | int | float


@dataclass(frozen=True)
class Times:
    """Milliseconds of one call, and its ratio to the first call of the same round."""

    median: float
    p10: float
    p90: float
    ratio: float
    """The median over rounds of this call's time divided by the first call's time."""
    rounds: int


def in_turns(calls: Mapping[str, Call], device: torch.device, seconds: float) -> dict[str, Times]:
    """Time each call once a round, for ``seconds`` and at least five rounds.

    Other work on the machine then slows all calls alike, so the ratio within a round is more
    reliable than the times. On a GPU, each call starts with empty caches and is queued behind other
    work, so the time that the host needs to launch it does not count.
    """
    for call in calls.values():
        call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < MIN_ROUNDS or (rounds < MAX_ROUNDS and time.perf_counter() < end):
        rounds += 1
        for name, call in calls.items():
            taken[name].append(_time_once(call, device))
    first = next(iter(taken.values()))
    return {name: _summary(times, first) for name, times in taken.items()}


def _summary(times: Sequence[float], first: Sequence[float]) -> Times:
    p10, p90 = deciles(times)
    ratio = statistics.median(own / other for own, other in zip(times, first, strict=True))
    return Times(statistics.median(times), p10, p90, ratio, len(times))


def deciles(times: Sequence[float]) -> tuple[float, float]:
    """Return the first and the last decile."""
    p10, *_, p90 = statistics.quantiles(times, n=10, method="inclusive")
    return p10, p90


def _time_once(call: Call, device: torch.device) -> float:
    """Return the milliseconds of one call."""
    if device.type != "cuda":
        began = time.perf_counter()
        result = call()
        taken = time.perf_counter() - began
        del result  # free its memory outside the measured time
        return 1e3 * taken
    start = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)
    # Fill the caches with other data, and keep the GPU busy while the host launches the call.
    other = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device)
    for _ in range(FLUSHES):
        other.zero_()
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def replayed(call: Call) -> Call:
    """Return a function that replays a call from a CUDA graph, without work on the host."""
    # Warm up on another stream, so that one-time setup does not get into the graph.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def measuring_device() -> torch.device:
    """Return the GPU if there is one, else the CPU, with malloc prepared for measurements."""
    _keep_freed_memory()
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _keep_freed_memory() -> None:
    """Make malloc keep freed memory; page faults of new memory take half the time of a copy."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


@dataclass(frozen=True)
class Row:
    """A line of a table."""

    facts: dict[str, Value]
    """What was measured under which conditions, or counted."""
    ways: dict[str, Times] = field(default_factory=dict)
    """Times of each way to do it; the first way is the one that ratios refer to."""

    def record(self) -> dict[str, object]:
        """Return the row for JSON."""
        record: dict[str, object] = dict(self.facts)
        if self.ways:
            record["ways"] = {name: asdict(times) for name, times in self.ways.items()}
        return record


@dataclass
class Report:
    """Rows of a measurement, and the machine that ran it."""

    what: str
    device: torch.device
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    path: Path | None = None
    """JSON file that is written after each row, so that a run which is stopped keeps its rows."""

    def add(self, facts: Mapping[str, Value], ways: Mapping[str, Times] | None = None) -> None:
        """Add a row; see `Row`."""
        self.rows.append(Row(dict(facts), dict(ways or {})))
        if self.path:
            self.save(self.path)

    def save(self, path: Path) -> None:
        """Write rows, notes and environment as JSON."""
        environment = describe_environment(str(self.device), world_size=1)
        environment["threads"] = torch.get_num_threads()
        record = {
            "what": self.what,
            "environment": environment,
            "rows": [row.record() for row in self.rows],
            "notes": self.notes,
        }
        write_text(path, json.dumps(record, indent=1) + "\n")

    def __str__(self) -> str:
        """Return tables with the time of the first way and the other times as multiples of it."""
        tables = groupby(self.rows, key=lambda row: list(row.facts))
        return "\n".join([*(_table(rows) for _, rows in tables), *self.notes])


def _table(rows: Iterable[Row]) -> str:
    """Return rows with the same facts as lines of text; a way that a row lacks stays empty."""
    shown = [_shown(row) for row in rows]
    names = list(dict.fromkeys(name for row in shown for name in row))
    lines = [names] + [[row.get(name, "") for name in names] for row in shown]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.rjust, line, widths)) for line in lines)


def _shown(row: Row) -> dict[str, str]:
    """Return the cells of a row by column."""
    cells = {name: _short(value) for name, value in row.facts.items()}
    for index, (name, times) in enumerate(row.ways.items()):
        if index == 0:
            spread = f"{_short(times.p10)}-{_short(times.p90)}"
            cells[f"{name} ms (p10-p90)"] = f"{_short(times.median)} ({spread})"
        else:
            cells[name] = f"{times.ratio:.2f}x"
    return cells


def _short(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
