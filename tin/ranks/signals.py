"""Stop signals, and the non-blocking all-reduce that shares them between ranks."""

import contextlib
import logging
import signal
from collections.abc import Iterator
from types import FrameType
from typing import NamedTuple

import torch
import torch.distributed as dist

from tin.ranks.distributed import World

log = logging.getLogger(__name__)
SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """While entered, SIGUSR2, SIGTERM and Ctrl-C request a stop at the end of a step."""

    def __init__(self) -> None:
        self.received = ""
        """Name of the signal that arrived; empty before."""
        self._error: Exception | None = None

    def __enter__(self) -> "StopSignals":
        self._previous = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def raising(self, error: Exception) -> Iterator[None]:
        """While entered, a signal raises `error` immediately: use it where no work can be lost."""
        self._error = error
        try:
            if self.received:
                raise error
            yield
        finally:
            self._error = None

    def _receive(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.received:
            raise KeyboardInterrupt  # the second Ctrl-C does not wait for the end of the step
        self.received = signal.Signals(number).name
        if self._error:
            raise self._error
        log.info("received %s: saving a checkpoint at the end of this step", self.received)


class RankFlags(NamedTuple):
    """What a rank tells the others after each step, or what all ranks together told."""

    stop: bool
    """A stop signal arrived."""
    save: bool
    """A checkpoint is due."""
    bad_frames: int
    """Damaged frames found since the previous step."""


class FlagAllReduce:
    """A non-blocking all-reduce of rank flags: started after step n, finished after step n + 1.

    All ranks read the same flags after the same step, so they save and stop together, and no rank
    waits for the network in the meantime.
    """

    def __init__(self, world: World):
        self._group = world.group
        self._sums: torch.Tensor | None = None
        self._work: dist.Work | None = None

    def start(self, flags: RankFlags) -> None:
        """Send this rank's flags; `finish` must have been called since the last `start`."""
        assert self._sums is None, "the all-reduce of the previous step is not finished"
        self._sums = torch.tensor(flags, dtype=torch.float64)
        if self._group:
            self._work = dist.all_reduce(self._sums, group=self._group, async_op=True)

    def finish(self) -> RankFlags:
        """Return the flags of the last `start`, combined over all ranks; no flags if none."""
        if self._sums is None:
            return RankFlags(stop=False, save=False, bad_frames=0)
        if self._work:
            self._work.wait()
        sums = self._sums.tolist()
        self._sums = None
        self._work = None
        return RankFlags(stop=sums[0] > 0, save=sums[1] > 0, bad_frames=int(sums[2]))
