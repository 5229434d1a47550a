"""The states of a run, as `tin status` shows them."""

from typing import Literal, get_args

RunState = Literal[
    # from the run's folder: not started, writing, or one of `launch.record.Outcome`
    "waiting",
    "running",
    "done",
    "stopped",
    "failed",
    "lost",
    "gave up",
    "cancelled",
    # the run has jobs, but neither its folder nor Slurm knows how they ended
    "unknown",
    # from Slurm, apart from running, stopped, failed and cancelled
    "boot_fail",
    "completed",
    "completing",
    "configuring",
    "deadline",
    "launch_failed",
    "node_fail",
    "out_of_memory",
    "pending",
    "preempted",
    "reconfig_fail",
    "requeue_fed",
    "requeue_hold",
    "requeued",
    "resizing",
    "revoked",
    "signaling",
    "special_exit",
    "stage_out",
    "suspended",
    "timeout",
]
STATES: tuple[RunState, ...] = get_args(RunState)
