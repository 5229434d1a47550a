"""The limits after which a run that keeps failing is given up."""

from collections.abc import Sequence
from dataclasses import replace

from launch.record import End

NO_PROGRESS = 3
"""A stage is given up after this many failures in a row at the same step."""
FAILURES = ("failed", "lost")


def limited(end: End, before: Sequence[End], max_restarts: int) -> End:
    """Return `end`, changed to `gave up` if its stage has failed too often.

    Failures count since the stage was last completed or given up. A stop by the time limit counts
    as a failure to make progress, but not towards `max_restarts`; preemption never counts.

    Args:
        end: the newest end.
        before: the earlier ends of the run, in order.
        max_restarts: number of failures of the stage that are allowed.
    """
    if not _is_counted(end):
        return end
    # Keep what happened to this stage since it was last completed or given up.
    same_stage = [other for other in before if other.stage == end.stage]
    final = [index for index, other in enumerate(same_stage) if other.kind in ("done", "gave up")]
    counted = [*same_stage[max(final, default=-1) + 1 :], end]

    recent = counted[-NO_PROGRESS:]
    is_stuck = len(recent) == NO_PROGRESS and all(
        _is_counted(other) and other.step == end.step for other in recent
    )
    num_failures = sum(other.kind in FAILURES for other in counted)
    if is_stuck and all(other.at_limit for other in recent):
        reason = f"the time limit came {NO_PROGRESS} times with no step between: raise time_min"
    elif is_stuck:
        reason = f"{NO_PROGRESS} failures with no step between"
    elif num_failures > max_restarts:
        reason = f"{num_failures} failures, and run.max_restarts is {max_restarts}"
    else:
        return end
    return replace(end, kind="gave up", text=f"{reason}: {end.text}", nodes=[])


def _is_counted(end: End) -> bool:
    return end.kind in FAILURES or end.at_limit
