"""When a run that fails again and again is given up."""

from collections.abc import Sequence
from dataclasses import replace

from launch.record import End

NO_PROGRESS = 3  # failures with no step between that end a run
FAILURES = ("failed", "lost")


def limited(end: End, before: Sequence[End], max_restarts: int) -> End:
    """Return `end`, turned into `gave up` where its stage has failed too often.

    Args:
        end: the newest one.
        before: the earlier ones of the run, in order.
        max_restarts: failures of the stage that are allowed, since it was last completed.
    """
    if end.kind not in FAILURES:
        return end
    same = [other for other in before if other.stage == end.stage]
    final = [index for index, other in enumerate(same) if other.kind in ("done", "gave up")]
    same = [*same[max(final, default=-1) + 1 :], end]
    recent = same[-NO_PROGRESS:]
    stuck = all(other.kind in FAILURES and other.step == end.step for other in recent)
    failures = sum(other.kind in FAILURES for other in same)
    if stuck and len(recent) == NO_PROGRESS:
        reason = f"{NO_PROGRESS} failures with no step between"
    elif failures > max_restarts:
        reason = f"{failures} failures, and run.max_restarts is {max_restarts}"
    else:
        return end
    return replace(end, kind="gave up", text=f"{reason}: {end.text}", nodes=[])
