"""What the states, exit codes and reasons of Slurm mean for a user, in words."""

import re

WHY_STATE = {
    "BOOT_FAIL": "a node could not start: submit again",
    "DEADLINE": "the deadline of the job passed: submit again",
    "NODE_FAIL": "a node failed",
    "OUT_OF_MEMORY": "out of memory: raise mem_gb",
    "PREEMPTED": "preempted, and this cluster does not requeue: set `restart: chain:4`",
    "TIMEOUT": "the time limit came before a checkpoint: raise signal_s, then submit again",
}
"""What states of sacct mean."""
WHY_QUEUED = {
    "None": "",
    "BeginTime": "requeued, starts soon",
    "Dependency": "queued until the job before it ends",
    "Priority": "queued behind jobs of higher priority",
    "Resources": "queued until nodes are free",
    "BadConstraints": "no node fits: cancel the job, change the cluster file, submit again",
    "DependencyNeverSatisfied": "the stage before it failed",
    "JobArrayTaskLimit": "queued until other tasks of its array end",
    "JobHeldUser": "held by its owner: `scontrol release` starts it",
    "JobHeldAdmin": "held by an administrator: ask for the reason",
    "JobHoldMaxRequeue": "requeued too often, so Slurm holds it: look at `tin logs`, then `scontrol"
    " release` it",
    "launch failed requeued held": "the node could not start it, so Slurm holds it: tell your"
    " administrator, then `scontrol release` it",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition is inactive",
    "PartitionNodeLimit": "the partition has not so many nodes: cancel the job, change `nodes`",
    "PartitionTimeLimit": "the partition has a lower time limit: cancel the job, lower time_min",
    "ReqNodeNotAvail": "queued until nodes are up or a reservation ends",
    "Reservation": "queued until its reservation begins",
}
"""What reasons of squeue mean."""
LIMIT = re.compile(r"^(Assoc|QOS|Max|Group).*(Limit|Max)|^(Assoc|QOS)(Grp|Max)|^MaxSubmit")
"""Matches reasons of squeue that name a limit of an account, a user or a quality of service."""
NO_LOG = "its log folder cannot be written on the node: check that all nodes share the folder"
WHY_EXIT = {
    "0:53": NO_LOG,
    "9:0": "killed, most often because it used more memory than mem_gb",
    "0:9": "killed by SIGKILL: by the kernel, Slurm or an administrator; see `tin logs`",
    "0:15": "ended by SIGTERM before it could save: raise signal_s, or ask who ended it",
    "75:0": "stopped by a signal and not requeued: submit it again",
    "127:0": "a command was not found: check `python` and `setup` of the cluster file",
    "126:0": "a command could not be executed: check `python` and `setup` of the cluster file",
}
"""What exit codes and signals of sacct mean."""
NO_REASON = "no reason was recorded: see `tin logs`"


def why_queued(reason: str) -> str:
    """Return what a reason of squeue means; the reason itself if it is not known."""
    if reason in WHY_QUEUED:
        return WHY_QUEUED[reason]
    if reason.startswith("ReqNodeNotAvail"):  # some versions list the nodes behind it
        return WHY_QUEUED["ReqNodeNotAvail"]
    if LIMIT.match(reason):
        return f"queued until your other jobs end, because of a limit ({reason})"
    return reason


def why_ended(state: str, exit_code: str) -> str:
    """Return why a job ended, from its state and exit code; empty if they do not tell.

    Args:
        state: as sacct prints it, without `by 1000`.
        exit_code: exit code and signal, `1:0` or `0:9`.
    """
    if state == "CANCELLED":  # the signal that it got says nothing more
        return ""
    # A state says more than an exit code, except that of any failure.
    return WHY_STATE.get(state) or WHY_EXIT.get(exit_code, "")
