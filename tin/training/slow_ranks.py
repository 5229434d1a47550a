"""Finds ranks that are slower than the others, and names them with their nodes."""

import logging
import statistics
from collections.abc import Sequence

from configs.node import node_name
from tin.ranks.distributed import World
from tin.ranks.step_times import StepTimes
from tin.runs.folder import Run
from tin.runs.rank_notes import Change, RankNote, add_note
from tin.training.state import TrainingState

log = logging.getLogger(__name__)
LIMIT = 1.5
"""A rank is slow in an interval if its own steps take this many times the median."""
IN_A_ROW = 3
"""Intervals in a row after which a rank counts as slow, or as recovered."""


class SlowRanks:
    """Compares the times of the ranks at the end of each interval of steps.

    A rank is named once it was slow in three intervals in a row. It is named again only after it
    was not slow in three intervals in a row.
    """

    def __init__(self, nodes: Sequence[str]):
        """Start with ranks that are not slow; `nodes` has the name of the node of each rank."""
        self._nodes = nodes
        self._slow = [False] * len(nodes)
        self._streak = [0] * len(nodes)
        """Intervals in a row in which a rank was not as it counts."""

    def compare(self, times: Sequence[float]) -> list[tuple[int, float]]:
        """Compare the seconds of all ranks; return rank and ratio of those that have changed.

        A rank has changed if it now counts as slow and did not before, or the other way round.
        """
        changed = []
        for rank, ratio in enumerate(ratios(times)):
            is_other = (ratio >= LIMIT) != self._slow[rank]
            self._streak[rank] = self._streak[rank] + 1 if is_other else 0
            if self._streak[rank] == IN_A_ROW:
                self._slow[rank] = not self._slow[rank]
                self._streak[rank] = 0
                changed.append((rank, ratio))
        return changed

    def record(self, times: Sequence[float], run: Run, state: TrainingState) -> float | None:
        """Compare the ranks, log those that have changed, and add them to slow_ranks.csv.

        Returns:
            The time of the slowest rank over the median; None for a single rank.
        """
        if not times:
            return None
        for rank, ratio in self.compare(times):
            node = self._nodes[rank]
            is_slow = self._slow[rank]
            change: Change = "slow" if is_slow else "recovered"
            step = state.global_step
            add_note(run, RankNote(run.attempt, step, rank, node, ratio, change), state.epoch)
            if is_slow:
                log.warning(
                    "rank %d on %s is slow: its steps took %.1f times the median of all ranks in"
                    " %d intervals in a row, up to step %d, and all ranks wait for it; look at the"
                    " load, the clocks and the disks of that node, or exclude it",
                    rank,
                    node,
                    ratio,
                    IN_A_ROW,
                    step,
                )
            else:
                log.info("rank %d on %s is no longer slow (step %d)", rank, node, step)
        return max(ratios(times))


def ratios(times: Sequence[float]) -> list[float]:
    """Return the time of each rank over the median of all ranks.

    Of an even number of ranks, the median is the lower one of the two in the middle. Of two ranks,
    the slower one is therefore measured by the faster one, and not by a mean that it raises itself.
    """
    median = statistics.median_low(times)
    return [time_s / median if median > 0 else 1.0 for time_s in times]


def nodes_of(world: World) -> list[str]:
    """Return the node of each rank on rank 0, and an empty list elsewhere; all ranks must call."""
    return world.gather(node_name()) or []


def watched_times(world: World, state: TrainingState) -> StepTimes:
    """Return a watch on the steps of this rank, which is told when their gradients are ready."""
    times = StepTimes(world)
    if state.graph:
        state.graph.on_gradients = times.ready
    else:
        times.watch(state.replica)
    return times
