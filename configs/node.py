"""The name of the machine that a process runs on."""

import os
import socket


def node_name() -> str:
    """Return Slurm's name of this node inside of a job, and the host name elsewhere.

    Slurm's commands know a node by the name in slurm.conf, which may differ from the host name.
    """
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()
