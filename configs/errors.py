"""The base of this project's exceptions, which carry the exit code of the command they end."""

from typing import ClassVar

FAILED = 1
USAGE = 2
BAD_DATA = 3
STOPPED = 75
"""A signal stopped the command after it wrote a checkpoint; the same command continues it."""
INTERRUPTED = 130
"""Ctrl-C, as shells report it."""


class TinError(Exception):
    """An error that a user can act on: the message says where, what was found and what to do."""

    exit_code: ClassVar[int] = FAILED
    """Exit code of a command or a job that this error ends."""
    is_final: ClassVar[bool] = False
    """Whether the same job would fail in the same way again, so that a requeue cannot help."""
    blames_node: ClassVar[bool] = False
    """Whether the fault lies with the node, so that the next attempt should avoid it."""
    signal: str = ""
    """Name of the signal that stopped the command, such as SIGUSR2; empty without one."""
