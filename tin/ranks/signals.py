"""Signals that stop a run, and the words that all ranks agree on without waiting for them."""

import contextlib
import logging
import signal
from collections.abc import Iterator
from types import FrameType

import torch
import torch.distributed as dist

from tin.ranks.distributed import World

log = logging.getLogger(__name__)
SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """While entered: USR2, TERM and Ctrl-C ask for a stop at the end of a step."""

    def __init__(self) -> None:
        self.received = ""
        """Name of the signal that came, empty before."""
        self._at_once: Exception | None = None

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def raising(self, error: Exception) -> Iterator[None]:
        """While entered, a signal raises `error` at once: nothing is under way that is unsaved."""
        self._at_once = error
        try:
            if self.received:
                raise error
            yield
        finally:
            self._at_once = None

    def _receive(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.received:
            raise KeyboardInterrupt  # asked twice: do not wait for the step
        self.received = signal.Signals(number).name
        if self._at_once:
            raise self._at_once
        log.info("%s: a checkpoint comes at the end of this step", self.received)


class Agreement:
    """Sums of a few numbers over the ranks, sent at the end of step n and read at n+1's."""

    def __init__(self, world: World):
        self._group = world.group
        self._sent: torch.Tensor | None = None
        self._work: dist.Work | None = None

    def exchange(self, words: tuple[float, ...]) -> list[float]:
        """Send this rank's words; return the sums of those sent the last time (zeros at first)."""
        sums = self.take(len(words))
        self._sent = torch.tensor(words, dtype=torch.float64)
        if self._group:
            self._work = dist.all_reduce(self._sent, group=self._group, async_op=True)
        return sums

    def take(self, count: int) -> list[float]:
        """Return the sums that are under way, and send nothing."""
        if self._work:
            self._work.wait()
        sums = [0.0] * count if self._sent is None else self._sent.tolist()
        self._sent = self._work = None
        return sums
