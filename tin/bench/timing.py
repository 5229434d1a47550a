"""Times of several ways to do the same, taken in turns, and the table that shows them."""

import ctypes
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from tin.runs.folder import describe_environment

FLUSH_BYTES = 256 * 2**20  # written before each call on a GPU: more than any cache holds
MIN_ROUNDS, MAX_ROUNDS = 5, 500
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)

Call = Callable[[], object]


@dataclass(frozen=True)
class Times:
    """Milliseconds of one call, and its share of the time of the first call of each round."""

    median: float
    p10: float
    p90: float
    ratio: float
    rounds: int


def in_turns(calls: Mapping[str, Call], device: torch.device, seconds: float) -> dict[str, Times]:
    """Time each call once a round, for so many seconds and at least five rounds.

    What else runs on the machine then slows all of them; the median of the ratios within a round
    says most. On a GPU a call finds its caches empty and itself queued behind other work, so that
    the time of the host does not count.
    """
    for call in calls.values():
        call()
    taken = {name: [] for name in calls}
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < MIN_ROUNDS or (rounds < MAX_ROUNDS and time.perf_counter() < end):
        rounds += 1
        for name, call in calls.items():
            taken[name].append(_once(call, device))
    first = next(iter(taken.values()))
    return {name: _summary(times, first) for name, times in taken.items()}


def _summary(times: Sequence[float], first: Sequence[float]) -> Times:
    p10, *_, p90 = statistics.quantiles(times, n=10, method="inclusive")
    ratio = statistics.median(own / other for own, other in zip(times, first, strict=True))
    return Times(statistics.median(times), p10, p90, ratio, len(times))


def _once(call: Call, device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        result = call()
        taken = time.perf_counter() - start
        del result  # its memory is given back outside the measured time
        return 1e3 * taken
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device).zero_()
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def replayed(call: Call) -> Call:
    """Return what replays a call from a CUDA graph, without the time of the host."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # what is set up once must not be in the graph
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def keep_freed_memory() -> None:
    """Let malloc keep what is freed: else the page faults of fresh memory are half of a copy."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


@dataclass
class Report:
    """Rows of a measurement and the machine they were taken on."""

    what: str
    device: torch.device
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, key: Mapping[str, Any], found: Mapping[str, Times]) -> None:
        """Add a row: `key`, then the times of each way."""
        self.rows.append({**key, "ways": {name: vars(times) for name, times in found.items()}})

    def save(self, path: Path) -> None:
        """Write rows, notes and environment as JSON."""
        environment = describe_environment(str(self.device), world_size=1)
        environment["threads"] = torch.get_num_threads()
        whole = {"what": self.what, "environment": environment}
        whole |= {"rows": self.rows, "notes": self.notes}
        path.write_text(json.dumps(whole, indent=1) + "\n")

    def __str__(self) -> str:
        """Return tables: the time of the first way, and how often it fits into each other one."""
        tables = groupby(self.rows, key=lambda row: [name for name in row if name != "ways"])
        return "\n".join([*(_table(rows) for _, rows in tables), *self.notes])


def _table(rows: Iterable[Mapping[str, Any]]) -> str:
    rows = [_shown(row) for row in rows]
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names] + [[row.get(name, "") for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.rjust, line, widths)) for line in cells)


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    cells = {name: _short(value) for name, value in row.items() if name != "ways"}
    for index, (name, times) in enumerate(row.get("ways", {}).items()):
        if index == 0:
            spread = f"{_short(times['p10'])}-{_short(times['p90'])}"
            cells[f"{name} ms (p10-p90)"] = f"{_short(times['median'])} ({spread})"
        else:
            cells[name] = f"{times['ratio']:.2f}x"
    return cells


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
